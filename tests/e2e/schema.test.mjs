/** The JSON Schema of the configuration: made of the filter's own types, and true of every example in the repository. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import Ajv from "ajv/dist/2020.js";
import { parseAllDocuments } from "yaml";
import { checkout } from "../../stage/processes.mjs";
import { pluginOf } from "./support.mjs";

const text = readFileSync(join(checkout, "envoy", "plugin.schema.json"), "utf8");
const validate = new Ajv({ allErrors: true, strict: true, formats: { uint64: true } }).compile(JSON.parse(text));

/** Every plugin configuration in a document: what has a facilitator and routes, as an object or as text. */
function* configurationsIn(value) {
  if (typeof value === "string" && value.includes("facilitator") && value.trimStart().startsWith("{")) {
    try {
      yield* configurationsIn(JSON.parse(value));
    } catch {}
  }
  if (typeof value !== "object" || value === null) return;
  if (value.facilitator && Array.isArray(value.routes)) yield value;
  else for (const inner of Object.values(value)) yield* configurationsIn(inner);
}

const documentsIn = (yaml) => parseAllDocuments(yaml.replace(/\$\{\w+\}/g, "1")).map((document) => document.toJS());

function* examples() {
  for (const file of readdirSync(join(checkout, "envoy"), { recursive: true })) {
    if (!/\.ya?ml$/.test(file)) continue;
    for (const document of documentsIn(readFileSync(join(checkout, "envoy", file), "utf8"))) {
      for (const configuration of configurationsIn(document)) yield [file, configuration];
    }
  }
  const chapters = readdirSync(join(checkout, "docs"), { recursive: true }).map((file) => `docs/${file}`);
  for (const page of [...readdirSync(checkout), ...chapters].filter((file) => file.endsWith(".md"))) {
    for (const [, yaml] of readFileSync(join(checkout, page), "utf8").matchAll(/^```yaml\n(.*?)^```/gms)) {
      for (const document of documentsIn(yaml)) {
        for (const configuration of configurationsIn(document)) yield [page, configuration];
      }
    }
  }
}

test("The schema is that of the types", () => {
  const made = execFileSync("cargo", ["run", "--quiet", "--locked", "--features", "schema", "--example", "schema"], { cwd: checkout });
  assert.equal(made.toString(), text, "run `make schema`");
});

test("Every example in the repository fits the schema", () => {
  const all = [...examples()];
  assert.ok(all.length >= 4, `${all.length} examples`);
  for (const [where, configuration] of all) assert.ok(validate(configuration), `${where}: ${JSON.stringify(validate.errors)}`);
});

test("What the filter refuses for its shape, the schema refuses", () => {
  const good = { facilitator: { cluster: "f", url: "http://f" }, ...pluginOf() };
  assert.ok(validate(good), JSON.stringify(validate.errors));
  const route = (more) => ({ ...good, routes: [{ match: { path: "/" }, ...more }] });
  for (const bad of [
    { ...good, unknown: 1 },
    { ...good, facilitator: { cluster: "f" } },
    { ...good, facilitator: { ...good.facilitator, verify: "maybe" } },
    { ...good, routes: {} },
    { ...good, unmatched: null },
    route({ price: 1 }),
    route({ price: { amount: 1000 } }),
    route({ price: "$1", settle: "later" }),
    route({ price: "$1", accepts: [{ scheme: "exact", network: "base" }] }),
    route({ price: "$1", max_timeout_seconds: "300" }),
    route({ price: "$1", max_timeout_seconds: -1 }),
    { ...good, routes: [{ price: "$1" }] },
    { ...good, payers: { deny: "0x1" } },
  ]) {
    assert.ok(!validate(bad), JSON.stringify(bad));
  }
});
