/** One request over a connection of its own, which may be given up at any moment, and whatever came back until then. */
import { connect as connectHttp2 } from "node:http2";
import { request as requestHttp1 } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** Longer than this nobody waits for an answer: the filter's own bounds are far below. */
export const BOUND_MS = 15_000;

/**
 * @typedef {object} Reply
 * @property {number | null} status null where no head came
 * @property {Record<string, string>} headers names in lower case
 * @property {string} text what came of the body
 * @property {"whole" | "broken" | "hung up" | "unanswered"} end how it ended: by itself, cut by somebody else, given up,
 *   or beyond the bound
 * @property {number} ms how long it took
 */

function sendBody(stream, body, slowly) {
  if (!slowly) return stream.end(body);
  stream.write(body.slice(0, body.length / 2));
  setTimeout(() => stream.destroyed || stream.end(body.slice(body.length / 2)), slowly);
}

function overHttp1({ port, method, path, headers, body, slowly }, on) {
  const request = requestHttp1({ host: "127.0.0.1", port, method, path, headers, agent: false });
  request.on("response", (response) => {
    on.head(response.statusCode, response.headers);
    response.on("data", on.data);
    response.on("close", () => on.end(response.complete));
    response.on("error", () => {});
  });
  request.on("error", () => on.end(false));
  request.on("close", () => on.end(false));
  sendBody(request, body, slowly);
  return () => request.destroy();
}

function overHttp2({ port, method, path, headers, body, slowly }, on) {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  const stream = session.request({ ":method": method, ":path": path, ...headers });
  let isWhole = false;
  session.on("error", () => on.end(false));
  stream.on("response", ({ ":status": status, ...received }) => on.head(status, received));
  stream.on("data", on.data);
  stream.on("error", () => {});
  stream.on("end", () => (isWhole = true));
  stream.on("close", () => (on.end(isWhole && stream.rstCode === 0), session.destroy()));
  sendBody(stream, body, slowly);
  // The stream is reset, and the connection ends behind it.
  return () => (stream.close(8), session.close());
}

/**
 * Sends a request and gives whatever comes of it. It never rejects.
 *
 * @param {object} request
 * @param {number} request.port of the gateway
 * @param {string} request.path
 * @param {string} [request.method]
 * @param {Record<string, string>} [request.headers]
 * @param {string} [request.body]
 * @param {number} [request.slowly] milliseconds between the halves of the body
 * @param {1 | 2} [request.version] of HTTP
 * @param {{beforeHead: number} | {behindHead: number}} [request.hangUp] give up so many milliseconds after the start, if
 *   no head has come by then, or after the head
 * @returns {Promise<Reply>}
 */
export async function ask({ hangUp, version = 1, method = "GET", headers = {}, ...request }) {
  const started = performance.now();
  const reply = { status: null, headers: {}, text: "", end: "broken", ms: 0 };
  let over;
  const ended = new Promise((resolve) => (over = resolve));
  const timers = [];
  const on = {
    head: (status, received) => {
      Object.assign(reply, { status, headers: received });
      if (hangUp && "behindHead" in hangUp) giveUpIn(hangUp.behindHead, "hung up");
    },
    data: (chunk) => (reply.text += chunk.toString("utf8")),
    end: (isWhole) => over(isWhole ? "whole" : "broken"),
  };
  const giveUpIn = (ms, end) => timers.push(setTimeout(() => (over(end), giveUp()), ms));
  const giveUp = (version === 2 ? overHttp2 : overHttp1)({ method, headers, ...request }, on);
  giveUpIn(BOUND_MS, "unanswered");
  if (hangUp && "beforeHead" in hangUp) {
    timers.push(setTimeout(() => reply.status === null && (over("hung up"), giveUp()), hangUp.beforeHead));
  }
  reply.end = await ended;
  timers.forEach(clearTimeout);
  // What had arrived already is still read, so that a head that came at the last moment counts.
  if (reply.end === "hung up") await sleep(0);
  reply.ms = performance.now() - started;
  return reply;
}
