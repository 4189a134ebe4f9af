//! The built-in table of networks and of the tokens that can be charged on them.
//!
//! It is what stands behind `network: base-sepolia, asset: USDC` in the configuration; whatever is not
//! here can be given in the configuration itself. Only tokens that take an EIP-3009
//! `transferWithAuthorization` are listed: those that need Permit2 are not.
//!
//! # The EIP-712 name is a fact of the deployment, not of the token
//!
//! Circle's USDC signs as "USD Coin" on Base and as "USDC" on Base Sepolia; on Arbitrum and on Fuji it is
//! "USD Coin" on a test network too. Bridged tokens carry names of their own, and one of them holds a
//! character outside ASCII. A wrong name gives a digest that recovers to a stranger, so a row must never
//! be copied from one network to another.
//!
//! # Sources
//!
//! A row has at least two sources that agree, or one that is an official x402 package. The comment at a
//! row's end lists them:
//!
//! - `T`: npm `@x402/evm` 2.27.0, its table of default assets
//! - `P`: Python `x402` 2.25.0, its table of default assets
//! - `V`: npm `x402` 1.2.0 (protocol v1), its table of USDC deployments
//! - `C`: npm `@circle-fin/bridge-kit` 1.15.1, Circle's own list of chains (chain id and address)
//! - `R`: `x402-rs` at `de2e55b` (June 2026), its table of networks
//! - `F`: `faremeter` at `898030e` (April 2026), its table of assets
//! - `D`: the `DOMAIN_SEPARATOR()` of the deployed token, as published by at least one project that read it
//!   from the chain; the row's name, version, chain id and address reproduce it.
//!   `tests/vectors/eip712.json` holds these separators
//!
//! Left out because a second source contradicts protocol v1's table and no separator settles it: Abstract
//! (main and test network) and Story.
//!
//! # Names
//!
//! Names are those of protocol v1 where it has one ([`V1_NAMES`]), else the usual one.

#[cfg(feature = "page")]
pub(crate) mod chains;

/// A network that the configuration can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownNetwork {
    /// The name in the configuration.
    pub name: &'static str,
    /// The EIP-155 chain id; the CAIP-2 id is `eip155:<chain_id>`.
    pub chain_id: u64,
    /// The tokens that can be charged on it, the default one first.
    pub assets: &'static [KnownAsset],
}

/// A token on a [`KnownNetwork`] that takes an EIP-3009 authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownAsset {
    /// The symbol in the configuration, unique within its network.
    pub symbol: &'static str,
    /// The token contract: 20 bytes with the checksum of EIP-55, `0x…`.
    pub address: &'static str,
    /// The decimal digits of one unit.
    pub decimals: u8,
    /// The EIP-712 domain's name, as the token contract has it.
    pub eip712_name: &'static str,
    /// The EIP-712 domain's version, as the token contract has it.
    pub eip712_version: &'static str,
    /// True if one unit is meant to be worth one US dollar, so that a `"$…"` price can be turned into
    /// atomic units.
    pub usd_pegged: bool,
}

/// USDC, native or bridged, on Circle's token contract: six decimals, version "2".
const fn usdc(address: &'static str, eip712_name: &'static str) -> KnownAsset {
    dollar("USDC", address, eip712_name, "2")
}

/// A dollar token of six decimals.
const fn dollar(
    symbol: &'static str,
    address: &'static str,
    eip712_name: &'static str,
    eip712_version: &'static str,
) -> KnownAsset {
    KnownAsset { symbol, address, decimals: 6, eip712_name, eip712_version, usd_pegged: true }
}

/// A network of Solana that the configuration can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SolanaNetwork {
    /// The name in the configuration, that of version 1 of the protocol.
    pub name: &'static str,
    /// CAIP-2 id: the first 32 characters of the genesis block's hash.
    pub id: &'static str,
    /// The mint of Circle's USDC, which has six decimals.
    pub usdc: &'static str,
}

/// Solana's networks. Source: npm `@x402/svm` 2.27.0, its tables of networks and of default assets.
pub const SOLANA: &[SolanaNetwork] = &[
    SolanaNetwork {
        name: "solana",
        id: "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
        usdc: "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
    },
    SolanaNetwork {
        name: "solana-devnet",
        id: "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        usdc: "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    },
];

/// The networks that version 1 of the protocol has a name for; it is the same as here. The official clients of that
/// version know no others.
pub const V1_NAMES: &[&str] = &[
    "base",
    "base-sepolia",
    "ethereum",
    "sepolia",
    "polygon",
    "polygon-amoy",
    "avalanche",
    "avalanche-fuji",
    "celo",
    "educhain",
    "flare",
    "iotex",
    "monad",
    "monad-testnet",
    "peaq",
    "sei",
    "sei-testnet",
    "skale-base-sepolia",
    "stable",
    "stable-testnet",
];

/// The table: names and chain ids are unique, and so are the symbols within a network.
pub const NETWORKS: &[KnownNetwork] = &[
    KnownNetwork {
        name: "base",
        chain_id: 8453,
        assets: &[usdc("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin")], // T P V C R F D
    },
    KnownNetwork {
        name: "base-sepolia",
        chain_id: 84_532,
        assets: &[usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")], // T P V C R F D
    },
    KnownNetwork {
        name: "ethereum",
        chain_id: 1,
        assets: &[usdc("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin")], // T P C D
    },
    KnownNetwork {
        name: "sepolia",
        chain_id: 11_155_111,
        assets: &[usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", "USDC")], // C D
    },
    KnownNetwork {
        name: "polygon",
        chain_id: 137,
        assets: &[usdc("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin")], // T P V C F D; R errs ("USDC")
    },
    KnownNetwork {
        name: "polygon-amoy",
        chain_id: 80_002,
        assets: &[usdc("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC")], // V C R F D
    },
    KnownNetwork {
        name: "avalanche",
        chain_id: 43_114,
        assets: &[usdc("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USD Coin")], // T P V C R D
    },
    KnownNetwork {
        name: "avalanche-fuji",
        chain_id: 43_113,
        assets: &[usdc("0x5425890298aed601595a70AB815c96711a31Bc65", "USD Coin")], // V C R D
    },
    KnownNetwork {
        name: "arbitrum",
        chain_id: 42_161,
        assets: &[usdc("0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USD Coin")], // T P C D
    },
    KnownNetwork {
        name: "arbitrum-sepolia",
        chain_id: 421_614,
        assets: &[usdc("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USD Coin")], // T P C D
    },
    KnownNetwork {
        name: "optimism",
        chain_id: 10,
        assets: &[usdc("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "USD Coin")], // C D
    },
    KnownNetwork {
        name: "optimism-sepolia",
        chain_id: 11_155_420,
        assets: &[usdc("0x5fd84259d66Cd46123540766Be93DFE6D43130D7", "USDC")], // C D
    },
    KnownNetwork {
        name: "adi",
        chain_id: 36_900,
        assets: &[dollar("USDC.e", "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "2")], // T P
    },
    KnownNetwork {
        name: "arc",
        chain_id: 5042,
        assets: &[usdc("0x3600000000000000000000000000000000000000", "USDC")], // P C D
    },
    KnownNetwork {
        name: "arc-testnet",
        chain_id: 5_042_002,
        assets: &[usdc("0x3600000000000000000000000000000000000000", "USDC")], // P C D
    },
    KnownNetwork {
        name: "celo",
        chain_id: 42_220,
        assets: &[
            usdc("0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC"), // T P C R D
            dollar("USDT", "0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "Tether USD", "1"), // T P D
            dollar("USAT", "0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "Tether America USD", "1"), // T P
        ],
    },
    KnownNetwork {
        name: "celo-sepolia",
        chain_id: 11_142_220,
        assets: &[usdc("0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC")], // T P R
    },
    KnownNetwork {
        name: "educhain",
        chain_id: 41_923,
        assets: &[usdc("0x12a272A581feE5577A5dFa371afEB4b2F3a8C2F8", "Bridged USDC (Stargate)")], // V
    },
    KnownNetwork {
        name: "flare",
        chain_id: 14,
        assets: &[dollar("USDT0", "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USD₮0", "1")], // T P
    },
    KnownNetwork {
        name: "hpp",
        chain_id: 190_415,
        assets: &[dollar("USDC.e", "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "2")], // T P
    },
    KnownNetwork {
        name: "hpp-sepolia",
        chain_id: 181_228,
        assets: &[dollar("USDC.e", "0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "2")], // T P
    },
    KnownNetwork {
        name: "iotex",
        chain_id: 4689,
        assets: &[usdc("0xcDf79194C6C285077A58da47641D4dBe51F63542", "Bridged USDC")], // V R
    },
    KnownNetwork {
        name: "monad",
        chain_id: 143,
        assets: &[usdc("0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC")], // T P C F D
    },
    KnownNetwork {
        name: "monad-testnet",
        chain_id: 10_143,
        assets: &[usdc("0x534b2f3A21130d7a60830c2Df862319e593943A3", "USDC")], // P C F D
    },
    KnownNetwork {
        name: "peaq",
        chain_id: 3338,
        assets: &[usdc("0xbbA60da06c2c5424f03f7434542280FCAd453d10", "USDC")], // V R
    },
    KnownNetwork {
        name: "sei",
        chain_id: 1329,
        assets: &[usdc("0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC")], // T P V C R D
    },
    KnownNetwork {
        name: "sei-testnet",
        chain_id: 1328,
        assets: &[usdc("0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC")], // T P V C R
    },
    KnownNetwork {
        name: "skale-base-sepolia",
        chain_id: 324_705_682,
        assets: &[usdc("0x2e08028E3C4c2356572E096d8EF835cD5C6030bD", "Bridged USDC (SKALE Bridge)")], // V F
    },
    KnownNetwork {
        name: "stable",
        chain_id: 988,
        assets: &[dollar("USDT0", "0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", "1")], // T P
    },
    KnownNetwork {
        name: "stable-testnet",
        chain_id: 2201,
        assets: &[dollar("USDT0", "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", "1")], // T P; one project signs as "USD₮0" here
    },
    KnownNetwork {
        name: "xdc",
        chain_id: 50,
        assets: &[usdc("0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC")], // T P C R
    },
    KnownNetwork {
        name: "xdc-apothem",
        chain_id: 51,
        assets: &[usdc("0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC")], // T P C
    },
];
