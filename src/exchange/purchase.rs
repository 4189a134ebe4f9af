//! What is bought, and the payment for it.

use std::borrow::Cow;
use std::sync::Arc;

use super::bundle::{BundleUse, Drawn};
use super::channel::{ChannelUse, Holding};
use super::grant::Resource;
use super::quote::Quote;
use super::trust::Trust;
use super::{Context, PaymentRecord, ShownUrl, UpstreamHead};
use crate::chain::{INQUIRY_QUESTIONS, Transfer};
use crate::config::{Offer, Rpc, Settle, Verify};
use crate::ledger::{Binding, PaymentKey};
use crate::money::Amount;
use crate::price::request::Job;
use crate::time::UnixTime;
use crate::x402::offer_receipt::OFFER_RECEIPT;
use crate::x402::payment::Payer;
use crate::x402::requirement::{Scheme, TransferMethod};
use crate::x402::{Receipt, Requirement, TransactionId, Version, reason};

/// A thing that is bought, and the payment for it: all that is known once the payment's text was read, and does not change any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Purchase {
    /// The route's name in logs.
    pub(super) route: Arc<str>,
    /// The terms that the request was asked to meet.
    pub(super) quote: Quote,
    /// The way to pay among them that the payment is for.
    pub(super) offer: Arc<Offer>,
    /// The facilitators that can settle the payment, by their places in the configuration. At least one.
    pub(super) facilitators: Vec<usize>,
    /// The key of the payment's claim.
    pub(super) key: PaymentKey,
    /// The name that the client gave the payment.
    pub(super) identifier: Option<String>,
    /// The end of the payment's validity, and so of its place in the ledger.
    pub(super) expires: UnixTime,
    /// The time until which it is worth while to ask the facilitator for the payment again.
    pub(super) settles_until: UnixTime,
    /// The time at which the payment was read.
    pub(super) received: UnixTime,
    /// The transfer that the payment authorizes, where a chain can be asked about it.
    pub(super) transfer: Option<Transfer>,
    /// The resource to which the payer may come back, where that is offered.
    pub(super) resource: Option<Resource>,
    /// The version of the protocol that the client speaks, and the facilitator is spoken to in.
    pub(super) version: Version,
    /// The payment as the facilitator gets it, as JSON. Empty where it is paid out of a channel: see [`Self::payment_json`].
    pub(super) json: String,
    /// The URL that is paid for.
    pub(super) url: ShownUrl,
    /// Headers that the upstream must not see.
    pub(super) unwanted: Vec<String>,
    /// The work that the request asks of a model, where it is priced by that.
    pub(super) job: Option<Job>,
    /// The use that the payment makes of a channel, under scheme `batch-settlement`.
    pub(super) channel: Option<ChannelUse>,
    /// The bundle that the payment adds to, or that the request is charged to.
    pub(super) bundle: Option<BundleUse>,
}

/// A payment on its way: its purchase, and what has come to be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payment {
    pub(super) purchase: Arc<Purchase>,
    /// The payer. Of some payments, only the facilitator can tell.
    pub(super) payer: Payer,
    /// The authority that says that the payment is one.
    pub(super) proof: Proof,
    /// The key of the name that the client gave it, once that counts.
    pub(super) alias_key: Option<PaymentKey>,
    /// The hash that ties a claim to this payment, and to this request where it is good for that alone.
    pub(super) binding: Binding,
    /// The atomic units that are settled, where that is not the amount that was signed for.
    pub(super) charge: Option<Amount>,
    /// The request's hold on the payment's channel.
    pub(super) holding: Holding,
    /// The sum that is reserved for it, where its response leaves before it settles.
    pub(super) trust: Option<Trust>,
    /// The request's part of a bundle.
    pub(super) drawn: Drawn,
}

/// The authority that says that a payment is one, and of whom. What is not proven reaches neither `/settle` nor the upstream, its claim is a
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

impl PaymentRecord {
    /// The record of a payment that is said to be by `payer`.
    pub(super) fn unproven(payer: Payer, requirement: &Requirement) -> Self {
        Self {
            payer,
            is_proven: false,
            pay_to: requirement.pay_to().into_owned(),
            scheme: requirement.scheme.as_str().to_owned(),
            network: requirement.network.to_string(),
            amount: requirement.amount,
            asset: requirement.asset().into_owned(),
            transaction: None,
        }
    }
}

impl Purchase {
    /// Returns the entry of `accepts` that the payment is for.
    pub(super) fn requirement(&self) -> &Requirement {
        &self.offer.requirement
    }

    /// Returns the payment as the facilitator gets it, as JSON.
    pub(super) fn payment_json(&self) -> Cow<'_, str> {
        match &self.channel {
            Some(channel) => channel.json(&channel.payload, self.requirement()).into(),
            None => self.json.as_str().into(),
        }
    }

    /// Returns whether the charge is known only once the response is there.
    pub(super) fn is_metered(&self) -> bool {
        match self.requirement().scheme {
            Scheme::Upto => matches!(self.quote.terms.settle, Settle::After | Settle::Optimistic),
            Scheme::BatchSettlement => true,
            Scheme::Exact | Scheme::Foreign(_) => self.is_metered_visit(),
        }
    }

    /// Returns whether the money is moved by Permit2.
    pub(super) fn is_by_permit(&self) -> bool {
        self.requirement().evm().is_some_and(|evm| evm.transfer_method == TransferMethod::Permit2)
    }

    /// Returns whether what the payment was charged is good for the very same request alone. Then it may come again; where
    /// nobody can tell whether a request is the same, the payment has bought what it was charged for, delivered or not.
    pub(super) fn is_bound(&self) -> bool {
        !self.is_metered() || self.job.as_ref().is_some_and(|job| job.is_read_whole)
    }

    /// Returns whether the filter asked for the usage at the end of the stream in the client's stead, so that the client does
    /// not get it.
    pub(super) fn hides_usage(&self) -> bool {
        self.is_metered() && self.job.as_ref().is_some_and(|job| job.wish.is_some())
    }

    /// Returns whether an answer of the upstream may refuse the request for the wish that the filter has added to it, and for
    /// nothing that its client has written.
    pub(super) fn may_be_refused_for_wish(&self, head: &UpstreamHead) -> bool {
        let is_alone = self.job.as_ref().is_some_and(|job| job.is_wish_alone);
        matches!(head.status, 400 | 422) && self.hides_usage() && is_alone && head.has_body && !head.is_encoded
    }

    /// Returns until when a pursuit that begins now asks again.
    pub(super) fn pursued_until(&self, context: Context<'_>) -> UnixTime {
        context.now.plus(self.facilitator_seconds(context)).plus(self.node_seconds())
    }

    /// Returns when a request that asks for settlement now is over, at the latest: one more question to the facilitator after
    /// the last pause, one inquiry into the chain, and some slack.
    pub(super) fn surely_settled(&self, context: Context<'_>) -> UnixTime {
        const SLACK_SECONDS: u64 = 5;
        let facilitator = self.facilitator_seconds(context);
        let inquiry = self.node_seconds().saturating_mul(INQUIRY_QUESTIONS);
        // An inquiry may come before the first question, and another after the last.
        self.pursued_until(context).plus(inquiry).plus(facilitator).plus(inquiry).plus(SLACK_SECONDS)
    }

    /// Returns when a request that waits for the upstream is given up on. Should it answer later all the same, and another
    /// request have taken the payment over by then, the ledger lets only that other one go on.
    pub(super) fn surely_served(&self, context: Context<'_>) -> UnixTime {
        self.surely_settled(context).plus(self.requirement().max_timeout_seconds)
    }

    /// Returns the seconds that a question to the facilitators takes at most, where each of them is asked.
    pub(super) fn facilitator_seconds(&self, context: Context<'_>) -> u64 {
        let services = self.facilitators.iter().filter_map(|place| Some(&context.facilitator(*place)?.service));
        services.fold(0, |sum, service| sum.saturating_add(service.timeout_seconds()))
    }

    /// Returns who has to verify the payment before the request is served.
    pub(super) fn verify(&self, context: Context<'_>) -> Verify {
        let first = self.facilitators.first().and_then(|place| context.facilitator(*place));
        first.map_or(Verify::Remote, |facilitator| facilitator.verify)
    }

    fn node_seconds(&self) -> u64 {
        self.offer.rpc.as_deref().map_or(0, |rpc: &Rpc| rpc.service.timeout_seconds())
    }
}

impl Payment {
    /// Returns whether anybody says that the payment is one.
    pub(super) const fn is_proven(&self) -> bool {
        !matches!(self.proof, Proof::None)
    }

    /// Returns the atomic units that are settled, or are to be.
    pub(super) fn amount(&self) -> Amount {
        self.charge.unwrap_or(self.purchase.requirement().amount)
    }

    /// Returns the payment's record, for logs.
    pub(super) fn record(&self, transaction: Option<TransactionId>) -> PaymentRecord {
        let unproven = PaymentRecord::unproven(self.payer.clone(), self.purchase.requirement());
        PaymentRecord { is_proven: self.is_proven(), amount: self.amount(), transaction, ..unproven }
    }

    /// Returns what a client gets to keep of a settlement.
    pub(super) fn receipt<'a>(&'a self, result: Result<Option<TransactionId>, &'a str>) -> Receipt<'a> {
        let network = self.purchase.requirement().network_in(self.purchase.version);
        Receipt {
            payer: &self.payer,
            network,
            charge: self.charge,
            result,
            named: None,
            extensions: None,
            channel: None,
            extra: None,
        }
    }

    /// Returns what a client gets to keep of a settlement that is not certain, but for its transaction.
    pub(super) fn receipt_of_pending(&self, transaction: TransactionId) -> Receipt<'_> {
        Receipt { named: Some(transaction), ..self.receipt(Err(reason::SETTLEMENT_PENDING)) }
    }

    /// Returns what a client gets to keep that was served, signed where there is a key to.
    pub(super) fn receipt_of_service(&self, context: Context<'_>, transaction: Option<TransactionId>) -> Receipt<'_> {
        let Purchase { url, .. } = &*self.purchase;
        let issuer = context.config.issuer.as_ref().filter(|_| self.payer != Payer::Unknown && url.is_vouched);
        let network = &self.purchase.requirement().network;
        let signed = issuer.map(|issuer| {
            let receipt = issuer.receipt(url, network, &self.payer.to_string(), transaction, context.now);
            format!(r#"{{"{OFFER_RECEIPT}":{receipt}}}"#)
        });
        Receipt { extensions: signed, ..self.receipt(Ok(transaction)) }
    }
}
