/**
 * Runs the tests of the mesh, each file in a world of its own: namespaces of network, mounts and processes, which end with it.
 *
 * Usage: node tests/mesh/run.mjs [FILE…]   (KEEP_LOGS=1 keeps each world's logs under .run/, ONLY=WORDS runs the tests with such names alone)
 */
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const checkout = dirname(dirname(here));
const isTest = (name) => name.endsWith(".test.mjs");
const named = process.argv.slice(2);
const files = named.length ? named : readdirSync(here).filter(isTest).sort().map((name) => join(here, name));

if (process.getuid() !== 0) {
  console.error("The tests of the mesh make namespaces, bridges and mounts: they need root (sudo make test-mesh).");
  process.exit(1);
}

// The world's files are in memory, and nothing of them is left behind.
const INSIDE = `
set -e
mkdir -p /run/netns
mount -t tmpfs none /run/netns
mount -t tmpfs -o size=4g none "$MESH_WORLD"
set +e
node --test --test-reporter=tap --test-timeout=600000 "--test-name-pattern=$ONLY" "$1"
code=$?
test -z "$KEPT" || cp -r "$MESH_WORLD/logs" "$KEPT"
exit $code`;

function runFile(file) {
  const name = basename(file, ".test.mjs");
  const world = mkdtempSync(join(tmpdir(), "x402-mesh-"));
  const kept = process.env.KEEP_LOGS ? join(checkout, ".run", `mesh-${name}`) : "";
  if (kept) {
    rmSync(kept, { recursive: true, force: true });
    mkdirSync(dirname(kept), { recursive: true });
  }
  const namespaces = ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"];
  return new Promise((resolve) => {
    let output = "";
    const child = spawn("unshare", [...namespaces, "sh", "-c", INSIDE, "sh", file], {
      cwd: checkout,
      env: { ...process.env, MESH_WORLD: world, KEPT: kept, ONLY: process.env.ONLY ?? "." },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => {
        output += data;
        if (process.env.MESH_VERBOSE) process.stdout.write(data);
      });
    }
    child.on("close", (code) => {
      rmSync(world, { recursive: true, force: true });
      const last = (word) => Number([...output.matchAll(new RegExp(`^# ${word} (\\d+)$`, "gm"))].at(-1)?.[1] ?? 0);
      const [passed, failed] = [last("pass"), last("fail") + last("cancelled")];
      resolve({ name, output, passed, failed: failed || (code !== 0 || passed === 0 ? 1 : 0) });
    });
  });
}

const totals = { passed: 0, failed: 0 };
for (const file of files) {
  if (!existsSync(file)) throw new Error(`${file} is not there`);
  const began = performance.now();
  const { name, output, passed, failed } = await runFile(file);
  if (failed && !process.env.MESH_VERBOSE) console.log(output);
  console.log(`${name.padEnd(24)}${passed} passed, ${failed} failed  (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  totals.passed += passed;
  totals.failed += failed;
}
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exitCode = totals.failed ? 1 : 0;
