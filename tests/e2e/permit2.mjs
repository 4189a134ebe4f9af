/** Payments by Permit2, signed by hand so that any part of them can be wrong. */
import { randomBytes } from "node:crypto";
import { facilitatorAccount, payerAccount } from "../../stage/accounts.mjs";
import { CHAIN_ID } from "../../stage/chain.mjs";
import { EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY } from "../../stage/contracts.mjs";
import { PERMIT_TYPES } from "../eip712-types.mjs";
import { NETWORK, now, payTo, USDC } from "./support.mjs";

const SCHEMES = {
  exact: { spender: EXACT_PERMIT2_PROXY, types: PERMIT_TYPES.exact },
  upto: { spender: UPTO_PERMIT2_PROXY, types: PERMIT_TYPES.upto },
};

/**
 * An entry of `accepts` that is paid by Permit2, as the official server offers it.
 *
 * @param {"exact" | "upto"} scheme
 * @param {string} amount atomic units of USDC
 */
export const permit2Entry = (scheme, amount) => ({
  scheme,
  network: NETWORK,
  amount,
  asset: USDC,
  payTo,
  maxTimeoutSeconds: 300,
  extra: {
    name: "USDC",
    version: "2",
    assetTransferMethod: "permit2",
    ...(scheme === "upto" && { facilitatorAddress: facilitatorAccount.address }),
  },
});

/**
 * Signs a payment by hand, in the shape in which the official client sends it.
 *
 * @param {object} entry of `accepts`, `exact` or `upto`
 * @param {object} [changes]
 * @param {import("viem").LocalAccount} [changes.account] who signs
 * @param {object} [changes.authorization] fields in place of the honest ones; they are signed
 * @param {object} [changes.permitted] likewise
 * @param {object} [changes.witness] likewise
 * @param {object} [changes.domain] fields of the EIP-712 domain in place of the honest ones
 * @param {object} [changes.resource]
 */
export async function signPermit2Payment(
  entry,
  { account = payerAccount, authorization = {}, permitted = {}, witness = {}, domain = {}, resource } = {},
) {
  const { spender, types } = SCHEMES[entry.scheme];
  const facilitator = entry.extra.facilitatorAddress;
  const message = {
    from: account.address,
    permitted: { token: entry.asset, amount: entry.amount, ...permitted },
    spender,
    nonce: BigInt(`0x${randomBytes(32).toString("hex")}`).toString(),
    deadline: String(now() + entry.maxTimeoutSeconds),
    witness: { to: entry.payTo, ...(entry.scheme === "upto" && { facilitator }), validAfter: "0", ...witness },
    ...authorization,
  };
  const signature = await account.signTypedData({
    domain: { name: "Permit2", chainId: CHAIN_ID, verifyingContract: PERMIT2, ...domain },
    types,
    primaryType: "PermitWitnessTransferFrom",
    message,
  });
  return { x402Version: 2, payload: { signature, permit2Authorization: message }, resource, accepted: entry };
}
