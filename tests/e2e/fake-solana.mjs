/** What stands in for Solana, of which there is no node to be had here: it says in each answer that it is none. */
import { createServer } from "node:http";

const TOKEN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

/** USDC on the devnet. */
export const DEVNET_USDC = { address: "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", program: TOKEN, decimals: 6 };

/**
 * A node that holds some mints and one blockhash, and knows nothing else.
 *
 * @param {object} options
 * @param {{address: string, program: string, decimals: number}[]} [options.mints]
 * @param {string} options.blockhash base58 of 32 bytes
 * @returns {Promise<{url: string, stop: () => Promise<void>}>}
 */
export async function startFakeSolana({ mints = [DEVNET_USDC], blockhash }) {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { id, method, params } = JSON.parse(body);
    const context = { slot: 1 };
    let answer = { error: { code: -32601, message: "fake node: knows no such method" } };
    if (method === "getLatestBlockhash") {
      answer = { result: { context, value: { blockhash, lastValidBlockHeight: 150 } } };
    } else if (method === "getAccountInfo") {
      const mint = mints.find(({ address }) => address === params[0]);
      const value = mint && {
        data: [mintAccount(mint).toString("base64"), "base64"],
        executable: false,
        lamports: 1461600,
        owner: mint.program,
        rentEpoch: 0,
        space: 82,
      };
      answer = { result: { context, value: value ?? null } };
    }
    response.setHeader("content-type", "application/json");
    response.setHeader("server", "fake-solana-node");
    response.end(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${server.address().port}`, stop };
}

/** A mint as the chain keeps it: authority, supply, decimals, initialized, no freezing. */
function mintAccount({ decimals }) {
  const account = Buffer.alloc(82);
  account.writeBigUInt64LE(1_000_000_000n, 36);
  account[44] = decimals;
  account[45] = 1;
  return account;
}

/**
 * What the official facilitator is given in place of a signer: its simulation always succeeds, and it signs nothing.
 *
 * @param {string} feePayer
 * @param {Record<string, string[]>} [tables] lookup tables by their address
 */
export const fakeSigner = (feePayer, tables = {}) => ({
  getAddresses: () => [feePayer],
  simulateTransaction: async () => {},
  fetchAddressLookupTables: async () => tables,
});
