//! Chains as people and wallets see them: name, block explorer, and a public node for wallets that do not know the chain.
//! The values are those of viem 2.57.20 (a test compares).

use serde::Serialize;

struct Chain {
    id: u64,
    name: &'static str,
    /// The currency that gas is paid in.
    currency: &'static str,
    explorer: &'static str,
    /// A public node; empty for chains that every wallet knows.
    rpc: &'static str,
}

const fn chain(
    id: u64,
    name: &'static str,
    currency: &'static str,
    explorer: &'static str,
    rpc: &'static str,
) -> Chain {
    Chain { id, name, currency, explorer, rpc }
}

const CHAINS: &[Chain] = &[
    chain(1, "Ethereum", "ETH", "https://etherscan.io", ""),
    chain(10, "OP Mainnet", "ETH", "https://optimistic.etherscan.io", "https://mainnet.optimism.io"),
    chain(137, "Polygon", "POL", "https://polygonscan.com", "https://polygon.drpc.org"),
    chain(8453, "Base", "ETH", "https://basescan.org", "https://mainnet.base.org"),
    chain(42161, "Arbitrum One", "ETH", "https://arbiscan.io", "https://arb1.arbitrum.io/rpc"),
    chain(42220, "Celo", "CELO", "https://celoscan.io", "https://forno.celo.org"),
    chain(
        43113,
        "Avalanche Fuji",
        "AVAX",
        "https://testnet.snowtrace.io",
        "https://api.avax-test.network/ext/bc/C/rpc",
    ),
    chain(43114, "Avalanche", "AVAX", "https://snowtrace.io", "https://api.avax.network/ext/bc/C/rpc"),
    chain(80002, "Polygon Amoy", "POL", "https://amoy.polygonscan.com", "https://polygon-amoy.drpc.org"),
    chain(84532, "Base Sepolia", "ETH", "https://sepolia.basescan.org", "https://sepolia.base.org"),
    chain(421614, "Arbitrum Sepolia", "ETH", "https://sepolia.arbiscan.io", "https://sepolia-rollup.arbitrum.io/rpc"),
    chain(11155111, "Sepolia", "ETH", "https://sepolia.etherscan.io", ""),
    chain(11155420, "OP Sepolia", "ETH", "https://optimism-sepolia.blockscout.com", "https://sepolia.optimism.io"),
];

/// The parameter of `wallet_addEthereumChain` (EIP-3085), without the chain's id.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WalletChain {
    chain_name: &'static str,
    native_currency: Currency,
    rpc_urls: [&'static str; 1],
    block_explorer_urls: [&'static str; 1],
}

#[derive(Serialize)]
struct Currency {
    name: &'static str,
    symbol: &'static str,
    decimals: u8,
}

fn find(id: u64) -> Option<&'static Chain> {
    CHAINS.iter().find(|chain| chain.id == id)
}

/// Returns the chain's name for people.
pub(crate) fn name(id: u64) -> Option<&'static str> {
    find(id).map(|chain| chain.name)
}

/// Returns the URL of the chain's block explorer.
pub(crate) fn explorer(id: u64) -> Option<&'static str> {
    find(id).map(|chain| chain.explorer)
}

/// Returns the chain as a wallet takes it; `None` for chains that every wallet knows.
pub(crate) fn wallet_chain(id: u64) -> Option<WalletChain> {
    let Chain { name, currency, explorer, rpc, .. } = find(id).filter(|chain| !chain.rpc.is_empty())?;
    Some(WalletChain {
        chain_name: name,
        native_currency: Currency { name: currency, symbol: currency, decimals: 18 },
        rpc_urls: [rpc],
        block_explorer_urls: [explorer],
    })
}
