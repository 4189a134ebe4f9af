//! From a payment that was read to one that buys this request's response, as the ledger and the facilitator have it.

use std::sync::Arc;

use super::channel;
use super::context::Asked;
use super::purchase::{Payment, Proof, Purchase};
use super::redeeming::Redeeming;
use super::settlement::{Pursuit, Settling, Waiter, begin_settlement, settle_claimed};
use super::state::State;
use super::trust;
use super::{CallKind, Context, Effects, Event, Exchange, Next, Outcome, Reply};
use crate::channel::check::Refusal;
use crate::config::{Facilitator, Settle, Verify};
use crate::evm::keccak256;
use crate::facilitator::{self, CalloutAnswer, Unknown, Verification};
use crate::ledger::{Answer, Operation, PaymentKey};
use crate::scheme::{Judgement, RequirementError};
use crate::time::UnixTime;
use crate::x402::payment::Payer;
use crate::x402::{Version, reason};

/// A payment that meets an offer as far as the filter can tell, and whose claim is not this request's yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    pub(super) payment: Payment,
    pub(super) standing: Standing,
    /// The request that the payment is yet to be bound to. To hash a body takes long, so that comes when the payment is proven.
    pub(super) unbound: Option<Unbound>,
}

/// The request that a metered payment is good for alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Unbound {
    pub(super) method: String,
    /// The URL as the client wrote it; the one that it is shown may be the same for several.
    pub(super) url: String,
    pub(super) body: Arc<[u8]>,
}

/// The standing of a payment that meets its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// It may be settled.
    Good(Judgement),
    /// It can be settled no more, or for longer than the terms say; all else is in order. It still buys what it has been
    /// settled for.
    OutOfTime(OutOfTime),
    /// It is in order, and was made for terms that are not these.
    ForOtherTerms,
    /// Its payer may buy nothing here. It still buys what it has been settled for.
    Unwelcome,
}

/// The reason why a payment can be settled no more, or for longer than the terms say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(super) enum OutOfTime {
    #[error(transparent)]
    Payment(RequirementError),
    /// The deposit of a channel.
    #[error(transparent)]
    Deposit(Refusal),
}

/// State: the claim is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claiming(Candidate);

/// State: the claim is asked for that the same payment has left behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resuming(Candidate);

/// State: the claim is this request's, the payment has a name, and the claim of that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Naming {
    candidate: Candidate,
    /// The ledger's answer about the payment's own claim.
    claimed: Answer,
}

/// State: a facilitator is asked whether the payment would settle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verifying {
    candidate: Candidate,
    /// The place of the facilitator that is asked.
    place: usize,
    /// Those that have been asked, this one included.
    asked: Asked,
}

impl Candidate {
    /// Asks the ledger for the claim.
    pub(super) fn claim(self, context: Context<'_>) -> Next {
        let expires = self.payment.purchase.expires;
        match self.standing {
            _ if self.payment.has_voucher_alone() => channel::begin(self, context),
            Standing::Unwelcome if self.payment.has_deposit() => self.payment.end_unwelcome(),
            Standing::Good(_) if self.payment.is_proven() => {
                // What is charged by its use is verified in any case, and nobody hashes a body before that.
                let candidate = if self.payment.proof == Proof::Signature { self } else { self.bound() };
                let until = candidate.payment.purchase.surely_served(context);
                let binding = candidate.payment.binding;
                if candidate.settles_at_once() {
                    let until = candidate.payment.purchase.surely_settled(context);
                    return candidate.ask_ledger(Operation::ClaimToSettle { expires, until, binding }, Claiming);
                }
                candidate.ask_ledger(Operation::Claim { expires, until, binding, is_proven: true }, Claiming)
            }
            Standing::Good(_) => {
                let (until, binding) = (surely_verified(context, &self.payment.purchase), self.payment.binding);
                self.ask_ledger(Operation::Claim { expires, until, binding, is_proven: false }, Claiming)
            }
            // What is bound to a body is looked for first: to hash it for nothing would be all that somebody wants.
            Standing::OutOfTime(_) | Standing::Unwelcome if self.unbound.is_some() => {
                let of = Some(self.payment.binding);
                self.ask_ledger(Operation::Look { of }, Claiming)
            }
            Standing::OutOfTime(_) | Standing::Unwelcome => self.resume(context),
            Standing::ForOtherTerms => self.ask_ledger(Operation::Look { of: None }, Claiming),
        }
    }

    /// Asks for the claim that this very payment has left behind.
    fn resume(self, context: Context<'_>) -> Next {
        let candidate = self.bound();
        let until = candidate.payment.purchase.surely_served(context);
        let binding = candidate.payment.binding;
        candidate.ask_ledger(Operation::Resume { until, binding }, Resuming)
    }

    fn ask_ledger<S: Into<Exchange>>(self, operation: Operation, wait: impl FnOnce(Self) -> S) -> Next {
        let Self { payment, standing, unbound } = self;
        payment.ask_ledger(operation, |payment| wait(Self { payment, standing, unbound }))
    }

    /// The same bound to its request, where what it is charged is good for that alone.
    fn bound(mut self) -> Self {
        if let Some(Unbound { method, url, body }) = self.unbound.take() {
            let parts = [method.as_bytes(), url.as_bytes(), &keccak256(&body)];
            self.payment.binding = self.payment.binding.and(&parts);
        }
        self
    }

    /// The ledger has said whether the claim is this request's, new or left behind.
    fn on_taken(mut self, context: Context<'_>, answer: Answer) -> Next {
        let payment = &mut self.payment;
        if matches!(answer, Answer::GrantedUnknown(_) | Answer::GrantedSettled(..)) && !payment.is_proven() {
            payment.proof = Proof::Ledger;
        }
        if !answer.is_granted() || !payment.is_proven() {
            return self.on_claimed(context, answer);
        }
        let purchase = &payment.purchase;
        let name = purchase.identifier.as_deref().filter(|_| payment.payer != Payer::Unknown);
        let Some(alias) = name.map(|name| PaymentKey::of_identifier(&payment.payer.to_string(), name)) else {
            return self.on_claimed(context, answer);
        };
        let (until, binding) = (purchase.surely_served(context), purchase.key.binding());
        let ledger = Some((alias, Operation::Claim { expires: purchase.expires, until, binding, is_proven: true }));
        payment.alias_key = Some(alias);
        (Naming { candidate: self, claimed: answer }.into(), Effects { ledger, ..Effects::default() })
    }

    /// The ledger has said whether the claim is this request's, and whether the payment's name is its own.
    fn on_claimed(self, context: Context<'_>, answer: Answer) -> Next {
        let Self { payment, standing, .. } = self;
        match answer {
            Answer::GrantedSettled(transaction, _) if payment.has_deposit() => {
                channel::take_over_deposit(payment, transaction)
            }
            Answer::Spent | Answer::Exhausted if payment.has_deposit() => channel::begin_by_voucher(payment, context),
            Answer::Granted => Self { payment, ..self }.on_granted(context),
            Answer::GrantedUnknown(unheard) => {
                let pursuit = Pursuit::new(context, &payment);
                Settling::resume(payment, context, Waiter::Request, pursuit, unheard)
            }
            Answer::GrantedSettled(transaction, charge) => Redeeming::begin(Payment { charge, ..payment }, transaction),
            Answer::Exhausted => {
                let error = "this payment has settled, and was tried again as often as this server allows; it buys nothing more";
                payment.end(None, Outcome::Spent, "max_redemptions", Reply::error(409, error))
            }
            Answer::InFlight => payment.end_in_flight(),
            Answer::Waiting => {
                let error = "this payment was made for other terms and may have settled; it buys nothing here";
                payment.end(None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS, Reply::error(409, error))
            }
            Answer::Spent => payment.refuse(context, None, Outcome::Spent, reason::NONCE_USED),
            Answer::Full => {
                let reply = Reply::overloaded("too many payments at a time");
                payment.end(None, Outcome::Overloaded, "the ledger is full", reply)
            }
            Answer::NotHeld => match standing {
                Standing::OutOfTime(refusal) => payment.refuse(context, None, Outcome::Refused, &refusal.to_string()),
                Standing::Unwelcome => payment.end_unwelcome(),
                Standing::ForOtherTerms => {
                    payment.refuse(context, None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS)
                }
                Standing::Good(_) => payment.out_of_order(),
            },
            Answer::Failed | Answer::Left(_) => payment.out_of_order(),
        }
    }

    /// Returns whether nothing lies between the claim and its settlement.
    fn settles_at_once(&self) -> bool {
        let Payment { purchase, proof, charge, .. } = &self.payment;
        let settles_first = matches!(purchase.quote.terms.settle, Settle::Before | Settle::Concurrent);
        let is_named = purchase.identifier.is_some();
        settles_first
            && *proof == Proof::Signature
            && !self.is_verified_first()
            && !is_named
            && charge.is_none()
            && !self.payment.has_channel()
    }

    /// Returns whether the payment is verified before it is settled, whatever the route says. The official facilitator sends a
    /// permit's transfer without trying it first, and says of one without money, as of one whose answer was lost, that it failed: a
    /// key without money would leave one unknown after another. Of version 1, it passes on the text of whatever exception there was.
    fn is_verified_first(&self) -> bool {
        self.payment.purchase.is_by_permit() || self.payment.purchase.version == Version::V1
    }

    fn on_granted(self, context: Context<'_>) -> Next {
        if self.settles_at_once() {
            let is_after = self.payment.purchase.quote.terms.settle == Settle::Concurrent;
            let waiter = if is_after { Waiter::Upstream } else { Waiter::Request };
            return settle_claimed(self.payment, context, waiter);
        }
        if self.payment.has_channel() {
            return match self.payment.proof {
                Proof::Facilitator => channel::reserve(self.payment, context, None),
                _ => self.verify(context),
            };
        }
        let trusts_the_filter = self.payment.purchase.verify(context) == Verify::Local;
        let is_valid = self.standing == Standing::Good(Judgement::Valid);
        let purchase = &self.payment.purchase;
        match (purchase.quote.terms.settle, self.payment.proof) {
            (_, Proof::None) => self.verify(context),
            (Settle::Before | Settle::Concurrent | Settle::Optimistic, Proof::Signature)
                if self.is_verified_first() =>
            {
                self.verify(context)
            }
            (Settle::Before, _) => begin_settlement(self.payment, context, Waiter::Request),
            (Settle::Concurrent, _) => begin_settlement(self.payment, context, Waiter::Upstream),
            (Settle::After | Settle::Optimistic, Proof::Facilitator) => trust::serve(self.payment, context),
            // What leaves before it is settled has to be verified by who can see the payer's money.
            (Settle::After | Settle::Optimistic, _) if trusts_the_filter && is_valid && !purchase.is_metered() => {
                trust::serve(self.payment, context)
            }
            (Settle::After | Settle::Optimistic, _) => self.verify(context),
        }
    }

    pub(super) fn verify(self, context: Context<'_>) -> Next {
        let asked = Asked::default();
        match self.next_facilitator(context, asked) {
            Some((place, facilitator)) => self.verify_with(facilitator, place, asked),
            None => self.payment.out_of_order(),
        }
    }

    fn next_facilitator<'a>(&self, context: Context<'a>, asked: Asked) -> Option<(usize, &'a Facilitator)> {
        context.next_facilitator(&self.payment.purchase.facilitators, asked)
    }

    fn verify_with(self, facilitator: &Facilitator, place: usize, asked: Asked) -> Next {
        let Self { payment, standing, unbound } = self;
        payment.ask_facilitator(CallKind::Verify, facilitator, |payment| {
            let candidate = Self { payment, standing, unbound };
            Verifying { candidate, place, asked: asked.and(place) }
        })
    }
}

impl State for Claiming {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self(candidate) = self;
        let may_be_resumed = candidate.standing != Standing::ForOtherTerms
            && (!candidate.payment.is_proven() || candidate.unbound.is_some());
        match answer {
            Answer::Waiting if may_be_resumed => candidate.resume(context),
            _ => candidate.on_taken(context, answer),
        }
    }

    fn end(self) -> Next {
        self.0.payment.end_left()
    }
}

impl State for Resuming {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Ledger(answer) => self.0.on_taken(context, answer),
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        self.0.payment.end_left()
    }
}

impl State for Naming {
    /// Refuses a name under which a payment that came before has bought something: that is not sold again.
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { candidate, claimed } = self;
        // A payment that may have moved money goes on: it was the first.
        if answer.is_granted() || claimed != Answer::Granted {
            return candidate.on_claimed(context, claimed);
        }
        let payment = Payment { alias_key: None, ..candidate.payment };
        let (outcome, reason, reply) = match answer {
            Answer::InFlight | Answer::Spent | Answer::Exhausted => {
                let reply = Reply::error(409, "another payment has come with this payment-identifier");
                (Outcome::Refused, "payment_identifier_conflict", reply)
            }
            Answer::Full => {
                (Outcome::Overloaded, "the ledger is full", Reply::overloaded("too many payments at a time"))
            }
            _ => {
                let reply = Reply::overloaded("payments cannot be taken at the moment");
                (Outcome::Overloaded, "the ledger did not answer", reply)
            }
        };
        payment.end(Some(Operation::Release), outcome, reason, reply)
    }

    fn end(self) -> Next {
        self.candidate.payment.end_left()
    }
}

impl Verifying {
    fn on_verification(self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        let Self { mut candidate, place, asked } = self;
        let verification = facilitator::read_verification(answer, &candidate.payment.payer);
        if verification == Verification::Valid {
            candidate.payment.learn_payer(answer);
            candidate.payment.learn_channel(context, answer);
            let is_claimed = candidate.payment.is_proven() && candidate.unbound.is_none();
            candidate.payment.proof = Proof::Facilitator;
            // Only now does it take the place in the ledger that a payment has, if it is still to be had.
            return if is_claimed { candidate.on_granted(context) } else { candidate.claim(context) };
        }
        if matches!(verification, Verification::Unknown(_))
            && facilitator::has_failed(answer)
            && let Some((next, facilitator)) = candidate.next_facilitator(context, asked)
        {
            return candidate.verify_with(facilitator, next, asked);
        }
        let release = Some(Operation::Release);
        let (exchange, effects) = match verification {
            Verification::Invalid(_) if candidate.payment.holding.is_in_doubt => {
                candidate.payment.end_unknown(None, Unknown::MaybeSettledBefore)
            }
            // A reason says it all; the rest of the answer may call somebody the payer of what nobody has proven.
            Verification::Invalid(reason) => {
                let reason = context.shown(Some(place), reason);
                return candidate.payment.refuse(context, release, Outcome::Refused, &reason);
            }
            Verification::Unknown(unknown) => candidate.payment.end_unknown(release, unknown),
            Verification::Valid => candidate.payment.out_of_order(),
        };
        (exchange, effects.with_said(context.said(place, CallKind::Verify, answer).as_deref()))
    }
}

impl State for Verifying {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Callout(answer) => self.on_verification(context, &answer),
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        self.candidate.payment.end_left()
    }
}

/// Returns when a request has surely heard whether its payment is one.
fn surely_verified(context: Context<'_>, purchase: &Purchase) -> UnixTime {
    const SLACK_SECONDS: u64 = 2;
    context.now.plus(purchase.facilitator_seconds(context)).plus(SLACK_SECONDS)
}
