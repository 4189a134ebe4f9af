// Runs every test and prints one summary. `make test` installs and builds what it needs.
import { spawn } from 'node:child_process'

const TARGET = 'wasm32-unknown-unknown'

/** The suites: a command each, and how to read the counts from what it prints. */
const SUITES = [
  {
    name: 'lints',
    command: ['make', '--no-print-directory', 'lint', 'size'],
    count: (_, code) => ({ passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 }),
  },
  { name: 'native', command: ['cargo', 'test', '--quiet', '--locked'], count: countCargo },
  {
    name: 'in wasm',
    // Not --quiet: cargo passes it on to the runner, which does not know it.
    command: ['cargo', 'test', '--locked', '--target', TARGET, '--no-default-features', '--features', 'libsecp256k1,solana,cdp,channels,bundles,optimistic', '--test', 'core'],
    count: countCargo,
  },
  {
    name: 'fuzzed',
    command: ['cargo', 'run', '--quiet', '--locked', '--manifest-path', 'fuzz/Cargo.toml', '--', 'bounded', '--rounds', '3'],
    count: output => countLine('fuzz', output),
  },
  {
    name: 'growth',
    command: [
      ...['cargo', 'run', '--quiet', '--locked', '--manifest-path', 'tests/growth/Cargo.toml', '--'],
      ...[`target/${TARGET}/release/x402_proxy_wasm.wasm`, '--corpus', 'fuzz/corpus'],
    ],
    count: output => countLine('growth', output),
  },
  { name: 'in Envoy', command: ['node', '--test', '--test-reporter=tap', 'tests/e2e/'], count: countTap },
  {
    name: 'on etcd',
    // Tests of the single proxy once more, with its ledger in etcd.
    command: ['env', 'LEDGER=etcd', 'node', '--test', '--test-reporter=tap', ...['attacks', 'paying', 'again', 'upto', 'chain'].map(name => `tests/e2e/${name}.test.mjs`)],
    count: countTap,
  },
]

/** Adds up the lines `test result: ok. 3 passed; 0 failed; …` of cargo and of wasm-bindgen's runner. */
function countCargo(output) {
  const results = [...output.matchAll(/test result: \S+ (\d+) passed; (\d+) failed/g)]
  return { passed: sum(results.map(r => +r[1])), failed: sum(results.map(r => +r[2])) }
}

/** Reads the line `fuzz result: 12 passed; 0 failed; …` and its like. */
function countLine(what, output) {
  const [, passed = 0, failed = 0] = output.match(new RegExp(`^${what} result: (\\d+) passed; (\\d+) failed`, 'm')) ?? []
  return { passed: +passed, failed: +failed }
}

/** Reads the closing lines `# pass 3` and `# fail 0` of node's test runner. */
function countTap(output) {
  const last = word => +([...output.matchAll(new RegExp(`^# ${word} (\\d+)$`, 'gm'))].at(-1)?.[1] ?? 0)
  return { passed: last('pass'), failed: last('fail') + last('cancelled') }
}

const sum = numbers => numbers.reduce((a, b) => a + b, 0)

/** Runs a command; gives its exit code and all that it printed. */
function run([program, ...args]) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (output += data))
    child.on('error', reject)
    child.on('close', code => resolve({ code, output }))
  })
}

const wanted = process.argv.slice(2)
const suites = SUITES.filter(suite => wanted.length === 0 || wanted.includes(suite.name))
const totals = { passed: 0, failed: 0 }
for (const { name, command, count } of suites) {
  const start = performance.now()
  const { code, output } = await run(command)
  const { passed, failed } = count(output, code)
  // A suite that ends badly without a failed test, or runs none, has failed all the same.
  const failures = failed || (code !== 0 || passed === 0 ? 1 : 0)
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  if (failures > 0) console.log(output)
  console.log(`${name.padEnd(10)}${passed} passed, ${failures} failed  (${seconds} s)`)
  totals.passed += passed
  totals.failed += failures
}
console.log(`${totals.passed} passed, ${totals.failed} failed`)
process.exitCode = totals.failed === 0 ? 0 : 1
