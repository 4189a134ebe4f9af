//! From the question whether the money moves to the certainty that it has, or that it never will.
//!
//! Only three answers end the pursuit for good: the money has moved, the facilitator refuses a payment that nothing can
//! have settled before, and the chain shows that it can no longer settle. Everything else leaves the outcome unknown:
//! the client is told to come again with the same payment, and the filter goes on asking by itself.

use std::sync::Arc;

use super::bundle;
use super::channel;
use super::context::Asked;
use super::delivery::{Delivery, Spending, end_unrecorded};
use super::redeeming::{Redeeming, deliver_error};
use super::state::State;
use super::trust;
use super::{
    Call, CallKind, Context, Effects, Event, Next, Outcome, Payment, Recovery, Reply, SettlementResult, Stream, Tail,
    UpstreamHead, Warning,
};
use crate::chain::{Fate, Inquiry, Progress, Transfer, Unclear};
use crate::channel::{ChannelId, Operation as OfChannel};
use crate::config::Facilitator;
use crate::facilitator::{self, CalloutAnswer, Settlement, Unknown};
use crate::ledger::exposure::IS_BUILT_IN;
use crate::ledger::{Answer, Operation, PaymentKey, Unheard};
use crate::schedule::{jittered, mix};
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::time::UnixTime;
use crate::x402::payment::Payer;
use crate::x402::requirement::{Rail, TransferMethod};
use crate::x402::{TransactionId, reason};

/// Seconds between two questions of one pursuit.
const PAUSE_SECONDS: u64 = 1;

/// The part of a request that waits for a settlement, and so the way on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Waiter {
    /// The request, which goes to the upstream next.
    Request,
    /// The response of the upstream, which has the request already.
    Upstream,
    /// The response, which goes to the client next.
    Response(Delivery),
    /// The response, an error, which goes to the client next; the payment keeps its claim to a better one.
    ErrorResponse(Delivery),
    /// The end of the stream that was paid for.
    StreamEnd,
    /// Nobody any more: the payment keeps its claim to a response.
    Nobody,
    /// Nobody any more: the stream that is paid for is over.
    NobodyOfStream,
    /// Nobody: the response has left on trust.
    Trust,
    /// The request of a payer who owes, and who gets nothing for this payment but that.
    Debt,
}

/// What the log says of a request whose response is out, and that the ledger could not be told the charge of at once.
pub(super) const CHARGED_LATER: &str = "it is charged as soon as the ledger answers";

impl Waiter {
    /// Returns how a response ends that is out, and its request, while the ledger does not say what is left.
    pub(super) fn end_without_answer(self) -> (Stream, Outcome) {
        match self {
            Self::StreamEnd => (Stream::Finish(Tail::default()), Outcome::Served),
            _ => (Stream::Hold, Outcome::Billed),
        }
    }

    /// Returns whether the response is out already.
    pub(super) const fn has_response(self) -> bool {
        matches!(self, Self::StreamEnd | Self::NobodyOfStream | Self::Trust)
    }

    /// Returns whether the response has left before its payment settles.
    const fn is_trust(self) -> bool {
        IS_BUILT_IN && matches!(self, Self::Trust)
    }

    /// Returns what waits once the client has gone.
    pub(super) const fn without_client(self) -> Self {
        match self {
            Self::Trust => Self::Trust,
            _ if self.has_response() => Self::NobodyOfStream,
            _ => Self::Nobody,
        }
    }

    /// Returns whether a response that comes unasked could be the one that is sold.
    pub(super) const fn could_be_sold(self) -> bool {
        matches!(self, Self::Response(_) | Self::ErrorResponse(_))
    }

    /// Returns what becomes of the stream, given what would become of it if a request waited.
    pub(super) fn fit(self, stream: Stream) -> Stream {
        match (self, stream) {
            // Where nobody waits, the ledger alone is told.
            (Self::Nobody | Self::NobodyOfStream | Self::Trust, _) => Stream::Hold,
            // Where the response has begun, its end is all that can be held back, and there is no use in that.
            (Self::StreamEnd, Stream::Reply(reply)) => Stream::Finish(Tail::failed(&reply)),
            (_, stream) => stream,
        }
    }
}

/// The progress of the pursuit of a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pursuit {
    /// The event that is awaited.
    awaits: Awaits,
    /// The time from which on no question is asked a second time.
    until: UnixTime,
    /// The transfer, as far as the facilitator named one.
    named: Option<TransactionId>,
    /// True if money may have moved by an earlier question, so that a refusal may mean just that.
    may_have_settled: bool,
    /// True if the facilitator says that the money has moved, and the chain's word is still missing.
    is_promised: bool,
    /// The place of the facilitator that was asked last in this pursuit; `None` before that.
    place: Option<usize>,
    /// The facilitators that were asked in turn, since the last one that answered.
    asked: Asked,
    /// The reason why the outcome is not known yet.
    unknown: Unknown,
    /// The facilitator's last answer, for the log.
    said: Option<Arc<str>>,
    /// The time at which the ledger first saw the payment.
    since: UnixTime,
    /// The first block that is yet to be searched for the transfer, where a search came so far.
    searched_to: Option<u64>,
    /// The number of times that the settlement was looked into when nobody waited for it.
    attempts: u32,
}

/// The event that a pursuit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Awaits {
    /// The answer to `/settle`.
    Facilitator,
    /// A node's answer.
    Chain(Inquiry),
    /// The time at which the facilitator is asked again.
    Facilitation(UnixTime),
    /// The time at which the chain is asked again.
    Confirmation(UnixTime),
}

impl Pursuit {
    /// The pursuit of a settlement that is asked for for the first time.
    pub(super) fn new(context: Context<'_>, payment: &Payment) -> Self {
        Self {
            awaits: Awaits::Facilitator,
            until: payment.purchase.pursued_until(context),
            named: None,
            may_have_settled: false,
            is_promised: false,
            place: None,
            asked: Asked::default(),
            unknown: Unknown::MaybeSettledBefore,
            said: None,
            since: payment.purchase.received,
            searched_to: None,
            attempts: 0,
        }
    }

    /// The same after so many attempts, and with the chain searched so far.
    pub(super) fn after(self, attempts: u32, searched_to: Option<u64>) -> Self {
        Self { attempts, searched_to, ..self }
    }
}

/// State: the ledger is told that settlement begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BeginningSettlement {
    payment: Payment,
    waiter: Waiter,
}

/// State: the facilitator is asked to settle, and where need be the chain whether it did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settling {
    payment: Payment,
    waiter: Waiter,
    pursuit: Pursuit,
}

/// State: the facilitator names the transaction that has moved the money, and the ledger is asked whether that is news.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pinning {
    payment: Payment,
    waiter: Waiter,
    transaction: TransactionId,
}

/// State: the money has moved, the response is yet to come, and the ledger is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recording {
    payment: Payment,
    /// True if the upstream has the request already.
    has_upstream: bool,
    transaction: TransactionId,
}

/// Begins the settlement of a payment that no money has moved for yet.
pub(super) fn begin_settlement(payment: Payment, context: Context<'_>, waiter: Waiter) -> Next {
    let until = payment.purchase.surely_settled(context);
    let operation = Operation::Settle { until, charge: payment.charge };
    payment.ask_ledger(operation, |payment| BeginningSettlement { payment, waiter })
}

/// Asks for the settlement of a payment whose claim says so already.
pub(super) fn settle_claimed(payment: Payment, context: Context<'_>, waiter: Waiter) -> Next {
    let edits = payment.forwarding(None);
    let (exchange, effects) = Settling::begin(payment, context, waiter);
    let stream = if waiter == Waiter::Upstream { Stream::Forward(edits) } else { effects.stream };
    (exchange, Effects { stream, ..effects })
}

impl State for BeginningSettlement {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { payment, waiter } = self;
        match answer {
            Answer::Granted => settle_claimed(payment, context, waiter),
            Answer::NotHeld => payment.end_in_flight(),
            _ => payment.out_of_order(),
        }
    }

    fn end(self) -> Next {
        self.payment.end_left()
    }

    fn could_be_sold(&self) -> bool {
        self.waiter.could_be_sold()
    }
}

impl Settling {
    /// Asks the facilitator to settle, for the first time.
    pub(super) fn begin(payment: Payment, context: Context<'_>, waiter: Waiter) -> Next {
        let pursuit = Pursuit::new(context, &payment);
        Self { payment, waiter, pursuit }.ask_to_settle(context)
    }

    /// Finds out what became of a settlement whose answer was not heard. The chain knows best, where it can be asked.
    pub(super) fn resume(
        mut payment: Payment,
        context: Context<'_>,
        waiter: Waiter,
        pursuit: Pursuit,
        Unheard { named, since, charge }: Unheard,
    ) -> Next {
        payment.charge = charge;
        let pursuit = Pursuit { named, since, may_have_settled: true, ..pursuit };
        let settling = Self { payment, waiter, pursuit };
        if settling.can_ask_chain() { settling.ask_chain(context) } else { settling.ask_to_settle(context) }
    }

    /// Returns when the pause ends, where there is one.
    pub(super) const fn pause(&self) -> Option<UnixTime> {
        match self.pursuit.awaits {
            Awaits::Facilitation(due) | Awaits::Confirmation(due) => Some(due),
            Awaits::Facilitator | Awaits::Chain(_) => None,
        }
    }

    fn can_ask_chain(&self) -> bool {
        self.payment.purchase.offer.rpc.is_some()
    }

    fn with(self, change: impl FnOnce(Pursuit) -> Pursuit) -> Self {
        Self { pursuit: change(self.pursuit), ..self }
    }

    fn wait_for(self, awaits: Awaits) -> Next {
        self.with(|pursuit| Pursuit { awaits, ..pursuit }).stay()
    }

    fn ask_to_settle(self, context: Context<'_>) -> Next {
        // Whoever is asked again is asked as if for the first time.
        let settling = self.with(|pursuit| Pursuit { asked: Asked::default(), ..pursuit });
        match settling.next_facilitator(context) {
            Some((place, facilitator)) => settling.settle_with(facilitator, place),
            None => settling.leave_unknown_for_itself(context),
        }
    }

    /// Asks the facilitator once more that has sent the transaction: any other finds the nonce used.
    fn ask_again(self, context: Context<'_>) -> Next {
        match self.pursuit.place.and_then(|place| Some((place, context.facilitator(place)?))) {
            Some((place, facilitator)) => {
                self.with(|pursuit| Pursuit { asked: Asked::default(), ..pursuit }).settle_with(facilitator, place)
            }
            None => self.ask_to_settle(context),
        }
    }

    fn next_facilitator<'a>(&self, context: Context<'a>) -> Option<(usize, &'a Facilitator)> {
        context.next_facilitator(&self.payment.purchase.facilitators, self.pursuit.asked)
    }

    /// Asks a facilitator. The token takes a nonce once, so that no second one can settle what the first one did.
    fn settle_with(self, facilitator: &Facilitator, place: usize) -> Next {
        let Self { payment, waiter, pursuit } = self;
        payment.ask_facilitator(CallKind::Settle, facilitator, |payment| {
            let (awaits, asked) = (Awaits::Facilitator, pursuit.asked.and(place));
            Self { payment, waiter, pursuit: Pursuit { awaits, place: Some(place), asked, ..pursuit } }
        })
    }

    /// Asks the chain what became of the transfer; where there is no node to ask, the outcome stays unknown.
    fn ask_chain(self, context: Context<'_>) -> Next {
        let inquiry = Inquiry::Head(self.pursuit.named.and_then(TransactionId::hash));
        self.inquire(context, inquiry)
    }

    fn inquire(self, context: Context<'_>, inquiry: Inquiry) -> Next {
        let (Some(rpc), Some(transfer)) = (self.payment.purchase.offer.rpc.clone(), self.transfer()) else {
            return self.leave_unknown_for_itself(context);
        };
        let body = inquiry.question(&transfer, &rpc, context.now);
        let call = Some(Call { kind: CallKind::Chain, service: rpc.service.clone(), body });
        let (exchange, effects) = self.wait_for(Awaits::Chain(inquiry));
        (exchange, Effects { call, ..effects })
    }

    /// Returns the transfer that the payment authorizes, as the chain is asked about it.
    fn transfer(&self) -> Option<Transfer> {
        let Pursuit { since, searched_to, .. } = self.pursuit;
        self.payment.purchase.transfer.map(|transfer| Transfer { since, searched_to, ..transfer })
    }

    fn on_answer(self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        let waiter = self.waiter;
        let (exchange, effects) = match self.pursuit.awaits {
            Awaits::Facilitator => self.on_settlement(context, answer),
            Awaits::Chain(inquiry) => self.on_chain_answer(context, inquiry, answer),
            Awaits::Facilitation(_) | Awaits::Confirmation(_) => self.stay(),
        };
        let stream = waiter.fit(effects.stream);
        (exchange, Effects { stream, ..effects })
    }

    fn on_tick(self, context: Context<'_>) -> Next {
        match self.pursuit.awaits {
            Awaits::Facilitation(due) if context.now >= due => self.ask_again(context),
            Awaits::Confirmation(due) if context.now >= due => self.ask_chain(context),
            _ => self.stay(),
        }
    }

    /// The response is there, and the settlement that was asked for beside it is not.
    fn on_joining_response(self, head: &UpstreamHead) -> Next {
        let delivery = Delivery::of(head);
        let waiter = if head.is_error() { Waiter::ErrorResponse(delivery) } else { Waiter::Response(delivery) };
        Self { waiter, ..self }.stay()
    }

    fn on_settlement(mut self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        let had_settled = self.pursuit.may_have_settled;
        let settlement = match self.read_settlement(answer) {
            Settlement::Refused(reason) => Settlement::Refused(context.shown(self.pursuit.place, reason)),
            other => other,
        };
        if !matches!(settlement, Settlement::Settled(_)) {
            let said = self.pursuit.place.and_then(|place| context.said(place, CallKind::Settle, answer));
            self.pursuit.said = said.map(Into::into).or(self.pursuit.said);
        }
        self.payment.learn_payer(answer);
        let is_first = !had_settled && (self.waiter.is_trust() || !self.waiter.has_response());
        let has_failed = facilitator::has_failed(answer);
        let was_sent = *answer != CalloutAnswer::NotSent;
        if let Settlement::Unknown(unknown, None) = settlement
            && unknown != Unknown::Pending
            && has_failed
        {
            self.pursuit.may_have_settled = had_settled || was_sent;
            self.pursuit.unknown = unknown;
            if let Some((place, facilitator)) = self.next_facilitator(context) {
                return self.settle_with(facilitator, place);
            }
        }
        self.pursuit.may_have_settled = true;
        self.on_settlement_read(context, settlement, had_settled, is_first)
    }

    fn on_settlement_read(
        self,
        context: Context<'_>,
        settlement: Settlement,
        had_settled: bool,
        is_first: bool,
    ) -> Next {
        match settlement {
            Settlement::Settled(transaction) if self.payment.purchase.offer.confirm => {
                let (named, unknown) = (Some(transaction), Unknown::Unconfirmed);
                self.with(|pursuit| Pursuit { named, is_promised: true, unknown, ..pursuit }).ask_chain(context)
            }
            Settlement::Settled(transaction) => self.on_facilitated(context, transaction, had_settled),
            Settlement::Unknown(Unknown::NotSent, _) if is_first => {
                let (exchange, effects) = self.payment.end_unknown(Some(Operation::Release), Unknown::NotSent);
                (exchange, effects.with_said(self.pursuit.said.as_deref()))
            }
            Settlement::Unknown(unknown, named) => {
                let named = named.or(self.pursuit.named);
                let settling = self.with(|pursuit| Pursuit { named, unknown, ..pursuit });
                match unknown {
                    Unknown::Pending if context.now < settling.pursuit.until => {
                        settling.wait_for(Awaits::Facilitation(context.now.plus(PAUSE_SECONDS)))
                    }
                    _ => settling.ask_chain(context),
                }
            }
            // That it cannot settle now does not mean that it has not.
            Settlement::Refused(reason) if had_settled => {
                let unknown = Unknown::MaybeSettledBefore;
                let settling = self.with(|pursuit| Pursuit { unknown, ..pursuit });
                if settling.can_ask_chain() {
                    return settling.ask_chain(context);
                }
                // Another one may be the one that has settled it, and know.
                match settling.next_facilitator(context) {
                    Some((place, facilitator)) => settling.settle_with(facilitator, place),
                    None => settling.leave_unknown(context, &reason),
                }
            }
            Settlement::Refused(reason) => self.end_refused(&reason),
        }
    }

    fn read_settlement(&self, answer: &CalloutAnswer) -> Settlement {
        let purchase = &self.payment.purchase;
        // Where the payer is the facilitator's word alone, it may spell it otherwise the second time.
        let payer = match &purchase.requirement().rail {
            Rail::Foreign(foreign) if foreign.svm.is_none() => &Payer::Unknown,
            _ => &self.payment.payer,
        };
        facilitator::read_settlement(answer, purchase.version, purchase.requirement(), payer)
    }

    /// The facilitator refuses to settle, and nothing has moved.
    fn end_refused(mut self, reason: &str) -> Next {
        let charge = self.charge_stream_of_channel(false);
        let Self { payment, waiter, pursuit } = self;
        if waiter.is_trust() {
            return trust::end_lost(&payment, reason);
        }
        let reply = Reply::settlement_refused(payment.purchase.version, &payment.receipt(Err(reason)), reason);
        let operation = (!waiter.has_response()).then_some(Operation::Release);
        let settlement = payment.settlement(SettlementResult::Refused, None);
        let (exchange, effects) = payment.end(operation, Outcome::Refused, reason, reply);
        let channel = charge.or(effects.channel.clone());
        (exchange, Effects { channel, settlement, ..effects.with_said(pursuit.said.as_deref()) })
    }

    fn on_chain_answer(mut self, context: Context<'_>, inquiry: Inquiry, answer: &CalloutAnswer) -> Next {
        let (Some(rpc), Some(transfer)) = (self.payment.purchase.offer.rpc.as_deref(), self.transfer()) else {
            return self.leave_unknown_for_itself(context);
        };
        let fate = match inquiry.step(&transfer, rpc, answer) {
            Progress::Ask(inquiry) => return self.inquire(context, inquiry),
            Progress::Done(fate) => fate,
        };
        // The next inquiry, of this request or in the background, goes on from there.
        if let Fate::Unclear(Unclear::OutOfRange { searched_to }) = fate {
            self.pursuit.searched_to = searched_to;
        }
        let warning = (fate == Fate::Unclear(Unclear::OtherChain))
            .then(|| Warning::OtherChain { cluster: rpc.service.cluster.clone(), chain_id: rpc.chain_id });
        let (exchange, effects) = self.on_fate(context, fate);
        (exchange, Effects { warning: effects.warning.or(warning), ..effects })
    }

    /// The chain has said what became of the transfer, or that it cannot say.
    fn on_fate(mut self, context: Context<'_>, fate: Fate) -> Next {
        match fate {
            Fate::Settled(transaction) => self.on_settled(context, transaction.into()),
            Fate::Void(void) => {
                let charge = self.charge_stream_of_channel(false);
                let Self { payment, waiter, .. } = self;
                if waiter.is_trust() {
                    return trust::end_lost(&payment, &void.to_string());
                }
                let operation = (!waiter.has_response()).then_some(Operation::Release);
                let settlement = payment.settlement(SettlementResult::Refused, None);
                let (exchange, effects) = payment.refuse(context, operation, Outcome::Refused, &void.to_string());
                let channel = charge.or(effects.channel.clone());
                (exchange, Effects { channel, settlement, ..effects })
            }
            // An earlier request asked for the settlement, and it may be asked for again.
            Fate::Open | Fate::Unclear(_) if self.pursuit.place.is_none() => self.ask_to_settle(context),
            Fate::Unconfirmed(_) | Fate::Open | Fate::Unclear(_) => self.on_unproven(context, fate),
        }
    }

    /// The chain does not prove what became of the transfer, and the facilitator was asked.
    fn on_unproven(self, context: Context<'_>, fate: Fate) -> Next {
        let (named, is_seen) = match fate {
            Fate::Unconfirmed(transaction) => (Some(transaction.into()), true),
            _ => (self.pursuit.named, self.pursuit.is_promised),
        };
        let unknown = if is_seen { Unknown::Unconfirmed } else { self.pursuit.unknown };
        let reason = match fate {
            Fate::Unclear(unclear) => format!("{unknown}; {unclear}"),
            _ => unknown.to_string(),
        };
        let settling = self.with(|pursuit| Pursuit { named, unknown, ..pursuit });
        if is_seen && context.now < settling.pursuit.until {
            return settling.wait_for(Awaits::Confirmation(context.now.plus(PAUSE_SECONDS)));
        }
        settling.leave_unknown(context, &reason)
    }

    fn leave_unknown_for_itself(self, context: Context<'_>) -> Next {
        let reason = self.pursuit.unknown.to_string();
        self.leave_unknown(context, &reason)
    }

    /// Ends the request with the outcome unknown. The payment stays in the ledger, and is looked into again.
    fn leave_unknown(mut self, context: Context<'_>, reason: &str) -> Next {
        // Who sends a deposit again that nobody can tell of asks for no more than its voucher buys.
        if self.waiter == Waiter::Request && self.payment.has_deposit() {
            return channel::go_on_in_doubt(self.payment, self.pursuit.named);
        }
        let charge = self.charge_stream_of_channel(true);
        let recovery = self.recovery(context.now);
        let Self { payment, waiter, pursuit } = self;
        if waiter.is_trust() {
            let (named, is_first) = (pursuit.named, pursuit.attempts == 0);
            return trust::end_unknown(payment, context, reason, named, is_first, recovery);
        }
        // A stream that was delivered is to be settled, whoever waits; a response that was not is still owed for it.
        let operation = (!waiter.has_response()).then_some(Operation::Forget { named: pursuit.named });
        let reply = Reply::outcome_unknown(pursuit.unknown);
        // What is named can be looked up by the client as well.
        let reply = match pursuit.named {
            Some(transaction) => reply.with_receipt(payment.purchase.version, &payment.receipt_of_pending(transaction)),
            None => reply,
        };
        let settlement = payment.settlement(SettlementResult::Unknown, None);
        let (exchange, effects) =
            payment.finish(operation, Outcome::Unknown, reason, pursuit.named, Stream::Reply(reply));
        let channel = charge.or(effects.channel.clone());
        (exchange, Effects { channel, recovery, settlement, ..effects.with_said(pursuit.said.as_deref()) })
    }

    /// Returns what charges for a stream that was delivered, though its deposit is not known to be settled.
    fn charge_stream_of_channel(&mut self, may_come: bool) -> Option<(ChannelId, OfChannel)> {
        let is_delivered = self.waiter.has_response() && self.payment.has_deposit();
        if is_delivered { self.payment.charge_without_deposit(may_come) } else { None }
    }

    /// Returns when and how to look into the payment again, if that can still bring anything to light: later and later, until
    /// the facilitator would refuse it, or where the chain can be asked, until that knows.
    fn recovery(&self, now: UnixTime) -> Option<Recovery> {
        const LONGEST_PAUSE_SECONDS: u64 = 60;
        /// Attempts beyond these are about a payment that the ledger forgets of itself.
        const MOST_ATTEMPTS: u32 = 24 * 60;
        let Self { payment, waiter, pursuit } = self;
        let pause = match pursuit.unknown {
            // Whoever has too much to do is not helped by more of it.
            Unknown::Busy => LONGEST_PAUSE_SECONDS,
            _ => 1_u64.checked_shl(pursuit.attempts).unwrap_or(LONGEST_PAUSE_SECONDS).min(LONGEST_PAUSE_SECONDS),
        };
        let attempts = pursuit.attempts.saturating_add(1);
        // What one failure of the facilitator has left unheard is not asked for in one moment again.
        let due = now.plus(jittered(pause, mix(u64::from(payment.purchase.key.number() ^ pursuit.attempts))));
        let can_settle = due.plus(MIN_LIFETIME_SECONDS) <= payment.purchase.settles_until;
        // Where Permit2 is concerned, the chain knows no more in the end than that the nonce was used, unless it is asked about
        // a transaction.
        let is_told = |transfer: Transfer| transfer.method == TransferMethod::Eip3009 || pursuit.named.is_some();
        let chain_will_know = self.can_ask_chain() && payment.purchase.transfer.is_some_and(is_told);
        let is_worth_it = attempts <= MOST_ATTEMPTS && (can_settle || chain_will_know);
        is_worth_it.then(|| Recovery {
            payment: payment.clone(),
            is_of_stream: waiter.has_response(),
            named: pursuit.named,
            since: pursuit.since,
            searched_to: pursuit.searched_to,
            attempts,
            due,
        })
    }

    /// The facilitator says that the money has moved. Where nothing but its word ties the transaction to the payment, it
    /// must not be one that another payment has bought its response with.
    fn on_facilitated(self, context: Context<'_>, transaction: TransactionId, may_be_known: bool) -> Next {
        if let Rail::Evm(_) = self.payment.purchase.requirement().rail {
            return self.on_settled(context, transaction);
        }
        let Self { payment, waiter, pursuit } = self;
        let key = PaymentKey::of_transaction(&payment.purchase.requirement().network, transaction);
        let (binding, expires) = (payment.binding, payment.purchase.expires);
        let known_since = may_be_known.then_some(pursuit.since);
        let ledger = Some((key, Operation::Pin { binding, transaction, expires, known_since }));
        (Pinning { payment, waiter, transaction }.into(), Effects { ledger, ..Effects::default() })
    }

    fn on_settled(self, context: Context<'_>, transaction: TransactionId) -> Next {
        on_settled(self.payment, context, self.waiter, transaction)
    }
}

impl State for Settling {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Callout(answer) => self.on_answer(context, &answer),
            Event::Tick => self.on_tick(context),
            Event::Upstream(head) if self.waiter == Waiter::Upstream => self.on_joining_response(&head),
            _ => self.ignore(event),
        }
    }

    /// The settlement goes on, and its answer is still worth hearing.
    fn end(self) -> Next {
        let waiter = self.waiter.without_client();
        Self { waiter, ..self }.stay()
    }

    fn could_be_sold(&self) -> bool {
        self.waiter.could_be_sold()
    }
}

impl State for Pinning {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { payment, waiter, transaction } = self;
        let (exchange, effects) = match answer {
            Answer::Granted => return on_settled(payment, context, waiter, transaction),
            Answer::Spent => {
                payment.refuse(context, Some(Operation::Spend { transaction }), Outcome::Spent, reason::NONCE_USED)
            }
            _ => {
                let forget = Some(Operation::Forget { named: Some(transaction) });
                payment.end_unknown(forget, Unknown::Unrecorded)
            }
        };
        let stream = waiter.fit(effects.stream);
        (exchange, Effects { stream, ..effects })
    }

    fn end(self) -> Next {
        let ledger = Some((self.payment.purchase.key, Operation::Forget { named: Some(self.transaction) }));
        Effects { ledger, alias_key: self.payment.alias_key, ..Effects::default() }.and_over()
    }

    fn could_be_sold(&self) -> bool {
        self.waiter.could_be_sold() || self.waiter == Waiter::Upstream
    }
}

impl State for Recording {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        let Event::Ledger(answer) = event else { return self.ignore(event) };
        let Self { payment, has_upstream, transaction } = self;
        match answer {
            Answer::Granted if has_upstream => Redeeming::join(payment, transaction),
            Answer::Granted => Redeeming::begin(payment, transaction),
            _ => end_unrecorded(payment, transaction),
        }
    }

    fn could_be_sold(&self) -> bool {
        self.has_upstream
    }
}

/// The money has moved: the ledger is told, before anything is given for it.
fn on_settled(payment: Payment, context: Context<'_>, waiter: Waiter, transaction: TransactionId) -> Next {
    let settlement = payment.settlement(SettlementResult::Settled, Some(transaction));
    let (exchange, effects) = record_settlement(payment, context, waiter, transaction);
    (exchange, Effects { settlement, ..effects })
}

pub(super) fn record_settlement(
    payment: Payment,
    context: Context<'_>,
    waiter: Waiter,
    transaction: TransactionId,
) -> Next {
    let named = Some(transaction);
    match waiter {
        _ if payment.purchase.buys_bundle() && waiter != Waiter::Debt => {
            bundle::buy(payment, context, waiter, transaction)
        }
        Waiter::Request | Waiter::Upstream if payment.has_deposit() => channel::take_over_deposit(payment, transaction),
        Waiter::StreamEnd | Waiter::NobodyOfStream if payment.has_deposit() => {
            channel::charge_stream(payment, waiter, transaction)
        }
        Waiter::Request | Waiter::Upstream if !payment.purchase.is_bound() => {
            let reply =
                Reply::payment_required(context, reason::NONCE_USED, &payment.purchase.quote, &payment.purchase.url);
            let (operation, stream) = (Some(Operation::Spend { transaction }), Stream::Reply(reply));
            payment.finish(operation, Outcome::Spent, reason::NONCE_USED, named, stream)
        }
        Waiter::Request | Waiter::Upstream => {
            let until = payment.purchase.surely_served(context);
            let has_upstream = waiter == Waiter::Upstream;
            let wait = |payment| Recording { payment, has_upstream, transaction };
            payment.ask_ledger(Operation::Redeem { transaction, until }, wait)
        }
        Waiter::Response(delivery) => Spending::begin(payment, delivery, transaction),
        Waiter::ErrorResponse(delivery) => {
            deliver_error(payment, delivery, transaction, Operation::Keep { transaction })
        }
        Waiter::StreamEnd => {
            let tail = Tail::receipt(context, &payment, named);
            payment.finish(None, Outcome::Served, "", named, Stream::Finish(tail))
        }
        Waiter::Nobody => {
            let operation = match payment.purchase.is_bound() && !payment.has_deposit() {
                true => Operation::Keep { transaction },
                false => Operation::Spend { transaction },
            };
            payment.finish(Some(operation), Outcome::Abandoned, "", named, Stream::Hold)
        }
        Waiter::NobodyOfStream => payment.finish(None, Outcome::Billed, "", named, Stream::Hold),
        Waiter::Trust | Waiter::Debt if !IS_BUILT_IN => payment.out_of_order(),
        Waiter::Trust => trust::end_settled(&payment, context, transaction),
        Waiter::Debt => trust::repay(payment, context, transaction),
    }
}
