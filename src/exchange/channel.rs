//! A request that is paid out of a channel of its payer's: by a voucher alone, with a deposit before it, or to give back what
//! the channel holds (scheme `batch-settlement`).
//!
//! The ledger reserves the channel for one request at a time and keeps its highest voucher, before the upstream hears of the
//! request. What the response turned out to cost is charged before its first byte leaves, or, of a stream, at its end. No
//! transaction and no callout is needed for that: the facilitator is asked about a channel that is not known, or that was last
//! heard of long ago, and about deposits and refunds.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::admission::{Candidate, Standing as Admission};
use super::delivery::Delivery;
use super::serving::Serving;
use super::settlement::{CHARGED_LATER, Waiter, begin_settlement};
use super::state::State;
use super::{
    Call, CallKind, Context, Effects, Event, Next, Outcome, Payment, Purchase, Reply, SettlementResult, Stream, Tail,
};
use crate::channel::claims::refund_payload;
use crate::channel::{
    Answer, ChannelId, IS_BUILT_IN, Kind, OnChain, Operation, Payload, Purpose, Reserve, Row, Signer, Standing,
};
use crate::evm::eip712::Word;
use crate::facilitator::{self, CalloutAnswer, Settlement, Unknown};
use crate::json;
use crate::ledger;
use crate::money::Amount;
use crate::scheme::Judgement;
use crate::time::UnixTime;
use crate::x402::payment::Companions;
use crate::x402::receipt::OfChannel;
use crate::x402::requirement::{ChannelTerms, Rail};
use crate::x402::{Receipt, Requirement, TransactionId, reason};

/// Seconds for which a request waits for another one on the same channel.
const PATIENCE_SECONDS: u64 = 2;

/// Seconds before the end of a hold from which on a response that streams renews it.
const RENEWAL_SECONDS: u64 = 30;

/// The use that a payment makes of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelUse {
    /// What the client has sent.
    pub(super) payload: Payload,
    /// EIP-155 id of the channel's chain.
    pub(super) chain_id: u64,
    /// The domain separator of what is signed about the channel.
    pub(super) domain: Word,
    /// The hash of what was asked for.
    pub(super) request: [u8; 32],
    /// The parts of the payment that a facilitator gets beside the payload.
    pub(super) companions: Companions,
}

/// A request's hold on its channel, and what it has heard of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Holding {
    /// The time until which it has the channel; `None` where it has not.
    until: Option<UnixTime>,
    /// What the facilitator has said of the channel for this request.
    pub(super) chain: Option<OnChain>,
    /// True if the facilitator was asked about the channel for this request, whatever it has said.
    pub(super) was_asked: bool,
    /// Atomic units that the request was charged when it came before, and its response was lost; `None` where it is new.
    repeats: Option<u128>,
    /// True if the channel was asked for once more, to charge what is delivered.
    is_owing: bool,
    /// True if the voucher came with a deposit of which nobody knows what has become.
    pub(super) is_in_doubt: bool,
}

/// State: the channel is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reserving {
    payment: Payment,
    /// The time until which it waits for another request, once it has to.
    gives_up: Option<UnixTime>,
}

/// State: another request has the channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AwaitingTurn {
    payment: Payment,
    gives_up: UnixTime,
}

/// State: the ledger is told what the response costs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Charging {
    payment: Payment,
    waiter: Waiter,
    /// The deposit's transaction, where there was one.
    transaction: Option<TransactionId>,
}

/// State: what is delivered already was not charged, for the hold has lapsed, and the channel is asked for once more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owing {
    payment: Payment,
    waiter: Waiter,
    transaction: Option<TransactionId>,
}

/// State: the ledger is told what is known of the deposit of an earlier request, which buys nothing more by itself: it stands
/// in the channel, or may.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deposited {
    payment: Payment,
    is_in_doubt: bool,
}

/// State: the facilitator is asked to give back what the channel holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refunding {
    payment: Payment,
    /// The place of the facilitator that is asked.
    place: usize,
    /// Atomic units that are asked for.
    amount: u128,
}

/// State: the money is given back, and the ledger is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordingRefund {
    payment: Payment,
    transaction: TransactionId,
    amount: u128,
}

impl ChannelUse {
    /// Returns the payment's JSON for the facilitator, with this payload. It is made when it is asked for: most vouchers need none.
    pub(super) fn json(&self, payload: &impl Serialize, requirement: &Requirement) -> String {
        self.companions.to_wire(payload, requirement)
    }

    const fn is_refund(&self) -> bool {
        matches!(self.payload.kind, Kind::Refund { .. })
    }

    fn purpose(&self) -> Purpose {
        match &self.payload.kind {
            Kind::Voucher => Purpose::Serve,
            Kind::Deposit(deposit) => Purpose::Deposit { amount: deposit.amount },
            Kind::Refund { .. } => Purpose::Refund,
        }
    }

    const fn deposit(&self) -> Option<u128> {
        match &self.payload.kind {
            Kind::Deposit(deposit) => Some(deposit.amount),
            Kind::Voucher | Kind::Refund { .. } => None,
        }
    }
}

impl Purchase {
    /// The same purchase by the voucher that came with a deposit: the deposit is settled.
    fn by_voucher(&self) -> Self {
        let mut purchase = self.clone();
        if let Some(channel) = &mut purchase.channel {
            channel.payload.kind = Kind::Voucher;
        }
        purchase
    }
}

impl Payment {
    fn ask_channel<S: Into<super::Exchange>>(self, operation: Operation, wait: impl FnOnce(Self) -> S) -> Next {
        let channel = self.channel_operation(operation);
        (wait(self).into(), Effects { channel, ..Effects::default() })
    }

    fn channel_operation(&self, operation: Operation) -> Option<(ChannelId, Operation)> {
        self.purchase.channel.as_ref().map(|channel| (channel.payload.id, operation))
    }

    /// Returns what gives the channel back that the request holds; `None` where it holds none. `is_settled` says that the deposit
    /// has come about.
    pub(super) fn release_of_channel(&self, is_settled: bool) -> Option<(ChannelId, Operation)> {
        self.holding.until.filter(|_| IS_BUILT_IN)?;
        self.channel_operation(Operation::Release { chain: self.deposited().filter(|_| is_settled) })
    }

    /// Returns the time from which on a response that streams renews its hold on the channel.
    pub(super) fn renews_at(&self) -> Option<UnixTime> {
        self.holding.until.map(|until| UnixTime::from_secs(until.as_secs().saturating_sub(RENEWAL_SECONDS)))
    }

    /// Returns what renews the hold on the channel, where it is about to end.
    pub(super) fn renew_channel(&self, context: Context<'_>) -> Option<(ChannelId, Operation)> {
        self.renews_at().filter(|due| context.now >= *due)?;
        self.extend_channel(context)
    }

    /// Returns what makes the hold on the channel last as long as one that is taken now.
    pub(super) fn extend_channel(&self, context: Context<'_>) -> Option<(ChannelId, Operation)> {
        self.channel_operation(Operation::Extend { until: self.held_until(context) })
    }

    /// Takes in that the hold on the channel lasts longer.
    pub(super) fn on_extended(&mut self, context: Context<'_>) {
        self.holding.until = Some(self.held_until(context));
    }

    fn held_until(&self, context: Context<'_>) -> UnixTime {
        let until = self.holding.until.map_or(context.now, |until| until.plus(1));
        self.purchase.surely_served(context).max(until)
    }

    /// Ends the request: another one has taken the channel since, and nothing is given for it.
    pub(super) fn end_taken(self, operation: Option<ledger::Operation>, transaction: Option<TransactionId>) -> Next {
        let reply = Reply::overloaded("the channel went to another request meanwhile; send the request again");
        self.finish(operation, Outcome::Unknown, UNRECORDED, transaction, Stream::Reply(reply))
    }

    /// Returns what charges for a stream that is out though its deposit does not come, or while nobody knows whether it does: the
    /// voucher is good for what the channel holds, and for what it may yet get.
    pub(super) fn charge_without_deposit(&mut self, may_come: bool) -> Option<(ChannelId, Operation)> {
        self.holding.until?;
        let channel = self.purchase.channel.as_ref().filter(|channel| channel.deposit().is_some())?;
        let most = u128::try_from(self.purchase.requirement().amount.to_integer()).ok()?;
        let base = channel.payload.max_claimable.saturating_sub(most);
        let charge = u128::try_from(self.amount().to_integer()).ok()?;
        let amount = match may_come {
            true => charge,
            false => self.holding.chain?.balance.saturating_sub(base).min(charge),
        };
        let operation = self.channel_operation(Operation::Charge { amount, chain: None }).filter(|_| amount > 0)?;
        self.holding.until = None;
        Some(operation)
    }

    /// What is known of the channel once the deposit is settled.
    fn deposited(&self) -> Option<OnChain> {
        let deposit = self.purchase.channel.as_ref()?.deposit()?;
        let chain = self.holding.chain?;
        Some(OnChain { balance: chain.balance.saturating_add(deposit), ..chain })
    }
}

/// The reason in the log where a response is not charged.
const UNRECORDED: &str = "the charge could not be recorded";

/// Asks for the channel that a voucher is for.
pub(super) fn begin(candidate: Candidate, context: Context<'_>) -> Next {
    if !IS_BUILT_IN {
        return candidate.payment.out_of_order();
    }
    let is_refund = candidate.payment.purchase.channel.as_ref().is_some_and(ChannelUse::is_refund);
    match candidate.standing {
        Admission::Unwelcome if !is_refund => candidate.payment.end_unwelcome(),
        _ => reserve(candidate.payment, context, None),
    }
}

/// Goes on by the voucher alone: the deposit beside it is settled.
pub(super) fn begin_by_voucher(payment: Payment, context: Context<'_>) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    reserve_by_voucher(payment, context, false)
}

fn reserve_by_voucher(payment: Payment, context: Context<'_>, is_in_doubt: bool) -> Next {
    let purchase = Arc::new(payment.purchase.by_voucher());
    let holding = Holding { is_in_doubt, ..Holding::default() };
    reserve(Payment { purchase, holding, charge: None, alias_key: None, ..payment }, context, None)
}

/// Spends the claim of a deposit that an earlier request has settled, and goes on by the voucher.
pub(super) fn take_over_deposit(payment: Payment, transaction: TransactionId) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let spend = ledger::Operation::Spend { transaction };
    payment.ask_ledger(spend, |payment| Deposited { payment, is_in_doubt: false })
}

/// Leaves the claim of a deposit of which nobody knows what has become, and goes on by the voucher: it buys its response if
/// the channel holds enough, for whatever reason.
pub(super) fn go_on_in_doubt(payment: Payment, named: Option<TransactionId>) -> Next {
    payment.ask_ledger(ledger::Operation::Forget { named }, |payment| Deposited { payment, is_in_doubt: true })
}

impl State for Deposited {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Ledger(_) = event else { return self.ignore(event) };
        reserve_by_voucher(self.payment, context, self.is_in_doubt)
    }
}

/// Asks for the channel.
pub(super) fn reserve(payment: Payment, context: Context<'_>, gives_up: Option<UnixTime>) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let chain = payment.holding.chain;
    let Some(operation) = payment.reservation(context, ChannelUse::purpose, chain) else {
        let release = Some(ledger::Operation::Release);
        return payment.refuse(context, release, Outcome::Refused, reason::CUMULATIVE_EXCEEDS_BALANCE);
    };
    payment.ask_channel(operation, |payment| Reserving { payment, gives_up })
}

impl Payment {
    /// Returns what takes the channel; `None` where more is asked for than a channel can hold.
    fn reservation(
        &self,
        context: Context<'_>,
        purpose: impl FnOnce(&ChannelUse) -> Purpose,
        chain: Option<OnChain>,
    ) -> Option<Operation> {
        let channel = self.purchase.channel.as_ref()?;
        let Payload { config, id, max_claimable, signature, .. } = &channel.payload;
        Some(Operation::Reserve(Box::new(Reserve {
            config: *config,
            id: *id,
            chain_id: channel.chain_id,
            max_claimable: *max_claimable,
            signature: *signature,
            amount: u128::try_from(self.purchase.requirement().amount.to_integer()).ok()?,
            purpose: purpose(channel),
            until: self.purchase.surely_served(context),
            request: channel.request,
            chain,
        })))
    }
}

impl Reserving {
    fn on_answer(self, context: Context<'_>, answer: Answer) -> Next {
        let Self { mut payment, gives_up } = self;
        let refuse = |payment: Payment, reason: &str| {
            payment.refuse(context, Some(ledger::Operation::Release), Outcome::Refused, reason)
        };
        match answer {
            Answer::Reserved { .. } => {
                payment.holding.until = Some(payment.purchase.surely_served(context));
                begin_reserved(payment, context)
            }
            Answer::Repeat { standing, charged } => {
                payment.holding.until = Some(payment.purchase.surely_served(context));
                // Whoever asks twice at once has not lost a response.
                if gives_up.is_some() {
                    return correct(payment, context, &standing);
                }
                payment.holding.repeats = Some(charged);
                Serving::begin(payment)
            }
            Answer::AskFirst | Answer::OverBalance if !payment.holding.was_asked => {
                let standing = Admission::Good(Judgement::Valid);
                Candidate { payment, standing, unbound: None }.verify(context)
            }
            Answer::AskFirst => payment.end_unknown(Some(ledger::Operation::Release), Unknown::Unreadable),
            Answer::Busy => match gives_up.unwrap_or_else(|| context.now.plus(PATIENCE_SECONDS)) {
                gives_up if context.now > gives_up => refuse(payment, reason::CHANNEL_BUSY),
                gives_up => AwaitingTurn { payment, gives_up }.stay(),
            },
            Answer::Stale(standing) => correct(payment, context, &standing),
            Answer::TooLate(standing) if gives_up.is_some() => correct(payment, context, &standing),
            Answer::TooLate(_) => {
                let error = "this voucher has bought its response, which cannot be fetched again: sign the next total";
                let reply = Reply::error(409, error);
                payment.end(Some(ledger::Operation::Release), Outcome::Spent, "voucher_already_charged", reply)
            }
            Answer::Withdrawing => refuse(payment, reason::CHANNEL_WITHDRAWING),
            Answer::OverBalance if payment.holding.is_in_doubt => {
                payment.end_unknown(None, Unknown::MaybeSettledBefore)
            }
            Answer::OverBalance => refuse(payment, reason::CUMULATIVE_EXCEEDS_BALANCE),
            Answer::BelowClaimed => refuse(payment, reason::CUMULATIVE_BELOW_CLAIMED),
            Answer::Full => {
                let reply = Reply::overloaded("too many channels at a time");
                let release = Some(ledger::Operation::Release);
                payment.end(release, Outcome::Overloaded, "the ledger has no room for another channel", reply)
            }
            _ => {
                let reply = Reply::overloaded("payments cannot be taken at the moment");
                let release = Some(ledger::Operation::Release);
                payment.end(release, Outcome::Overloaded, "the ledger did not answer", reply)
            }
        }
    }
}

impl State for Reserving {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Channel(answer) if IS_BUILT_IN => self.on_answer(context, answer),
            _ => self.ignore(event),
        }
    }

    /// The channel may be the request's already, where the host has failed before it could be told.
    fn end(self) -> Next {
        let channel = self.payment.channel_operation(Operation::Release { chain: None });
        let (exchange, effects) = self.payment.end_left();
        (exchange, Effects { channel, ..effects })
    }
}

impl State for AwaitingTurn {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Tick if IS_BUILT_IN => reserve(self.payment, context, Some(self.gives_up)),
            _ => self.ignore(event),
        }
    }

    fn end(self) -> Next {
        self.payment.end_left()
    }
}

/// The channel is this request's.
fn begin_reserved(payment: Payment, context: Context<'_>) -> Next {
    match payment.purchase.channel.as_ref().map(|channel| &channel.payload.kind) {
        Some(Kind::Refund { amount }) => {
            let amount = *amount;
            begin_refund(payment, context, amount)
        }
        _ => Serving::begin(payment),
    }
}

/// Tells a client how its channel stands, by which it signs the right total.
fn correct(payment: Payment, context: Context<'_>, standing: &Standing) -> Next {
    let offer = &payment.purchase.offer;
    let Some(evm) = offer.requirement.evm().cloned() else { return payment.out_of_order() };
    // A voucher for less than was charged proves nothing to the client, who then goes by the chain.
    let voucher = (standing.charged <= standing.max_claimable).then(|| voucher_json(standing));
    let told = Some([state_json(standing, true).into(), voucher.unwrap_or_default().into()]);
    let channel = evm.channel.clone().map(|terms| ChannelTerms { standing: told, ..terms });
    let rail = Rail::Evm(crate::x402::requirement::Evm { channel, ..evm });
    let corrected = offer.with(Requirement { rail, ..offer.requirement.clone() });
    let quote = payment.purchase.quote.with_standing(&corrected);
    let error = reason::CUMULATIVE_AMOUNT_MISMATCH;
    let reply = Reply::payment_required(context, error, &quote, &payment.purchase.url);
    payment.end(Some(ledger::Operation::Release), Outcome::Refused, error, reply)
}

/// The JSON of `channelState`; of a record of the filter's own with what was charged.
fn state_json(standing: &Standing, has_charged: bool) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire<'a> {
        channel_id: &'a ChannelId,
        balance: String,
        total_claimed: String,
        withdraw_requested_at: u64,
        refund_nonce: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        charged_cumulative_amount: Option<String>,
    }
    json::to_text(&Wire {
        channel_id: &standing.id,
        balance: standing.chain.balance.to_string(),
        total_claimed: standing.chain.total_claimed.to_string(),
        withdraw_requested_at: standing.chain.withdraw_requested_at,
        refund_nonce: standing.chain.refund_nonce.to_string(),
        charged_cumulative_amount: has_charged.then(|| standing.charged.to_string()),
    })
}

/// The JSON of `voucherState`.
fn voucher_json(standing: &Standing) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        signed_max_claimable: String,
        signature: String,
    }
    let signature = format!("0x{}", hex::encode(standing.signature));
    json::to_text(&Wire { signed_max_claimable: standing.max_claimable.to_string(), signature })
}

/// Charges a response that waits, and settles the deposit before that, where there is one.
pub(super) fn deliver(payment: Payment, context: Context<'_>, delivery: Delivery, charge: Amount) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let payment = Payment { charge: Some(charge), ..payment };
    match payment.has_deposit() {
        true if charge != Amount::ZERO => begin_settlement(payment, context, Waiter::Response(delivery)),
        _ => begin_charge(payment, Waiter::Response(delivery), None),
    }
}

impl Payment {
    /// Returns whether it is a voucher, or a wish for a refund: nothing that is settled by itself, or that has a claim.
    pub(super) fn has_voucher_alone(&self) -> bool {
        IS_BUILT_IN && self.purchase.channel.as_ref().is_some_and(|channel| channel.deposit().is_none())
    }

    /// Returns whether it is out of a channel, with a deposit or without.
    pub(super) fn has_channel(&self) -> bool {
        IS_BUILT_IN && self.purchase.channel.is_some()
    }

    /// Returns whether a deposit is to be settled.
    pub(super) fn has_deposit(&self) -> bool {
        IS_BUILT_IN && self.purchase.channel.as_ref().is_some_and(|channel| channel.deposit().is_some())
    }
}

/// Charges a stream at whose end the deposit is settled. It may have been charged before that was known.
pub(super) fn charge_stream(payment: Payment, waiter: Waiter, transaction: TransactionId) -> Next {
    if payment.holding.until.is_some() {
        return begin_charge(payment, waiter, Some(transaction));
    }
    let news = payment.channel_operation(Operation::Renew);
    let (exchange, effects) = payment.finish(None, Outcome::Billed, "", Some(transaction), Stream::Hold);
    (exchange, Effects { channel: news, ..effects })
}

/// Tells the ledger what the response costs.
pub(super) fn begin_charge(payment: Payment, waiter: Waiter, transaction: Option<TransactionId>) -> Next {
    if !IS_BUILT_IN {
        return payment.out_of_order();
    }
    let charge = payment.charge.unwrap_or(payment.purchase.requirement().amount);
    let amount = match payment.holding.repeats {
        Some(_) => 0,
        None => u128::try_from(charge.to_integer()).unwrap_or(u128::MAX),
    };
    let chain = payment.deposited().filter(|_| transaction.is_some());
    let payment = Payment { charge: Some(Amount::from_u128(amount)), ..payment };
    payment.ask_channel(Operation::Charge { amount, chain }, |payment| Charging { payment, waiter, transaction })
}

impl State for Charging {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Channel(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { mut payment, waiter, transaction } = self;
        let Answer::Granted(standing) = answer else {
            return match answer {
                Answer::Failed if waiter.has_response() => charge_later(payment, waiter, transaction),
                Answer::NotHeld if waiter.has_response() && !payment.holding.is_owing => {
                    Owing::begin(payment, context, waiter, transaction)
                }
                _ => end_unrecorded(payment, waiter, transaction),
            };
        };
        payment.holding.until = None;
        // Who has lost a receipt gets the same once more, and counts as if it had come the first time.
        let charged = payment.holding.repeats.map(Amount::from_u128).or(payment.charge).unwrap_or(Amount::ZERO);
        let receipt = payment.receipt_of_channel(context, &standing, charged, transaction);
        let ledger = payment.end_of_deposit(transaction);
        match waiter {
            Waiter::Response(delivery) => {
                let edits = delivery.with_receipt(&payment, &receipt);
                payment.finish(ledger, Outcome::Served, "", transaction, Stream::Deliver(edits))
            }
            Waiter::StreamEnd => {
                let tail = Tail::of(payment.purchase.version, &receipt);
                payment.finish(ledger, Outcome::Served, "", transaction, Stream::Finish(tail))
            }
            _ => payment.finish(ledger, Outcome::Billed, "", transaction, Stream::Hold),
        }
    }

    /// The host has failed before the answer could be told. What is out is charged, and what is not is given back.
    fn end(self) -> Next {
        let Self { payment, waiter, transaction } = self;
        if waiter.has_response() {
            return begin_charge(payment, Waiter::NobodyOfStream, transaction);
        }
        let operation = payment.end_of_deposit(transaction);
        payment.finish(operation, Outcome::Left, "", transaction, Stream::Hold)
    }

    fn could_be_sold(&self) -> bool {
        matches!(self.waiter, Waiter::Response(_))
    }
}

/// Ends a request whose response is out while the ledger does not answer: it is told once more what that costs, and nobody waits.
fn charge_later(mut payment: Payment, waiter: Waiter, transaction: Option<TransactionId>) -> Next {
    let amount = u128::try_from(payment.charge.unwrap_or(Amount::ZERO).to_integer()).unwrap_or(u128::MAX);
    let chain = payment.deposited().filter(|_| transaction.is_some());
    let charge = payment.channel_operation(Operation::Charge { amount, chain });
    payment.holding.until = None;
    let ledger = payment.end_of_deposit(transaction);
    let (stream, outcome) = waiter.end_without_answer();
    let (exchange, effects) = payment.finish(ledger, outcome, CHARGED_LATER, transaction, stream);
    (exchange, Effects { channel: charge, ..effects })
}

/// Ends a request whose charge the ledger does not take. What is not out yet is not given.
fn end_unrecorded(payment: Payment, waiter: Waiter, transaction: Option<TransactionId>) -> Next {
    let operation = payment.end_of_deposit(transaction);
    let (exchange, effects) = payment.end_taken(operation, transaction);
    let stream = waiter.fit(effects.stream);
    (exchange, Effects { stream, ..effects })
}

impl Owing {
    fn begin(mut payment: Payment, context: Context<'_>, waiter: Waiter, transaction: Option<TransactionId>) -> Next {
        payment.holding = Holding { until: None, is_owing: true, ..payment.holding };
        let chain = match transaction {
            Some(_) => payment.deposited(),
            None => payment.holding.chain,
        };
        // A deposit that has come about is no part of the voucher's use any more.
        let operation = payment.reservation(context, |_| Purpose::Serve, chain);
        match operation.filter(|_| transaction.is_some() || !payment.has_deposit()) {
            Some(operation) => payment.ask_channel(operation, |payment| Self { payment, waiter, transaction }),
            None => end_unrecorded(payment, waiter, transaction),
        }
    }
}

impl State for Owing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let Event::Channel(answer) = event else { return self.ignore(event) };
        let Self { mut payment, waiter, transaction } = self;
        if matches!(answer, Answer::Reserved { .. } | Answer::Repeat { .. }) {
            payment.holding.until = Some(payment.purchase.surely_served(context));
        }
        match answer {
            Answer::Reserved { .. } => begin_charge(payment, waiter, transaction),
            _ => end_unrecorded(payment, waiter, transaction),
        }
    }

    fn end(self) -> Next {
        let waiter = Waiter::NobodyOfStream;
        Self { waiter, ..self }.stay()
    }
}

impl Payment {
    /// Returns what the ledger is told of the deposit's claim once all is done: a deposit that was not needed is as good as
    /// before.
    fn end_of_deposit(&self, transaction: Option<TransactionId>) -> Option<ledger::Operation> {
        (self.has_deposit() && transaction.is_none()).then_some(ledger::Operation::Release)
    }

    fn receipt_of_channel<'a>(
        &'a self,
        context: Context<'_>,
        standing: &Standing,
        charged: Amount,
        transaction: Option<TransactionId>,
    ) -> Receipt<'a> {
        let state = state_json(standing, true);
        let deposit = self.purchase.channel.as_ref().and_then(ChannelUse::deposit);
        let amount = deposit.filter(|_| transaction.is_some()).map(Amount::from_u128);
        let extra = format!(r#"{{"channelState":{state},"chargedAmount":"{charged}"}}"#);
        Receipt { channel: Some(OfChannel { amount, extra }), ..self.receipt_of_service(context, transaction) }
    }
}

/// Asks the facilitator to give back what the channel holds, or a part of it.
fn begin_refund(payment: Payment, context: Context<'_>, wanted: Option<u128>) -> Next {
    let (Some(channel), Some(chain)) = (payment.purchase.channel.clone(), payment.holding.chain) else {
        return payment.out_of_order();
    };
    let row = channel.row();
    let left = chain.balance.saturating_sub(row.charged);
    if left == 0 {
        return payment.refuse(context, None, Outcome::Refused, reason::REFUND_NO_BALANCE);
    }
    let amount = wanted.unwrap_or(left).min(left);
    if amount == 0 {
        return payment.refuse(context, None, Outcome::Refused, reason::REFUND_AMOUNT_INVALID);
    }
    let Some((place, facilitator)) = context.next_facilitator(&payment.purchase.facilitators, Default::default())
    else {
        return payment.out_of_order();
    };
    let own = context.config.channels.authorizer.as_ref();
    let signer = own.map(|key| Signer { key, domain: &channel.domain });
    // The row stands in a client's refund in any case, as in the official server's.
    let payload = refund_payload(&row, 0, amount, chain.refund_nonce, signer.as_ref());
    let payload = serde_json::from_str::<&RawValue>(&payload).unwrap_or(RawValue::NULL);
    let requirement = payment.purchase.requirement();
    let body = facilitator::question(payment.purchase.version, &channel.json(&payload, requirement), requirement);
    let call = Some(Call { kind: CallKind::Settle, service: Arc::clone(&facilitator.service), body });
    (Refunding { payment, place, amount }.into(), Effects { call, ..Effects::default() })
}

impl ChannelUse {
    /// The row that claims what the channel's payer has signed for.
    fn row(&self) -> Row {
        let Payload { config, id, max_claimable, signature, .. } = &self.payload;
        let (chain_id, charged) = (self.chain_id, *max_claimable);
        Row { chain_id, config: *config, id: *id, max_claimable: *max_claimable, signature: *signature, charged }
    }
}

impl Refunding {
    /// Does without the refund.
    pub(super) fn forgo(self) -> Next {
        self.payment.end_left()
    }

    fn on_answer(self, context: Context<'_>, answer: &CalloutAnswer) -> Next {
        let Self { payment, place, amount } = self;
        let purchase = &payment.purchase;
        let settlement = facilitator::read_settlement(answer, purchase.version, purchase.requirement(), &payment.payer);
        let said = context.said(place, CallKind::Settle, answer);
        match settlement {
            Settlement::Settled(transaction) => {
                let told = purchase.channel.as_ref().map(|channel| channel.payload.id);
                let told = told.and_then(|id| facilitator::read_channel(answer, id, context.now));
                let chain = told.or_else(|| payment.refunded(amount));
                let Some(chain) = chain else { return payment.out_of_order() };
                payment.ask_channel(Operation::Refunded { chain }, |payment| RecordingRefund {
                    payment,
                    transaction,
                    amount,
                })
            }
            Settlement::Refused(reason) => {
                let reply = Reply::settlement_refused(purchase.version, &payment.receipt(Err(&reason)), &reason);
                let (exchange, effects) = payment.end(None, Outcome::Refused, &reason, reply);
                (exchange, effects.with_said(said.as_deref()))
            }
            // Nothing is lost by asking again: a nonce refunds once. Until it is known what became of it, nothing is sold for what
            // may be gone: the channel stays held to the end of the hold, and then the facilitator is asked first.
            Settlement::Unknown(unknown, _) => {
                let was_sent = unknown != Unknown::NotSent;
                let doubt = payment.channel_operation(Operation::Renew).filter(|_| was_sent);
                let (exchange, effects) = payment.end_unknown(None, unknown);
                let effects = effects.with_said(said.as_deref());
                let channel = doubt.or(effects.channel);
                (exchange, Effects { channel, ..effects })
            }
        }
    }
}

impl Payment {
    /// What is known of the channel once so much is given back.
    fn refunded(&self, amount: u128) -> Option<OnChain> {
        let chain = self.holding.chain?;
        let charged = self.purchase.channel.as_ref()?.payload.max_claimable;
        Some(OnChain {
            balance: chain.balance.saturating_sub(amount),
            total_claimed: charged,
            refund_nonce: chain.refund_nonce.saturating_add(1),
            ..chain
        })
    }
}

impl State for Refunding {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Callout(answer) if IS_BUILT_IN => self.on_answer(context, &answer),
            _ => self.ignore(event),
        }
    }

    /// What becomes of the refund is still worth hearing.
    fn end(self) -> Next {
        self.stay()
    }
}

impl State for RecordingRefund {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Channel(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { mut payment, transaction, amount } = self;
        payment.holding.until = None;
        let (state, doubt) = match answer {
            Answer::Granted(standing) => (format!(r#"{{"channelState":{}}}"#, state_json(&standing, true)), None),
            // The money is back with its payer, whatever the ledger says, and whoever has the channel next must hear of it.
            _ => ("{}".to_owned(), payment.channel_operation(Operation::Renew)),
        };
        let id = payment.purchase.channel.as_ref().map(|channel| channel.payload.id.to_string()).unwrap_or_default();
        let channel = Some(OfChannel { amount: Some(Amount::from_u128(amount)), extra: state });
        let receipt = Receipt { channel, ..payment.receipt_of_service(context, Some(transaction)) };
        let reply = Reply::refunded(&id).with_receipt(payment.purchase.version, &receipt);
        let settlement = payment.settlement(SettlementResult::Refunded, Some(transaction));
        let (exchange, effects) = payment.finish(None, Outcome::Refunded, "", Some(transaction), Stream::Reply(reply));
        (exchange, Effects { settlement, channel: doubt, ..effects })
    }

    /// The host has failed before the answer could be told.
    fn end(self) -> Next {
        let Self { payment, transaction, .. } = self;
        let settlement = payment.settlement(SettlementResult::Refunded, Some(transaction));
        let channel = payment.channel_operation(Operation::Renew);
        let payment = Payment { holding: Holding { until: None, ..payment.holding }, ..payment };
        let (exchange, effects) = payment.finish(None, Outcome::Refunded, "", Some(transaction), Stream::Hold);
        (exchange, Effects { settlement, channel, ..effects })
    }
}
