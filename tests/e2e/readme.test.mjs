/**
 * The README's configuration examples: each goes live in a real Envoy as it stands there.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parse } from "yaml";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { eventually, openRooms } from "./support.mjs";
import { startStage } from "../../stage/stage.mjs";

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const examples = [...readme.matchAll(/^```yaml\n(.*?)^```/gms)].map(([, text]) => parse(text)).filter((example) => example.facilitator);

const rooms = await openRooms();
const fake = await startFakeFacilitator();
rooms.atEnd(fake.stop);
// One that settles whatever the examples name.
const extra = { facilitatorAddress: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", feePayer: "4grnnLTN5ehuHguSUwtNYnYTwTGHn1rtfTsQrDB7PoLP" };
const kinds = ["exact", "upto"].flatMap((scheme) =>
  ["eip155:*", "solana:*", "hedera:*"].map((network) => ({ x402Version: 2, scheme, network, extra })),
);
fake.always("/supported", { json: { kinds } });

test("the README has examples of a whole configuration", () => assert.ok(examples.length >= 2));

for (const [index, plugin] of examples.entries()) {
  test(`example ${index + 1} goes live, and its first route asks for payment`, async () => {
    const stage = await startStage({ rooms, plugin, facilitator: fake.url, allowOnHeadersStopIteration: true });
    try {
      const [{ match }] = plugin.routes;
      const path = match.path.replace(/\{.*\}/, "x");
      const models = Object.keys(plugin.routes[0].price?.models ?? {});
      const body = models.length ? JSON.stringify({ model: models[0], messages: [] }) : undefined;
      const status = async () => (await fetch(`${stage.url}${path}`, { method: match.methods?.[0] ?? "GET", body })).status;
      // Some entries wait for the facilitator's word.
      await eventually(async () => (await status()) !== 503, "the route can be sold");
      // fetch cannot choose the host, so a route with hosts does not match here.
      assert.equal(await status(), match.hosts?.[0] ? 200 : 402);
    } finally {
      await stage.stop();
    }
  });
}
