/**
 * The stage without Envoy: chain, facilitator and upstream, and the configuration of an Envoy in front of them, written to a
 * file. For an Envoy that something else runs, such as a container (`envoy/compose.yaml`).
 *
 * Usage: node stage/backends.mjs --listen ADDRESS:PORT --write FILE
 */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { renderBootstrap } from "./envoy.mjs";
import { startBackends } from "./stage.mjs";
import { item } from "./terminal.mjs";

const { values } = parseArgs({ options: { listen: { type: "string" }, write: { type: "string" } } });
const [address, port] = values.listen?.split(/:(?=\d+$)/) ?? [];
if (!port || !values.write) throw new Error("usage: node stage/backends.mjs --listen ADDRESS:PORT --write FILE");

const backends = await startBackends({ label: "backends", chunkDelay: 30 });
const bootstrap = renderBootstrap({
  port: Number(port),
  adminPort: backends.ports.gatewayAdmin,
  apiPort: backends.inference.port,
  facilitatorPort: backends.facilitator.port,
  // In Envoy's own image it is not root who writes, and to the container's output it may.
  accessLog: "/dev/stdout",
  edit: ({ static_resources: { listeners } }) => {
    listeners[0].address.socket_address.address = address;
  },
});
mkdirSync(dirname(values.write), { recursive: true });
// At once: whoever waits for the file finds all of it.
writeFileSync(`${values.write}.part`, bootstrap);
renameSync(`${values.write}.part`, values.write);
item("Envoy", `envoy -c ${values.write}`);

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => backends.stop().then(() => process.exit(0)));
