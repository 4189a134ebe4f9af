/**
 * Hostile requests of all kinds: none of them pays, some look much like it. Each kind is a function of the seed and the
 * request's number, but for the moment at which it is sent and what honest buyers have done by then.
 */
import { createHash } from "node:crypto";
import { serializeErc6492Signature } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { createSIWxPayload, encodeSIWxHeader } from "@x402/extensions/sign-in-with-x";
import { signPermit2Payment } from "../e2e/permit2.mjs";
import { encoded, now, signPayment } from "../e2e/support.mjs";
import { nameOf } from "./buyers.mjs";
import { HEADER, HEADERS, METHODS, PATHS } from "./garbage.mjs";
import { payers } from "./gateway.mjs";
import { randomOf } from "./random.mjs";

/** Whom nobody has ever heard of but by the name that hostile clients give themselves. */
export const bystander = `0x${"5a".repeat(20)}`;

const CHAT = "/v1/chat/completions";
const JSON_TYPE = ["content-type", "application/json"];
const MIB = 1024 * 1024;

/** The longest path that fits into a head at Envoy's default limit, with room for the rest of it. */
const LONGEST_PATH = 58_000;

const MAGIC = "6492".repeat(16);
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;

/** Keys that anybody can make for nothing. */
const PENNILESS = 64;

// ---- What a kind makes its request of -----------------------------------------------------------------------------

/**
 * What a kind has at hand: deterministic randomness, terms, and what can be known of others.
 *
 * @typedef {ReturnType<typeof workbenchOf>} Workbench
 *
 * @typedef {object} Attack
 * @property {string} target
 * @property {string} [method]
 * @property {[string, string][]} [headers]
 * @property {Buffer | string} [body]
 * @property {string} [host]
 * @property {import("./lane.mjs").Shot["pause"]} [pause]
 * @property {import("./lane.mjs").Shot["hangUp"]} [hangUp] `at` is a share of all bytes here
 * @property {1 | 2} [version] of HTTP
 */

function workbenchOf({ seed, serial, entries, loot, witness, keys }) {
  const random = randomOf(seed, "hostile", serial);
  const bytes = (length) =>
    createHash("shake256", { outputLength: length }).update(`${seed}/${serial}/${random.next()}`).digest();
  const hex = (length) => bytes(length).toString("hex");
  // Where something is changed, nobody may be asked to settle it.
  const known = (changes, payment) => {
    if (Object.keys(changes).length === 0) witness.signed("penniless", payment);
    return payment;
  };
  const bench = {
    seed,
    serial,
    random,
    bytes,
    hex,
    loot,
    /** A size up to `most`, as often of one order of magnitude as of another. */
    size: (least, most) => Math.floor(least * (most / least) ** random.next()),
    stranger: () => `0x${hex(20)}`,
    victim: () => random.pick(payers).address,
    penniless: () => random.pick(keys),
    exact: () => random.pick(EXACT),
    entry: (route) => entries[route],
    path: (route) => `/${route}/junk-${serial}`,

    /** A payment that nobody signed. */
    unsigned: (route, { signature = `0x${hex(66 + random.between(0, 234))}`, ...changes } = {}) => {
      const entry = entries[route];
      const authorization = {
        from: bench.stranger(),
        to: entry.payTo,
        value: entry.amount,
        validAfter: "0",
        validBefore: String(now() + 600),
        nonce: random.hex(32),
        ...changes,
      };
      return { x402Version: 2, payload: { authorization, signature }, resource: { url: "" }, accepted: entry };
    },

    /** A payment signed by somebody without money; as it should be, unless something is changed. */
    signed: async (route, changes = {}) => {
      const authorization = { nonce: random.hex(32), ...changes };
      return known(changes, await signPayment(entries[route], { account: bench.penniless(), authorization }));
    },

    /** The same for a chat that is charged by its usage. */
    signedUpto: async (which, changes = {}) => {
      const nonce = BigInt(random.hex(32)).toString();
      return known(
        changes,
        await signPermit2Payment(entries[which], { account: bench.penniless(), authorization: { nonce, ...changes } }),
      );
    },

    /** Something that an honest buyer is about to send, or has sent; null where there is none yet. */
    foreseen: () => (loot.foreseen.length ? random.pick(loot.foreseen.slice(-8)) : null),
    spent: () => (loot.spent.length ? random.pick(loot.spent.slice(-100)) : null),
  };
  return bench;
}

const EXACT = ["after", "before", "concurrent", "confirmed", "named", "visits"];

const paying = (payment) => [[HEADER, encoded(payment)]];
const with_ = (payment, changes) => ({ ...payment, payload: { ...payment.payload, ...changes } });
const named = (payment, id) => ({ ...payment, extensions: { "payment-identifier": { info: { required: false, id } } } });
const pairsOf = (headers) => Object.entries(headers).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));

/** A purchase of this route's. */
const at = (bench, route, payment) => ({ target: bench.path(route), headers: paying(payment) });

const posted = (target, body, headers = []) => ({ method: "POST", target, headers: [JSON_TYPE, ...headers], body });

/** What chats are quoted for before the flood, so that payments for them can be made. */
export const CHATS = {
  chat: JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "for nothing" }], max_tokens: 50 }),
  stream: JSON.stringify({
    model: "fake-echo-1",
    messages: [{ role: "user", content: "for nothing" }],
    max_tokens: 50,
    stream: true,
  }),
};

/** r, s and v of a signature, changed. */
function reshaped(signature, { isHigh = false, v }) {
  const [r, s] = [signature.slice(2, 66), BigInt(`0x${signature.slice(66, 130)}`)];
  const sign = parseInt(signature.slice(130), 16);
  const flipped = (ORDER - s).toString(16).padStart(64, "0");
  const last = v ?? (isHigh ? 55 - sign : sign);
  return `0x${r}${isHigh ? flipped : signature.slice(66, 130)}${last.toString(16).padStart(2, "0")}`;
}

const wrapped = (bench, signature) =>
  serializeErc6492Signature({ address: bench.stranger(), data: `0x${bench.hex(bench.random.between(4, 200))}`, signature });

// ---- Payments that are none ---------------------------------------------------------------------------------------

/** Each a payment for a route with a fixed price, that nobody has signed. */
const UNSIGNED = {
  "66 bytes of junk and more": (bench, route) => bench.unsigned(route),
  "65 bytes of junk": (bench, route) => bench.unsigned(route, { signature: `0x${bench.hex(65)}` }),
  "kilobytes of junk": (bench, route) => bench.unsigned(route, { signature: `0x${bench.hex(bench.size(1000, 11_000))}` }),
  "no signature": (bench, route) =>
    bench.unsigned(route, { signature: bench.random.pick(["0x", "", "0x0", `0x${"00".repeat(65)}`]) }),
  "a wrapper that decodes": (bench, route) => bench.unsigned(route, { signature: wrapped(bench, `0x${bench.hex(65)}`) }),
  "a wrapper in a wrapper": (bench, route) =>
    bench.unsigned(route, { signature: wrapped(bench, wrapped(bench, `0x${bench.hex(65)}`)) }),
  "a wrapper of nothing": (bench, route) => bench.unsigned(route, { signature: wrapped(bench, "0x") }),
  "junk and the magic": (bench, route) =>
    bench.unsigned(route, { signature: `0x${bench.hex(bench.random.between(1, 300))}${MAGIC}` }),
  "a wrapper with wild offsets": (bench, route) => {
    const whole = wrapped(bench, `0x${bench.hex(65)}`);
    const place = 2 + 64 * bench.random.between(1, 4);
    return bench.unsigned(route, { signature: whole.slice(0, place) + bench.hex(32) + whole.slice(place + 64) });
  },
  "a wrapper cut short": (bench, route) => {
    const whole = wrapped(bench, `0x${bench.hex(65)}`).slice(0, -64);
    return bench.unsigned(route, { signature: `${whole.slice(0, 2 + 2 * bench.random.between(1, 200))}${MAGIC}` });
  },
  "in a victim's name": (bench, route) => bench.unsigned(route, { from: bench.victim() }),
  "in a bystander's name": (bench, route) => bench.unsigned(route, { from: bystander }),
  "valid for ever": (bench, route) =>
    bench.unsigned(route, {
      validBefore: String(bench.random.pick([2n ** 255n, 2n ** 256n - 1n, 2n ** 64n - 1n, BigInt(now()) + 10n ** 7n])),
    }),
  "expired under junk": (bench, route) => bench.unsigned(route, { validBefore: String(now() - bench.random.between(0, 1000)) }),
  "with an account nonce": (bench, route) => bench.unsigned(route, { nonce: `0x${"00".repeat(31)}${bench.hex(1)}` }),
};

/** Each the same, made of what can be known of honest payments: that they are about to be sent, or were. */
const COPIED = {
  "a nonce of the chain under junk": (bench, route) => {
    const authorization = bench.spent()?.payment.payload.authorization;
    return bench.unsigned(route, authorization && { from: authorization.from, nonce: authorization.nonce });
  },
  "a payment to come under junk": (bench, _, { payment }) =>
    with_(payment, { signature: `0x${bench.hex(66 + bench.random.between(0, 200))}` }),
  "a payment to come under a wrapper": (bench, _, { payment }) =>
    with_(payment, { signature: wrapped(bench, payment.payload.signature) }),
  "a payment to come with a high s": (_, __, { payment }) =>
    with_(payment, { signature: reshaped(payment.payload.signature, { isHigh: true }) }),
  "a payment to come with another v": (bench, _, { payment }) =>
    with_(payment, { signature: reshaped(payment.payload.signature, { v: bench.random.pick([0, 1, 26, 29, 255]) }) }),
};

/** Each a payment that is signed as it should be, by keys without money: proven, and worth nothing. */
const PENNILESS_PAYMENTS = {
  "no money": (bench, route) => bench.signed(route),
  "valid for ever, signed": (bench, route) => bench.signed(route, { validBefore: String(2n ** 255n) }),
  "expired, signed": (bench, route) => bench.signed(route, { validBefore: String(now() - 5) }),
  "not valid yet, signed": (bench, route) => bench.signed(route, { validAfter: String(now() + 500) }),
  "the wrong amount, signed": (bench, route) =>
    bench.signed(route, { value: bench.random.pick(["1", "0", String(2n ** 256n - 1n)]) }),
  "the wrong recipient, signed": (bench, route) => bench.signed(route, { to: bench.stranger() }),
  "for another's money, signed": (bench, route) => bench.signed(route, { from: bench.victim() }),
  "a high s": async (bench, route) => {
    const payment = await bench.signed(route);
    return with_(payment, { signature: reshaped(payment.payload.signature, { isHigh: true }) });
  },
  "v of 0 or 1": async (bench, route) => {
    const payment = await bench.signed(route);
    return with_(payment, {
      signature: reshaped(payment.payload.signature, { v: parseInt(payment.payload.signature.slice(130), 16) - 27 }),
    });
  },
  "for another route, signed": (bench) => bench.signed(bench.exact()),
};

const payments = (kinds) =>
  Object.fromEntries(
    Object.entries(kinds).map(([name, make]) => [
      name,
      async (bench) => {
        const foreseen = bench.foreseen();
        const isCopy = make.length > 2;
        if (isCopy && !foreseen) return at(bench, "after", bench.unsigned("after"));
        const route = bench.exact();
        const payment = await make(bench, route, foreseen);
        if (isCopy) return { ...foreseen.request, headers: [...(foreseen.request.headers ?? []), ...paying(payment)] };
        return at(bench, route, payment);
      },
    ]),
  );

// ---- Paths, bodies, connections -----------------------------------------------------------------------------------

/** A long path: `/after` or a free beginning, and one thing over and over. */
const longPath = (pieces) => (bench) => {
  const [start, piece] = [
    bench.random.pick(["", "/after/x", "/free/x", "/v1/chat/completions", "/x"]),
    bench.random.pick(pieces),
  ];
  const length = bench.size(50, LONGEST_PATH);
  return { target: `/${start}${piece.repeat(Math.ceil(length / piece.length))}`.replace(/^\/(?=\/)/, "").slice(0, LONGEST_PATH) };
};

/** A body for a model, of a certain size at most, made of something over and over. */
const longBody = (make) => (bench) => {
  const target = bench.random.pick([CHAT, bench.path("quoted")]);
  return posted(`${target}?junk-${bench.serial}`, make(bench, bench.size(1000, MIB - 1000)));
};

/** As many of something as make about so many bytes. */
const filled = (bytes, make) =>
  Array.from({ length: Math.max(1, Math.floor(bytes / (make(1000).length + 1))) }, (_, index) => make(index)).join(",");

const BODIES = {
  "dense keys": (_, size) => `{"model":"fake-echo-1",${filled(size, (index) => `"k${index}":0`)}}`,
  "the same keys": (_, size) => `{"model":"fake-echo-1",${filled(size, () => '"messages":0')}}`,
  "one prompt after the other": (_, size) => `{"model":"fake-echo-1","max_tokens":5,"prompt":[${filled(size, () => '"p"')}]}`,
  "one message after the other": (_, size) =>
    `{"model":"fake-echo-1","max_tokens":5,"messages":[${filled(size, () => '{"role":"user","content":[{"type":"text","text":"x"}]}')}]}`,
  "nested deeply": (bench, size) => {
    const open = bench.random.pick(["[", '{"a":', '{"messages":[']);
    return `{"model":"fake-echo-1","messages":${open.repeat(Math.floor(size / open.length))}`;
  },
  "long numbers": (bench, size) =>
    `{"model":"fake-echo-1","messages":[],"max_tokens":${bench.random.pick(["9", "1e", "-0.", "0"])}${"9".repeat(size)}}`,
  escapes: (bench, size) => `{"model":"${bench.random.pick(["\\u0041", "\\ud800", "\\n"]).repeat(size / 6)}"}`,
  "no text": (bench, size) => bench.bytes(size),
};

/** Ends somewhere. */
const cut = (attack, bench) => ({ ...attack, hangUp: { at: bench.random.next() } });
const inTime = (attack, bench, most) => ({ ...attack, hangUp: { ms: bench.random.between(0, most) } });

const ODD_ORIGINS = [
  "",
  "null",
  "https://app.example",
  "https://app.example.evil",
  "http://[::1",
  "*",
  "https://app.example, https://b.example",
];

/** All kinds, by name. @type {Record<string, (bench: Workbench) => Attack | Promise<Attack>>} */
const KINDS = {
  ...payments(UNSIGNED),
  ...payments(COPIED),
  ...payments(PENNILESS_PAYMENTS),

  // ---- By the token ----
  "no money, for a chat": async (bench) => posted(CHAT, CHATS.chat, paying(await bench.signedUpto("chat"))),
  "no money, for a stream, and gone before it begins": async (bench) =>
    inTime(posted(CHAT, CHATS.stream, paying(await bench.signedUpto("stream"))), bench, 120),
  "no money, for another chat": async (bench) =>
    posted(CHAT, CHATS.chat.replace("50", "49"), paying(await bench.signedUpto("chat"))),
  "junk for a chat": async (bench) => {
    const payment = await signPermit2Payment(bench.entry("chat"), {
      account: bench.penniless(),
      authorization: {
        from: bench.random.pick([bench.victim(), bench.stranger()]),
        nonce: BigInt(bench.random.hex(32)).toString(),
      },
    });
    return posted(CHAT, CHATS.chat, paying(with_(payment, { signature: `0x${bench.hex(bench.random.between(60, 300))}` })));
  },
  "a deadline at the end of time": async (bench) =>
    posted(CHAT, CHATS.chat, paying(await bench.signedUpto("chat", { deadline: String(2n ** 255n) }))),
  ...Object.fromEntries(Object.entries(BODIES).map(([name, make]) => [`a body of ${name}`, longBody(make)])),
  "a slow body": (bench) => {
    const attack = posted(
      bench.random.pick([CHAT, bench.path("quoted"), bench.path("after")]),
      BODIES["dense keys"](bench, bench.size(1000, 60_000)),
    );
    return { ...attack, pause: { at: 400 + bench.random.between(0, 400), ms: bench.random.between(50, 700) } };
  },
  "a slow body that never ends": (bench) => {
    const attack = posted(CHAT, BODIES["dense keys"](bench, 20_000));
    return { ...attack, pause: { at: 500, ms: bench.random.between(50, 700) }, hangUp: { at: 0.9 } };
  },

  // ---- What is spent, and names ----
  "a spent payment again": (bench) => {
    const { payment, request } = bench.spent() ?? {};
    if (!payment) return { target: bench.path("after") };
    return { ...request, headers: [...(request.headers ?? []), ...paying(payment)] };
  },
  "a spent payment elsewhere": (bench) => {
    const payment = bench.spent()?.payment;
    return { target: bench.path(bench.exact()), headers: payment ? paying(payment) : [] };
  },
  "a spent chat for another prompt": (bench) => {
    const payment = bench.loot.spent.findLast((one) => one.payment.payload.permit2Authorization)?.payment;
    return posted(CHAT, CHATS.chat, payment ? paying(payment) : []);
  },
  "a victim's name for a payment, under junk": (bench) =>
    at(
      bench,
      "named",
      named(bench.unsigned("named", { from: bench.victim() }), nameOf(bench.seed, bench.random.between(0, bench.loot.expected))),
    ),
  "a victim's name for a payment, signed": async (bench) =>
    at(bench, "named", named(await bench.signed("named"), nameOf(bench.seed, bench.random.between(0, bench.loot.expected)))),
  "a name that is none": async (bench) =>
    at(
      bench,
      "named",
      named(
        bench.unsigned("named"),
        bench.random.pick(["", "short", "x".repeat(5000), "a\u0000b".repeat(10), "\u202e".repeat(20), 7, { a: [] }]),
      ),
    ),

  // ---- Headers ----
  "garbage in the header": async (bench) => {
    const route = bench.exact();
    const headers = HEADERS[bench.random.pick(Object.keys(HEADERS))](await bench.signed(route), bench.random);
    return { method: bench.random.pick(METHODS), target: bench.path(route), headers: pairsOf(headers) };
  },
  "a header of tens of kilobytes": (bench) => {
    const value = encoded({ ...bench.unsigned("after"), filler: "f".repeat(bench.size(1000, 40_000)) });
    return { target: bench.path("after"), headers: [[bench.random.pick([HEADER, "x-payment", "sign-in-with-x"]), value]] };
  },
  "hundreds of headers": (bench) => {
    const count = bench.random.between(50, 95);
    return {
      target: bench.path("after"),
      headers: Array.from({ length: count }, (_, index) => [`x-filler-${index}`, "f".repeat(300)]),
    };
  },
  "many payments": (bench) => {
    const value = encoded(bench.unsigned("after"));
    return {
      target: bench.path("after"),
      headers: Array.from({ length: bench.random.between(2, 20) }, (_, index) => [
        ["payment-signature", "x-payment"][(index % 3) % 2],
        value,
      ]),
    };
  },
  "control characters within": (bench) => {
    const evil = `a\n[2026-01-01] payer="${bystander}" outcome=served\u001b[2J`;
    const payment = bench.unsigned("after");
    return at(bench, "after", { ...payment, [evil]: evil, accepted: { ...payment.accepted, [evil]: evil, scheme: evil } });
  },
  "version 1": (bench) => {
    const { payload } = bench.unsigned("before");
    return {
      target: bench.path("before"),
      headers: [["x-payment", encoded({ x402Version: 1, scheme: "exact", network: "base-sepolia", payload })]],
    };
  },
  "the filter's own headers": (bench) => ({
    target: bench.path(bench.random.pick([...EXACT, "free"])),
    headers: [
      ["x-x402-payer", bystander],
      ["X-X402_Amount", "1000"],
      ["x_x402_id", bench.hex(32)],
      ["x-x402-transaction", `0x${bench.hex(32)}`],
      ["x-x402-network", "eip155:84532"],
    ],
  }),
  "a redirect that never was": (bench) => ({
    target: bench.path(bench.random.pick([...EXACT, "free"])),
    headers: [
      ["x-envoy-original-url", `http://a.example/${bench.exact()}/x`],
      ...(bench.random.chance(0.5) ? [["x-x402-id", bench.hex(32)]] : []),
    ],
  }),
  "another path named": (bench) => ({
    target: bench.path(bench.random.pick(["free", ...EXACT])),
    headers: ["x-original-url", "x-rewrite-url", "x-forwarded-path", "x-original-uri", "x_rewrite_url"].map((name) => [
      name,
      bench.path("after"),
    ]),
  }),
  "another method named": (bench) => ({
    target: bench.path(bench.exact()),
    headers: ["x-http-method-override", "x-method", "x-http-method"].map((name) => [name, "OPTIONS"]),
  }),
  "the host of others": (bench) => ({
    target: bench.random.pick([bench.path("after"), "/.well-known/x402"]),
    host: bench.random.pick([
      "bank.example",
      "localhost:1",
      "a".repeat(250),
      "[::1]",
      "user@bank.example",
      "bank.example:99999",
      "xn--",
      "%00",
    ]),
  }),
  "the catalogue": (bench) => ({
    method: bench.random.pick(["GET", "HEAD"]),
    target: `/.well-known/x402${bench.random.pick(["", "?", "?x=1", ";x", "/"])}`,
  }),

  // ---- Preflights and sign-ins ----
  "odd preflights": (bench) => {
    const { random } = bench;
    const headers = [
      ["origin", random.pick(ODD_ORIGINS)],
      ["access-control-request-method", random.pick(["", "GET", "POST", "BREW", "GET, POST"])],
    ];
    if (random.chance(0.3)) headers.push(["access-control-request-headers", "h,".repeat(random.between(1, 5000))]);
    if (random.chance(0.2)) headers.push(["connection", "upgrade"], ["upgrade", "websocket"]);
    if (random.chance(0.2)) headers.push(["origin", "https://app.example"]);
    const body = random.chance(0.2) ? CHATS.chat : undefined;
    const target = random.pick([bench.path(bench.exact()), body ? CHAT : bench.path("quoted")]);
    return { method: "OPTIONS", target, headers, body, hangUp: { ms: 1000 } };
  },
  "an upgrade": (bench) => {
    const headers = [
      ["connection", "upgrade"],
      ["upgrade", bench.random.pick(["websocket", "h2c", "junk"])],
      ["sec-websocket-key", "anVuaw=="],
      ["sec-websocket-version", "13"],
    ];
    const route = bench.random.pick([...EXACT, "quoted"]);
    const paid = route !== "quoted" && bench.random.chance(0.5) ? paying(bench.unsigned(route)) : [];
    return {
      method: bench.random.pick(["GET", "OPTIONS", "POST"]),
      target: bench.path(route),
      headers: [...headers, ...paid],
      hangUp: { ms: 1000 },
    };
  },
  "a sign-in of junk": (bench) => {
    const text = bench.random.pick([
      () => bench.bytes(bench.size(1, 6000)).toString("base64"),
      () => encoded("[".repeat(bench.size(10, 4000))),
      () =>
        encoded({
          domain: "127.0.0.1",
          address: bench.victim(),
          uri: "http://127.0.0.1/",
          version: "1",
          chainId: "eip155:84532",
          type: "eip191",
          nonce: "12345678",
          issuedAt: new Date().toISOString(),
          signature: `0x${bench.hex(bench.random.pick([65, 66, 300]))}`,
        }),
      () => "!",
    ])();
    return {
      target: bench.path("visits"),
      headers: [["sign-in-with-x", text], ...(bench.random.chance(0.1) ? [["sign-in-with-x", text]] : [])],
    };
  },
  "a sign-in without a right": async (bench) => {
    const target =
      bench.loot.spent.findLast(({ request }) => request.target.startsWith("/visits/"))?.request.target ?? bench.path("visits");
    const uri = `http://${bench.host}${target}`;
    const { info, chain } = bench.challenge(uri);
    const account = bench.penniless();
    const proof = await createSIWxPayload({ ...info, nonce: bench.hex(8), ...chain }, account, uri);
    const changed = bench.random.chance(0.5) ? { ...proof, address: bench.victim() } : proof;
    return { target, headers: [["sign-in-with-x", encodeSIWxHeader(changed)]] };
  },

  // ---- Paths ----
  "a path of ;": longPath([";", ";a", ";a=b", "/;"]),
  "a path of escapes": longPath(["%3f", "%3b", "%2f", "%25", "%2e", "%2e%2e/", "%c3%a9", "%00", "%zz", "%23"]),
  "a path of /": longPath(["/", "//a", "/a", "/%20"]),
  "a path of dots": longPath(["/..", "/.", ".", "/../after", "/a/..", "...", "/..;/"]),
  "a path of all": longPath(["/a;b=c/../%3f/./", "/..;x/%2e//", "%3f;/.", "é/;"]),
  "a long query": (bench) => ({ target: `${bench.path(bench.exact())}?${"a=%3f&;".repeat(bench.size(10, 8000))}` }),
  "another spelling": (bench) => {
    const target = bench.random.pick(PATHS)(bench.path(bench.exact()));
    return { method: bench.random.pick(METHODS), target, headers: paying(bench.unsigned("after")) };
  },
  "an unknown method": (bench) => ({
    method: bench.random.pick(["BREW", "PROPFIND", "TRACE", "get", "OPTIONS", "M-SEARCH", "LINK", "CONNECT"]),
    target: bench.random.pick([bench.path(bench.exact()), CHAT, "*"]),
  }),

  // ---- Who goes away ----
  "gone in the middle of the request": (bench) =>
    cut(
      bench.random.chance(0.5)
        ? at(bench, "before", bench.unsigned("before"))
        : posted(CHAT, BODIES["dense keys"](bench, bench.size(1000, 100_000))),
      bench,
    ),
  "gone while it is verified": (bench) => {
    const route = bench.exact();
    return inTime(at(bench, route, bench.unsigned(route)), bench, 40);
  },
  "gone without money": async (bench) => {
    const route = bench.exact();
    return inTime(at(bench, route, await bench.signed(route)), bench, 60);
  },
  "gone with the head": (bench) => ({
    target: bench.random.pick([bench.path("after"), "/.well-known/x402"]),
    hangUp: { behindHead: true },
  }),
  "a stream that is reset": async (bench) => {
    const route = bench.exact();
    const payment = bench.random.chance(0.5) ? await bench.signed(route) : bench.unsigned(route);
    return { ...at(bench, route, payment), version: 2, hangUp: { ms: bench.random.between(0, 40) } };
  },

  // ---- And what many clients do who mean no harm ----
  "asking for terms": (bench) => ({
    target: bench.path(bench.exact()),
    headers: bench.random.chance(0.5)
      ? [
          ["accept", "text/html"],
          ["sec-fetch-dest", "document"],
        ]
      : [],
  }),
  "something free": (bench) => ({
    target: bench.path("free"),
    headers: bench.random.chance(0.3) ? paying(bench.unsigned("after")) : [],
  }),
};

/** The names of all kinds, as they are counted. */
export const kindNames = Object.keys(KINDS);

/**
 * Makes hostile requests.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {string} options.host of the gateway
 * @param {Record<string, object>} options.entries what each route asks for, by its name; `chat` and `stream` for those of CHATS
 * @param {object} options.visit the challenge that a route with sign-ins shows
 * @param {{foreseen: object[], spent: object[], expected: number}} options.loot what is known of honest buyers
 * @param {import("./witness.mjs").Witness} options.witness learns what is really signed
 * @returns {(serial: number) => Promise<{kind: string, attack: Attack}>} each kind as often as any other
 */
export function makeJunk({ seed, host, entries, visit, loot, witness }) {
  const keys = Array.from({ length: PENNILESS }, (_, index) => privateKeyToAccount(randomOf(seed, "penniless", index).hex(32)));
  return async (serial) => {
    const kind = kindNames[serial % kindNames.length];
    const bench = workbenchOf({ seed, serial, entries, loot, witness, keys });
    Object.assign(bench, {
      host,
      challenge: (uri) => ({ info: { ...visit.info, uri }, chain: visit.supportedChains[0] }),
    });
    const attack = await KINDS[kind](bench);
    const headers = [...(attack.headers ?? []), ["x-hostile", kind.replace(/[^a-z0-9]+/gi, "-")]];
    return { kind, attack: { host, ...attack, headers } };
  };
}
