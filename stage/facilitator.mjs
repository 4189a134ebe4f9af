/**
 * The official x402 facilitator behind HTTP: it verifies payments and settles them on the stage's chain.
 * Nothing about money is decided here; this is transport, an account to pay the gas from, and a memory of the
 * calls for tests.
 */
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/facilitator";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { UptoEvmScheme } from "@x402/evm/upto/facilitator";
import { createWalletClient, http, publicActions } from "viem";
import { authorizerAccount, facilitatorAccount } from "./accounts.mjs";
import { BASE_SEPOLIA, chainAt } from "./chain.mjs";
import { readBody, sendJson, serve } from "./servers.mjs";

function signerFor(rpcUrl, as) {
  const client = createWalletClient({
    account: facilitatorAccount,
    chain: chainAt(rpcUrl, as),
    transport: http(rpcUrl),
    pollingInterval: 10,
    cacheTime: 0,
  }).extend(publicActions);
  // One at a time: two settlements sent side by side would be given the same account nonce.
  let turn = Promise.resolve();
  const inTurn = (send) => (args) => {
    const sent = turn.then(() => send(args));
    turn = sent.catch(() => {});
    return sent;
  };
  return toFacilitatorEvmSigner({
    address: facilitatorAccount.address,
    readContract: (args) => client.readContract(args),
    verifyTypedData: (args) => client.verifyTypedData(args),
    getCode: (args) => client.getCode(args),
    waitForTransactionReceipt: (args) => client.waitForTransactionReceipt(args),
    writeContract: inTurn((args) => client.writeContract(args)),
    sendTransaction: inTurn((args) => client.sendTransaction(args)),
  });
}

/**
 * Starts the facilitator: POST /verify, POST /settle, GET /supported, and GET /calls with what it was asked.
 *
 * @param {object} options
 * @param {number} options.port on 127.0.0.1
 * @param {string} options.rpcUrl the chain to settle on
 * @param {{key: string}[]} [options.extensions] of the protocol, that it has
 * @param {typeof BASE_SEPOLIA} [options.as] what the chain is taken for
 * @returns {Promise<Facilitator>}
 *
 * @typedef {object} Facilitator
 * @property {string} url
 * @property {number} port
 * @property {Call[]} calls every call of /verify, /settle and /supported, oldest first
 * @property {(path?: string) => number} count how many calls of a path (`/settle`), or of all, there were
 * @property {() => Promise<void>} stop
 *
 * @typedef {object} Call
 * @property {string} path
 * @property {object | null} request the decoded body
 * @property {Record<string, string>} headers of the request
 * @property {number | null} status of the answer; null while there is none
 * @property {object | null} answer
 * @property {number} at milliseconds since the epoch
 * @property {number | null} ms how long the answer took
 */
export async function startFacilitator({ port, rpcUrl, extensions = [], as = BASE_SEPOLIA }) {
  const signer = signerFor(rpcUrl, as);
  const facilitator = new x402Facilitator()
    // It says that it settles on Base, too, so that there is something to choose from. Nobody pays there.
    .register([...new Set([as.network, "eip155:8453"])], new ExactEvmScheme(signer))
    .register(as.network, new UptoEvmScheme(signer))
    .register(as.network, new BatchSettlementEvmScheme(signer, authorizerAccount))
    .registerV1(as.v1, new ExactEvmSchemeV1(signer));
  for (const extension of extensions) facilitator.registerExtension(extension);
  const operations = {
    "POST /verify": (body) => facilitator.verify(body.paymentPayload, body.paymentRequirements),
    "POST /settle": (body) => facilitator.settle(body.paymentPayload, body.paymentRequirements),
    "GET /supported": () => facilitator.getSupported(),
  };
  const calls = [];
  const counts = () => calls.reduce((sums, { path }) => ({ ...sums, [path]: (sums[path] ?? 0) + 1 }), {});

  const server = await serve(port, async (request, response) => {
    const path = request.url;
    if (request.method === "GET" && path === "/calls") return sendJson(response, 200, { counts: counts(), calls });
    const operation = operations[`${request.method} ${path}`];
    if (!operation) return sendJson(response, 404, { error: `${request.method} ${path} is not served here` });

    const call = { path, request: null, headers: request.headers, status: null, answer: null, at: Date.now(), ms: null };
    calls.push(call);
    const started = performance.now();
    const finish = (status, answer) => {
      Object.assign(call, { status, answer, ms: performance.now() - started });
      sendJson(response, status, answer);
    };
    const text = await readBody(request);
    try {
      call.request = text ? JSON.parse(text) : null;
    } catch (error) {
      return finish(400, { error: `the body is not JSON: ${error.message}` });
    }
    if (request.method === "POST" && !(call.request?.paymentPayload && call.request?.paymentRequirements)) {
      return finish(400, { error: "paymentPayload and paymentRequirements are required" });
    }
    try {
      finish(200, await operation(call.request));
    } catch (error) {
      finish(500, { error: error.message });
    }
  });
  return {
    ...server,
    port,
    calls,
    count: (path) => calls.filter((call) => path === undefined || call.path === path).length,
  };
}
