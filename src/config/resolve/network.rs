//! Networks: the built-in table with what the configuration adds to it.

use std::sync::Arc;

use super::asset::Token;
use super::text::list;
use super::{Result, refuse, service};
use crate::config::Rpc;
use crate::config::raw;
use crate::config::secret::{Environment, Shown, named};
use crate::json::{Named, Object};
use crate::networks::{NETWORKS, SOLANA, SolanaNetwork, V1_NAMES};
use crate::x402::NetworkId;

/// The built-in table with what the configuration adds to it.
pub(super) struct Networks(Vec<Network>);

/// A chain of Ethereum's family.
#[derive(Clone)]
pub(super) struct Network {
    name: Option<String>,
    pub(super) chain_id: u64,
    assets: Vec<Token>,
    pub(super) rpc: Option<Arc<Rpc>>,
}

impl Networks {
    /// Resolves the networks of the configuration, beside those of the built-in table.
    #[inline(never)]
    pub(super) fn new(added: Named<Object<raw::Network>>) -> Result<Self> {
        let mut networks = Self(Vec::with_capacity(NETWORKS.len()));
        for known in NETWORKS {
            let assets = known.assets.iter().map(Token::from_known).collect::<Result<_>>()?;
            networks.0.push(Network { name: Some(known.name.to_owned()), chain_id: known.chain_id, assets, rpc: None });
        }
        for (name, Object(raw)) in added.0 {
            networks.add(name, raw)?;
        }
        Ok(networks)
    }

    fn add(&mut self, name: String, raw: raw::Network) -> Result<()> {
        let path = format!("networks.{}", named(&name));
        let position = self.0.iter().position(|network| network.name.as_deref() == Some(&name));
        let known = position.map(|position| self.0.swap_remove(position));
        let Some(chain_id) = raw.chain_id.or(known.as_ref().map(|network| network.chain_id)) else {
            return refuse(path, "is not in the built-in table and has no chain_id");
        };
        let mut assets = known.filter(|known| known.chain_id == chain_id).map_or_else(Vec::new, |known| known.assets);
        for (symbol, Object(asset)) in raw.assets.0 {
            assets.retain(|token| token.asset.label != symbol);
            assets.push(Token::from_raw(&format!("{path}.assets.{}", named(&symbol)), &asset, &symbol)?);
        }
        self.0.push(Network { name: Some(name), chain_id, assets, rpc: None });
        Ok(())
    }

    /// Adds the nodes of the configuration; gives the path of each, and its chain.
    pub(super) fn add_rpc(
        &mut self,
        raw: Vec<(String, Object<raw::Rpc>)>,
        environment: Environment<'_>,
    ) -> Result<Vec<(String, u64)>> {
        let mut nodes = Vec::with_capacity(raw.len());
        for (name, Object(raw)) in raw {
            let path = format!("rpc.{}", named(&name));
            let chain_id = self.find(&path, &name)?.chain_id;
            let rpc = Arc::new(service::rpc(&path, chain_id, raw, environment)?);
            if !self.0.iter().any(|network| network.chain_id == chain_id) {
                self.0.push(Network { name: None, chain_id, assets: Vec::new(), rpc: None });
            }
            for network in self.0.iter_mut().filter(|network| network.chain_id == chain_id) {
                if network.rpc.is_some() {
                    return refuse(path, "speaks of a network that has a node already");
                }
                network.rpc = Some(Arc::clone(&rpc));
            }
            nodes.push((path, chain_id));
        }
        Ok(nodes)
    }

    /// Returns the network, where it is not of Ethereum's family.
    pub(super) fn find_foreign(&self, text: &str) -> Option<(NetworkId, Option<&'static SolanaNetwork>)> {
        if self.0.iter().any(|network| network.name.as_deref() == Some(text)) || text.starts_with("eip155:") {
            return None;
        }
        let known = SOLANA.iter().find(|known| known.name == text || known.id == text);
        let id = known.map_or(text, |known| known.id).parse().ok()?;
        Some((id, known))
    }

    /// Returns the CAIP-2 id of a network, by its name or as it stands.
    pub(super) fn id(&self, path: &str, text: &str) -> Result<NetworkId> {
        match self.find_foreign(text) {
            Some((id, _)) => Ok(id),
            None => Ok(NetworkId::from_chain_id(self.find(path, text)?.chain_id)),
        }
    }

    /// Returns the network of that name or CAIP-2 id, which has to be of Ethereum's family.
    pub(super) fn find(&self, path: &str, text: &str) -> Result<Network> {
        if let Some(network) = self.0.iter().find(|network| network.name.as_deref() == Some(text)) {
            return Ok(network.clone());
        }
        let Some(chain_id) = text.parse::<NetworkId>().ok().and_then(|id| id.chain_id()) else {
            let names = || {
                let names = self.0.iter().filter_map(|network| network.name.as_deref());
                names.chain(SOLANA.iter().map(|known| known.name))
            };
            let (known, meant) = (list(names()), meant(text, names()));
            return refuse(
                path,
                format_args!("{} is neither a CAIP-2 id (eip155:<chain id>, …) nor one of {known}{meant}", Shown(text)),
            );
        };
        let known = self.0.iter().find(|network| network.chain_id == chain_id).cloned();
        Ok(known.unwrap_or(Network { name: None, chain_id, assets: Vec::new(), rpc: None }))
    }
}

/// Returns a question about what may be meant by a name that no network has; nothing where nobody knows.
fn meant<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> String {
    let plain = text.to_ascii_lowercase().replace([' ', '_'], "-");
    let plain = plain.strip_suffix("-mainnet").unwrap_or(&plain);
    let mut names = names;
    match plain {
        "mainnet" | "eth" => "; did you mean ethereum?".to_owned(),
        id if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("; did you mean eip155:{}?", named(id))
        }
        name => match names.find(|known| *known == name || known.replace('-', "") == name) {
            Some(known) => format!("; did you mean {known}?"),
            None => String::new(),
        },
    }
}

impl Network {
    /// Returns the name in version 1 of the protocol, which means one chain whatever the configuration calls by it.
    pub(super) fn v1_name(&self) -> Option<String> {
        let known = NETWORKS.iter().find(|known| known.chain_id == self.chain_id)?;
        V1_NAMES.contains(&known.name).then(|| known.name.to_owned())
    }

    /// Returns the token of that symbol.
    pub(super) fn token(&self, path: &str, symbol: &str) -> Result<Token> {
        if let Some(token) = self.assets.iter().find(|token| token.asset.label == symbol) {
            return Ok(token.clone());
        }
        let known = match self.assets.as_slice() {
            [] => "none".to_owned(),
            assets => list(assets.iter().map(|token| token.asset.label.as_str())),
        };
        let chain_id = self.chain_id;
        refuse(
            path,
            format_args!(
                "{} is not known on eip155:{chain_id} (known there: {known}); give {{address, decimals, eip712}}",
                Shown(symbol)
            ),
        )
    }
}
