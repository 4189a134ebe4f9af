//! What a state does about its payment: asks the ledger or the facilitator, lets the request go on, or ends it.

use std::sync::Arc;

use super::head::PAYMENT_ID;
use super::{
    Call, CallKind, Context, Effects, Exchange, Next, Outcome, Payment, Purchase, Record, Reply, RequestEdits,
    SettlementRecord, SettlementResult, Stream,
};
use crate::channel::IS_BUILT_IN;
use crate::config::{Facilitator, Service};
use crate::facilitator::{self, CalloutAnswer, Unknown};
use crate::ledger::Operation;
use crate::x402::payment::Payer;
use crate::x402::terms::EntryV1;
use crate::x402::{Requirement, TransactionId, Version};

impl Payment {
    /// Asks the ledger for an operation on the payment's claim, and waits in the state that `wait` makes.
    pub(super) fn ask_ledger<S: Into<Exchange>>(self, operation: Operation, wait: impl FnOnce(Self) -> S) -> Next {
        let effects = self.ledger_effects(operation);
        (wait(self).into(), effects)
    }

    #[inline(never)]
    fn ledger_effects(&self, operation: Operation) -> Effects {
        let ledger = Some((self.purchase.key, operation));
        let alias_key = self.alias_key.filter(|_| !operation.begins());
        Effects { ledger, alias_key, ..Effects::default() }
    }

    /// Asks a facilitator about the payment, and waits in the state that `wait` makes.
    pub(super) fn ask_facilitator<S: Into<Exchange>>(
        self,
        kind: CallKind,
        facilitator: &Facilitator,
        wait: impl FnOnce(Self) -> S,
    ) -> Next {
        let call = Some(self.question(kind, &facilitator.service));
        (wait(self).into(), Effects { call, ..Effects::default() })
    }

    #[inline(never)]
    fn question(&self, kind: CallKind, service: &Arc<Service>) -> Call {
        let Purchase { url, quote, version, .. } = &*self.purchase;
        let json = &self.purchase.payment_json();
        let requirement = self.purchase.requirement();
        let body = match (version, self.charge.filter(|_| kind == CallKind::Settle)) {
            (Version::V1, _) => {
                let entry = EntryV1::new(requirement, quote.terms.resource(url));
                facilitator::question(Version::V1, json, &entry)
            }
            (Version::V2, Some(amount)) => {
                facilitator::question(Version::V2, json, &Requirement { amount, ..requirement.clone() })
            }
            (Version::V2, None) => facilitator::question(Version::V2, json, requirement),
        };
        Call { kind, service: Arc::clone(service), body }
    }

    /// Takes the facilitator's word for who pays, where the filter cannot tell.
    pub(super) fn learn_payer(&mut self, answer: &CalloutAnswer) {
        if self.payer == Payer::Unknown {
            self.payer = facilitator::named_payer(answer).map_or(Payer::Unknown, Payer::Foreign);
        }
    }

    /// Takes the facilitator's word for what the payment's channel holds.
    pub(super) fn learn_channel(&mut self, context: Context<'_>, answer: &CalloutAnswer) {
        if let Some(channel) = self.purchase.channel.as_ref().filter(|_| IS_BUILT_IN) {
            self.holding.chain = facilitator::read_channel(answer, channel.payload.id, context.now);
            self.holding.was_asked = true;
        }
    }

    /// Returns what the upstream learns of the payment, and what it does not.
    pub(super) fn forwarding(&self, transaction: Option<TransactionId>) -> RequestEdits {
        let Purchase { key, route, unwanted, quote, .. } = &*self.purchase;
        let requirement = self.purchase.requirement();
        let payer = Some(("x-x402-payer", self.payer.to_string())).filter(|_| self.payer != Payer::Unknown);
        let mut set: Vec<_> = payer.into_iter().collect();
        set.push((PAYMENT_ID, key.to_hex()));
        // A request that a bundle pays for moves nothing itself.
        if !self.is_visit() || transaction.is_some() {
            let amount = if self.is_visit() { self.amount() } else { requirement.amount };
            set.push(("x-x402-network", requirement.network.to_string()));
            set.push(("x-x402-amount", amount.to_string()));
        }
        set.extend(transaction.map(|hash| ("x-x402-transaction", hash.to_string())));
        if self.purchase.is_metered() && quote.terms.tariff.is_some() {
            // What is compressed cannot be counted.
            set.push(("accept-encoding", "identity".to_owned()));
        }
        RequestEdits { passes_for: Some(Arc::clone(route)), remove: unwanted.clone(), set }
    }

    /// Returns what came of the payment's settlement, for stats.
    pub(super) fn settlement(
        &self,
        result: SettlementResult,
        transaction: Option<TransactionId>,
    ) -> Option<SettlementRecord> {
        Some(SettlementRecord { payment: self.record(transaction), result })
    }

    /// Ends the request with the terms once more, and with the reason why the payment does not meet them.
    pub(super) fn refuse(
        self,
        context: Context<'_>,
        operation: Option<Operation>,
        outcome: Outcome,
        reason: &str,
    ) -> Next {
        let reply = Reply::payment_required(context, reason, &self.purchase.quote, &self.purchase.url);
        self.end(operation, outcome, reason, reply)
    }

    /// Ends the request with the outcome unknown.
    pub(super) fn end_unknown(self, operation: Option<Operation>, unknown: Unknown) -> Next {
        self.end(operation, Outcome::Unknown, &unknown.to_string(), Reply::outcome_unknown(unknown))
    }

    /// Ends the request: its payer may buy nothing here.
    pub(super) fn end_unwelcome(self) -> Next {
        const UNWELCOME: &str = "payer_not_allowed";
        self.end(None, Outcome::Refused, UNWELCOME, Reply::error(403, "this payer may not buy here"))
    }

    /// Ends the request: another one holds the payment's claim.
    pub(super) fn end_in_flight(self) -> Next {
        self.end(None, Outcome::InFlight, "", Reply::in_flight())
    }

    /// Ends the request: the ledger does not work.
    pub(super) fn out_of_order(self) -> Next {
        let reply = Reply::overloaded("payments cannot be taken at the moment");
        self.end(None, Outcome::Overloaded, "the ledger did not answer", reply)
    }

    /// Ends the request of a client that has gone before anything moved.
    pub(super) fn end_left(self) -> Next {
        self.finish(Some(Operation::Release), Outcome::Left, "", None, Stream::Hold)
    }

    /// Ends the request with an answer of the filter's own.
    pub(super) fn end(self, operation: Option<Operation>, outcome: Outcome, reason: &str, reply: Reply) -> Next {
        self.finish(operation, outcome, reason, None, Stream::Reply(reply))
    }

    /// Ends the request.
    pub(super) fn finish(
        self,
        operation: Option<Operation>,
        outcome: Outcome,
        reason: &str,
        transaction: Option<TransactionId>,
        stream: Stream,
    ) -> Next {
        let (transaction, outcome) = match (self.bought(), outcome) {
            (Some(bought), Outcome::Left) => (Some(bought), Outcome::Abandoned),
            (bought, outcome) => (transaction.or(bought), outcome),
        };
        let record = self.visit_record(outcome, reason).unwrap_or_else(|| {
            let payment = Some(self.record(transaction));
            Record { payment, ..Record::new(&self.purchase.route, outcome, reason) }
        });
        let record = Some(record);
        if self.is_visit() {
            let ledger = self.release_of_bundle();
            return Effects { ledger, record, stream, ..Effects::default() }.and_over();
        }
        // A voucher has no claim, but what it holds of its channel.
        let ledger = operation.filter(|_| !self.has_voucher_alone()).map(|operation| (self.purchase.key, operation));
        let alias_key = self.alias_key.filter(|_| ledger.is_some());
        // What is named need not have come about.
        let channel = self.release_of_channel(transaction.is_some() && outcome != Outcome::Unknown);
        let exposure = self.release_of_trust();
        Effects { ledger, alias_key, channel, exposure, record, stream, ..Effects::default() }.and_over()
    }
}
