/**
 * Ports that two checkouts on one machine, or two runs of one checkout, do not fight over.
 *
 * The search begins at a place derived from the checkout's path, so that `make up` finds the same ports again
 * and the URLs in one's shell history keep working. A block is claimed by listening on its last port for as
 * long as it is used: the claim needs no lock file and goes away with the process, however that ends.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:net";
import { realpathSync } from "node:fs";
import { checkout } from "./processes.mjs";

// Between the ports that services like to have by default and the ephemeral range (Linux: from 32768).
const FIRST_PORT = 20_000;
const BLOCK_SIZE = 10;
const BLOCKS = 1_200;
const HOST = "127.0.0.1";

const NAMES = ["gateway", "gatewayAdmin", "chain", "facilitator", "inference", "inferenceAdmin", "spare1", "spare2", "spare3"];

function listen(port) {
  return new Promise((resolve) => {
    const server = createServer((socket) => socket.destroy());
    server.unref();
    server.once("error", () => resolve(null));
    server.listen({ port, host: HOST, exclusive: true }, () => resolve(server));
  });
}

const close = (server) => new Promise((resolve) => server.close(resolve));

/**
 * Claims a block of ports on 127.0.0.1 that nobody uses, and holds it against other callers of this function.
 *
 * @returns {Promise<{gateway: number, gatewayAdmin: number, chain: number, facilitator: number,
 *   inference: number, inferenceAdmin: number, spare1: number, spare2: number, spare3: number,
 *   release: () => Promise<void>}>} TCP port numbers; nothing listens on the `spare` ones, which makes them
 *   good addresses for a service that is down. `release` gives the block back.
 */
export async function claimPorts() {
  const hash = createHash("sha256").update(realpathSync(checkout)).digest().readUInt32BE(0);
  for (let i = 0; i < BLOCKS; i++) {
    const base = FIRST_PORT + ((hash + i) % BLOCKS) * BLOCK_SIZE;
    const claim = await listen(base + BLOCK_SIZE - 1);
    if (!claim) continue;
    const probes = await Promise.all(NAMES.map((_, offset) => listen(base + offset)));
    await Promise.all(probes.filter(Boolean).map(close));
    if (probes.every(Boolean)) {
      const ports = Object.fromEntries(NAMES.map((name, offset) => [name, base + offset]));
      return { ...ports, release: () => close(claim) };
    }
    await close(claim);
  }
  throw new Error(`no block of ${BLOCK_SIZE} free ports between ${FIRST_PORT} and ${FIRST_PORT + BLOCKS * BLOCK_SIZE}`);
}
