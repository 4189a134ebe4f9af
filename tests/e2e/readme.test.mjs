/**
 * The README's configuration examples: each goes live in a real Envoy as it stands there.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parse } from "yaml";
import { openRooms } from "./support.mjs";
import { startStage } from "../../stage/stage.mjs";

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const examples = [...readme.matchAll(/^```yaml\n(.*?)^```/gms)].map(([, text]) => parse(text)).filter((example) => example.facilitator);

const rooms = await openRooms();

test("the README has examples of a whole configuration", () => assert.ok(examples.length >= 2));

for (const [index, plugin] of examples.entries()) {
  test(`example ${index + 1} goes live, and its first route asks for payment`, async () => {
    const stage = await startStage({ rooms, plugin, allowOnHeadersStopIteration: true });
    try {
      const [{ match }] = plugin.routes;
      const path = match.path.replace(/\{.*\}/, "x");
      const models = Object.keys(plugin.routes[0].price?.models ?? {});
      const body = models.length ? JSON.stringify({ model: models[0], messages: [] }) : undefined;
      const response = await fetch(`${stage.url}${path}`, { method: match.methods?.[0] ?? "GET", body });
      const host = match.hosts?.[0];
      // fetch cannot choose the host, so a route with hosts does not match here.
      assert.equal(response.status, host ? 200 : 402);
    } finally {
      await stage.stop();
    }
  });
}
