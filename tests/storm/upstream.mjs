/** The upstream's moods: it answers, takes its time, streams, fails, or breaks off. Each answer has a mark of its own. */
import { setTimeout as sleep } from "node:timers/promises";
import { readBody, sendJson } from "../../stage/servers.mjs";
import { MARK, tagOf } from "./books.mjs";
import { randomOf } from "./random.mjs";

const CHUNK = "x".repeat(2_000);

async function stream(response, answer, random, { breaksOff }) {
  response.writeHead(200, { "content-type": "text/plain" });
  response.write(JSON.stringify(answer));
  for (let rest = random.between(2, 8); rest > 0; rest--) {
    await sleep(random.between(1, 60));
    response.write(CHUNK);
  }
  if (breaksOff) response.socket?.destroy();
  else response.end();
}

/** @type {Record<string, {weight: number, act: Function}>} */
const MOODS = {
  "plain": { weight: 10, act: (response, answer) => sendJson(response, 200, answer) },
  "streaming": { weight: 3, act: (response, answer, random) => stream(response, answer, random, { breaksOff: false }) },
  "slow": {
    weight: 2,
    act: async (response, answer, random) => {
      await sleep(random.between(100, 1_200));
      sendJson(response, 200, answer);
    },
  },
  "failing": {
    weight: 3,
    act: (response, _, random) => sendJson(response, random.pick([500, 502, 503, 404, 429]), { error: "a mood" }),
  },
  "failing slowly": {
    weight: 1,
    act: async (response) => {
      await sleep(400);
      sendJson(response, 500, { error: "a slow mood" });
    },
  },
  "reset before the head": { weight: 2, act: (response) => response.socket.destroy() },
  "reset in the body": {
    weight: 1,
    act: (response, answer, random) => stream(response, answer, random, { breaksOff: true }),
  },
};

const choice = Object.entries(MOODS).map(([name, mood]) => ({ name, ...mood }));

/** The names of all moods, as they are counted. */
export const moodNames = Object.keys(MOODS);

/**
 * Makes the interceptor that answers priced requests (see stage/inference.mjs).
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {import("./books.mjs").Books} options.books
 * @param {(path: string) => boolean} options.isPriced
 * @returns {{intercept: import("../../stage/inference.mjs").Interceptor, calm: () => void}} after `calm` it just answers
 */
export function moodyUpstream({ seed, books, isPriced }) {
  let serial = 0;
  let isCalm = false;
  const times = new Map();

  const intercept = async (request, response) => {
    // Whoever sends garbage says so, and what it sends must never come here.
    const { "x-garbage": garbage, "x-x402-payer": payer, "x-x402-amount": amount } = request.headers;
    const target = `${request.method} ${request.url}`;
    if (garbage) books.violate(`garbage reached the upstream: ${garbage}: ${target}`);
    if (!isPriced(request.url)) return false;
    if (!payer) books.violate(`reached the upstream unpaid: ${target}`);
    response.on("error", () => {});

    const tag = tagOf(request.url);
    const time = (times.get(tag) ?? 0) + 1;
    times.set(tag, time);
    const random = randomOf(seed, "upstream", tag, time);
    const mood = isCalm ? choice[0] : random.draw(choice);
    const mark = `mark-${++serial}`;
    books.count("upstream", mood.name);
    books.note(tag, `upstream: ${mood.name}, ${mark}`);
    books.give(mark, { tag, payer, amount });
    response.setHeader(MARK, mark);
    response.setHeader("x-storm-mood", mood.name);
    await readBody(request).catch(() => {});
    await mood.act(response, { tag, mark }, random);
    return true;
  };
  return { intercept, calm: () => (isCalm = true) };
}
