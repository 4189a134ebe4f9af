/** What the stage's HTTP servers have in common. */
import { createServer } from "node:http";

const HOST = "127.0.0.1";

/**
 * Starts an HTTP server.
 *
 * @param {number} port
 * @param {(request: import("node:http").IncomingMessage, response: import("node:http").ServerResponse) => unknown} handle
 *   may be async; what it throws becomes a 500
 * @param {string} [host] the address that it listens on; 127.0.0.1 without it
 * @returns {Promise<{url: string, stop: () => Promise<void>}>} `stop` cuts connections that are still open
 */
export async function serve(port, handle, host = HOST) {
  const server = createServer(async (request, response) => {
    try {
      await handle(request, response);
    } catch (error) {
      if (response.headersSent) response.destroy(error);
      else sendJson(response, 500, { error: error.message });
    }
  });
  // Envoy keeps connections in a pool. Closing them first would race with its next request on one of them.
  server.keepAliveTimeout = 0;
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return {
    url: `http://${host}:${port}`,
    stop: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

/**
 * @param {import("node:http").IncomingMessage} request
 * @returns {Promise<string>} the whole body, as UTF-8
 */
export async function readBody(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

/**
 * Answers with JSON; bigints become decimal strings.
 *
 * @param {import("node:http").ServerResponse} response
 * @param {number} status
 * @param {unknown} value
 */
export function sendJson(response, status, value) {
  const body = JSON.stringify(value, (_, v) => (typeof v === "bigint" ? v.toString() : v));
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(body);
}
