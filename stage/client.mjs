/**
 * The official x402 client, with a window on what it does: every request it sends and everything it signs.
 */
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { payerAccount } from "./accounts.mjs";

const decoded = (decode, header) => (header ? decode(header) : null);

/**
 * Makes a client that pays for what it fetches.
 *
 * @param {object} [options]
 * @param {import("viem").LocalAccount} [options.account] who pays; the stage's payer without it
 * @param {(version: number, entries: object[]) => object} [options.select] chooses among the entries on offer; the
 *   official client's own choice, the first that it can pay, without it
 * @returns {{fetch: typeof fetch, exchanges: Exchange[], signatures: Signature[]}} `fetch` pays where it is
 *   asked to (up to the one dollar that the official client allows); the lists grow as it goes
 *
 * @typedef {object} Exchange one request on the wire and its response
 * @property {string} method
 * @property {string} url
 * @property {Headers} sent
 * @property {number} status
 * @property {Headers} received
 * @property {object | null} terms the decoded PAYMENT-REQUIRED
 * @property {object | null} receipt the decoded PAYMENT-RESPONSE
 * @property {number} ms from sending to the response's headers
 *
 * @typedef {object} Signature one signing of EIP-712 typed data
 * @property {object} domain
 * @property {string} primaryType
 * @property {object} message
 * @property {string} signature 0x…
 * @property {number} ms how long the signing took
 */
export function makePayer({ account = payerAccount, select } = {}) {
  const exchanges = [];
  const signatures = [];
  const watched = async (input, init) => {
    const request = new Request(input, init);
    const started = performance.now();
    const response = await fetch(request);
    exchanges.push({
      method: request.method,
      url: request.url,
      sent: request.headers,
      status: response.status,
      received: response.headers,
      terms: decoded(decodePaymentRequiredHeader, response.headers.get("payment-required")),
      receipt: decoded(decodePaymentResponseHeader, response.headers.get("payment-response")),
      ms: performance.now() - started,
    });
    return response;
  };
  const signer = {
    address: account.address,
    signTypedData: async (typedData) => {
      const started = performance.now();
      const signature = await account.signTypedData(typedData);
      const { domain, primaryType, message } = typedData;
      signatures.push({ domain, primaryType, message, signature, ms: performance.now() - started });
      return signature;
    },
  };
  const client = registerExactEvmScheme(new x402Client(select), { signer });
  client.register("eip155:*", new UptoEvmScheme(signer));
  return { fetch: wrapFetchWithPayment(watched, client), exchanges, signatures };
}
