//! A response that leaves before its payment has settled (`settle: optimistic`), within what may be open of its payer and of
//! all; and a payer who owes for one.
//!
//! The sum is reserved before the upstream hears of the request. Where that is beyond a limit, the request goes on as under
//! `after`. What is served on trust is settled like a stream that was delivered: whoever waits, and as often as that takes. A
//! refusal for sure makes the sum its payer's debt: until payments of it have settled for that, they buy nothing else where
//! responses leave on trust.

use super::delivery::{Delivery, Granting, end_unrecorded};
use super::serving::Serving;
use super::settlement::{Settling, Waiter, begin_settlement, record_settlement};
use super::state::State;
use super::{
    Context, Effects, Event, Next, Outcome, Payment, Record, Recovery, Reply, SettlementResult, Stream, UpstreamHead,
};
use crate::ledger::exposure::{Account, Answer, Debt, IS_BUILT_IN, Limits, Operation, Reservation};
use crate::ledger::{self, Answer as LedgerAnswer};
use crate::scheme::MIN_LIFETIME_SECONDS;
use crate::x402::payment::Payer;
use crate::x402::{Receipt, TransactionId, reason};

/// The sum that is reserved for a payment whose response leaves on trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trust {
    account: Account,
    reservation: Reservation,
}

/// State: it is asked whether the request may be served on trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trusting(Payment);

/// State: the response is there, and the ledger is told that the payment buys it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivering {
    payment: Payment,
    delivery: Delivery,
}

/// State: the money of a payer who owes has moved, and is counted against the debt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repaying {
    payment: Payment,
    transaction: TransactionId,
}

/// State: the money has paid of the debt, and the ledger is told that the payment buys nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repaid {
    payment: Payment,
    transaction: TransactionId,
    paid: u128,
    left: u128,
}

impl Payment {
    /// Returns whether its response has left, or may leave, before it settles.
    pub(super) const fn is_on_trust(&self) -> bool {
        IS_BUILT_IN && self.trust.is_some()
    }

    /// Returns the end of what is reserved for it.
    pub(super) fn release_of_trust(&self) -> Option<(Account, Operation)> {
        self.trust.map(|Trust { account, reservation }| (account, Operation::Release(reservation)))
    }

    fn account(&self, context: Context<'_>) -> Account {
        let requirement = self.purchase.requirement();
        Account::new(&context.secret, &requirement.network, &requirement.asset(), &self.payer.to_string())
    }

    /// Returns the record of what came of its settlement, behind a response that was served on trust.
    fn aftermath(&self, outcome: Outcome, reason: &str, transaction: Option<TransactionId>) -> Option<Record> {
        let payment = Some(self.record(transaction));
        Some(Record { payment, ..Record::new(&self.purchase.route, outcome, reason) })
    }
}

/// Lets the request of a payment that is proven and claimed go on to the upstream: on trust, where the route says so.
pub(super) fn serve(payment: Payment, context: Context<'_>) -> Next {
    let limits = payment.purchase.offer.exposure.filter(|_| IS_BUILT_IN && payment.payer != Payer::Unknown);
    // A bundle is never sold on trust, and to nobody who owes.
    let limits = limits.map(|limits| if payment.purchase.buys_bundle() { Limits::default() } else { limits });
    let (Some(limits), Some(amount)) = (limits, units(&payment)) else { return Serving::begin(payment) };
    let operation = Operation::Reserve { amount, limits, expires: payment.purchase.expires };
    let exposure = Some((payment.account(context), operation));
    (Trusting(payment).into(), Effects { exposure, ..Effects::default() })
}

fn units(payment: &Payment) -> Option<u128> {
    u128::try_from(payment.amount().to_integer()).ok()
}

impl State for Trusting {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Exposure(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self(payment) = self;
        match answer {
            Answer::Reserved(reservation) => {
                let trust = Some(Trust { account: payment.account(context), reservation });
                Serving::begin(Payment { trust, ..payment })
            }
            Answer::Owes(Debt { owed, largest }) => {
                // No more is taken for nothing than was given for nothing at a time.
                let most = owed.max(largest);
                if units(&payment).is_some_and(|amount| amount <= most) {
                    return begin_settlement(payment, context, Waiter::Debt);
                }
                let error = format!(
                    "{}: you owe {owed} atomic units for a response whose payment could not be settled, and nothing was taken now; a payment of at most {most} pays of that, and buys nothing else",
                    reason::PAYMENT_OWED
                );
                payment.refuse(context, Some(ledger::Operation::Release), Outcome::Refused, &error)
            }
            // Beyond a limit, or nobody can tell: it is served once it is paid.
            _ => Serving::begin(payment),
        }
    }

    fn end(self) -> Next {
        self.0.end_left()
    }
}

/// Goes on with a response without an error, to a request that went up on trust.
pub(super) fn deliver(mut payment: Payment, context: Context<'_>, head: &UpstreamHead) -> Next {
    let delivery = Delivery::of(head);
    if context.now.plus(MIN_LIFETIME_SECONDS) <= payment.purchase.settles_until {
        return payment.ask_ledger(ledger::Operation::Open, |payment| Delivering { payment, delivery });
    }
    // It would be refused by now.
    let exposure = payment.release_of_trust();
    payment.trust = None;
    let (exchange, effects) = begin_settlement(payment, context, Waiter::Response(delivery));
    (exchange, Effects { exposure, ..effects })
}

impl State for Delivering {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { payment, delivery } = self;
        match answer {
            LedgerAnswer::Granted => {}
            LedgerAnswer::NotHeld => return payment.end_in_flight(),
            _ => return payment.out_of_order(),
        }
        let extra = Some(r#"{"settlement":"pending"}"#.to_owned());
        let receipt = Receipt { extra, ..payment.receipt_of_service(context, None) };
        let stream = Stream::Deliver(delivery.with_receipt(&payment, &receipt));
        let record = payment.aftermath(Outcome::Served, reason::SETTLEMENT_PENDING, None);
        let (exchange, effects) = Settling::begin(payment, context, Waiter::Trust);
        (exchange, Effects { record, stream, ..effects })
    }

    fn end(self) -> Next {
        self.payment.end_left()
    }

    fn could_be_sold(&self) -> bool {
        true
    }
}

/// The payment of a response that was served on trust has settled.
pub(super) fn end_settled(payment: &Payment, context: Context<'_>, transaction: TransactionId) -> Next {
    let purchase = &payment.purchase;
    let ledger = purchase.resource.and_then(|one| one.grant(&payment.payer, &purchase.quote.terms, context.now));
    let effects = Effects {
        exposure: payment.release_of_trust(),
        aftermath: payment.aftermath(Outcome::SettledLater, "", Some(transaction)),
        ..Effects::default()
    };
    match ledger {
        Some(_) => (Granting.into(), Effects { ledger, ..effects }),
        None => effects.and_over(),
    }
}

/// The payment of a response that was served on trust is refused, for sure.
pub(super) fn end_lost(payment: &Payment, reason: &str) -> Next {
    let exposure = payment.trust.map(|Trust { account, reservation }| (account, Operation::Default(reservation)));
    let aftermath = payment.aftermath(Outcome::Lost, reason, None);
    let settlement = payment.settlement(SettlementResult::Refused, None);
    Effects { exposure, aftermath, settlement, ..Effects::default() }.and_over()
}

/// Nobody knows yet what became of the payment of a response that was served on trust. Its sum stays reserved for a day, for
/// the payment may be lost, and looked into as long as that is of use.
pub(super) fn end_unknown(
    mut payment: Payment,
    context: Context<'_>,
    reason: &str,
    named: Option<TransactionId>,
    is_first: bool,
    recovery: Option<Recovery>,
) -> Next {
    let mut exposure = None;
    if let Some(Trust { account, reservation: from }) = payment.trust
        && is_first
    {
        let to = from.for_a_day(context.now);
        exposure = Some((account, Operation::Move { from, to }));
        payment.trust = Some(Trust { account, reservation: to });
    }
    let recovery = recovery.map(|recovery| Recovery { payment: payment.clone(), ..recovery });
    let is_news = is_first || recovery.is_none();
    let aftermath = payment.aftermath(Outcome::Unknown, reason, named).filter(|_| is_news);
    let settlement = payment.settlement(SettlementResult::Unknown, None);
    Effects { exposure, aftermath, settlement, recovery, ..Effects::default() }.and_over()
}

/// The money of a payer who owes has moved.
pub(super) fn repay(payment: Payment, context: Context<'_>, transaction: TransactionId) -> Next {
    let operation = Operation::Repay { amount: units(&payment).unwrap_or(u128::MAX) };
    let exposure = Some((payment.account(context), operation));
    (Repaying { payment, transaction }.into(), Effects { exposure, ..Effects::default() })
}

impl State for Repaying {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Exposure(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { payment, transaction } = self;
        match answer {
            Answer::Repaid { paid, left } if paid > 0 => {
                let spend = ledger::Operation::Spend { transaction };
                payment.ask_ledger(spend, |payment| Repaid { payment, transaction, paid, left })
            }
            // Another payment has paid the debt meanwhile, or it was forgotten: this one buys its response.
            _ => record_settlement(payment, context, Waiter::Request, transaction),
        }
    }
}

impl State for Repaid {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let answer = match event {
            Event::Ledger(answer) if IS_BUILT_IN => answer,
            event => return self.ignore(event),
        };
        let Self { payment, transaction, paid, left } = self;
        if answer != LedgerAnswer::Granted {
            // Another request has taken the payment over, and it buys its response there.
            let exposure = Some((payment.account(context), Operation::Default(Reservation::of(paid, context.now))));
            let (exchange, effects) = end_unrecorded(payment, transaction);
            return (exchange, Effects { exposure, ..effects });
        }
        let what_next = match left {
            0 => "nothing more is owed: pay for this request".to_owned(),
            _ => format!("{left} are still owed"),
        };
        let error = format!(
            "{}: this payment has settled, and paid {paid} atomic units that you owed for an earlier response; {what_next}",
            reason::PAYMENT_OWED
        );
        let extra = Some(format!(r#"{{"settlement":"debt","paid":"{paid}","owed":"{left}"}}"#));
        let reply = {
            let purchase = &payment.purchase;
            let receipt = Receipt { extra, ..payment.receipt(Ok(Some(transaction))) };
            Reply::payment_required(context, &error, &purchase.quote, &purchase.url)
                .with_receipt(purchase.version, &receipt)
        };
        payment.finish(None, Outcome::Repaid, &error, Some(transaction), Stream::Reply(reply))
    }
}
