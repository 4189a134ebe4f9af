//! Services that the filter calls: the facilitator, and nodes of chains.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::evm::keccak256;
use crate::facilitator::cdp::CdpKey;
use crate::ledger::remote::Engine;
use crate::x402::NetworkId;

/// A facilitator, which verifies and settles payments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facilitator {
    /// Its name in logs and stats: the operator's, or that of its cluster.
    pub name: String,
    /// The service at which it is called.
    pub service: Arc<Service>,
    /// The networks it is for (CAIP-2 ids); empty where it is for all.
    pub networks: Vec<NetworkId>,
    /// The schemes it is for; empty where it is for all.
    pub schemes: Vec<String>,
    /// The number of calls that fail in a row after which the next facilitator is asked first. At least 1.
    pub max_failures: u32,
    /// The parties that verify a payment before the request is served.
    pub verify: Verify,
}

impl Facilitator {
    /// Returns whether it is for payments of a scheme on a network.
    pub fn is_for(&self, scheme: &str, network: &NetworkId) -> bool {
        let (networks, schemes) = (&self.networks, &self.schemes);
        (networks.is_empty() || networks.contains(network))
            && (schemes.is_empty() || schemes.iter().any(|one| one == scheme))
    }
}

/// The parties that verify a payment before the request is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// The filter, and then the facilitator.
    #[default]
    Remote,
    /// The filter alone, wherever it can.
    Local,
}

/// A node of a chain, which can say what became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rpc {
    /// The chain that it has to be a node of (EIP-155).
    pub chain_id: u64,
    /// The service at which it is called by JSON-RPC, batches included.
    pub service: Arc<Service>,
    /// Blocks that must hold or follow a transaction before it counts: 1 for its own block. At least 1.
    pub confirmations: u64,
    /// Blocks before the last one whose logs one question asks for.
    pub log_range: u64,
}

impl Rpc {
    /// Returns the newest block whose transactions count, given the last one.
    pub const fn newest_confirmed(&self, head: u64) -> u64 {
        head.saturating_sub(self.confirmations.saturating_sub(1))
    }

    /// Returns the first of the last blocks, whose logs are searched at once.
    pub const fn first_searched(&self, head: u64) -> u64 {
        head.saturating_sub(self.log_range)
    }
}

/// A store that a fleet of proxies shares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SharedLedger {
    /// The service at which it is called.
    pub service: Service,
    /// The engine, and its names of the fleet's records.
    pub engine: Engine,
}

impl SharedLedger {
    /// Returns the name by which a process knows it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.service.cluster, self.engine.place())
    }
}

/// A service that is called over HTTP.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The proxy's cluster that the calls go to.
    pub cluster: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port of the calls.
    pub authority: String,
    /// The path before that of a call, without a slash at its end.
    pub base_path: String,
    /// The longest time that one call may take.
    pub timeout: Duration,
    /// Headers added to each call; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The key by which each call is signed, at Coinbase's hosted facilitator.
    pub cdp_key: Option<CdpKey>,
}

impl Service {
    /// Returns the time that one call may take in whole seconds, rounded up.
    pub const fn timeout_seconds(&self) -> u64 {
        self.timeout.as_secs().saturating_add(1)
    }

    /// Returns a text that may hold what the service was told, without the parts of that which may be keys: values of headers,
    /// and long segments of the URL's path.
    pub fn conceal(&self, text: &str) -> String {
        /// Bytes of a header's value that may be a key; a shorter one would be found in any answer.
        const KEY_BYTES: usize = 8;
        /// Bytes of a segment of a path that may be a key; shorter ones are words.
        const SEGMENT_BYTES: usize = 16;
        // Most keys stand behind a word, as in `Bearer …`.
        let values = self.headers.iter().flat_map(|(_, value)| value.split_ascii_whitespace().chain([value.as_str()]));
        let segments = self.base_path.split('/').filter(|segment| segment.len() >= SEGMENT_BYTES);
        let mut text = text.to_owned();
        for secret in values.filter(|value| value.len() >= KEY_BYTES).chain(segments) {
            // Some write JSON with `\/` for `/`.
            for written in [secret, &secret.replace('/', r"\/")] {
                text = text.replace(written, "…");
            }
        }
        match &self.cdp_key {
            Some(key) => key.hide_tokens(&text),
            None => text,
        }
    }

    /// Returns a digest of the service and of the caller's credentials: cluster, URL, headers and key. An answer may be shared by
    /// all who ask the same service in the same name, and by nobody else of the same process.
    pub fn identity(&self) -> [u8; 32] {
        let Self { cluster, scheme, authority, base_path, timeout: _, headers, cdp_key } = self;
        let headers = headers.iter().flat_map(|(name, value)| [name, value]);
        let key = cdp_key.iter().flat_map(CdpKey::identity);
        let mut fields = Vec::new();
        let texts = [cluster, scheme, authority, base_path].into_iter().chain(headers).map(String::as_bytes);
        for field in texts.chain(key) {
            // Each behind its length, so that no two lists of fields are one text.
            fields.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
            fields.extend_from_slice(field);
        }
        keccak256(&fields)
    }
}

/// Shows the cluster and the host, and nothing that may be a key: those stand in headers, and in paths of URLs.
impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, scheme, authority, base_path: _, timeout, headers: _, cdp_key: _ } = self;
        f.debug_struct("Service")
            .field("cluster", cluster)
            .field("url", &format_args!("{scheme}://{authority}"))
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}
