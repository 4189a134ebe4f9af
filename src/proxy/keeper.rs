//! The keeper of channels: one worker of the process claims for all, and gives idle channels back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::callouts;
use super::host::{Host, LogLevel};
use super::store::{self, SharedData};
use super::{shared::Shared, stats};
use crate::channel::{
    self, Answer, Claimable, Consequences, Due, Group, Job, Keeper, Operation, Policy, Record, Refundable, Said,
    Signer, Totals,
};
use crate::config::{Config, Facilitator, Offer};
use crate::facilitator::{self, CalloutAnswer, Deed};
use crate::ledger::{Channels, Owner};
use crate::money::Amount;
use crate::time::UnixTime;
use crate::x402::requirement::{Evm, PaymentFlow, Rail, Scheme, TransferMethod};
use crate::x402::{NetworkId, Requirement};

/// Pages of the ledger that are looked through each second: all of them in eight.
const PAGES_AT_ONCE: u32 = Channels::PAGES / 8;

/// Seconds for which a worker keeps the right to claim without renewing it.
const LEASE_SECONDS: u64 = 5;

/// Seconds for which a row is claimed by this worker alone.
const CLAIM_SECONDS: u64 = 600;

/// The state of the keeper of a worker.
#[derive(Default)]
pub(super) struct Keeping {
    keeper: Keeper,
    /// The page that is looked through next.
    page: u32,
    /// What was seen since the first page, by chain and token.
    totals: BTreeMap<Purse, Totals>,
    /// Jobs whose answers are awaited, by number.
    jobs: BTreeMap<u32, (Group, Job)>,
    last_job: u32,
    /// True if the log was told of channels that no route takes.
    has_told: bool,
}

/// A token on a chain.
type Purse = (u64, crate::evm::Address);

/// What a keeper needs to know.
pub(super) struct Around<'a, H> {
    pub(super) host: &'a H,
    pub(super) config: &'a Config,
    pub(super) shared: &'a Shared,
    /// The worker's number.
    pub(super) number: u32,
}

impl<H: Host> Around<'_, H> {
    fn perform(&self, id: channel::ChannelId, operation: &Operation, now: UnixTime) -> Answer {
        let owner = Owner(u64::from(self.number) << u32::BITS);
        let (channels, secret) = (&self.config.channels.records, &self.shared.memory.secret);
        channels.perform(&mut SharedData::new(self.host), secret, id, owner, operation, now)
    }

    /// Returns the offers by channels.
    fn offers(&self) -> impl Iterator<Item = &Arc<Offer>> {
        let terms = self.config.routes.iter().filter_map(|route| route.terms.as_ref());
        terms.flat_map(|terms| &terms.offers).filter(|offer| offer.requirement.scheme == Scheme::BatchSettlement)
    }

    /// Returns the rules for channels in a token.
    fn policy(&self, (chain_id, token): Purse) -> Policy {
        let is_in = |offer: &&Arc<Offer>| {
            offer.requirement.evm().is_some_and(|evm| evm.chain_id == chain_id && evm.asset == token)
        };
        let channels = &self.config.channels;
        let above = self.offers().find(is_in).and_then(|offer| {
            u128::try_from(channels.claim_above.to_amount(offer.dollar_decimals?).ok()?.to_integer()).ok()
        });
        // Of a token whose worth is not known, time decides.
        let claim_above = above.unwrap_or(u128::MAX);
        Policy { claim_above, claim_every: channels.claim_every, refund_idle: channels.refund_idle }
    }

    /// Returns whether a route takes vouchers of a channel.
    fn is_wanted(&self, record: &Record) -> bool {
        let channel::ChannelConfig { receiver, receiver_authorizer, token, withdraw_delay, .. } = record.config;
        let network = NetworkId::from_chain_id(record.chain_id);
        self.offers().any(|offer| {
            let Some(evm) = offer.requirement.evm() else { return false };
            let Some(terms) = &evm.channel else { return false };
            let is_authorizer = match terms.is_authorized_by_facilitator {
                true => self
                    .shared
                    .supported
                    .iter()
                    .any(|one| one.authorizers(network.as_str()).any(|known| known == receiver_authorizer)),
                false => terms.receiver_authorizer == Some(receiver_authorizer),
            };
            is_authorizer
                && evm.chain_id == record.chain_id
                && evm.asset == token
                && terms.withdraw_delay == withdraw_delay
                && (offer.recipient_from.is_some() || offer.recipients.iter().any(|one| one.to == receiver))
        })
    }

    /// Returns the facilitator that a group's work is asked of.
    fn facilitator(&self, group: &Group) -> Option<&Facilitator> {
        let network = NetworkId::from_chain_id(group.chain_id);
        let all = || self.config.facilitators.iter().enumerate();
        let authorizes = |(place, _): &(usize, &Facilitator)| {
            let supported = self.shared.supported.get(*place);
            supported.is_some_and(|one| one.authorizers(network.as_str()).any(|known| known == group.authorizer))
        };
        let is_fit = |(_, one): &(usize, &Facilitator)| one.is_for(Scheme::BatchSettlement.as_str(), &network);
        let failing = self.shared.health.borrow().failing(self.config);
        let answers = |(place, _): &(usize, &Facilitator)| {
            u32::try_from(*place).ok().and_then(|place| 1_u32.checked_shl(place)).is_none_or(|bit| failing & bit == 0)
        };
        let fit = all().filter(is_fit);
        let mut best: Vec<_> = fit.clone().filter(authorizes).collect();
        if best.is_empty() {
            best = fit.collect();
        }
        best.iter().find(|one| answers(one)).or_else(|| best.first()).map(|(_, facilitator)| *facilitator)
    }
}

impl Keeping {
    /// Does what is due: the tokens of the callouts, each with the number of its job.
    pub(super) fn keep(&mut self, around: &Around<'_, impl Host>, now: UnixTime) -> Vec<(u32, u32)> {
        let lease = format!("keeper.{}", around.config.facilitators_identity());
        let until = now.plus(LEASE_SECONDS);
        if !around.config.has_channels || !store::keep_lease(around.host, &lease, around.number, now, until) {
            return Vec::new();
        }
        for _ in 0..PAGES_AT_ONCE {
            self.look_through(around, now);
        }
        let due = self.keeper.take_due(now);
        due.into_iter().filter_map(|(group, job)| self.ask(around, group, job, now)).collect()
    }

    /// Looks through the next page.
    fn look_through(&mut self, around: &Around<'_, impl Host>, now: UnixTime) {
        let mut store = SharedData::new(around.host);
        let records = around.config.channels.records.on_page(&mut store, self.page).unwrap_or_default();
        for record in &records {
            self.consider(around, record, now);
        }
        self.page = self.page.saturating_add(1);
        if self.page >= Channels::PAGES {
            self.page = 0;
            self.tell_totals(around);
        }
    }

    fn consider(&mut self, around: &Around<'_, impl Host>, record: &Record, now: UnixTime) {
        let purse = (record.chain_id, record.config.token);
        let is_wanted = around.is_wanted(record);
        self.totals.entry(purse).or_default().add(record, is_wanted);
        match channel::due(record, &around.policy(purse), now) {
            Due::Nothing => {}
            Due::Claim { is_urgent } => {
                let until = now.plus(CLAIM_SECONDS);
                if let Answer::Row(row) = around.perform(record.id, &Operation::BeginClaim { until }, now) {
                    if is_urgent {
                        let id = record.id;
                        around.host.log(
                            LogLevel::Critical,
                            &format!("x402: the payer of channel {id} has begun to withdraw; it is claimed at once, and buys nothing more"),
                        );
                        stats::count_channel(around.host, "withdrawal", 1);
                    }
                    self.keeper.claim(Claimable { row, since: record.unclaimed_since }, now);
                }
            }
            Due::Refund => {
                let until = now.plus(CLAIM_SECONDS);
                if let Answer::Row(row) = around.perform(record.id, &Operation::BeginRefund { until }, now) {
                    self.keeper.refund(Refundable { row, chain: record.chain });
                }
            }
        }
    }

    /// Tells stats how the channels stand, and the log of those that no route takes.
    fn tell_totals(&mut self, around: &Around<'_, impl Host>) {
        let mut unwanted = (0_u64, 0_u128);
        // What is gone is told of once more, as nothing.
        for ((chain_id, token), totals) in &mut self.totals {
            let network = NetworkId::from_chain_id(*chain_id);
            stats::tell_channels(around.host, network.as_str(), &token.to_string(), totals);
            unwanted =
                (unwanted.0.saturating_add(totals.unwanted), unwanted.1.saturating_add(totals.unwanted_deposited));
            *totals = Totals::default();
        }
        let (channels, held) = unwanted;
        if channels > 0 && !self.has_told {
            around.host.log(
                LogLevel::Warn,
                &format!("x402: {channels} open channels, which hold {held} atomic units, are of an authorizer, a recipient, a token or a withdraw_delay that no route has any more: they buy nothing, and are claimed as before"),
            );
        }
        self.has_told = channels > 0;
    }

    /// Asks the facilitator for a job; the token of the callout, and the job's number.
    fn ask(&mut self, around: &Around<'_, impl Host>, group: Group, job: Job, now: UnixTime) -> Option<(u32, u32)> {
        let own = around.config.channels.authorizer.as_ref().filter(|key| key.address() == group.authorizer);
        let domain = channel::domain_separator(group.chain_id);
        let signer = own.map(|key| Signer { key, domain: &domain });
        let token = around.facilitator(&group).and_then(|facilitator| {
            let network = NetworkId::from_chain_id(group.chain_id);
            let payload = job.payload(group, signer.as_ref());
            let body = channel::question(&payload, network.as_str(), group.token, group.receiver);
            callouts::dispatch(around.host, &around.shared.tokens, &facilitator.service, "POST", "/settle", &body).ok()
        });
        let Some(token) = token else {
            let consequences = self.keeper.on_answer(group, job, Said::Nothing, now);
            carry_out(around, &consequences, now);
            return None;
        };
        self.last_job = self.last_job.wrapping_add(1);
        self.jobs.insert(self.last_job, (group, job));
        Some((token, self.last_job))
    }

    /// Takes in the facilitator's answer about a job.
    pub(super) fn on_answer(
        &mut self,
        around: &Around<'_, impl Host>,
        number: u32,
        answer: &CalloutAnswer,
        now: UnixTime,
    ) {
        let Some((group, job)) = self.jobs.remove(&number) else { return };
        let deed = facilitator::read_deed(answer, &requirement(&group));
        let said = match &deed {
            Deed::Done(_) => Said::Done,
            Deed::Refused(_) => Said::Refused,
            Deed::Unknown => Said::Nothing,
        };
        if said != Said::Done
            && let Some(facilitator) = around.facilitator(&group)
        {
            let report = facilitator::report(&facilitator.service, "/settle", answer);
            let what = job.name();
            around.host.log(LogLevel::Warn, &format!("x402: a {what} of channels did not come about: {report}"));
        }
        let consequences = self.keeper.on_answer(group, job, said, now);
        carry_out(around, &consequences, now);
    }
}

/// Tells the ledger, the log and the stats what came of a job.
fn carry_out(around: &Around<'_, impl Host>, consequences: &Consequences, now: UnixTime) {
    let Consequences { operations, claimed, failed, refunded } = consequences;
    for (id, operation) in operations {
        around.perform(*id, operation, now);
    }
    for Claimable { since, .. } in claimed {
        stats::time_claim(around.host, now.as_secs().saturating_sub(since.as_secs()));
    }
    stats::count_channel(around.host, "claimed", i64::try_from(claimed.len()).unwrap_or_default());
    for row in failed {
        let (id, charged) = (row.id, row.charged);
        around.host.log(
            LogLevel::Error,
            &format!("x402: channel {id} could not be claimed up to {charged}; it is tried again later"),
        );
    }
    stats::count_channel(around.host, "claim_failed", i64::try_from(failed.len()).unwrap_or_default());
    stats::count_channel(around.host, "refunded", i64::from(refunded.is_some()));
}

/// The entry by which an answer about a group's work is read.
fn requirement(group: &Group) -> Requirement {
    let Group { chain_id, receiver, token, .. } = *group;
    Requirement {
        scheme: Scheme::BatchSettlement,
        network: NetworkId::from_chain_id(chain_id),
        amount: Amount::ZERO,
        max_timeout_seconds: 0,
        payment_flow: PaymentFlow::Authorization,
        bundle: None,
        rail: Rail::Evm(Evm {
            transfer_method: TransferMethod::Eip3009,
            facilitator: None,
            chain_id,
            v1_network: None,
            asset: token,
            pay_to: receiver,
            eip712_name: String::new(),
            eip712_version: String::new(),
            contract_wallets: false,
            channel: None,
            domain_separator: [0; 32],
        }),
    }
}
