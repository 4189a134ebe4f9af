/** A facilitator that hands every question on to the official one, and does to single answers what a test has scripted. */
import { startFakeFacilitator } from "./fake-facilitator.mjs";

/** The URL by which all proxies of a fleet know their facilitator, whichever relay their clusters lead to. */
export const FACILITATOR_URL = "http://facilitator.example.com";

/**
 * Starts a relay.
 *
 * @param {{url: string}} official
 * @returns {Promise<import("./fake-facilitator.mjs").FakeFacilitator & Relay>}
 *
 * @typedef {object} Relay
 * @property {(path: string) => (body: object | null) => Promise<object>} forward asks the official one; gives what to answer
 * @property {(path: string) => void} lose the next question of a path is asked, and its answer lost
 * @property {(path: string, until: Promise<unknown>) => void} delay the next question of a path is asked, and its answer waits
 * @property {boolean} remembers whether it says again what it said to the settlement of the same payment
 */
export async function startRelay(official) {
  const relay = await startFakeFacilitator();
  const said = new Map();
  const forward = (path) => async (body) => {
    const name = `${path} ${JSON.stringify(body?.paymentPayload.payload)}`;
    if (relay.remembers && said.has(name)) return said.get(name);
    const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(official.url + path, options ?? {});
    const answer = { status: response.status, json: await response.json() };
    if (path === "/settle" && !said.has(name)) said.set(name, answer);
    return answer;
  };
  for (const path of ["/supported", "/verify", "/settle"]) relay.always(path, forward(path));
  return Object.assign(relay, {
    remembers: false,
    forward,
    lose: (path) =>
      relay.script(path, async (body) => {
        await forward(path)(body);
        return { instead: "close" };
      }),
    delay: (path, until) => relay.script(path, async (body) => ({ ...(await forward(path)(body)), hold: until })),
  });
}
