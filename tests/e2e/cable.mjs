/** Connections that a test can cut: a TCP proxy before each of some ports of 127.0.0.1. */
import { connect, createServer } from "node:net";

/**
 * Lays a cable to ports. It leads there until it is cut.
 *
 * @param {number[]} targets ports
 * @returns {Promise<Cable>}
 *
 * @typedef {object} Cable
 * @property {number[]} ports where its ends are, in the order of the targets
 * @property {() => void} cut breaks every connection, and refuses new ones
 * @property {() => void} silence keeps connections open, and lets nothing through: neither side hears that the other is gone
 * @property {() => void} mend lets everything through again; what was kept back in a silence goes on its way
 * @property {() => Promise<void>} stop
 */
export async function layCable(targets) {
  const pairs = new Set();
  let state = "whole";
  const flow = () => {
    for (const [one, other] of pairs) for (const socket of [one, other]) state === "silent" ? socket.pause() : socket.resume();
  };
  const join = (near, far) => {
    const pair = [near, far];
    pairs.add(pair);
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", (bytes) => to.write(bytes));
      from.on("error", () => {});
      from.on("close", () => {
        to.destroy();
        pairs.delete(pair);
      });
    }
    flow();
  };
  const servers = await Promise.all(
    targets.map(async (port) => {
      const server = createServer((near) => {
        if (state === "cut") return near.destroy();
        join(near, connect({ port, host: "127.0.0.1", noDelay: true }));
      });
      await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
      return server;
    }),
  );
  const breakAll = () => {
    for (const sockets of [...pairs]) sockets.forEach((socket) => socket.destroy());
  };
  return {
    ports: servers.map((server) => server.address().port),
    cut: () => {
      state = "cut";
      breakAll();
    },
    silence: () => {
      state = "silent";
      flow();
    },
    mend: () => {
      state = "whole";
      flow();
    },
    stop: async () => {
      breakAll();
      await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}
