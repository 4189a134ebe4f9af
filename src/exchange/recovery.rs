//! A settlement that nobody waits for any more, and that is to be looked into again.

use super::settlement::{Pursuit, Settling, Waiter};
use super::state::State;
use super::{Context, Effects, Event, Next, Recovery};
use crate::ledger::{Answer, Operation, Unheard};

/// State: the claim is asked for, to look into a settlement that nobody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovering(Box<Recovery>);

/// Begins to look into a settlement.
pub(super) fn begin(context: Context<'_>, recovery: Recovery) -> Next {
    if recovery.is_of_stream {
        let Recovery { payment, named, since, .. } = &recovery;
        let unheard = Unheard { named: *named, since: *since, charge: payment.charge };
        let waiter = if payment.is_on_trust() { Waiter::Trust } else { Waiter::NobodyOfStream };
        return resume(context, recovery, waiter, unheard);
    }
    let until = recovery.payment.purchase.surely_settled(context);
    let payment = recovery.payment.clone();
    payment.ask_ledger(Operation::Recover { until }, |_| Recovering(Box::new(recovery)))
}

fn resume(context: Context<'_>, recovery: Recovery, waiter: Waiter, unheard: Unheard) -> Next {
    let Recovery { payment, attempts, searched_to, .. } = recovery;
    let pursuit = Pursuit::new(context, &payment).after(attempts, searched_to);
    Settling::resume(payment, context, waiter, pursuit, unheard)
}

impl State for Recovering {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        match event {
            Event::Ledger(Answer::GrantedUnknown(unheard)) => resume(context, *self.0, Waiter::Nobody, unheard),
            // Somebody else has found out, or is about to.
            Event::Ledger(_) => Effects::default().and_over(),
            _ => self.ignore(event),
        }
    }
}
