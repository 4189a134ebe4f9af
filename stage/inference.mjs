/**
 * The API that is to be sold: a small server of the OpenAI shape. It knows nothing of payments, and that is
 * the point. Its model is `fake-echo-1`, which needs no weights: it says what it was told, and counts a token
 * for every four characters.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { readBody, sendJson, serve } from "./servers.mjs";

/** The model that GET /v1/models lists. Completions answer under whatever model name they are asked for. */
export const MODEL = "fake-echo-1";

const tokensIn = (text) => Math.ceil(text.length / 4);

function textOf(content) {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) return content.map((part) => part.text ?? "").join(" ");
  return "";
}

function complete({ messages, max_completion_tokens, max_tokens, n = 1 }) {
  const prompt = messages.map(({ content }) => textOf(content)).join("\n");
  const limit = max_completion_tokens ?? max_tokens ?? Infinity;
  const full = `You said: ${textOf(messages.at(-1)?.content)}`;
  const cut = tokensIn(full) > limit;
  const text = cut ? full.slice(0, limit * 4) : full;
  const [input, output] = [tokensIn(prompt), tokensIn(text) * n];
  return {
    texts: Array(n).fill(text),
    finishReason: cut ? "length" : "stop",
    usage: {
      prompt_tokens: input,
      completion_tokens: output,
      total_tokens: input + output,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  };
}

async function chatCompletion(request, response, id, chunkDelay) {
  let body;
  try {
    body = JSON.parse(await readBody(request));
    if (!Array.isArray(body.messages)) throw new Error("messages must be an array");
  } catch (error) {
    return sendJson(response, 400, { error: { message: error.message, type: "invalid_request_error" } });
  }
  const { texts, finishReason, usage } = complete(body);
  const created = Math.floor(Date.now() / 1000);
  const head = (object) => ({ id, object, created, model: body.model ?? MODEL });

  if (!body.stream) {
    return sendJson(response, 200, {
      ...head("chat.completion"),
      choices: texts.map((content, index) => ({
        index,
        message: { role: "assistant", content },
        finish_reason: finishReason,
      })),
      usage,
    });
  }

  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const wantsUsage = body.stream_options?.include_usage === true;
  const event = (choices) => {
    // As OpenAI does it: with include_usage every chunk has the field, and it is null in all but the last.
    const chunk = { ...head("chat.completion.chunk"), choices, ...(wantsUsage && { usage: null }) };
    response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  };
  for (const [index, text] of texts.entries()) {
    event([{ index, delta: { role: "assistant", content: "" }, finish_reason: null }]);
    for (const word of text.match(/\s*\S+/g) ?? []) {
      if (chunkDelay) await sleep(chunkDelay);
      event([{ index, delta: { content: word }, finish_reason: null }]);
    }
    event([{ index, delta: {}, finish_reason: finishReason }]);
  }
  if (wantsUsage) {
    response.write(`data: ${JSON.stringify({ ...head("chat.completion.chunk"), choices: [], usage })}\n\n`);
  }
  response.end("data: [DONE]\n\n");
}

/**
 * Starts the server.
 *
 * POST /v1/chat/completions (also `stream: true`; usage at the end with `stream_options.include_usage`),
 * GET /v1/models, GET /weather, GET /healthz, GET /fail (500). Every other request is echoed:
 * 200 `{method, path, headers}`. GET /__seen on the admin port lists what has arrived.
 *
 * @param {object} options
 * @param {number} options.port
 * @param {number} options.adminPort
 * @param {number} [options.chunkDelay] milliseconds before each word of a stream
 * @param {string} [options.host] the address that it listens on; 127.0.0.1 without it
 * @returns {Promise<Inference>}
 *
 * @typedef {object} Inference
 * @property {string} url
 * @property {number} port
 * @property {Seen[]} seen every request that arrived, oldest first
 * @property {(pathPrefix?: string) => number} count how many arrived whose raw path begins so
 * @property {Interceptor | null} intercept set it to answer requests otherwise; back to null when done
 * @property {() => Promise<void>} stop
 *
 * @typedef {object} Seen
 * @property {string} id also the `id` of a completion and the response header `x-request-number`
 * @property {string} method
 * @property {string} path raw, with the query
 * @property {[string, string][]} headers as they came: order, duplicates and all
 * @property {number} at milliseconds since the epoch
 *
 * @callback Interceptor answers the request itself, or gives false to have it answered as usual
 * @param {import("node:http").IncomingMessage} request
 * @param {import("node:http").ServerResponse} response
 * @returns {unknown}
 */
export async function startInference({ port, adminPort, chunkDelay = 0, host }) {
  const seen = [];
  const inference = {
    port,
    seen,
    intercept: null,
    count: (prefix = "") => seen.filter(({ path }) => path.startsWith(prefix)).length,
  };
  const routes = {
    "POST /v1/chat/completions": (request, response, id) => chatCompletion(request, response, id, chunkDelay),
    "GET /v1/models": (_, response) =>
      sendJson(response, 200, { object: "list", data: [{ id: MODEL, object: "model", created: 0, owned_by: "stage" }] }),
    "GET /weather": (_, response) => sendJson(response, 200, { city: "Lisbon", celsius: 21, sky: "clear" }),
    "GET /healthz": (_, response) => sendJson(response, 200, { status: "ok" }),
    "GET /fail": (_, response) => sendJson(response, 500, { error: { message: "failed, as asked" } }),
  };
  const server = await serve(port, async (request, response) => {
    const id = `request-${seen.length + 1}`;
    const raw = request.rawHeaders;
    const headers = Array.from({ length: raw.length / 2 }, (_, i) => [raw[2 * i], raw[2 * i + 1]]);
    seen.push({ id, method: request.method, path: request.url, headers, at: Date.now() });
    response.setHeader("x-request-number", id);
    if (inference.intercept && (await inference.intercept(request, response)) !== false) return;
    const route = routes[`${request.method} ${request.url.split("?")[0]}`];
    if (route) return route(request, response, id);
    await readBody(request);
    sendJson(response, 200, { method: request.method, path: request.url, headers: Object.fromEntries(headers) });
  }, host);
  const admin = await serve(adminPort, (request, response) =>
    request.url === "/__seen" ? sendJson(response, 200, seen) : sendJson(response, 404, { error: "only /__seen" }),
    host,
  );
  return Object.assign(inference, {
    url: server.url,
    stop: () => Promise.all([server.stop(), admin.stop()]),
  });
}
