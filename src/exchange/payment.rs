//! The way of a payment from its claim to its receipt.

use std::sync::Arc;

use super::reply::EXPOSED;
use super::{
    Call, Context, Effects, Exchange, History, Next, Outcome, PaymentRecord, Record, Reply, RequestEdits,
    ResponseEdits, Stream, Then, UpstreamHead,
};
use crate::config::{Offer, Settle, Terms, Verify};
use crate::evm::{Address, TransactionHash};
use crate::facilitator::{self, CalloutAnswer, Question, Settlement, Unknown, Verification};
use crate::ledger::{Answer, Operation, PaymentKey, SignatureMark};
use crate::scheme::Judgement;
use crate::time::UnixTime;
use crate::x402::header::PAYMENT_RESPONSE;
use crate::x402::{Receipt, Requirement, reason};

/// Headers that tell shared caches otherwise than `Cache-Control` does.
const SHARED_CACHE_CONTROLS: [&str; 2] = ["cdn-cache-control", "surrogate-control"];

/// A payment that meets an offer, as far as the filter can tell.
#[derive(Debug)]
pub struct Payment {
    pub(super) route: Arc<str>,
    pub(super) terms: Arc<Terms>,
    pub(super) offer: Arc<Offer>,
    pub(super) key: PaymentKey,
    pub(super) payer: Address,
    pub(super) standing: Standing,
    pub(super) signature: SignatureMark,
    /// The end of the payment's validity.
    pub(super) expires: UnixTime,
    /// The payment as the facilitator gets it.
    pub(super) json: String,
    /// The URL that is paid for.
    pub(super) url: String,
    /// Headers that the upstream must not see.
    pub(super) unwanted: Vec<String>,
}

/// How a payment stands that meets its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may be settled.
    Good(Judgement),
    /// It came too late to be settled; all else is in order. It still buys what it has been settled for.
    Expired,
    /// It is in order, and was made for terms that are not these.
    ForOtherTerms,
}

impl PaymentRecord {
    pub(super) fn new(payer: Address, requirement: &Requirement) -> Self {
        Self {
            payer,
            network: requirement.network.to_string(),
            amount: requirement.amount.to_string(),
            asset: requirement.asset,
            transaction: None,
        }
    }
}

impl Payment {
    pub(super) fn claim(self, context: Context<'_>) -> Next {
        let (until, signature) = (self.surely_served(context), self.signature);
        let operation = match self.standing {
            Standing::Good(_) => Operation::Claim { expires: self.expires, until, signature },
            Standing::Expired => Operation::Resume { until, signature },
            Standing::ForOtherTerms => Operation::Look,
        };
        self.ask_ledger(operation, Exchange::Claiming)
    }

    pub(super) fn on_claim(self, context: Context<'_>, answer: Answer) -> Next {
        match answer {
            Answer::Granted => self.on_granted(context),
            Answer::GrantedUnknown => {
                let history = History { asked_before: true, ..History::default() };
                self.settle(Then::Forward, history)
            }
            Answer::GrantedSettled(transaction) => self.forward(Some(transaction)),
            Answer::InFlight => self.end(None, Outcome::InFlight, "", Reply::in_flight()),
            Answer::Waiting => {
                let reply = Reply::error(
                    409,
                    "this payment was made for other terms and may have settled; it buys nothing here",
                );
                self.end(None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS, reply)
            }
            Answer::Spent => self.refuse(None, Outcome::Spent, reason::NONCE_USED),
            Answer::Full => {
                let reply = Reply::overloaded("too many payments at a time");
                self.end(None, Outcome::Overloaded, "the ledger is full", reply)
            }
            Answer::NotHeld => match self.standing {
                Standing::Expired => self.refuse(None, Outcome::Refused, reason::VALID_BEFORE),
                Standing::ForOtherTerms => self.refuse(None, Outcome::Refused, reason::NO_MATCHING_REQUIREMENTS),
                Standing::Good(_) => self.out_of_order(),
            },
            Answer::Failed => self.out_of_order(),
        }
    }

    fn on_granted(self, context: Context<'_>) -> Next {
        let trusts_the_filter = context.config.facilitator.verify == Verify::Local;
        let is_valid = self.standing == Standing::Good(Judgement::Valid);
        match self.terms.settle {
            Settle::Before => self.begin_settlement(context, Then::Forward),
            Settle::Concurrent => self.begin_settlement(context, Then::Join),
            Settle::After if trusts_the_filter && is_valid => self.forward(None),
            Settle::After => self.ask_facilitator(Question::Verify, Exchange::Verifying),
        }
    }

    pub(super) fn on_verification(self, answer: &CalloutAnswer) -> Next {
        let release = Some(Operation::Release);
        match facilitator::read_verification(answer, self.payer) {
            Verification::Valid => self.forward(None),
            Verification::Invalid(reason) => self.refuse(release, Outcome::Refused, &reason),
            Verification::Unknown(unknown) => self.end_unknown(release, unknown),
        }
    }

    pub(super) fn on_response(self, context: Context<'_>, head: &UpstreamHead) -> Next {
        if head.is_error() {
            let stream = Stream::Deliver(ResponseEdits::default());
            return self.finish(Some(Operation::Release), Outcome::UpstreamFailed, "", None, stream);
        }
        let then = Then::Deliver { keeps_cache_control: head.forbids_sharing() };
        self.begin_settlement(context, then)
    }

    fn begin_settlement(self, context: Context<'_>, then: Then) -> Next {
        let operation = Operation::Settle { until: self.surely_settled(context) };
        self.ask_ledger(operation, |payment| Exchange::BeginningSettlement(payment, then))
    }

    pub(super) fn on_settlement_begun(self, then: Then, answer: Answer) -> Next {
        match answer {
            Answer::Granted if then == Then::Join => {
                let edits = self.forwarding(None);
                let (exchange, effects) = self.settle(then, History::default());
                (exchange, Effects { stream: Stream::Forward(edits), ..effects })
            }
            Answer::Granted => self.settle(then, History::default()),
            Answer::NotHeld => self.end(None, Outcome::InFlight, "", Reply::in_flight()),
            _ => self.out_of_order(),
        }
    }

    fn settle(self, then: Then, history: History) -> Next {
        self.ask_facilitator(Question::Settle, |payment| Exchange::Settling(payment, then, history))
    }

    pub(super) fn on_settlement(
        self,
        context: Context<'_>,
        then: Then,
        history: History,
        answer: &CalloutAnswer,
    ) -> Next {
        let (exchange, effects) = self.after_settlement(context, then, history, answer);
        // Where nobody waits, the ledger alone is told.
        let stream = if then == Then::Keep { Stream::Hold } else { effects.stream };
        (exchange, Effects { stream, ..effects })
    }

    fn after_settlement(self, context: Context<'_>, then: Then, history: History, answer: &CalloutAnswer) -> Next {
        match facilitator::read_settlement(answer, &self.offer.requirement, self.payer) {
            Settlement::Settled(transaction) => self.on_settled(context, then, transaction),
            Settlement::Unknown(Unknown::Pending) if !history.was_pending => {
                self.settle(then, History { was_pending: true, ..history })
            }
            Settlement::Unknown(Unknown::NotSent) if !history.may_have_settled() => {
                self.end_unknown(Some(Operation::Release), Unknown::NotSent)
            }
            Settlement::Unknown(unknown) => self.end_unknown(Some(Operation::Forget), unknown),
            // That it cannot settle now does not mean that it has not.
            Settlement::Refused(reason) if history.may_have_settled() => {
                let reply = Reply::outcome_unknown(Unknown::MaybeSettledBefore);
                self.end(Some(Operation::Forget), Outcome::Unknown, &reason, reply)
            }
            Settlement::Refused(reason) => {
                let result = Err(reason.as_str());
                let receipt = Receipt { payer: self.payer, network: &self.offer.requirement.network, result };
                let reply = Reply::settlement_refused(&receipt, &reason);
                self.end(Some(Operation::Release), Outcome::Refused, &reason, reply)
            }
        }
    }

    /// Tells the ledger that the money has moved, before anything is given for it.
    fn on_settled(self, context: Context<'_>, then: Then, transaction: TransactionHash) -> Next {
        let operation = match then {
            Then::Forward | Then::Join => Operation::Redeem { transaction, until: self.surely_served(context) },
            Then::Deliver { .. } => Operation::Spend { transaction },
            Then::Keep => {
                let operation = Some(Operation::Keep { transaction });
                return self.finish(operation, Outcome::Abandoned, "", Some(transaction), Stream::Hold);
            }
            Then::DeliverError { keeps_cache_control } => {
                let stream = Stream::Deliver(self.receipt(transaction, keeps_cache_control));
                let outcome = Outcome::SettledUpstreamFailed;
                return self.finish(Some(Operation::Keep { transaction }), outcome, "", Some(transaction), stream);
            }
        };
        self.ask_ledger(operation, |payment| Exchange::Recording(payment, then, transaction))
    }

    /// The response is there, and the settlement that was asked for beside it is not.
    pub(super) fn on_joining_response(self, history: History, head: &UpstreamHead) -> Next {
        let keeps_cache_control = head.forbids_sharing();
        let then = match head.is_error() {
            true => Then::DeliverError { keeps_cache_control },
            false => Then::Deliver { keeps_cache_control },
        };
        (Exchange::Settling(self, then, history), Effects::default())
    }

    pub(super) fn on_recorded(self, then: Then, transaction: TransactionHash, answer: Answer) -> Next {
        match (answer, then) {
            (Answer::Granted, Then::Forward) => self.forward(Some(transaction)),
            (Answer::Granted, Then::Join) => (Exchange::Redeeming(self, transaction), Effects::default()),
            (Answer::Granted, Then::Deliver { keeps_cache_control }) => {
                let edits = self.receipt(transaction, keeps_cache_control);
                self.finish(None, Outcome::Served, "", Some(transaction), Stream::Deliver(edits))
            }
            // The hold lapsed and another request has the payment now, or the store failed. Nothing was given for it yet,
            // and the same payment, sent again, finds what became of it.
            _ => {
                let reply = Reply::outcome_unknown(Unknown::Unrecorded);
                let stream = Stream::Reply(reply);
                self.finish(None, Outcome::Unknown, &Unknown::Unrecorded.to_string(), Some(transaction), stream)
            }
        }
    }

    pub(super) fn on_paid_response(self, transaction: TransactionHash, head: &UpstreamHead) -> Next {
        let keeps_cache_control = head.forbids_sharing();
        if head.is_error() {
            let stream = Stream::Deliver(self.receipt(transaction, keeps_cache_control));
            let outcome = Outcome::SettledUpstreamFailed;
            return self.finish(Some(Operation::Release), outcome, "", Some(transaction), stream);
        }
        let then = Then::Deliver { keeps_cache_control };
        self.ask_ledger(Operation::Spend { transaction }, |payment| Exchange::Recording(payment, then, transaction))
    }

    fn forward(self, transaction: Option<TransactionHash>) -> Next {
        let edits = self.forwarding(transaction);
        let exchange = match transaction {
            Some(transaction) => Exchange::Redeeming(self, transaction),
            None => Exchange::Serving(self),
        };
        (exchange, Effects { stream: Stream::Forward(edits), ..Effects::default() })
    }

    /// What the upstream learns of the payment, and what it does not.
    fn forwarding(&self, transaction: Option<TransactionHash>) -> RequestEdits {
        let requirement = &self.offer.requirement;
        let mut set = vec![
            ("x-x402-payer", self.payer.to_string()),
            ("x-x402-network", requirement.network.to_string()),
            ("x-x402-amount", requirement.amount.to_string()),
        ];
        set.extend(transaction.map(|hash| ("x-x402-transaction", hash.to_string())));
        RequestEdits { remove: self.unwanted.clone(), set }
    }

    /// What the response gets beside what the upstream said.
    fn receipt(&self, transaction: TransactionHash, keeps_cache_control: bool) -> ResponseEdits {
        let receipt = Receipt { payer: self.payer, network: &self.offer.requirement.network, result: Ok(transaction) };
        let mut set = vec![(PAYMENT_RESPONSE, receipt.to_header())];
        if !keeps_cache_control {
            set.push(("cache-control", "private".to_owned()));
        }
        let (name, value) = EXPOSED;
        ResponseEdits { remove: SHARED_CACHE_CONTROLS.to_vec(), set, add: vec![(name, value.to_owned())] }
    }

    fn ask_ledger(self, operation: Operation, then: impl FnOnce(Self) -> Exchange) -> Next {
        let ledger = Some((self.key, operation));
        (then(self), Effects { ledger, ..Effects::default() })
    }

    fn ask_facilitator(self, question: Question, then: impl FnOnce(Self) -> Exchange) -> Next {
        let body = facilitator::question(&self.json, &self.offer.requirement);
        (then(self), Effects { call: Some(Call { question, body }), ..Effects::default() })
    }

    fn refuse(self, operation: Option<Operation>, outcome: Outcome, reason: &str) -> Next {
        let reply = Reply::payment_required(reason, &self.terms, &self.url);
        self.end(operation, outcome, reason, reply)
    }

    fn end_unknown(self, operation: Option<Operation>, unknown: Unknown) -> Next {
        self.end(operation, Outcome::Unknown, &unknown.to_string(), Reply::outcome_unknown(unknown))
    }

    fn out_of_order(self) -> Next {
        let reply = Reply::overloaded("payments cannot be taken at the moment");
        self.end(None, Outcome::Overloaded, "the ledger is out of order", reply)
    }

    fn end(self, operation: Option<Operation>, outcome: Outcome, reason: &str, reply: Reply) -> Next {
        self.finish(operation, outcome, reason, None, Stream::Reply(reply))
    }

    fn finish(
        self,
        operation: Option<Operation>,
        outcome: Outcome,
        reason: &str,
        transaction: Option<TransactionHash>,
        stream: Stream,
    ) -> Next {
        let payment = PaymentRecord { transaction, ..PaymentRecord::new(self.payer, &self.offer.requirement) };
        let record = Record { route: self.route, outcome, reason: reason.to_owned(), payment: Some(payment) };
        let ledger = operation.map(|operation| (self.key, operation));
        Effects { ledger, record: Some(record), call: None, stream }.and_over()
    }

    /// When a request that asks for settlement now has heard the answer, at the latest: two calls, and some slack.
    fn surely_settled(&self, context: Context<'_>) -> UnixTime {
        const SLACK_SECONDS: u64 = 5;
        let timeout = context.config.facilitator.timeout.as_secs().saturating_add(1);
        context.now.plus(timeout.saturating_mul(2).saturating_add(SLACK_SECONDS))
    }

    /// When a request that waits for the upstream is given up on. Should it answer later all the same, and another
    /// request have taken the payment over by then, the ledger lets only that other one go on.
    fn surely_served(&self, context: Context<'_>) -> UnixTime {
        self.surely_settled(context).plus(self.offer.requirement.max_timeout_seconds)
    }
}

impl UpstreamHead {
    /// Whether the upstream failed, and owes nothing.
    pub(super) const fn is_error(&self) -> bool {
        self.status >= 400 || self.grpc_failed
    }

    /// Whether the upstream itself keeps shared caches away.
    fn forbids_sharing(&self) -> bool {
        let directives = self.cache_control.as_deref().unwrap_or_default();
        directives.split(',').any(|directive| {
            let directive = directive.trim();
            directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private")
        })
    }
}

impl History {
    /// Whether an earlier question may have moved the money.
    const fn may_have_settled(self) -> bool {
        self.asked_before || self.was_pending
    }
}
