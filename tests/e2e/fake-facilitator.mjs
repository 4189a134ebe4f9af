/**
 * A facilitator that does as it is told: it says yes to everything, or answers as a test has scripted. It moves
 * no money and knows no chain.
 */
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";

const payerOf = ({ payload }) => (payload.authorization ?? payload.permit2Authorization).from;

const yes = {
  verify: ({ paymentPayload }) => ({ json: { isValid: true, payer: payerOf(paymentPayload) } }),
  settle: ({ paymentPayload, paymentRequirements }) => ({
    json: {
      success: true,
      transaction: `0x${randomBytes(32).toString("hex")}`,
      network: paymentRequirements.network,
      payer: payerOf(paymentPayload),
    },
  }),
};

/**
 * Starts it on a free port of 127.0.0.1.
 *
 * @returns {Promise<FakeFacilitator>}
 *
 * @typedef {object} FakeFacilitator
 * @property {string} url
 * @property {Call[]} calls every request, oldest first
 * @property {(path?: string) => number} count calls of a path, or all about payments
 * @property {(path: string, ...answers: (Script | ((body: object) => Script | Promise<Script>))[]) => void} script the next calls of a
 *   path are answered so, in this order; those behind them with yes
 * @property {(path: string, answer: Script | ((body: object) => Script | Promise<Script>)) => void} always all calls of a path are
 *   answered so, until `reset`
 * @property {() => void} reset forgets scripts, not calls
 * @property {() => Promise<void>} stop
 *
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path
 * @property {Record<string, string>} headers
 * @property {object | null} request the decoded body
 * @property {object | null} answer the JSON it was answered with, once it was
 * @property {boolean} abandoned whether the caller went away before it had its answer
 *
 * @typedef {object} Script
 * @property {number} [status] 200
 * @property {Record<string, string>} [headers]
 * @property {unknown} [json] the body
 * @property {string | Buffer} [body] the body, where it is not to be JSON
 * @property {Promise<unknown>} [hold] the answer waits for it
 * @property {"close" | "never" | "break"} [instead] of an answer: the connection closes, nothing happens, or the
 *   answer breaks off in the middle of its body
 */
export async function startFakeFacilitator() {
  const calls = [];
  let scripts = {};
  let standing = {};

  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString("utf8");
    const path = request.url;
    const call = {
      method: request.method,
      path,
      headers: request.headers,
      request: text ? JSON.parse(text) : null,
      answer: null,
      abandoned: false,
    };
    calls.push(call);
    response.on("close", () => (call.abandoned = !response.writableFinished));

    const question = path.split("/").at(-1);
    const scripted = scripts[path]?.shift() ?? standing[path] ?? yes[question] ?? { status: 404, json: { error: path } };
    const script = typeof scripted === "function" ? await scripted(call.request) : scripted;
    await script.hold;
    if (script.instead === "never") return;
    if (script.instead === "close") return request.socket.destroy();
    const body = script.body ?? ("json" in script ? JSON.stringify(script.json) : "");
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...script.headers };
    // A header that is given as undefined is not sent.
    response.writeHead(script.status ?? 200, Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined)));
    if (script.instead === "break") {
      return response.write(body.slice(0, body.length / 2), () => request.socket.destroy());
    }
    call.answer = script.json ?? null;
    response.end(body);
  });
  server.keepAliveTimeout = 0; // Envoy keeps connections in a pool.
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    port: server.address().port,
    calls,
    count: (path) => calls.filter((call) => (path === undefined ? call.path !== "/supported" : call.path === path)).length,
    script: (path, ...answers) => (scripts[path] = answers),
    always: (path, answer) => (standing[path] = answer),
    reset: () => {
      scripts = {};
      standing = {};
    },
    stop: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}
