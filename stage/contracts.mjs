/**
 * The contracts that payments by Permit2 and channels go through. No registry carries them compiled, so those of
 * `stage/contracts/`, which behave like them, are compiled when they are first needed and put where every chain has
 * the originals.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { checkout } from "./processes.mjs";

/** Uniswap's Permit2, on every chain. Payers allow it to move their tokens; it does so by their signature. */
export const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";

/** Who moves tokens through Permit2 in the scheme `exact`. */
export const EXACT_PERMIT2_PROXY = "0x402085c248EeA27D92E8b30b2C58ed07f9E20001";

/** Who moves tokens through Permit2 in the scheme `upto`. */
export const UPTO_PERMIT2_PROXY = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002";

/** Holds the money of channels (the scheme `batch-settlement`). */
export const BATCH_SETTLEMENT = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003";

/** Who brings deposits into channels by EIP-3009. */
export const ERC3009_DEPOSIT_COLLECTOR = "0x4020806089470a89826cB9fB1f4059150b550004";

/** Who brings deposits into channels by Permit2. */
export const PERMIT2_DEPOSIT_COLLECTOR = "0x4020425FAf3B746C082C2f942b4E5159887B0005";

const SOURCES = join(checkout, "stage", "contracts");
const CACHE = join(checkout, "node_modules", ".cache", "x402-stage", "contracts.json");

function hashOfSources() {
  const hash = createHash("sha256");
  const compiler = join(checkout, "node_modules", "solc", "package.json");
  const files = readdirSync(SOURCES).sort().map((name) => join(SOURCES, name));
  for (const file of [...files, compiler]) hash.update(`${file.slice(checkout.length)}\0`).update(readFileSync(file)).update("\0");
  return hash.digest("hex");
}

function cached(hash) {
  try {
    const record = JSON.parse(readFileSync(CACHE, "utf8"));
    return record.hash === hash ? record.code : null;
  } catch {
    return null;
  }
}

async function compiled(hash) {
  const { stdout } = await promisify(execFile)(process.execPath, [join(SOURCES, "compile.mjs")], { maxBuffer: 16_000_000 });
  const code = JSON.parse(stdout);
  mkdirSync(dirname(CACHE), { recursive: true });
  // Whoever reads it at this moment finds the old file or the new one, and nothing between.
  const written = `${CACHE}.${process.pid}`;
  writeFileSync(written, JSON.stringify({ hash, code }));
  renameSync(written, CACHE);
  return code;
}

/**
 * The code of the contracts; compiles them (about 2.5 s) unless that has been done since they last changed.
 *
 * @returns {Promise<Record<string, string>>} address → code, 0x…
 */
export async function contractsCode() {
  const hash = hashOfSources();
  const code = cached(hash) ?? (await compiled(hash));
  return {
    [PERMIT2]: code.Permit2,
    [EXACT_PERMIT2_PROXY]: code.ExactPermit2Proxy,
    [UPTO_PERMIT2_PROXY]: code.UptoPermit2Proxy,
    [BATCH_SETTLEMENT]: code.BatchSettlement,
    [ERC3009_DEPOSIT_COLLECTOR]: code.ERC3009DepositCollector,
    [PERMIT2_DEPOSIT_COLLECTOR]: code.Permit2DepositCollector,
  };
}
