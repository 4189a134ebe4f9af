/**
 * The official x402 client, with a window on what it does: every request it sends and everything it signs.
 */
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";
import { BatchSettlementEvmScheme, InMemoryClientChannelStorage } from "@x402/evm/batch-settlement/client";
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
 * @param {object} [options.channels] lets it pay by channels, with these options of the official scheme (`salt`,
 *   `voucherSigner`, `depositStrategy`, `storage`, …); without `storage` what it knows of its channels is kept in memory
 * @param {object} [options.signer] more of what the official client may ask its signer for: `readContract`, …
 * @param {typeof fetch} [options.send] sends what is asked, in place of `fetch`
 * @returns {Payer} `fetch` pays where it is asked to (up to the one dollar that the official client allows); the lists
 *   grow as it goes
 *
 * @typedef {object} Payer
 * @property {typeof fetch} fetch
 * @property {typeof fetch} watched sends as it is told, without paying, and adds to `exchanges`
 * @property {Exchange[]} exchanges
 * @property {Signature[]} signatures
 * @property {object | null} channels the official scheme `batch-settlement` of this client
 * @property {object | null} storage what the client knows of its channels, by `get(id)`, `set(id, record)`, `delete(id)`
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
export function makePayer({ account = payerAccount, select, channels, signer: more, send = fetch } = {}) {
  const exchanges = [];
  const signatures = [];
  const watched = async (input, init) => {
    const request = new Request(input, init);
    const started = performance.now();
    const response = await send(request);
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
    ...more,
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
  const storage = channels ? (channels.storage ?? new InMemoryClientChannelStorage()) : null;
  const scheme = channels ? new BatchSettlementEvmScheme(signer, { ...channels, storage }) : null;
  if (scheme) client.register("eip155:*", scheme);
  return { fetch: wrapFetchWithPayment(watched, client), watched, exchanges, signatures, channels: scheme, storage };
}
