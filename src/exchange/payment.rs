//! The way of a payment from its claim to its receipt, but for its settlement.

use std::sync::Arc;

use super::reply::EXPOSED;
use super::request::PAYMENT_ID;
use super::visit::Place;
use super::{
    Call, Context, Effects, Exchange, Next, Outcome, PaymentRecord, Record, Reply, RequestEdits, ResponseEdits,
    ShownUrl, Stream, Then, UpstreamHead,
};
use crate::chain::Transfer;
use crate::config::{Offer, Settle, Terms, Verify};
use crate::evm::keccak256;
use crate::facilitator::{self, CalloutAnswer, Question, Unknown, Verification};
use crate::ledger::{Answer, Binding, Operation, PaymentKey};
use crate::money::Amount;
use crate::price::request::Job;
use crate::scheme::{Judgement, RequirementError};
use crate::time::UnixTime;
use crate::x402::offer_receipt::OFFER_RECEIPT;
use crate::x402::payment::Payer;
use crate::x402::requirement::TransferMethod;
use crate::x402::terms::{EntryV1, Resource};
use crate::x402::{Receipt, Requirement, TransactionId, Version, reason};

/// By which the upstream may name the charge; not for clients.
const SETTLEMENT_OVERRIDES: &str = "settlement-overrides";

/// Headers that a paid response loses: those that tell shared caches otherwise than `Cache-Control` does, and what is
/// between the upstream and the filter.
const KEPT_FROM_CLIENTS: [&str; 3] = ["cdn-cache-control", "surrogate-control", SETTLEMENT_OVERRIDES];

/// Why a payer is turned away whom the configuration does not want.
const UNWELCOME: &str = "payer_not_allowed";

/// A payment that meets an offer, as far as the filter can tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payment {
    pub(super) route: Arc<str>,
    pub(super) terms: Arc<Terms>,
    pub(super) offer: Arc<Offer>,
    pub(super) key: PaymentKey,
    pub(super) payer: Payer,
    /// Who says that it is one.
    pub(super) proof: Proof,
    /// The name that its client gave it.
    pub(super) identifier: Option<String>,
    /// The key of that name, once it counts: a name is its payer's own, so there has to be one.
    pub(super) name: Option<PaymentKey>,
    /// The end of its validity, and so of its place in the ledger.
    pub(super) expires: UnixTime,
    /// Until then it is worth while to ask the facilitator for it again.
    pub(super) settles_until: UnixTime,
    /// When the ledger first saw it.
    pub(super) since: UnixTime,
    /// What it moves, from whom to whom, where a chain can be asked about it.
    pub(super) transfer: Option<Transfer>,
    pub(super) standing: Standing,
    /// What ties a claim to this payment, and once it is bound to this request.
    pub(super) binding: Binding,
    /// The body that it is yet to be bound to. To hash one takes long, so that comes when the payment is proven.
    pub(super) unbound: Option<Arc<[u8]>>,
    /// The method of the request, and its URL as the client wrote it: [`Self::url`] may be the same for several.
    pub(super) asked: [String; 2],
    /// What it buys a right to come back to, where it does.
    pub(super) place: Option<Place>,
    /// The version of the protocol that the client speaks, and the facilitator is spoken to in.
    pub(super) version: Version,
    /// The payment as the facilitator gets it.
    pub(super) json: String,
    /// The URL that is paid for.
    pub(super) url: ShownUrl,
    /// Headers that the upstream must not see.
    pub(super) unwanted: Vec<String>,
    /// How often its settlement was looked into when nobody waited for it.
    pub(super) recoveries: u32,
    /// What the request asks of a model, where it is priced by that.
    pub(super) job: Option<Job>,
    /// Atomic units that are settled, where that is not the amount that was signed for.
    pub(super) charge: Option<Amount>,
    /// The filter asked for the usage at the end of the stream in the client's stead.
    pub(super) hides_usage: bool,
    /// It has bought a stream already, and is to be settled whoever waits.
    pub(super) is_billed: bool,
}

/// Who says that a payment is one, and of whom. What is not proven reaches neither `/settle` nor the upstream, its claim is a
/// short one, and nobody is called its payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Proof {
    /// Nobody yet.
    None,
    /// The filter has checked its signature.
    Signature,
    /// The facilitator: `/verify` said yes.
    Facilitator,
    /// The ledger: the same payment, to the letter, was proven before.
    Ledger,
}

/// How a payment stands that meets its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// It may be settled.
    Good(Judgement),
    /// It can be settled no more, or for longer than the terms say; all else is in order. It still buys what it has been
    /// settled for.
    OutOfTime(RequirementError),
    /// It is in order, and was made for terms that are not these.
    ForOtherTerms,
    /// Its payer may buy nothing here. It still buys what it has been settled for.
    Unwelcome,
}

impl PaymentRecord {
    /// A payment that is said to be by `payer`.
    pub(super) fn unproven(payer: Payer, requirement: &Requirement) -> Self {
        Self {
            payer,
            is_proven: false,
            pay_to: requirement.pay_to().into_owned(),
            scheme: requirement.scheme.as_str().to_owned(),
            network: requirement.network.to_string(),
            amount: requirement.amount.to_string(),
            asset: requirement.asset().into_owned(),
            transaction: None,
        }
    }
}

impl Payment {
    pub(super) fn claim(self, context: Context<'_>) -> Next {
        let expires = self.expires;
        match self.standing {
            Standing::Good(_) if self.is_proven() => {
                // What is charged by its use is verified in any case, and nobody hashes a body before that.
                let payment = if self.proof == Proof::Signature { self } else { self.bound() };
                let (until, binding) = (payment.surely_served(context), payment.binding);
                payment.ask_ledger(Operation::Claim { expires, until, binding, is_proven: true }, Exchange::Claiming)
            }
            Standing::Good(_) => {
                let (until, binding) = (surely_verified(context), self.binding);
                self.ask_ledger(Operation::Claim { expires, until, binding, is_proven: false }, Exchange::Claiming)
            }
            // What is bound to a body is looked for first: to hash it for nothing would be all that somebody wants.
            Standing::OutOfTime(_) | Standing::Unwelcome if self.unbound.is_some() => {
                let of = Some(self.binding);
                self.ask_ledger(Operation::Look { of }, Exchange::Claiming)
            }
            Standing::OutOfTime(_) | Standing::Unwelcome => self.resume(context),
            Standing::ForOtherTerms => self.ask_ledger(Operation::Look { of: None }, Exchange::Claiming),
        }
    }

    /// Asks for the claim that this very payment has left behind.
    fn resume(self, context: Context<'_>) -> Next {
        let payment = self.bound();
        let (until, binding) = (payment.surely_served(context), payment.binding);
        payment.ask_ledger(Operation::Resume { until, binding }, Exchange::Resuming)
    }

    /// The same bound to its request, where what it is charged is good for that alone.
    fn bound(mut self) -> Self {
        if let Some(body) = self.unbound.take() {
            let [method, url] = &self.asked;
            let parts = [method.as_bytes(), url.as_bytes(), &keccak256(&body)];
            self.binding = self.binding.and(&parts);
        }
        self
    }

    pub(super) fn on_claim(self, context: Context<'_>, answer: Answer) -> Next {
        match answer {
            Answer::Waiting
                if self.standing != Standing::ForOtherTerms && (!self.is_proven() || self.unbound.is_some()) =>
            {
                self.resume(context)
            }
            _ => self.on_taken(context, answer),
        }
    }

    /// The ledger has said whether the claim is this request's, new or left behind.
    pub(super) fn on_taken(mut self, context: Context<'_>, answer: Answer) -> Next {
        if matches!(answer, Answer::GrantedUnknown(_) | Answer::GrantedSettled(..)) && !self.is_proven() {
            self.proof = Proof::Ledger;
        }
        if !is_granted(answer) || !self.is_proven() {
            return self.on_claimed(context, answer);
        }
        let name = self.identifier.as_deref().filter(|_| self.payer != Payer::Unknown);
        let Some(name) = name.map(|name| PaymentKey::of_identifier(&self.payer.to_string(), name)) else {
            return self.on_claimed(context, answer);
        };
        let (until, binding) = (self.surely_served(context), self.key.binding());
        let ledger = Some((name, Operation::Claim { expires: self.expires, until, binding, is_proven: true }));
        let named = Self { name: Some(name), ..self };
        (Exchange::Naming(named, answer), Effects { ledger, ..Effects::default() })
    }

    fn is_by_permit(&self) -> bool {
        self.offer.requirement.evm().is_some_and(|evm| evm.transfer_method == TransferMethod::Permit2)
    }

    /// Whether anybody says that the payment is one.
    pub(super) const fn is_proven(&self) -> bool {
        !matches!(self.proof, Proof::None)
    }

    /// The ledger has said whether the payment's name is its own. What a payment that came before has bought under that
    /// name is not sold again.
    pub(super) fn on_named(self, context: Context<'_>, claimed: Answer, answer: Answer) -> Next {
        // A payment that may have moved money goes on: it was the first.
        if is_granted(answer) || claimed != Answer::Granted {
            return self.on_claimed(context, claimed);
        }
        let payment = Self { name: None, ..self };
        match answer {
            Answer::InFlight | Answer::Spent | Answer::Exhausted => {
                let reply = Reply::error(409, "another payment has come with this payment-identifier");
                payment.end(Some(Operation::Release), Outcome::Refused, "payment_identifier_conflict", reply)
            }
            Answer::Full => {
                let reply = Reply::overloaded("too many payments at a time");
                payment.end(Some(Operation::Release), Outcome::Overloaded, "the ledger is full", reply)
            }
            _ => {
                let reply = Reply::overloaded("payments cannot be taken at the moment");
                payment.end(Some(Operation::Release), Outcome::Overloaded, "the ledger is out of order", reply)
            }
        }
    }

    fn on_claimed(self, context: Context<'_>, answer: Answer) -> Next {
        match answer {
            Answer::Granted => self.on_granted(context),
            Answer::GrantedUnknown(unheard) => self.pursue(context, Then::Forward, unheard),
            Answer::GrantedSettled(transaction, charge) => Self { charge, ..self }.forward(Some(transaction)),
            Answer::Exhausted => {
                let error = "this payment has settled, and was tried again as often as this server allows; it buys nothing more";
                self.end(None, Outcome::Spent, "max_redemptions", Reply::error(409, error))
            }
            Answer::InFlight => self.end(None, Outcome::InFlight, "", Reply::in_flight()),
            Answer::Waiting => {
                let reply = Reply::error(
                    409,
                    "this payment was made for other terms and may have settled; it buys nothing here",
                );
                self.end(None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS, reply)
            }
            Answer::Spent => self.refuse(context, None, Outcome::Spent, reason::NONCE_USED),
            Answer::Full => {
                let reply = Reply::overloaded("too many payments at a time");
                self.end(None, Outcome::Overloaded, "the ledger is full", reply)
            }
            Answer::NotHeld => match self.standing {
                Standing::OutOfTime(refusal) => self.refuse(context, None, Outcome::Refused, &refusal.to_string()),
                Standing::Unwelcome => {
                    self.end(None, Outcome::Refused, UNWELCOME, Reply::error(403, "this payer may not buy here"))
                }
                Standing::ForOtherTerms => {
                    self.refuse(context, None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS)
                }
                Standing::Good(_) => self.out_of_order(),
            },
            Answer::Failed => self.out_of_order(),
        }
    }

    fn on_granted(self, context: Context<'_>) -> Next {
        let trusts_the_filter = context.config.facilitator.verify == Verify::Local;
        let is_valid = self.standing == Standing::Good(Judgement::Valid);
        match (self.terms.settle, self.proof) {
            (_, Proof::None) => self.ask_facilitator(context, Question::Verify, Exchange::Verifying),
            // The official facilitator sends a permit's transfer without trying it first, and says of one without money, as of
            // one whose answer was lost, that it failed: a key without money would leave one unknown after another.
            (Settle::Before | Settle::Concurrent, Proof::Signature) if self.is_by_permit() => {
                self.ask_facilitator(context, Question::Verify, Exchange::Verifying)
            }
            (Settle::Before, _) => self.begin_settlement(context, Then::Forward),
            (Settle::Concurrent, _) => self.begin_settlement(context, Then::Join),
            (Settle::After, Proof::Facilitator) => self.forward(None),
            // What leaves before it is settled has to be verified by who can see the payer's money.
            (Settle::After, _) if trusts_the_filter && is_valid && !self.is_metered() => self.forward(None),
            (Settle::After, _) => self.ask_facilitator(context, Question::Verify, Exchange::Verifying),
        }
    }

    pub(super) fn on_verification(mut self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        let release = Some(Operation::Release);
        match facilitator::read_verification(answer, &self.payer) {
            Verification::Valid => {
                self.learn_payer(answer);
                let is_claimed = self.is_proven() && self.unbound.is_none();
                self.proof = Proof::Facilitator;
                // Only now does it take the place in the ledger that a payment has, if it is still to be had.
                if is_claimed { self.on_granted(context) } else { self.claim(context) }
            }
            Verification::Invalid(reason) => self.refuse(context, release, Outcome::Refused, &reason),
            Verification::Unknown(unknown) => self.end_unknown(release, unknown),
        }
    }

    /// Takes the facilitator's word for who pays, where the filter cannot tell.
    pub(super) fn learn_payer(&mut self, answer: &CalloutAnswer) {
        if self.payer == Payer::Unknown {
            self.payer = facilitator::named_payer(answer).map_or(Payer::Unknown, Payer::Foreign);
        }
    }

    pub(super) fn on_response(self, context: Context<'_>, head: &UpstreamHead) -> Next {
        if head.is_error() {
            let remove = if head.settlement_overrides.is_some() { vec![SETTLEMENT_OVERRIDES] } else { Vec::new() };
            let stream = Stream::Deliver(ResponseEdits { remove, ..ResponseEdits::default() });
            return self.finish(Some(Operation::Release), Outcome::UpstreamFailed, "", None, stream);
        }
        if self.is_metered() {
            return self.on_response_to_meter(context, head);
        }
        let then = Then::Deliver { keeps_cache_control: head.forbids_sharing() };
        self.begin_settlement(context, then)
    }

    pub(super) fn on_paid_response(self, transaction: TransactionId, head: &UpstreamHead) -> Next {
        let keeps_cache_control = head.forbids_sharing();
        if head.is_error() {
            let stream = Stream::Deliver(self.receipt(&self.receipt_of(Ok(Some(transaction))), keeps_cache_control));
            let outcome = Outcome::SettledUpstreamFailed;
            return self.finish(Some(Operation::Release), outcome, "", Some(transaction), stream);
        }
        let then = Then::Deliver { keeps_cache_control };
        if self.is_metered() {
            self.on_response_to_redeem(then, transaction, head)
        } else {
            self.spend(then, transaction)
        }
    }

    /// The client did not wait for what it has paid for. It may come again.
    pub(super) fn abandon(self, transaction: TransactionId) -> Next {
        self.finish(Some(Operation::Abandon), Outcome::Abandoned, "", Some(transaction), Stream::Hold)
    }

    /// The upstream has redirected what was paid for, and the proxy follows by itself: what it gets there is not that.
    pub(super) fn on_redirect(self, transaction: TransactionId) -> Next {
        let (operation, outcome) = (Some(Operation::Release), Outcome::SettledUpstreamFailed);
        self.finish(operation, outcome, "internal_redirect", Some(transaction), Stream::Hold)
    }

    /// The response that was paid for is there.
    pub(super) fn spend(self, then: Then, transaction: TransactionId) -> Next {
        self.ask_ledger(Operation::Spend { transaction }, |payment| Exchange::Recording(payment, then, transaction))
    }

    pub(super) fn forward(self, transaction: Option<TransactionId>) -> Next {
        let edits = self.forwarding(transaction);
        let exchange = match transaction {
            Some(transaction) => Exchange::Redeeming(self, transaction),
            None => Exchange::Serving(self),
        };
        (exchange, Effects { stream: Stream::Forward(edits), ..Effects::default() })
    }

    /// What the upstream learns of the payment, and what it does not.
    pub(super) fn forwarding(&self, transaction: Option<TransactionId>) -> RequestEdits {
        let requirement = &self.offer.requirement;
        let payer = Some(("x-x402-payer", self.payer.to_string())).filter(|_| self.payer != Payer::Unknown);
        let mut set: Vec<_> = payer.into_iter().collect();
        set.push((PAYMENT_ID, self.key.to_hex()));
        set.push(("x-x402-network", requirement.network.to_string()));
        set.push(("x-x402-amount", requirement.amount.to_string()));
        set.extend(transaction.map(|hash| ("x-x402-transaction", hash.to_string())));
        if self.is_metered() && self.terms.tariff.is_some() {
            // What is compressed cannot be counted.
            set.push(("accept-encoding", "identity".to_owned()));
        }
        RequestEdits { passes_for: Some(Arc::clone(&self.route)), remove: self.unwanted.clone(), set }
    }

    /// What the response gets beside what the upstream said.
    pub(super) fn receipt(&self, receipt: &Receipt<'_>, keeps_cache_control: bool) -> ResponseEdits {
        let mut edits = private(keeps_cache_control);
        edits.set.insert(0, (self.version.receipt_header(), receipt.to_header()));
        let (name, value) = EXPOSED;
        ResponseEdits { add: vec![(name, value.to_owned())], ..edits }
    }

    /// What a client gets to keep of a settlement.
    pub(super) fn receipt_of<'a>(&'a self, result: Result<Option<TransactionId>, &'a str>) -> Receipt<'a> {
        let network = self.offer.requirement.network_in(self.version);
        Receipt { payer: &self.payer, network, charge: self.charge, result, extensions: None }
    }

    /// What a client gets to keep that was served, signed where there is a key to.
    pub(super) fn receipt_of_service(&self, context: Context<'_>, transaction: Option<TransactionId>) -> Receipt<'_> {
        let issuer = context.config.issuer.as_ref().filter(|_| self.payer != Payer::Unknown && self.url.is_vouched);
        let network = &self.offer.requirement.network;
        let signed = issuer.map(|issuer| {
            let receipt = issuer.receipt(&self.url, network, &self.payer.to_string(), transaction, context.now);
            format!(r#"{{"{OFFER_RECEIPT}":{receipt}}}"#)
        });
        Receipt { extensions: signed, ..self.receipt_of(Ok(transaction)) }
    }

    pub(super) fn ask_ledger(self, operation: Operation, then: impl FnOnce(Self) -> Exchange) -> Next {
        let (ledger, shadow) = (Some((self.key, operation)), self.name.filter(|_| !operation.begins()));
        (then(self), Effects { ledger, shadow, ..Effects::default() })
    }

    pub(super) fn ask_facilitator(
        self,
        context: Context<'_>,
        question: Question,
        then: impl FnOnce(Self) -> Exchange,
    ) -> Next {
        let requirement = &self.offer.requirement;
        let body = match (self.version, self.charge.filter(|_| question == Question::Settle)) {
            (Version::V1, _) => {
                let Terms { description, mime_type, .. } = &*self.terms;
                let entry = EntryV1::new(requirement, Resource { url: &self.url, description, mime_type });
                facilitator::question(Version::V1, &self.json, &entry)
            }
            (Version::V2, Some(amount)) => {
                facilitator::question(Version::V2, &self.json, &Requirement { amount, ..requirement.clone() })
            }
            (Version::V2, None) => facilitator::question(Version::V2, &self.json, requirement),
        };
        let service = Arc::clone(&context.config.facilitator.service);
        let call = Some(Call { service, path: question.path(), body, is_cacheable: false });
        (then(self), Effects { call, ..Effects::default() })
    }

    /// The payment, for logs.
    pub(super) fn record(&self) -> PaymentRecord {
        let is_proven = self.is_proven();
        let mut record =
            PaymentRecord { is_proven, ..PaymentRecord::unproven(self.payer.clone(), &self.offer.requirement) };
        if let Some(charge) = self.charge {
            record.amount = charge.to_string();
        }
        record
    }

    pub(super) fn refuse(
        self,
        context: Context<'_>,
        operation: Option<Operation>,
        outcome: Outcome,
        reason: &str,
    ) -> Next {
        let reply = Reply::payment_required(context, reason, &self.terms, &self.url);
        self.end(operation, outcome, reason, reply)
    }

    pub(super) fn end_unknown(self, operation: Option<Operation>, unknown: Unknown) -> Next {
        self.end(operation, Outcome::Unknown, &unknown.to_string(), Reply::outcome_unknown(unknown))
    }

    pub(super) fn out_of_order(self) -> Next {
        let reply = Reply::overloaded("payments cannot be taken at the moment");
        self.end(None, Outcome::Overloaded, "the ledger is out of order", reply)
    }

    pub(super) fn end(self, operation: Option<Operation>, outcome: Outcome, reason: &str, reply: Reply) -> Next {
        self.finish(operation, outcome, reason, None, Stream::Reply(reply))
    }

    pub(super) fn finish(
        self,
        operation: Option<Operation>,
        outcome: Outcome,
        reason: &str,
        transaction: Option<TransactionId>,
        stream: Stream,
    ) -> Next {
        let payment = PaymentRecord { transaction, ..self.record() };
        let record = Record { payment: Some(payment), ..Record::new(&self.route, outcome, reason) };
        let ledger = operation.map(|operation| (self.key, operation));
        let shadow = self.name.filter(|_| ledger.is_some());
        Effects { ledger, shadow, record: Some(record), stream, ..Effects::default() }.and_over()
    }

    /// When a request that waits for the upstream is given up on. Should it answer later all the same, and another
    /// request have taken the payment over by then, the ledger lets only that other one go on.
    pub(super) fn surely_served(&self, context: Context<'_>) -> UnixTime {
        self.surely_settled(context).plus(self.offer.requirement.max_timeout_seconds)
    }
}

/// Whether the claim is this request's.
const fn is_granted(answer: Answer) -> bool {
    matches!(answer, Answer::Granted | Answer::GrantedUnknown(_) | Answer::GrantedSettled(..))
}

/// When a request has surely heard whether its payment is one.
fn surely_verified(context: Context<'_>) -> UnixTime {
    const SLACK_SECONDS: u64 = 2;
    context.now.plus(context.config.facilitator.service.timeout_seconds()).plus(SLACK_SECONDS)
}

/// Keeps a response that was paid for out of shared caches.
pub(super) fn private(keeps_cache_control: bool) -> ResponseEdits {
    let set = if keeps_cache_control { Vec::new() } else { vec![("cache-control", "private".to_owned())] };
    ResponseEdits { remove: KEPT_FROM_CLIENTS.to_vec(), set, add: Vec::new() }
}

impl UpstreamHead {
    /// Whether the upstream failed, and owes nothing.
    pub(super) const fn is_error(&self) -> bool {
        self.status >= 400 || self.grpc_failed
    }

    /// Whether the upstream itself keeps shared caches away.
    pub(super) fn forbids_sharing(&self) -> bool {
        let directives = self.cache_control.as_deref().unwrap_or_default();
        directives.split(',').any(|directive| {
            let directive = directive.trim();
            directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private")
        })
    }
}
