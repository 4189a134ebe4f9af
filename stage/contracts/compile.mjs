/**
 * Compiles the contracts beside this file and writes `{name: deployed code}` as JSON to standard output. A process of
 * its own: the compiler is nine megabytes of WebAssembly and busy for two seconds.
 */
import { readdirSync, readFileSync } from "node:fs";
import solc from "solc";

const here = new URL("./", import.meta.url);
const names = readdirSync(here).filter((name) => name.endsWith(".sol"));
const sources = names.map((name) => [name, { content: readFileSync(new URL(name, here), "utf8") }]);
const input = {
  language: "Solidity",
  sources: Object.fromEntries(sources),
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 1000 },
    outputSelection: { "*": { "*": ["evm.deployedBytecode.object"] } },
  },
};
const { contracts = {}, errors = [] } = JSON.parse(solc.compile(JSON.stringify(input)));
if (errors.length) {
  process.stderr.write(errors.map(({ formattedMessage }) => formattedMessage).join("\n"));
  process.exit(1);
}
const code = Object.values(contracts)
  .flatMap(Object.entries)
  .map(([name, { evm }]) => [name, evm.deployedBytecode.object])
  .filter(([, object]) => object !== "")
  .map(([name, object]) => [name, `0x${object}`]);
process.stdout.write(JSON.stringify(Object.fromEntries(code)));
