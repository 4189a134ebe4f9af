//! From the question whether the money moves to the certainty that it has, or that it never will.
//!
//! Only three answers end the pursuit for good: the money has moved, the facilitator refuses a payment that nothing can
//! have settled before, and the chain shows that it can no longer settle. Everything else leaves the outcome unknown:
//! the client is told to come again with the same payment, and the filter goes on asking by itself.

use super::{
    Call, CallKind, Context, Effects, Exchange, Next, Outcome, Payment, PaymentRecord, Reply, SettlementRecord,
    SettlementResult, Stream, Tail, Then, UpstreamHead,
};
use crate::chain::{Fate, INQUIRY_QUESTIONS, Inquiry, Progress, Transfer, Unclear};
use crate::config::Rpc;
use crate::facilitator::{self, CalloutAnswer, Settlement, Unknown};
use crate::ledger::{Answer, Operation, PaymentKey, Unheard};
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::time::UnixTime;
use crate::x402::payment::Payer;
use crate::x402::requirement::{Rail, TransferMethod};
use crate::x402::{TransactionId, Version, reason};

/// Seconds between two questions of one pursuit.
const PAUSE_SECONDS: u64 = 1;

/// How far the pursuit of a settlement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pursuit {
    /// What is awaited.
    pub(super) awaits: Awaits,
    /// No question is asked a second time from then on.
    until: UnixTime,
    /// The transfer, as far as the facilitator named one.
    named: Option<TransactionId>,
    /// Money may have moved by an earlier question, so that a refusal may mean just that.
    may_have_settled: bool,
    /// The facilitator says that the money has moved; the chain's word is still missing.
    is_promised: bool,
    /// The facilitator was asked in this pursuit.
    has_asked: bool,
    /// Why the outcome is not known yet.
    unknown: Unknown,
}

/// What a pursuit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaits {
    /// The answer to `/settle`.
    Facilitator,
    /// A node's answer.
    Chain(Inquiry),
    /// Time to pass until then, before the facilitator is asked again.
    Facilitation(UnixTime),
    /// Time to pass until then, before the chain is asked again.
    Confirmation(UnixTime),
}

/// A payment whose settlement went unheard, to be looked into again when nobody waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovery {
    pub(super) payment: Payment,
    /// The transfer, as far as the facilitator named one.
    pub(super) named: Option<TransactionId>,
    /// When to try.
    pub due: UnixTime,
}

impl Recovery {
    /// Who pays.
    pub(super) const fn payer(&self) -> &Payer {
        &self.payment.payer
    }

    /// Whether it is the settlement of a stream that was delivered.
    pub(super) const fn is_of_stream(&self) -> bool {
        self.payment.is_billed
    }
}

impl Pursuit {
    pub(super) fn new(context: Context<'_>, payment: &Payment) -> Self {
        Self {
            awaits: Awaits::Facilitator,
            until: payment.pursued_until(context),
            named: None,
            may_have_settled: false,
            is_promised: false,
            has_asked: false,
            unknown: Unknown::MaybeSettledBefore,
        }
    }

    /// When the pause ends, where there is one.
    pub(super) const fn pause(&self) -> Option<UnixTime> {
        match self.awaits {
            Awaits::Facilitation(due) | Awaits::Confirmation(due) => Some(due),
            Awaits::Facilitator | Awaits::Chain(_) => None,
        }
    }
}

impl Payment {
    pub(super) fn begin_settlement(self, context: Context<'_>, then: Then) -> Next {
        let operation = Operation::Settle { until: self.surely_settled(context), charge: self.charge };
        self.ask_ledger(operation, |payment| Exchange::BeginningSettlement(payment, then))
    }

    pub(super) fn on_settlement_begun(self, context: Context<'_>, then: Then, answer: Answer) -> Next {
        match answer {
            Answer::Granted => {
                let edits = self.forwarding(None);
                let pursuit = Pursuit::new(context, &self);
                let (exchange, effects) = self.ask_to_settle(context, then, pursuit);
                let stream = if then == Then::Join { Stream::Forward(edits) } else { effects.stream };
                (exchange, Effects { stream, ..effects })
            }
            Answer::NotHeld => self.end(None, Outcome::InFlight, "", Reply::in_flight()),
            _ => self.out_of_order(),
        }
    }

    /// Finds out what became of a settlement whose answer was not heard. The chain knows best, where it can be asked.
    pub(super) fn pursue(mut self, context: Context<'_>, then: Then, unheard: Unheard) -> Next {
        let Unheard { named, since, charge } = unheard;
        self.since = since;
        self.charge = charge;
        self.transfer = self.transfer.map(|transfer| Transfer { since, ..transfer });
        let pursuit = Pursuit { named, may_have_settled: true, ..Pursuit::new(context, &self) };
        match self.offer.rpc {
            Some(_) => self.ask_chain(context, then, pursuit),
            None => self.ask_to_settle(context, then, pursuit),
        }
    }

    /// A callout that the pursuit waits for was answered.
    pub(super) fn on_answer(self, context: Context<'_>, then: Then, pursuit: Pursuit, answer: &CalloutAnswer) -> Next {
        let (exchange, effects) = match pursuit.awaits {
            Awaits::Facilitator => self.on_settlement(context, then, pursuit, answer),
            Awaits::Chain(inquiry) => self.on_chain_answer(context, then, pursuit, inquiry, answer),
            Awaits::Facilitation(_) | Awaits::Confirmation(_) => {
                (Exchange::Settling(self, then, pursuit), Effects::default())
            }
        };
        let stream = match (then, effects.stream) {
            // Where nobody waits, the ledger alone is told.
            (Then::Keep | Then::Bill, _) => Stream::Hold,
            // Where the response has begun, its end is all that can be held back, and there is no use in that.
            (Then::Close, Stream::Reply(reply)) => Stream::Finish(Tail::failed(&reply)),
            (_, stream) => stream,
        };
        (exchange, Effects { stream, ..effects })
    }

    /// Time has passed.
    pub(super) fn on_tick(self, context: Context<'_>, then: Then, pursuit: Pursuit) -> Next {
        match pursuit.awaits {
            Awaits::Facilitation(due) if context.now >= due => self.ask_to_settle(context, then, pursuit),
            Awaits::Confirmation(due) if context.now >= due => self.ask_chain(context, then, pursuit),
            _ => (Exchange::Settling(self, then, pursuit), Effects::default()),
        }
    }

    pub(super) fn ask_to_settle(self, context: Context<'_>, then: Then, pursuit: Pursuit) -> Next {
        let pursuit = Pursuit { awaits: Awaits::Facilitator, has_asked: true, ..pursuit };
        self.ask_facilitator(context, CallKind::Settle, |payment| Exchange::Settling(payment, then, pursuit))
    }

    /// Asks the chain what became of the transfer; where there is no node to ask, the outcome stays unknown.
    fn ask_chain(self, context: Context<'_>, then: Then, pursuit: Pursuit) -> Next {
        let inquiry = Inquiry::Head(pursuit.named.and_then(TransactionId::hash));
        self.inquire(context, then, pursuit, inquiry)
    }

    fn inquire(self, context: Context<'_>, then: Then, pursuit: Pursuit, inquiry: Inquiry) -> Next {
        let (Some(rpc), Some(transfer)) = (self.offer.rpc.as_deref(), &self.transfer) else {
            return self.leave_unknown(context, then, pursuit, &pursuit.unknown.to_string());
        };
        let body = inquiry.question(transfer, rpc, context.now);
        let call = Some(Call { kind: CallKind::Chain, service: rpc.service.clone(), body });
        let pursuit = Pursuit { awaits: Awaits::Chain(inquiry), ..pursuit };
        (Exchange::Settling(self, then, pursuit), Effects { call, ..Effects::default() })
    }

    fn on_settlement(mut self, context: Context<'_>, then: Then, pursuit: Pursuit, answer: &CalloutAnswer) -> Next {
        let had_settled = pursuit.may_have_settled;
        let pursuit = Pursuit { may_have_settled: true, ..pursuit };
        // Where the payer is the facilitator's word alone, it may spell it otherwise the second time.
        let payer = match &self.offer.requirement.rail {
            Rail::Foreign(foreign) if foreign.svm.is_none() => &Payer::Unknown,
            _ => &self.payer,
        };
        let settlement = facilitator::read_settlement(answer, self.version, &self.offer.requirement, payer);
        self.learn_payer(answer);
        match settlement {
            Settlement::Settled(transaction) if self.offer.confirm => {
                let named = Some(transaction);
                let pursuit = Pursuit { named, is_promised: true, unknown: Unknown::Unconfirmed, ..pursuit };
                self.ask_chain(context, then, pursuit)
            }
            Settlement::Settled(transaction) => self.on_facilitated(context, then, transaction, had_settled),
            Settlement::Unknown(Unknown::NotSent, _) if !had_settled && !then.is_over() => {
                self.end_unknown(Some(Operation::Release), Unknown::NotSent)
            }
            Settlement::Unknown(unknown, named) => {
                let pursuit = Pursuit { named: named.or(pursuit.named), unknown, ..pursuit };
                match unknown {
                    Unknown::Pending if context.now < pursuit.until => {
                        let awaits = Awaits::Facilitation(context.now.plus(PAUSE_SECONDS));
                        (Exchange::Settling(self, then, Pursuit { awaits, ..pursuit }), Effects::default())
                    }
                    _ => self.ask_chain(context, then, pursuit),
                }
            }
            // That it cannot settle now does not mean that it has not.
            Settlement::Refused(reason) if had_settled => {
                let pursuit = Pursuit { unknown: Unknown::MaybeSettledBefore, ..pursuit };
                match self.offer.rpc {
                    Some(_) => self.ask_chain(context, then, pursuit),
                    None => self.leave_unknown(context, then, pursuit, &reason),
                }
            }
            // Something on the way may have asked twice, and let the second answer through. Where another ledger takes the same
            // payments it may as well have been spent there, and then nothing is to be had for it here.
            Settlement::Refused(reason)
                if reason == reason::NONCE_USED
                    && self.offer.rpc.is_some()
                    && context.is_exclusive_since(self.since)
                    && !then.is_over() =>
            {
                self.ask_chain(context, then, Pursuit { unknown: Unknown::MaybeSettledBefore, ..pursuit })
            }
            Settlement::Refused(reason) => {
                let reply = Reply::settlement_refused(self.version, &self.receipt_of(Err(&reason)), &reason);
                let operation = (!then.is_over()).then_some(Operation::Release);
                let settlement = Some(SettlementRecord { payment: self.record(), result: SettlementResult::Refused });
                let (exchange, effects) = self.end(operation, Outcome::Refused, &reason, reply);
                (exchange, Effects { settlement, ..effects })
            }
        }
    }

    fn on_chain_answer(
        mut self,
        context: Context<'_>,
        then: Then,
        pursuit: Pursuit,
        inquiry: Inquiry,
        answer: &CalloutAnswer,
    ) -> Next {
        let (Some(rpc), Some(transfer)) = (self.offer.rpc.as_deref(), &self.transfer) else {
            return self.leave_unknown(context, then, pursuit, &pursuit.unknown.to_string());
        };
        let fate = match inquiry.step(transfer, rpc, answer) {
            Progress::Ask(inquiry) => return self.inquire(context, then, pursuit, inquiry),
            Progress::Done(fate) => fate,
        };
        // The next inquiry, of this request or in the background, goes on from there.
        if let Fate::Unclear(Unclear::OutOfRange { searched_to }) = fate {
            self.transfer = self.transfer.map(|transfer| Transfer { searched_to, ..transfer });
        }
        let may_wait = context.now < pursuit.until;
        match fate {
            Fate::Settled(transaction) => self.on_settled(context, then, transaction.into()),
            Fate::Void(void) => {
                let operation = (!then.is_over()).then_some(Operation::Release);
                let settlement = Some(SettlementRecord { payment: self.record(), result: SettlementResult::Refused });
                let (exchange, effects) = self.refuse(context, operation, Outcome::Refused, &void.to_string());
                (exchange, Effects { settlement, ..effects })
            }
            // An earlier request asked for the settlement, and it may be asked for again.
            Fate::Open | Fate::Unclear(_) if !pursuit.has_asked => self.ask_to_settle(context, then, pursuit),
            Fate::Unconfirmed(_) | Fate::Open | Fate::Unclear(_) => {
                let (named, is_seen) = match fate {
                    Fate::Unconfirmed(transaction) => (Some(transaction.into()), true),
                    _ => (pursuit.named, pursuit.is_promised),
                };
                let unknown = if is_seen { Unknown::Unconfirmed } else { pursuit.unknown };
                let reason = match fate {
                    Fate::Unclear(unclear) => format!("{unknown}; {unclear}"),
                    _ => unknown.to_string(),
                };
                let pursuit = Pursuit { named, unknown, ..pursuit };
                if is_seen && may_wait {
                    let awaits = Awaits::Confirmation(context.now.plus(PAUSE_SECONDS));
                    return (Exchange::Settling(self, then, Pursuit { awaits, ..pursuit }), Effects::default());
                }
                self.leave_unknown(context, then, pursuit, &reason)
            }
        }
    }

    /// Ends the request with the outcome unknown. The payment stays in the ledger, and is looked into again.
    fn leave_unknown(self, context: Context<'_>, then: Then, pursuit: Pursuit, reason: &str) -> Next {
        // A stream that was delivered is to be settled, whoever waits; a response that was not is still owed for it.
        let is_billed = then.is_over();
        let recovery = Self { is_billed, ..self.clone() }.recovery(context.now, pursuit);
        let operation = (!is_billed).then_some(Operation::Forget { named: pursuit.named });
        let reply = Reply::outcome_unknown(pursuit.unknown);
        let settlement = Some(SettlementRecord { payment: self.record(), result: SettlementResult::Unknown });
        let (exchange, effects) = self.end(operation, Outcome::Unknown, reason, reply);
        (exchange, Effects { recovery, settlement, ..effects })
    }

    /// When to look into the payment again, if that can still bring anything to light: later and later, until the
    /// facilitator would refuse it, or where the chain can be asked, until that knows.
    fn recovery(mut self, now: UnixTime, pursuit: Pursuit) -> Option<Recovery> {
        const LONGEST_PAUSE_SECONDS: u64 = 60;
        /// What the ledger forgets of itself, nobody needs to know.
        const MOST_ATTEMPTS: u32 = 24 * 60;
        let pause = match pursuit.unknown {
            // Whoever has too much to do is not helped by more of it.
            Unknown::Busy => LONGEST_PAUSE_SECONDS,
            _ => 1_u64.checked_shl(self.recoveries).unwrap_or(LONGEST_PAUSE_SECONDS).min(LONGEST_PAUSE_SECONDS),
        };
        self.recoveries = self.recoveries.saturating_add(1);
        let due = now.plus(pause);
        let can_settle = due.plus(MIN_LIFETIME_SECONDS) <= self.settles_until;
        // Where Permit2 is concerned, the chain knows no more in the end than that the nonce was used.
        let chain_will_know = self.offer.rpc.is_some()
            && self.transfer.is_some_and(|transfer| transfer.method == TransferMethod::Eip3009);
        let is_worth_it = self.recoveries <= MOST_ATTEMPTS && (can_settle || chain_will_know);
        is_worth_it.then_some(Recovery { payment: self, named: pursuit.named, due })
    }

    /// The facilitator says that the money has moved. Where nothing but its word ties the transaction to the payment, it
    /// must not be one that another payment has bought its response with.
    fn on_facilitated(self, context: Context<'_>, then: Then, transaction: TransactionId, may_be_known: bool) -> Next {
        if let Rail::Evm(_) = self.offer.requirement.rail {
            return self.on_settled(context, then, transaction);
        }
        let key = PaymentKey::of_transaction(&self.offer.requirement.network, transaction);
        let (binding, expires) = (self.binding, self.expires);
        let known_since = may_be_known.then_some(self.since);
        let ledger = Some((key, Operation::Pin { binding, transaction, expires, known_since }));
        (Exchange::Pinning(self, then, transaction), Effects { ledger, ..Effects::default() })
    }

    /// The ledger has said whether the transaction is this payment's.
    pub(super) fn on_pinned(
        self,
        context: Context<'_>,
        then: Then,
        transaction: TransactionId,
        answer: Answer,
    ) -> Next {
        let (exchange, effects) = match answer {
            Answer::Granted => return self.on_settled(context, then, transaction),
            Answer::Spent => {
                self.refuse(context, Some(Operation::Spend { transaction }), Outcome::Spent, reason::NONCE_USED)
            }
            _ => {
                let forget = Some(Operation::Forget { named: Some(transaction) });
                self.end_unknown(forget, Unknown::Unrecorded)
            }
        };
        let stream = if then == Then::Keep { Stream::Hold } else { effects.stream };
        (exchange, Effects { stream, ..effects })
    }

    /// The money has moved.
    fn on_settled(self, context: Context<'_>, then: Then, transaction: TransactionId) -> Next {
        let payment = PaymentRecord { transaction: Some(transaction), ..self.record() };
        let settlement = Some(SettlementRecord { payment, result: SettlementResult::Settled });
        let (exchange, effects) = self.record_settlement(context, then, transaction);
        (exchange, Effects { settlement, ..effects })
    }

    /// Tells the ledger, before anything is given for it.
    fn record_settlement(self, context: Context<'_>, then: Then, transaction: TransactionId) -> Next {
        let operation = match then {
            Then::Forward | Then::Join if !self.is_bound() => {
                let reply = Reply::payment_required(context, reason::NONCE_USED, &self.terms, &self.url);
                let (operation, stream) = (Some(Operation::Spend { transaction }), Stream::Reply(reply));
                return self.finish(operation, Outcome::Spent, reason::NONCE_USED, Some(transaction), stream);
            }
            Then::Forward | Then::Join => Operation::Redeem { transaction, until: self.surely_served(context) },
            Then::Deliver { .. } => Operation::Spend { transaction },
            Then::Keep => {
                let operation = match self.is_bound() {
                    true => Some(Operation::Keep { transaction }),
                    false => Some(Operation::Spend { transaction }),
                };
                return self.finish(operation, Outcome::Abandoned, "", Some(transaction), Stream::Hold);
            }
            Then::Close => {
                let tail = Tail::receipt(context, &self, Some(transaction));
                return self.finish(None, Outcome::Served, "", Some(transaction), Stream::Finish(tail));
            }
            Then::Bill => return self.finish(None, Outcome::Billed, "", Some(transaction), Stream::Hold),
            Then::DeliverError { keeps_cache_control } => {
                let stream =
                    Stream::Deliver(self.receipt(&self.receipt_of(Ok(Some(transaction))), keeps_cache_control));
                let outcome = Outcome::SettledUpstreamFailed;
                return self.finish(Some(Operation::Keep { transaction }), outcome, "", Some(transaction), stream);
            }
        };
        self.ask_ledger(operation, |payment| Exchange::Recording(payment, then, transaction))
    }

    /// The response is there, and the settlement that was asked for beside it is not.
    pub(super) fn on_joining_response(self, pursuit: Pursuit, head: &UpstreamHead) -> Next {
        let keeps_cache_control = head.forbids_sharing();
        let then = match head.is_error() {
            true => Then::DeliverError { keeps_cache_control },
            false => Then::Deliver { keeps_cache_control },
        };
        (Exchange::Settling(self, then, pursuit), Effects::default())
    }

    pub(super) fn on_recorded(
        self,
        context: Context<'_>,
        then: Then,
        transaction: TransactionId,
        answer: Answer,
    ) -> Next {
        let named = Some(transaction);
        match (answer, then) {
            (Answer::Granted, Then::Forward) => self.forward(named),
            (Answer::Granted, Then::Join) => (Exchange::Redeeming(self, transaction), Effects::default()),
            (Answer::Granted, Then::Deliver { keeps_cache_control }) => {
                let edits = self.receipt(&self.receipt_of_service(context, named), keeps_cache_control);
                let grant = self.right(context.now);
                let (over, effects) = self.finish(None, Outcome::Served, "", named, Stream::Deliver(edits));
                match grant {
                    Some(grant) => (Exchange::Granting, Effects { ledger: Some(grant), ..effects }),
                    None => (over, effects),
                }
            }
            // The hold lapsed and another request has the payment now, or the store failed. Nothing was given for it yet,
            // and the same payment, sent again, finds what became of it.
            _ => {
                let reply = Reply::outcome_unknown(Unknown::Unrecorded);
                let stream = Stream::Reply(reply);
                self.finish(None, Outcome::Unknown, &Unknown::Unrecorded.to_string(), named, stream)
            }
        }
    }

    /// Until when a pursuit that begins now asks again.
    fn pursued_until(&self, context: Context<'_>) -> UnixTime {
        let facilitator = context.config.facilitator.service.timeout_seconds();
        context.now.plus(facilitator).plus(self.node_seconds())
    }

    /// When a request that asks for settlement now is over, at the latest: one more question to the facilitator after
    /// the last pause, one inquiry into the chain, and some slack.
    pub(super) fn surely_settled(&self, context: Context<'_>) -> UnixTime {
        const SLACK_SECONDS: u64 = 5;
        let facilitator = context.config.facilitator.service.timeout_seconds();
        let inquiry = self.node_seconds().saturating_mul(INQUIRY_QUESTIONS);
        // An inquiry may come before the first question, and another after the last.
        self.pursued_until(context).plus(inquiry).plus(facilitator).plus(inquiry).plus(SLACK_SECONDS)
    }

    fn node_seconds(&self) -> u64 {
        self.offer.rpc.as_deref().map_or(0, |rpc: &Rpc| rpc.service.timeout_seconds())
    }
}

impl Then {
    /// Whether the response is out already.
    const fn is_over(self) -> bool {
        matches!(self, Self::Close | Self::Bill)
    }
}

impl Tail {
    /// The receipt of a stream, in a trailer and in a comment.
    pub(super) fn receipt(context: Context<'_>, payment: &Payment, transaction: Option<TransactionId>) -> Self {
        let receipt = payment.receipt_of_service(context, transaction);
        Self {
            comment: format!(": payment-response {}\n\n", receipt.to_json()),
            trailers: vec![(payment.version.receipt_header(), receipt.to_header())],
        }
    }

    /// What is said of a settlement that did not come about, or is not known.
    fn failed(reply: &Reply) -> Self {
        let receipts = [Version::V1, Version::V2].map(Version::receipt_header).into_iter();
        let value =
            |name: &&str| reply.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.clone());
        let trailers = receipts.filter_map(|name| Some((name, value(&name)?))).collect();
        Self { comment: format!(": payment {}\n\n", reply.body), trailers }
    }
}
