/**
 * A lane: one connection of HTTP/1.1 that is kept, and one request after the other on it, to the byte as it is given. Whoever
 * sends a hundred thousand has no time for a connection each; where a request hangs up, or the gateway closes, the next one
 * gets a new connection.
 */
import { connect } from "node:net";

/** Longer than this nobody waits for an answer. Generous, for a busy machine makes many wait. */
const BOUND_MS = 60_000;

/** Characters of a body that are kept. */
const KEPT = 64 * 1024;

/**
 * @typedef {object} Shot a request, and how it is sent
 * @property {Buffer} bytes all of it
 * @property {boolean} [isHead] whether its answer has no body whatever the answer's head says
 * @property {{at: number, ms: number}} [pause] after so many bytes, for so many milliseconds
 * @property {{at: number} | {ms: number} | {behindHead: true}} [hangUp] after so many bytes of the request, so many
 *   milliseconds after all of it, or once the head of the answer is there
 *
 * @typedef {object} Reply
 * @property {number | null} status null where no head came
 * @property {Record<string, string>} headers names in lower case; of several the last
 * @property {string} text the beginning of the body
 * @property {"whole" | "broken" | "hung up" | "unanswered"} end
 * @property {number} ms how long it took
 */

/** Takes an answer apart as it arrives. */
function readerOf(isHead) {
  const reply = { status: null, headers: {}, text: "" };
  let [buffer, rest, isChunked, isOver] = [Buffer.alloc(0), Infinity, false, false];

  const readHead = () => {
    const end = buffer.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const [first, ...lines] = buffer.subarray(0, end).toString("latin1").split("\r\n");
    buffer = buffer.subarray(end + 4);
    const status = Number(first.split(" ")[1]);
    if (status < 200) return readHead();
    const pairs = lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]);
    Object.assign(reply, { status, headers: Object.fromEntries(pairs) });
    isChunked = reply.headers["transfer-encoding"] === "chunked";
    const length = reply.headers["content-length"];
    if (isHead || status === 204 || status === 304) [rest, isChunked] = [0, false];
    else if (length !== undefined) rest = Number(length);
    return true;
  };
  const keep = (bytes) => {
    if (reply.text.length < KEPT) reply.text += bytes.toString("utf8");
  };
  const readChunks = () => {
    for (;;) {
      const end = buffer.indexOf("\r\n");
      if (end < 0) return;
      const size = parseInt(buffer.subarray(0, end).toString("latin1"), 16);
      if (buffer.length < end + 2 + size + 2) return;
      keep(buffer.subarray(end + 2, end + 2 + size));
      buffer = buffer.subarray(end + 2 + size + 2);
      if (size === 0) return void (isOver = true);
    }
  };
  return {
    reply,
    /** Takes in what came; whether the answer is whole. */
    take: (bytes) => {
      buffer = buffer.length ? Buffer.concat([buffer, bytes]) : bytes;
      if (reply.status === null && !readHead()) return false;
      if (isChunked) readChunks();
      else {
        keep(buffer);
        rest -= buffer.length;
        buffer = Buffer.alloc(0);
        isOver = rest <= 0;
      }
      return isOver;
    },
  };
}

/**
 * Opens a lane.
 *
 * @param {number} port of the gateway
 * @returns {{ask: (shot: Shot) => Promise<Reply>, close: () => void}} `ask` never rejects; one request at a time
 */
export function openLane(port) {
  let socket = null;

  const open = () => {
    const own = connect({ port, host: "127.0.0.1", noDelay: true });
    // Envoy may refuse a request before it has read all of it, and reset the connection then.
    own.on("error", () => {});
    own.on("close", () => socket === own && (socket = null));
    return own;
  };

  const attempt = ({ bytes, isHead, pause, hangUp = {} }) =>
    new Promise((resolve) => {
      const [started, reader, isUsed] = [performance.now(), readerOf(isHead), socket !== null];
      const own = (socket ??= open());
      const timers = [];
      let isOver = false;
      const finish = (end) => {
        if (isOver) return;
        isOver = true;
        timers.forEach(clearTimeout);
        own.off("data", onData).off("close", onClose);
        if (end !== "whole" || reader.reply.headers.connection === "close") {
          own.destroy();
          if (socket === own) socket = null;
        }
        resolve({ ...reader.reply, end, ms: performance.now() - started, isUsed });
      };
      const onData = (chunk) => {
        if (reader.take(chunk)) finish("whole");
        else if (hangUp.behindHead && reader.reply.status !== null) finish("hung up");
      };
      const onClose = () => finish("broken");
      own.on("data", onData).on("close", onClose);
      timers.push(setTimeout(finish, BOUND_MS, "unanswered"));

      const end = Math.min(hangUp.at ?? bytes.length, bytes.length);
      const sent = () => {
        if (hangUp.at !== undefined) finish("hung up");
        else if (hangUp.ms !== undefined) timers.push(setTimeout(finish, hangUp.ms, "hung up"));
      };
      if (!pause || pause.at >= end) return own.write(bytes.subarray(0, end), sent);
      own.write(bytes.subarray(0, pause.at));
      timers.push(setTimeout(() => own.destroyed || own.write(bytes.subarray(pause.at, end), sent), pause.ms));
    });

  return {
    ask: async (shot) => {
      const reply = await attempt(shot);
      // Both sides may close a connection that is kept; what was sent at that moment has not arrived.
      const isStale = reply.isUsed && reply.end === "broken" && reply.status === null;
      return isStale ? attempt(shot) : reply;
    },
    close: () => socket?.destroy(),
  };
}

/**
 * The bytes of a request.
 *
 * @param {object} request
 * @param {string} [request.method]
 * @param {string} request.target raw
 * @param {string} request.host
 * @param {[string, string][]} [request.headers] Latin-1
 * @param {Buffer | string} [request.body] sent with its length
 */
export function bytesOf({ method = "GET", target, host, headers = [], body }) {
  const payload = body === undefined ? Buffer.alloc(0) : Buffer.from(body);
  const lines = [
    `${method} ${target} HTTP/1.1`,
    `host: ${host}`,
    ...headers.map(([name, value]) => `${name}: ${value}`),
    ...(body === undefined ? [] : [`content-length: ${payload.length}`]),
  ];
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), payload]);
}
