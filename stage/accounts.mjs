/**
 * The ten accounts that anvil gives money to at the start, derived from the development mnemonic that every
 * EVM tool knows. Their keys are public: never send them anything of worth.
 */
import { pbkdf2Sync } from "node:crypto";
import { HDKey, hdKeyToAccount } from "viem/accounts";

const MNEMONIC = "test test test test test test test test test test test junk";

// BIP-39's seed by Node's own PBKDF2: viem's, in JavaScript, takes 20 times as long.
const root = HDKey.fromMasterSeed(pbkdf2Sync(MNEMONIC, "mnemonic", 2048, 64, "sha512"));

/** viem LocalAccounts 0 to 9, at m/44'/60'/0'/0/n. */
export const accounts = Array.from({ length: 10 }, (_, addressIndex) => hdKeyToAccount(root, { addressIndex }));

/** Sends the settlements and pays their gas. */
export const facilitatorAccount = accounts[0];

/** Pays for requests; holds USDC. */
export const payerAccount = accounts[1];

/** Is paid. Its address stands in `envoy/demo.yaml`. */
export const payTo = accounts[2].address;

/** Signs claims and refunds of channels for gates without a key of their own. It sends no transactions. */
export const authorizerAccount = accounts[4];

/** Owns the USDC contract and mints. Not the facilitator's account, whose nonces are the facilitator's business. */
export const minterAccount = accounts[9];
