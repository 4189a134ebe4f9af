//! Keys of the proxy's dynamic metadata.

use serde::Deserialize;

/// A key of the proxy's dynamic metadata, which filters set and clients cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MetadataKey {
    /// The namespace in the dynamic metadata, such as envoy.lb.
    pub namespace: String,
    /// The key in it.
    pub key: String,
}
