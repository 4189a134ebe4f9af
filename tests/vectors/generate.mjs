/**
 * Writes the vectors beside this file: `eip712.json` (typed data, digests and signatures, good and bad), `erc6492.json`
 * (wrapped signatures, good and bad), `address.json` (EIP-55) and `channels.json` (`channels.mjs`). viem computes them,
 * published figures and the official packages check them, and every run gives the same bytes.
 *
 *   node tests/vectors/generate.mjs           writes the files
 *   node tests/vectors/generate.mjs --check   fails where a file differs from what would be written
 *
 * The keys are throwaway ones: anvil's development accounts, or the keccak of a label. All numbers are decimal
 * strings, since many of them fit in no double.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import {
  compactSignatureToSignature,
  concat,
  encodeAbiParameters,
  encodePacked,
  getAddress,
  hashDomain,
  hashStruct,
  hashTypedData,
  isAddress,
  isErc6492Signature,
  keccak256,
  numberToHex,
  pad,
  parseCompactSignature,
  parseErc6492Signature,
  recoverAddress,
  serializeErc6492Signature,
  serializeSignature,
  size,
  slice,
  toHex,
} from "viem";
import { mnemonicToAccount, privateKeyToAccount } from "viem/accounts";
import { PERMIT_TYPES, TRANSFER_TYPES } from "../eip712-types.mjs";
import { channels } from "./channels.mjs";

const check = process.argv.includes("--check");
const MNEMONIC = "test test test test test test test test test test test junk";
const N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n; // the order of secp256k1
const P = 2n ** 256n - 2n ** 32n - 977n; // the prime of its field
const MAX = 2n ** 256n - 1n;

const label = (text) => keccak256(toHex(text));
const anvil = (addressIndex) => ({ key: `anvil ${addressIndex}`, account: mnemonicToAccount(MNEMONIC, { addressIndex }) });
const labelled = (text) => ({ key: `keccak256("${text}")`, account: privateKeyToAccount(label(text)) });

const payer = anvil(1);
const other = anvil(3);
const alice = labelled("x402 vector payer alice");
const bob = labelled("x402 vector payer bob");
const PAY_TO = anvil(2).account.address;
const FACILITATOR = anvil(0).account.address;

// ---------------------------------------------------------------------------------------------- typed data

const DOMAIN_FIELDS = [
  { name: "name", type: "string" },
  { name: "version", type: "string" },
  { name: "chainId", type: "uint256" },
  { name: "verifyingContract", type: "address" },
];

/** The domain separator over exactly the fields that the domain has, in the order of EIP-712. */
const separatorOf = (domain) => {
  const EIP712Domain = DOMAIN_FIELDS.filter(({ name }) => domain[name] !== undefined);
  return hashDomain({ domain, types: { EIP712Domain } });
};

/** All numbers as decimal strings. */
const plain = (value) => {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
};

const hashes = ({ domain, types, primaryType, message }) => {
  const domainSeparator = separatorOf(domain);
  const structHash = hashStruct({ data: message, primaryType, types });
  const digest = keccak256(concat(["0x1901", domainSeparator, structHash]));
  assert.equal(digest, hashTypedData({ domain, types, primaryType, message }));
  return { domainSeparator, structHash, digest };
};

/** `0x` + r + s + v, v being 27 or 28; s is low, as RFC 6979 signers make it. */
const signed = async (digest, { account }) => {
  const signature = await account.sign({ hash: digest });
  assert.equal(size(signature), 65);
  assert.equal(await recoverAddress({ hash: digest, signature }), account.address);
  const { s, v } = split(signature);
  assert.ok(s <= N / 2n && (v === 27n || v === 28n));
  return signature;
};

const split = (signature) => ({
  r: BigInt(slice(signature, 0, 32)),
  s: BigInt(slice(signature, 32, 64)),
  v: BigInt(slice(signature, 64, 65)),
});
/** The other signature of the same signer over the same digest; its s is high where that of the first is low. */
const twin = (signature) => {
  const { r, s, v } = split(signature);
  return join(r, N - s, 55n - v);
};
const join = (r, s, v) => encodePacked(["uint256", "uint256", "uint8"], [r, s, Number(v)]);

// ----------------------------------------------------------------------------------- EIP-712's own example

const mail = async () => {
  const types = {
    Person: [
      { name: "name", type: "string" },
      { name: "wallet", type: "address" },
    ],
    Mail: [
      { name: "from", type: "Person" },
      { name: "to", type: "Person" },
      { name: "contents", type: "string" },
    ],
  };
  const domain = {
    name: "Ether Mail",
    version: "1",
    chainId: 1n,
    verifyingContract: "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
  };
  const message = {
    from: { name: "Cow", wallet: "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826" },
    to: { name: "Bob", wallet: "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB" },
    contents: "Hello, Bob!",
  };
  const encodeType = "Mail(Person from,Person to,string contents)Person(string name,address wallet)";
  const signer = labelled("cow");
  const computed = hashes({ domain, types, primaryType: "Mail", message });
  const signature = await signed(computed.digest, signer);
  // The figures that the EIP publishes.
  assert.deepEqual(
    { typeHash: label(encodeType), ...computed, signer: signer.account.address, signature },
    {
      typeHash: "0xa0cedeb2dc280ba39b857546d74f5549c3a1d7bdc2dd96bf881f76108e23dac2",
      domainSeparator: "0xf2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f",
      structHash: "0xc52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e",
      digest: "0xbe609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2",
      signer: "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826",
      signature:
        "0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d" + // r
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562" + // s
        "1c", // v = 28
    },
  );
  return {
    encodeType,
    typeHash: label(encodeType),
    domain,
    message,
    ...computed,
    signature,
    key: signer.key,
    signer: signer.account.address,
  };
};

// ---------------------------------------------------------------------------------------------- the tokens

const token = (name, version, chainId, verifyingContract) => ({
  name,
  version,
  chainId: BigInt(chainId),
  verifyingContract: getAddress(verifyingContract),
});

/**
 * Tokens whose `DOMAIN_SEPARATOR()` was read from the chain and published by projects that use them: label, domain,
 * published separator.
 */
const PUBLISHED = [
  ["USDC on Ethereum", token("USD Coin", "2", 1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"), "0x06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335"],
  ["USDC on Sepolia", token("USDC", "2", 11155111, "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"), "0xb90e5057db141a932946e64d09ccb7ffc9b00bd79fec26f698d29af0c83320a6"],
  ["USDC on OP Mainnet", token("USD Coin", "2", 10, "0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85"), "0x26d9c34bb1a1c312f69c53b2d93b8be20faafba63af2438c6811713c9b1f933f"],
  ["USDC on OP Sepolia", token("USDC", "2", 11155420, "0x5fd84259d66Cd46123540766Be93DFE6D43130D7"), "0x09d038a3e46040fc37eb01174dbbcdb7981fbd8eafd9e1a857b1c67805dfb29e"],
  ["USDC on Base", token("USD Coin", "2", 8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"), "0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"],
  ["USDC on Base Sepolia", token("USDC", "2", 84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e"), "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"],
  ["USDC on Polygon", token("USD Coin", "2", 137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"), "0xcaa2ce1a5703ccbe253a34eb3166df60a705c561b44b192061e28f2a985be2ca"],
  ["USDC on Polygon Amoy", token("USDC", "2", 80002, "0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582"), "0x5cddc98319864e897e4469bd1d13c2288c677047b54b8cca12bd342adb6be9eb"],
  ["USDC on Avalanche", token("USD Coin", "2", 43114, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E"), "0xbbea200329a938bc3438984a49cb0732e66d66d7bd59c127abacc1710e77f7b3"],
  ["USDC on Avalanche Fuji", token("USD Coin", "2", 43113, "0x5425890298aed601595a70AB815c96711a31Bc65"), "0xfe9fa105a0e9629446730e544caa6b8d05d8d4fc93451750dc50e2ddd6d374b3"],
  ["USDC on Arbitrum One", token("USD Coin", "2", 42161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831"), "0x08d11903f8419e68b1b8721bcbe2e9fc68569122a77ef18c216f10b3b5112c78"],
  ["USDC on Arbitrum Sepolia", token("USD Coin", "2", 421614, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"), "0x85944e1292d007732838d6eadfa67589b78ffcededbd4df60488d0af251308bb"],
  ["USDC on Monad", token("USDC", "2", 143, "0x754704Bc059F8C67012fEd69BC8A327a5aafb603"), "0xfe22123edc0dd4aeb912eb7948c5f0e531592c2053b3067612f427db342c93c6"],
  ["USDC on Monad testnet", token("USDC", "2", 10143, "0x534b2f3A21130d7a60830c2Df862319e593943A3"), "0xf1090f5a61ddee19528cecc447be0f91c7205fc2b34dd271fc0de87809a0a48d"],
  ["USDC on Sei", token("USDC", "2", 1329, "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392"), "0x0a19136106ae98d2c245cbbd451f3cb2bbbb1670e1ee191abacb5a5e255c0255"],
  ["USDC on Arc", token("USDC", "2", 5042, "0x3600000000000000000000000000000000000000"), "0x940506929bba468048a19b567f4f0d534714bc06604b5c3017e5d16785ccdf84"],
  ["USDC on Arc testnet", token("USDC", "2", 5042002, "0x3600000000000000000000000000000000000000"), "0x361191522483d32a83e70ae7183b4b9629442c13a78bc9921d6f707911c8c6b0"],
  ["USDC on Celo", token("USDC", "2", 42220, "0xcebA9300f2b948710d2653dD7B07f33A8B32118C"), "0xb2ce31d2838445fa765a491f550e7c78ac7280ab0f3bc9d6063a86df9c3fb578"],
  ["USDT on Celo", token("Tether USD", "1", 42220, "0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e"), "0xbcb4d62e4834b598d0eacecd84c0b397a0254e077c41cf2143e394d5701d1088"],
  ["USDT0 on X Layer (a name outside ASCII)", token("USD₮0", "1", 196, "0x779Ded0c9e1022225f8E0630b35a9b54bE713736"), "0xd591d9baf744328d9400b923cb02c9474d367d591ca1ab24d8c4068be527599d"],
];

const domains = () =>
  PUBLISHED.map(([what, domain, published]) => {
    assert.equal(separatorOf(domain), published, what);
    return { what, domain, domainSeparator: published };
  });

const known = (what) => PUBLISHED.find(([name]) => name === what)[1];

// ------------------------------------------------------------------------------------------------ EIP-3009

const TRANSFER_TYPE =
  "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";

const authorization = async (id, domain, by, fields) => {
  const message = {
    from: by.account.address,
    to: PAY_TO,
    value: 1000n,
    validAfter: 0n,
    validBefore: 1_893_456_000n,
    nonce: label(`nonce of ${id}`),
    ...fields,
  };
  const computed = hashes({ domain, types: TRANSFER_TYPES, primaryType: "TransferWithAuthorization", message });
  const signature = await signed(computed.digest, by);
  return { id, domain, message, ...computed, signature, key: by.key, signer: by.account.address };
};

/** The first authorization, by counting up the nonce, whose signature is as wanted. */
const searched = async (id, domain, by, wanted) => {
  for (let i = 1n; ; i += 1n) {
    const vector = await authorization(id, domain, by, { nonce: numberToHex(i, { size: 32 }) });
    if (wanted(split(vector.signature))) return vector;
  }
};

const eip3009 = async () => {
  assert.equal(label(TRANSFER_TYPE), "0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267"); // the EIP's
  const anyone = "0x1111111111111111111111111111111111111111";
  const vectors = [
    await authorization("base-sepolia", known("USDC on Base Sepolia"), payer, {
      validAfter: 1_790_000_000n,
      validBefore: 1_790_000_300n,
    }),
    await authorization("base", known("USDC on Base"), payer, { value: 1n }),
    await authorization("ethereum, value 0", known("USDC on Ethereum"), alice, { value: 0n }),
    await authorization("sepolia, value 2^255", known("USDC on Sepolia"), bob, { value: 2n ** 255n }),
    await authorization("polygon, value 2^256-1", known("USDC on Polygon"), payer, { value: MAX }),
    await authorization("polygon-amoy, value 2^53+1", known("USDC on Polygon Amoy"), other, { value: 2n ** 53n + 1n }),
    await authorization("avalanche, window without end", known("USDC on Avalanche"), alice, { validBefore: MAX }),
    await authorization("avalanche-fuji, empty window", known("USDC on Avalanche Fuji"), bob, {
      validAfter: 1_790_000_000n,
      validBefore: 1_790_000_000n,
    }),
    await authorization("arbitrum, window of zero", known("USDC on Arbitrum One"), payer, { validBefore: 0n }),
    await authorization("optimism, nonce of zeros", known("USDC on OP Mainnet"), alice, {
      nonce: numberToHex(0n, { size: 32 }),
    }),
    await authorization("optimism-sepolia, nonce of ones", known("USDC on OP Sepolia"), bob, {
      nonce: numberToHex(MAX, { size: 32 }),
    }),
    await authorization("arc, to the zero address", known("USDC on Arc"), other, { to: numberToHex(0n, { size: 20 }) }),
    await authorization("celo, version 1", known("USDT on Celo"), payer, { value: 10n ** 6n }),
    await authorization("x-layer, name outside ASCII", known("USDT0 on X Layer (a name outside ASCII)"), payer, {}),
    await authorization("name of four-byte characters", token("Доллар 💵", "２", 31337, anyone), alice, {}),
    await authorization("name of combining characters", token("Cafe\u0301 Dollar", "1", 31337, anyone), alice, {}),
    await authorization("name composed otherwise", token("Caf\u00e9 Dollar", "1", 31337, anyone), alice, {}),
    await authorization("empty name and version", token("", "", 31337, anyone), bob, {}),
    await authorization("name longer than a word", token("A dollar token whose name does not fit in 32 bytes", "1.0.0", 31337, anyone), bob, {}),
    await authorization("chain id that fits in no double", token("USDC", "2", 2n ** 53n + 1n, anyone), payer, {}),
    await authorization("chain id 2^64-1", token("USDC", "2", 2n ** 64n - 1n, anyone), payer, {}),
    await searched("r with a leading zero byte", known("USDC on Base Sepolia"), payer, ({ r }) => r < 2n ** 248n),
    await searched("s with a leading zero byte", known("USDC on Base Sepolia"), payer, ({ s }) => s < 2n ** 248n),
  ];
  assert.equal(new Set(vectors.map(({ id }) => id)).size, vectors.length);
  assert.equal(new Set(vectors.map(({ digest }) => digest)).size, vectors.length);
  assert.deepEqual(new Set(vectors.map(({ signature }) => split(signature).v)), new Set([27n, 28n]));
  return { encodeType: TRANSFER_TYPE, typeHash: label(TRANSFER_TYPE), vectors };
};

// -------------------------------------------------------------------------------------- what must not pass

const power = (base, exponent, modulus) => {
  let result = 1n;
  for (let b = base % modulus, e = exponent; e > 0n; e >>= 1n, b = (b * b) % modulus)
    if (e & 1n) result = (result * b) % modulus;
  return result;
};
const onCurve = (x) => power((x * x * x + 7n) % P, (P - 1n) / 2n, P) === 1n;

/** Signatures of one vector's digest; `recovers` is whom a lenient recovery takes for the signer. */
const malformed = async ({ id, digest, signature, signer }) => {
  const { r, s, v } = split(signature);
  const flipped = 55n - v;
  const stranger = async (hash, sig) => {
    const address = await recoverAddress({ hash, signature: sig });
    assert.notEqual(address, signer);
    return address;
  };
  let off = r;
  do off = (off + 1n) % N;
  while (onCurve(off));
  const compact = concat([numberToHex(r, { size: 32 }), numberToHex(s + ((v - 27n) << 255n), { size: 32 })]);
  const byAnother = await bob.account.sign({ hash: digest });
  assert.notEqual(bob.account.address, signer);
  const cases = [
    ["high_s", "the twin (r, n - s) with v flipped: the same signer, the token contract refuses it", join(r, N - s, flipped), signer],
    ["high_s_same_v", "n - s with v as it was: recovers to a stranger", join(r, N - s, v), await stranger(digest, join(r, N - s, v))],
    ["v_0_1", "v as 0 or 1 instead of 27 or 28", join(r, s, v - 27n), signer],
    ["v_flipped", "27 for 28 or 28 for 27: recovers to a stranger", join(r, s, flipped), await stranger(digest, join(r, s, flipped))],
    ["v_29", "v is 29", join(r, s, 29n), null],
    ["v_eip155", "v as in a transaction of chain id 1 (37 or 38)", join(r, s, v + 10n), signer],
    ["v_255", "v is 255", join(r, s, 255n), null],
    ["compact_eip2098", "64 bytes of EIP-2098: the parity in the top bit of s", compact, signer],
    ["r_zero", "r is 0", join(0n, s, v), null],
    ["s_zero", "s is 0", join(r, 0n, v), null],
    ["r_is_n", "r is n", join(N, s, v), null],
    ["s_is_n", "s is n", join(r, N, v), null],
    ["r_max", "r is 2^256-1, above n", join(MAX, s, v), null],
    ["s_max", "s is 2^256-1, above n", join(r, MAX, v), null],
    ["r_not_on_curve", "r is the x of no point", join(off, s, v), null],
    ["all_zero", "65 bytes of zero", join(0n, 0n, 0n), null],
    ["bytes_66", "66 bytes: one zero byte behind v", concat([signature, "0x00"]), signer],
    ["bytes_66_front", "66 bytes: one zero byte before r", concat(["0x00", signature]), null],
    ["bytes_63", "63 bytes: v and the last byte of s are missing", slice(signature, 0, 63), null],
    ["bytes_0", "no bytes", "0x", null],
    ["other_signer", "a good signature of the same digest by another key", byAnother, bob.account.address],
  ];
  assert.equal(new Set(cases.map(([wrong]) => wrong)).size, cases.length);
  assert.equal(new Set(cases.map(([, , bad]) => bad)).size, cases.length);
  for (const [wrong, , bad, recovers] of cases) {
    if (size(bad) !== 65 || wrong === "v_eip155") continue;
    const found = await recoverAddress({ hash: digest, signature: bad }).catch(() => null);
    assert.equal(found, recovers, wrong);
  }
  const expanded = serializeSignature(compactSignatureToSignature(parseCompactSignature(compact)));
  assert.equal(expanded, signature);
  return cases.map(([wrong, detail, bad, recovers]) => {
    assert.notEqual(bad, signature);
    return { of: id, wrong, detail, signature: bad, recovers };
  });
};

// ------------------------------------------------------------------------------------------------- Permit2

const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
const PROXY = { exact: "0x402085c248EeA27D92E8b30b2C58ed07f9E20001", upto: "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002" };
const PERMIT_TYPE = (witness) =>
  "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)" +
  `TokenPermissions(address token,uint256 amount)Witness(${witness})`;
const PERMIT_TYPE_OF = {
  exact: PERMIT_TYPE("address to,uint256 validAfter"),
  upto: PERMIT_TYPE("address to,address facilitator,uint256 validAfter"),
};

const permit = async (scheme, id, chainId, by, { token: asset, amount = 1000n, nonce, deadline = 1_893_456_000n, validAfter = 0n }) => {
  const domain = { name: "Permit2", chainId: BigInt(chainId), verifyingContract: PERMIT2 };
  const message = {
    permitted: { token: asset.verifyingContract, amount },
    spender: PROXY[scheme],
    nonce: nonce ?? BigInt(label(`permit2 nonce of ${id}`)),
    deadline,
    witness: { to: PAY_TO, ...(scheme === "upto" && { facilitator: FACILITATOR }), validAfter },
  };
  const types = PERMIT_TYPES[scheme];
  const computed = hashes({ domain, types, primaryType: "PermitWitnessTransferFrom", message });
  const witnessHash = hashStruct({ data: message.witness, primaryType: "Witness", types });
  const signature = await signed(computed.digest, by);
  return { id, scheme, domain, from: by.account.address, message, witnessHash, ...computed, signature, key: by.key, signer: by.account.address };
};

const permit2 = async () => {
  const sepolia = known("USDC on Base Sepolia");
  const vectors = [
    await permit("exact", "exact on base-sepolia", 84532, payer, { token: sepolia, validAfter: 1_790_000_000n, deadline: 1_790_000_300n }),
    await permit("exact", "exact on base, amount 2^256-1", 8453, alice, { token: known("USDC on Base"), amount: MAX, deadline: MAX }),
    await permit("exact", "exact on ethereum, nonce 0", 1, bob, { token: known("USDC on Ethereum"), amount: 1n, nonce: 0n }),
    await permit("exact", "exact on base-sepolia, nonce 2^256-1", 84532, payer, { token: sepolia, amount: 0n, nonce: MAX }),
    await permit("upto", "upto on base-sepolia", 84532, payer, { token: sepolia, amount: 100_000n, validAfter: 1_790_000_000n, deadline: 1_790_000_300n }),
    await permit("upto", "upto on base, amount 2^255", 8453, alice, { token: known("USDC on Base"), amount: 2n ** 255n }),
    await permit("upto", "upto on ethereum, nonce 0", 1, bob, { token: known("USDC on Ethereum"), amount: 1n, nonce: 0n, deadline: MAX }),
    await permit("upto", "upto on base-sepolia, nonce 2^256-1", 84532, other, { token: sepolia, amount: MAX, nonce: MAX }),
  ];
  const schemes = Object.fromEntries(
    Object.keys(PROXY).map((scheme) => [
      scheme,
      { spender: PROXY[scheme], encodeType: PERMIT_TYPE_OF[scheme], typeHash: label(PERMIT_TYPE_OF[scheme]) },
    ]),
  );
  return { contract: PERMIT2, schemes, vectors };
};

// ------------------------------------------------------------------------------------------------- EIP-55

const addresses = () => {
  // The test cases of the EIP.
  const cases = [
    ["all caps", "0x52908400098527886E0F7030069857D2E4169EE7"],
    ["all caps", "0x8617E340B3D01FA5F11F306F4090FD50E238070D"],
    ["all lower", "0xde709f2102306220921060314715629080e2fb77"],
    ["all lower", "0x27b1fdb04752bbc536007a920d24acb045561c26"],
    ["normal", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"],
    ["normal", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"],
    ["normal", "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB"],
    ["normal", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"],
  ];
  for (const [, address] of cases) assert.equal(getAddress(address.toLowerCase()), address);
  const swapped = (c) => (c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase());
  const wrong = [];
  for (const [, address] of cases) {
    const letters = [...address].flatMap((c, i) => (i > 1 && /[a-f]/i.test(c) ? [i] : []));
    for (const i of [letters[0], letters.at(-1)]) {
      const bad = address.slice(0, i) + swapped(address[i]) + address.slice(i + 1);
      assert.ok(!isAddress(bad, { strict: true }) && /[a-f]/.test(bad) && /[A-F]/.test(bad));
      wrong.push({ address: bad, right: address });
    }
  }
  return {
    note: "EIP-55. `checksummed`: the EIP's own test cases. `wrong`: the same with the case of one letter swapped, so that they are of mixed case and their checksum does not hold.",
    checksummed: cases.map(([kind, address]) => ({ kind, address, lower: address.toLowerCase() })),
    wrong,
  };
};

// ------------------------------------------------------------------------------------------------ ERC-6492

const wrapped = () => {
  const MAGIC = `0x${"6492".repeat(16)}`;
  const word = (value) => numberToHex(value, { size: 32 });
  const factory = pad(FACILITATOR, { size: 32 });
  const inner = concat([label("r"), label("s"), "0x1b"]);
  const usual = (parts = {}) =>
    serializeErc6492Signature({ address: FACILITATOR, data: "0xdeadbeef", signature: inner, ...parts });
  /** A wrapper by hand: the head's three words, what follows, and the magic. */
  const made = (offsets, tail = []) => concat([factory, ...offsets.map(word), ...tail, MAGIC]);
  const good = {
    usual: usual(),
    "no calldata": usual({ data: "0x" }),
    "an empty signature": usual({ signature: "0x" }),
    "nobody deploys": usual({ address: `0x${"00".repeat(20)}` }),
    "a wrapper in a wrapper": usual({ signature: usual() }),
    "1 KB of calldata": usual({ data: `0x${"5a".repeat(1024)}` }),
    "twelve bytes before the factory that are not zero": concat([`0x${"ff".repeat(12)}`, slice(usual(), 12)]),
    "the parts in the other order": made([160, 96], [word(4), pad("0xdeadbeef", { dir: "right", size: 32 }), word(2), "0xabcd"]),
    "both parts in one place": made([96, 96], [word(2), "0xabcd"]),
    "parts that overlap": made([96, 128], [word(40), word(3), "0xabcdef00abcdef00"]),
    "a part without padding": made([96, 130], [word(2), "0xabcd", word(1), "0xef"]),
    "bytes that nothing points to": made([160, 224], ["0x" + "11".repeat(64), word(1), pad("0xaa", { dir: "right", size: 32 }), word(0)]),
    "a part that ends with the magic": made([96, 128], [word(0), word(32)]),
    "a part that lies in the head": made([32, 96], [word(0)].concat(`0x${"22".repeat(32)}`)),
    "a head, and its own words as lengths": concat([word(0), word(0), word(0), MAGIC]),
  };
  const bad = {
    "the magic alone": MAGIC,
    "65 bytes with the magic": concat([slice(inner, 0, 33), MAGIC]),
    "one byte less than a head": concat([`0x${"00".repeat(63)}`, MAGIC]),
    "the magic for an offset": concat([factory, word(96), MAGIC]),
    "a plain signature with the magic": concat([inner, MAGIC]),
    "an offset to the end": made([96, 192], [word(0), word(0)]),
    "an offset beyond the end": made([96, 193], [word(0), word(0)]),
    "no room for a length": made([96, 161], [word(0), word(0)]),
    "a length one too long": made([96, 128], [word(0), word(33)]),
    "a calldata one too long": made([96, 96], [word(33)]),
    "an offset of 2^31": made([96, 2n ** 31n], [word(0)]),
    "an offset of 2^32": made([96, 2n ** 32n + 96n], [word(0)]),
    "an offset of 2^64": made([96, 2n ** 64n + 96n], [word(0)]),
    "an offset of 2^256 - 1": made([96, MAX], [word(0)]),
    "a length of 2^32": made([96, 96], [word(2n ** 32n)]),
    "a length of 2^32 - 1": made([96, 96], [word(2n ** 32n - 1n)]),
    "a length of 2^53": made([96, 96], [word(2n ** 53n)]),
    "a length of 2^256 - 1": made([96, 96], [word(MAX)]),
    "the first half of one": concat([slice(usual(), 0, 128), MAGIC]),
    "other types": concat([encodeAbiParameters([{ type: "bytes" }, { type: "bytes" }], ["0xdeadbeef", inner]), MAGIC]),
  };
  const unwrapped = {
    "a plain signature": inner,
    "no bytes": "0x",
    "half the magic": slice(MAGIC, 16),
    "a byte behind the magic": concat([usual(), "0x00"]),
    "the magic in front": concat([MAGIC, inner]),
  };
  const parse = (signature) => {
    try {
      return parseErc6492Signature(signature);
    } catch {
      return null;
    }
  };
  const vectors = (cases, holds) =>
    Object.entries(cases).map(([what, signature]) => {
      const parsed = parse(signature);
      assert.ok(holds(parsed, signature === "0x" ? false : isErc6492Signature(signature)), what);
      return { what, signature, parsed };
    });
  return {
    note: "Written by generate.mjs. `good`: what viem finds in a wrapped signature. `bad`: such as viem cannot take apart, though they end with the magic. `unwrapped`: such as do not end with it.",
    good: vectors(good, (parsed, is) => is && parsed?.address),
    bad: vectors(bad, (parsed, is) => is && parsed === null),
    unwrapped: vectors(unwrapped, (_, is) => !is),
  };
};

// ------------------------------------------------------------------------------------------------------ go

const authorizations = await eip3009();
const bad = [];
for (const id of ["base-sepolia", "polygon, value 2^256-1", "x-layer, name outside ASCII"])
  bad.push(...(await malformed(authorizations.vectors.find((vector) => vector.id === id))));

const files = {
  "eip712.json": {
    note: "Written by generate.mjs. Numbers are decimal strings, hashes and signatures are 0x-hex; `malformed` refers to `eip3009.vectors` by id, none of its signatures may be taken for the payer's, and `recovers` says whom a lenient recovery finds in it (null: nobody).",
    mail: await mail(),
    domains: domains(),
    eip3009: authorizations,
    malformed: bad,
    permit2: await permit2(),
  },
  "erc6492.json": wrapped(),
  "address.json": addresses(),
  "channels.json": await channels({ anvil, labelled, label, hashes, signed, twin, known, MAX }),
};

for (const [name, content] of Object.entries(files)) {
  const file = new URL(name, import.meta.url);
  const text = `${JSON.stringify(plain(content), null, 2)}\n`;
  if (!check) writeFileSync(file, text);
  else assert.ok(readFileSync(file, "utf8") === text, `${name} is not what generate.mjs writes`);
}
