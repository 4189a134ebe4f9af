//! Which offer a payment is for.

use std::sync::Arc;

use crate::config::Offer;
use crate::evm::Address;
use crate::facilitator::{Directory, Supported};
use crate::x402::Requirement;
use crate::x402::requirement::{Accepted, Evm, Rail};

impl Offer {
    /// The offer with this recipient, where it may be paid.
    pub(super) fn paid_to(self: &Arc<Self>, recipient: Address) -> Arc<Self> {
        let other = self.requirement.evm().filter(|evm| evm.pay_to != recipient);
        match other.filter(|_| self.recipients.iter().any(|one| one.to == recipient)) {
            Some(evm) => self.with_rail(Rail::Evm(Evm { pay_to: recipient, ..evm.clone() })),
            None => Arc::clone(self),
        }
    }

    fn with_rail(&self, rail: Rail) -> Arc<Self> {
        self.with(Requirement { rail, ..self.requirement.clone() })
    }

    /// The offer as a client accepted it, by the measure of `accepts`; any of its recipients will do, and any account of
    /// the facilitator's.
    pub(super) fn accepted(
        self: &Arc<Self>,
        accepted: &Accepted<'_>,
        supported: &[Supported],
        accepts: fn(&Requirement, &Accepted<'_>) -> bool,
    ) -> Option<Arc<Self>> {
        if accepts(&self.requirement, accepted) {
            return Some(Arc::clone(self));
        }
        let Requirement { scheme, network, .. } = &self.requirement;
        let supported = Directory::new(supported, &self.facilitators);
        let fits = |rail: Rail| Some(self.with_rail(rail)).filter(|offer| accepts(&offer.requirement, accepted));
        match &self.requirement.rail {
            Rail::Evm(evm) => {
                let others = self.recipients.iter().map(|one| one.to).filter(|to| *to != evm.pay_to);
                let recipients: Vec<Address> = std::iter::once(evm.pay_to).chain(others).collect();
                let network = network.as_str();
                let accounts: Vec<Option<Address>> = match (evm.facilitator, &evm.channel) {
                    (Some(_), _) => supported.settlers(network).map(Some).collect(),
                    (None, Some(terms)) if terms.is_authorized_by_facilitator => {
                        supported.authorizers(network).map(Some).collect()
                    }
                    _ => vec![None],
                };
                let variants = recipients.iter().flat_map(|to| accounts.iter().map(move |account| (*to, *account)));
                variants
                    .into_iter()
                    .find_map(|(pay_to, account)| fits(Rail::Evm(Evm { pay_to, ..evm.clone() }.with_account(account))))
            }
            Rail::Foreign(foreign) => supported
                .kinds(scheme.as_str(), network.as_str())
                .find_map(|kind| fits(Rail::Foreign(foreign.supplied_with(&kind.extra)))),
        }
    }

    /// Returns the facilitators that can settle a payment by this offer, by their places. The account that a permit names can
    /// settle it alone, and so can the one that pays a transaction's fees.
    pub(super) fn settling_facilitators(&self, supported: &[Supported]) -> Vec<usize> {
        let Requirement { scheme, network, rail, .. } = &self.requirement;
        let (scheme, network) = (scheme.as_str(), network.as_str());
        Directory::new(supported, &self.facilitators).places(|supported| match rail {
            Rail::Evm(Evm { facilitator: Some(settler), .. }) => {
                supported.settlers(network).any(|known| known == *settler)
            }
            Rail::Evm(Evm { channel: Some(terms), .. }) if terms.is_authorized_by_facilitator => {
                supported.authorizers(network).any(|known| Some(known) == terms.receiver_authorizer)
            }
            Rail::Evm(_) => !supported.excludes(&self.requirement),
            Rail::Foreign(foreign) => {
                supported.kinds(scheme, network).any(|kind| foreign.supplied_with(&kind.extra) == *foreign)
            }
        })
    }
}
