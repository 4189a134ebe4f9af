/**
 * `make run`: Envoy with the filter in front of an API of the reader's own, by `envoy/own-api.yaml`. No stage, no local chain:
 * the facilitator is the public one of the test networks.
 *
 * Usage: node stage/run.mjs --api http://HOST:PORT --pay-to 0x… [--listen 8402] [--admin 9901] [--print]
 *
 * `--print` writes the configuration to standard output in place of starting Envoy.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ENVOY, WASM } from "./envoy.mjs";
import { checkout, makeRunDirectory, startProcess, until } from "./processes.mjs";
import { dim, item, line } from "./terminal.mjs";

const USAGE = "usage: make run API=http://127.0.0.1:8000 PAY_TO=0x… (the account that is paid)";

// Where systems keep the authorities that they trust: Debian, Fedora, SUSE, Alpine.
const AUTHORITIES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/** The values of the placeholders in `envoy/own-api.yaml`. */
function valuesOf({ api, "pay-to": payTo, listen, admin }) {
  if (!api || !payTo) throw new Error(USAGE);
  if (!/^0x[0-9a-fA-F]{40}$/.test(payTo)) throw new Error(`PAY_TO: "${payTo}" is no account: 0x and 40 hexadecimal digits\n${USAGE}`);
  const url = URL.canParse(api) ? new URL(api) : null;
  if (url?.protocol !== "http:" || url.pathname !== "/") {
    throw new Error(`API: "${api}" is not http://HOST:PORT (for an API behind TLS see envoy/gateway.yaml)\n${USAGE}`);
  }
  const ca = AUTHORITIES.find(existsSync);
  if (!ca) throw new Error(`none of ${AUTHORITIES.join(", ")} is there: install ca-certificates`);
  return {
    API_HOST: url.hostname.replace(/^\[|\]$/g, ""),
    API_PORT: url.port || "80",
    PAY_TO: payTo,
    LISTEN_PORT: listen,
    ADMIN_PORT: admin,
    WASM,
    CA: ca,
  };
}

/** The configuration of Envoy: `envoy/own-api.yaml` filled in, without its heading, which speaks about the placeholders. */
function render(values) {
  const text = readFileSync(join(checkout, "envoy", "own-api.yaml"), "utf8");
  const [, ...parts] = text.split(/^(?=admin:)/m);
  return parts.join("").replace(/\$\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
}

async function run(config, { LISTEN_PORT, ADMIN_PORT, API_HOST, API_PORT }) {
  const record = makeRunDirectory("own-api", { exact: true });
  record.keep();
  const file = join(record.path, "envoy.yaml");
  writeFileSync(file, config);
  const envoy = startProcess({ name: "envoy", command: ENVOY, args: ["-c", file, "--disable-hot-restart"], run: record });
  const ready = async () => (await (await fetch(`http://127.0.0.1:${ADMIN_PORT}/ready`)).text()).startsWith("LIVE");
  await until(ready, { what: "Envoy", process: envoy, timeoutMs: 60_000 });
  item("gateway", `http://127.0.0.1:${LISTEN_PORT} ${dim(`(in front of ${API_HOST}:${API_PORT})`)}`);
  item("Envoy", `${ENVOY} -c ${file}`);
  item("log", envoy.logPath);
  line("Ask for the terms (402; they are in the body and, in base64, in PAYMENT-REQUIRED):");
  line(`   curl -i http://127.0.0.1:${LISTEN_PORT}/`);
  line(dim("Ctrl-C ends it."));
  await envoy.onEnd;
  throw new Error(`Envoy has ended; see ${envoy.logPath}`);
}

async function main() {
  const { values } = parseArgs({
    options: {
      api: { type: "string" },
      "pay-to": { type: "string" },
      listen: { type: "string", default: "8402" },
      admin: { type: "string", default: "9901" },
      print: { type: "boolean", default: false },
    },
  });
  const chosen = valuesOf(values);
  const config = render(chosen);
  if (values.print) process.stdout.write(config);
  else await run(config, chosen);
}

await main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
