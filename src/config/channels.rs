//! What becomes of payment channels.

use crate::evm::signature::SecretKey;
use crate::ledger::Channels as Records;
use crate::money::Dollars;

/// The rules for payment channels (scheme `batch-settlement`), whatever route they are used on.
#[derive(Debug)]
pub struct Channels {
    /// The key that authorizes claims and refunds; `None` where the facilitator does.
    pub authorizer: Option<SecretKey>,
    /// A channel is claimed once so much is unclaimed.
    pub claim_above: Dollars,
    /// A channel is claimed so many seconds after its first unclaimed voucher.
    pub claim_every: u64,
    /// Seconds without a request after which what a channel holds is given back; `None` for never.
    pub refund_idle: Option<u64>,
    /// Where channels are remembered.
    pub records: Records,
}
