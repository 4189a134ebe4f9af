//! What a client may make longer, and in which ways. Each case is one way, from a few bytes to as many as Envoy takes by
//! default: heads of 60 KiB, bodies of a mebibyte.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::channels;
use crate::host::{Failure, NOW};
use crate::request::Request;

/// Bytes of a head that are a client's to fill.
const HEAD: usize = 58_000;
/// Bytes of a body, as Envoy takes it.
pub const BODY: usize = 1 << 20;
/// How much smaller the bodies are by which growth is seen, under a limit that is as much smaller: instructions take long
/// to count.
pub const SMALLER: usize = 4;
/// Of a payment header that is read at all.
const PAYMENT: usize = 32 * 1024;
/// Of a sign-in that is read at all.
const SIGN_IN: usize = 8 * 1024;
/// Of a URL that is sold.
const URL: usize = 8 * 1024 - 100;
/// Of a path that is read in several ways.
const PLAYFUL: usize = 2 * 1024;

/// Instructions that the longest request of a kind may take: about a quarter more than the worst that is known. What those
/// take in V8 stands in `benches/RESULTS.md`.
fn most(kind: &str) -> u64 {
    let millions = match kind.trim_end_matches(", fuzzed") {
        "path" => 46,
        "path read in several ways" => 3,
        "authority" => 1,
        "number of headers" => 40,
        "length of a header" => 15,
        "URL, unpaid" => 26,
        "payment header" => 92,
        "sign-in" => 14,
        // A quarter of the longest is looked at.
        "body" => 172 / 4,
        _ => 0,
    };
    millions * 1_000_000
}

/// A way to make a request longer.
pub struct Case {
    /// What grows.
    pub kind: &'static str,
    /// How.
    pub name: String,
    /// A request with so much of it.
    pub request: Box<dyn Fn(usize) -> Request>,
    /// The most of it by which growth is seen.
    pub longest: usize,
    /// The most of it that there can be.
    pub full: usize,
    /// Instructions that the longest may take.
    pub most: u64,
}

/// The configuration: routes of every kind, and bodies of so many bytes at most.
pub fn plugin(body: usize) -> Value {
    let exact = json!({"scheme": "exact", "network": "base-sepolia", "asset": "USDC"});
    let upto = json!({"scheme": "upto", "network": "base-sepolia", "asset": "USDC"});
    let batch = json!({"scheme": "batch-settlement", "network": "base-sepolia", "asset": "USDC"});
    let hedera = json!({"scheme": "exact", "network": "hedera:mainnet", "pay_to": "0.0.4567", "extra": {"memo": "order"},
        "asset": {"address": "0.0.456858", "decimals": 6, "usd_pegged": true}});
    let solana = json!({"scheme": "exact", "network": "solana", "asset": "USDC", "pay_to": "CKPKJWNdJEqa81x7CkZ14BVPiY6y16Sxs7owznqtWYp5"});
    let tokens = |usage: Value| {
        json!({"usage": usage, "max_output_tokens": 4096, "max_body_bytes": body, "models": {
            "gpt-4o": {"input": "$2.50", "output": "$10"}, "llama-*-*b": {"input": "$0.20", "output": "$0.20"}, "*mini*": {"input": "$1", "output": "$2"}}})
    };
    let priced = |path: &str, accepts: Value| json!({"match": {"path": path}, "price": "$0.001", "description": "Weather data", "accepts": accepts});
    let by_tokens =
        |path: &str, usage: Value| json!({"match": {"path": path}, "price": tokens(usage), "accepts": [exact, upto]});
    let pointers =
        json!({"model": "/a/b/model", "max_output_tokens": "/limit", "choices": "/c/3", "input_tokens": "/i"});
    let mut routes = vec![
        priced("/weather", json!([exact])),
        priced("/many", json!([exact, hedera, solana])),
        priced("/channel", json!([batch])),
        priced("/channels/{*rest}", json!([exact, batch, upto])),
        priced("/any/{*rest}", json!([exact])),
        by_tokens("/v1/chat/completions", json!("openai")),
        by_tokens("/v1/messages", json!("anthropic")),
        by_tokens("/pointers", pointers),
        priced("/hedera", json!([hedera])),
        priced("/solana", json!([solana])),
        json!({"match": {"hosts": ["*.example.org", "x.example.net"], "path": "/hosted/{id}/{name}"}, "price": "$1", "accepts": [exact]}),
        json!({"match": {"path": "/members/{*rest}"}, "price": "$1", "accepts": [exact],
            "extensions": {"sign_in_with_x": {"lasts": "3600s"}, "payment_identifier": "optional"}}),
        json!({"match": {"path": "/free/{*rest}"}, "free": true}),
        json!({"match": {"path": "/{a}/{b}/{c}/free"}, "free": true}),
    ];
    routes.extend(
        (0..100).map(|index| json!({"match": {"path": format!("/things-{}/{index}/{{id}}", index % 7)}, "free": true})),
    );
    json!({
        "facilitator": {"cluster": "facilitator", "url": "http://127.0.0.1:4021", "verify": "remote"},
        "defaults": {"pay_to": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"},
        "page": {},
        "routes": routes,
    })
}

/// What the facilitator says that it settles.
pub fn supported() -> Value {
    json!({"kinds": [
        {"x402Version": 2, "scheme": "exact", "network": "eip155:84532"},
        {"x402Version": 2, "scheme": "batch-settlement", "network": "eip155:84532", "extra": {"receiverAuthorizer": channels::AUTHORIZER}},
        {"x402Version": 2, "scheme": "upto", "network": "eip155:84532", "extra": {"facilitatorAddress": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}},
        {"x402Version": 2, "scheme": "exact", "network": "hedera:mainnet", "extra": {"feePayer": "0.0.9"}},
        {"x402Version": 2, "scheme": "exact", "network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "extra": {"feePayer": "CKPKJWNdJEqa81x7CkZ14BVPiY6y16Sxs7owznqtWYp5"}},
    ]})
}

/// So many bytes of a pattern, over and over.
fn fill(pattern: &str, size: usize) -> String {
    pattern.repeat(size / pattern.len())
}

/// So many bytes of these pieces, in an order that nothing can guess.
fn mix(pieces: &[&str], size: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut mixed = String::with_capacity(size + 100);
    while mixed.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let piece = usize::try_from(state >> 33).expect("a number of 31 bits") % pieces.len();
        mixed.push_str(pieces[piece]);
    }
    mixed
}

/// Every case that somebody has thought of.
pub fn all() -> Vec<Case> {
    [paths(), authorities(), headers(), urls(), payments(), sign_ins(), bodies()].into_iter().flatten().collect()
}

/// What nobody has thought of: the inputs that fuzzing found to reach the most code, one after the other and over and over,
/// each by itself and with the next.
pub fn found(corpus: &Path) -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for (number, path) in inputs(corpus, "route")?.into_iter().enumerate() {
        // Behind the choice of a table, a method and an authority.
        let path = path.splitn(3, |byte| *byte == b'\n').nth(2).unwrap_or_default().to_vec();
        for (prefix, longest) in [("/", HEAD), ("/free/", HEAD), ("/weather", PLAYFUL)] {
            let path = path.clone();
            let request = move |size| Request::get([prefix.as_bytes(), &again(&path, b"", size)].concat());
            cases.push(case("path, fuzzed", format!("{prefix}, input {number}"), longest, request));
        }
    }
    for (number, body) in inputs(corpus, "inference")?.into_iter().enumerate() {
        let body = body.get(1..).unwrap_or_default().to_vec();
        let places: [(&str, &str, &str); 4] = [
            ("/v1/chat/completions", r#"{"model":"gpt-4o","messages":["#, "0]}"),
            ("/v1/chat/completions", r#"{"model":"gpt-4o","x":{"y":["#, "0]}}"),
            ("/v1/chat/completions", r#"{"model":"gpt-4o","#, "\"x\":0}"),
            ("/pointers", r#"{"a":{"b":["#, "0]}}"),
        ];
        for (path, before, behind) in places {
            // Inside an object stand the fields of one.
            let is_inside = before.ends_with(',');
            let piece = if is_inside { inside(&body).to_vec() } else { body.clone() };
            let request = move |size: usize| {
                let size = size - before.len() - behind.len();
                Request::post(path, [before.as_bytes(), &again(&piece, b",", size), behind.as_bytes()].concat())
            };
            cases.push(body_case("body, fuzzed", format!("{path}: {before}, input {number}"), request));
        }
    }
    for (number, json) in inputs(corpus, "payment")?.into_iter().enumerate() {
        for (path, before) in [
            ("/weather", "{\"x402Version\":2,\"x\":["),
            ("/hedera", "{\"x402Version\":2,\"extensions\":{\"x\":["),
            ("/weather", "{"),
        ] {
            let piece = if before == "{" { inside(&json).to_vec() } else { json.clone() };
            let request = move |size: usize| {
                let json = [before.as_bytes(), &again(&piece, b",", size * 3 / 4), b"0"].concat();
                Request::get(path).with("payment-signature", STANDARD.encode(json))
            };
            cases.push(case("payment header, fuzzed", format!("{path}: {before}, input {number}"), PAYMENT, request));
        }
    }
    for (number, json) in inputs(corpus, "sign_in")?.into_iter().enumerate() {
        let piece = inside(json.get(1..).unwrap_or_default()).to_vec();
        let request = move |size: usize| {
            Request::get("/members/x")
                .with("sign-in-with-x", STANDARD.encode([b"{", &again(&piece, b",", size * 3 / 4)[..], b"}"].concat()))
        };
        cases.push(case("sign-in, fuzzed", format!("input {number}"), SIGN_IN, request));
    }
    for (number, text) in inputs(corpus, "texts")?.into_iter().enumerate() {
        for name in ["accept", "content-type", "content-encoding", "origin", ":authority"] {
            let text = text.clone();
            let request = move |size| Request::post("/v1/chat/completions", "{}").with(name, again(&text, b"", size));
            cases.push(case("length of a header, fuzzed", format!("{name}, input {number}"), HEAD, request));
        }
    }
    Ok(cases)
}

/// The inputs of a fuzz target, in the order of their names, and behind each it and the next in one.
fn inputs(corpus: &Path, target: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let mut files: Vec<_> = std::fs::read_dir(corpus.join(target))?.collect::<Result<_, _>>()?;
    files.sort_by_key(|file| file.file_name());
    let inputs = files.iter().map(|file| std::fs::read(file.path())).collect::<Result<Vec<_>, _>>()?;
    let pairs = inputs.windows(2).map(|pair| pair.concat());
    Ok(inputs.iter().cloned().chain(pairs).filter(|input| !input.is_empty()).collect())
}

/// An object without its braces.
fn inside(json: &[u8]) -> &[u8] {
    let json = json.trim_ascii();
    json.strip_prefix(b"{").unwrap_or(json).strip_suffix(b"}").unwrap_or(json)
}

/// So many bytes of a piece over and over, with this behind each.
fn again(piece: &[u8], separator: &[u8], size: usize) -> Vec<u8> {
    let piece = [piece, separator].concat();
    let times = size / piece.len().max(1);
    let mut bytes = piece.repeat(times + 1);
    // One more or less of what is short makes no difference, and half of it could be something else.
    bytes.truncate(if times < 16 { size } else { times * piece.len() });
    bytes
}

fn body_case(kind: &'static str, name: String, request: impl Fn(usize) -> Request + 'static) -> Case {
    Case { full: BODY, ..case(kind, name, BODY / SMALLER, request) }
}

fn case(kind: &'static str, name: String, longest: usize, request: impl Fn(usize) -> Request + 'static) -> Case {
    Case { kind, name, request: Box::new(request), longest, full: longest, most: most(kind) }
}

const ALPHABETS: &[&str] = &[
    ";",
    "%3f",
    "%3b",
    "%23",
    ";/",
    "/;",
    "/;a=b",
    ".",
    "..",
    "/..",
    "/.",
    "/",
    "a",
    "a/",
    "A/",
    "aA",
    "%41",
    "%20",
    " ",
    "a ;",
    "%25",
    "%2e",
    "%2f",
    "a.;",
    "%c3%a4",
    "\u{e4}",
    "\u{c4}",
    "\u{130}",
    "\u{17f}",
    "%",
    "%u002e",
    "\\",
    "#",
    "a;.",
    "/a;b",
    "%25%32%65",
    "things-1/",
    "\u{1f600}",
    "\t",
    "%00",
    "\u{2003}",
];

fn paths() -> Vec<Case> {
    let mut cases = Vec::new();
    for prefix in ["/", "/weather", "/free/", "/any/", "/things-1/1/"] {
        for alphabet in ALPHABETS {
            for tail in ["", "%2f", "/../weather"] {
                let request = move |size| Request::get(format!("{prefix}{}{tail}", fill(alphabet, size)));
                cases.push(case("path", format!("{prefix}({alphabet:?})*{tail}"), HEAD, request));
            }
            let request = move |size| Request::get(format!("{prefix}{}", fill(alphabet, size)));
            cases.push(case("path read in several ways", format!("{prefix}({alphabet:?})*"), PLAYFUL - 20, request));
        }
        let request = move |size| Request::get(format!("{prefix}{}", mix(ALPHABETS, size)));
        cases.push(case("path", format!("{prefix}, all mixed"), HEAD, request));
        for (name, pieces) in [
            ("harmless", &["a", "B", "%41", ";", "/", "%3f", "\u{e4}", "\u{c4}"][..]),
            ("plain", &["a/", "B/", "\u{e4}", "/"]),
            ("escapes", &["%25", "%2", "e", "%c3%a4", "3", "5"]),
            ("dots and parameters", &["/", ".", ";", "a"]),
        ] {
            let request = move |size| Request::get(format!("{prefix}{}", mix(pieces, size)));
            cases.push(case("path", format!("{prefix}, {name}, mixed"), HEAD, request));
            cases.push(case("path read in several ways", format!("{prefix}, {name}, mixed"), PLAYFUL - 20, request));
        }
    }
    for segments in [";a", "..", "a;b", "", "."] {
        let request = move |size| Request::get(format!("/x/{}", [segments, "y"].repeat(size / 2).join("/")));
        cases.push(case("path read in several ways", format!("segments {segments:?} and y"), 60, request));
    }
    cases.push(case("path", "query".to_owned(), HEAD, |size| Request::get(format!("/free/x?{}", fill("%3b;&", size)))));
    cases
}

fn authorities() -> Vec<Case> {
    let one = |alphabet: &'static str| {
        [
            ("/weather", HEAD),
            ("/free/x", HEAD),
            ("/hosted/a/b", HEAD),
            ("/hosted/a/b", 250),
            ("/hosted/;a/b;/../c", 250),
        ]
        .map(|(path, longest)| {
            let request = move |size| Request::new("GET", &format!("{}.example.org", fill(alphabet, size)), path);
            case("authority", format!("({alphabet:?})* for {path}"), longest, request)
        })
    };
    [".", "a.", ":", "@", "[", "]", "a", "A", "1", "%2e", "\u{e4}", "a.example.org."]
        .into_iter()
        .flat_map(one)
        .collect()
}

fn headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, base) in [
        ("free", Request::get("/free/x")),
        ("priced", Request::get("/weather")),
        ("members", Request::get("/members/x")),
        ("chat", Request::post("/v1/chat/completions", r#"{"model":"gpt-4o"}"#)),
        (
            "preflight",
            Request::new("OPTIONS", "api.example.com", "/weather")
                .with("origin", "https://a")
                .with("access-control-request-method", "GET"),
        ),
    ] {
        for name in
            ["h", "x-x402-", "x_x402|", "x-", "p", "f", "s", "content-type", "x-forwarded-hos", "access-control-"]
        {
            let base = base.clone();
            let request = move |size: usize| {
                (0..size / (name.len() + 5))
                    .fold(base.clone(), |request, number| request.with(format!("{name}{number:05}"), ""))
            };
            cases.push(case("number of headers", format!("{name}00001, … on {what}"), HEAD, request));
        }
        for name in [
            "accept",
            "payment-signature",
            "x-payment",
            "sign-in-with-x",
            "content-type",
            "content-encoding",
            "x-x402-payer",
            "origin",
            "x_forwarded_host",
            "cookie",
        ] {
            let base = base.clone();
            let request = move |size: usize| {
                (0..size / (name.len() + 1)).fold(base.clone(), |request, _| request.with(name, "a"))
            };
            cases.push(case("number of headers", format!("{name}, again and again, on {what}"), HEAD, request));
        }
        for name in [
            ":method",
            ":scheme",
            ":protocol",
            "accept",
            "sec-fetch-dest",
            "content-type",
            "content-encoding",
            "content-length",
            "origin",
            "x-forwarded-proto",
            "access-control-request-headers",
            "access-control-request-method",
            "cookie",
            "payment-signature",
            "x-payment",
            "sign-in-with-x",
            "x-x402-payer",
            "forwarded",
            "transfer-encoding",
        ] {
            for alphabet in
                ["a", ";charset=utf-8", "text/html,", ",", ";", "\u{ff}", "A", "!", "identity,", "q=0.123;", "0"]
            {
                let base = base.clone();
                let request = move |size| base.clone().with(name, fill(alphabet, size));
                cases.push(case("length of a header", format!("{name}: ({alphabet:?})* on {what}"), HEAD, request));
            }
        }
        for name in ["h", "x-x402-", "x", "x-http-method-override", "_"] {
            let base = base.clone();
            let request = move |size| base.clone().with(fill(name, size), "");
            cases.push(case("length of a header", format!("a name of ({name:?})* on {what}"), HEAD, request));
        }
    }
    cases
}

fn urls() -> Vec<Case> {
    let mut cases = Vec::new();
    for (path, accept) in [
        ("/any/x", ""),
        ("/many", ""),
        ("/members/x", ""),
        ("/channels/x", ""),
        ("/weather", "text/html"),
        ("/any/x", "text/html"),
    ] {
        for alphabet in ["a", "\"", "\\", "\u{e4}", "<", "%", "&amp;", "a=b&"] {
            for longest in [URL, HEAD] {
                let request =
                    move |size| Request::get(format!("{path}?{}", fill(alphabet, size))).with("accept", accept);
                cases.push(case("URL, unpaid", format!("{path}?({alphabet:?})* accept {accept:?}"), longest, request));
            }
        }
    }
    cases
}

/// A payment that is in order but for its signature.
fn payment() -> Value {
    json!({
        "x402Version": 2,
        "accepted": {
            "scheme": "exact", "network": "eip155:84532", "amount": "1000", "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", "maxTimeoutSeconds": 300, "extra": {"name": "USDC", "version": "2"},
        },
        "payload": {
            "authorization": {
                "from": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "to": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", "value": "1000",
                "validAfter": "0", "validBefore": (NOW + 100).to_string(), "nonce": format!("0x{}", "ab".repeat(32)),
            },
            "signature": format!("0x{}1b", "7f".repeat(64)),
        },
    })
}

/// Payments by the JSON of a part, which `%` stands for in it.
fn payments() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = &[
        "[",
        "{\"a\":",
        "[],",
        "0,",
        "\"a\",",
        "a",
        "\\u0061",
        "\\n",
        "1",
        "\u{e4}",
        "\"",
        "\"a\":0,",
        "\"a\":{\"b\":[]},",
        "f7",
        "[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]],",
    ];
    let holes = [
        "\"x\":%",
        "\"accepted\":%",
        "\"payload\":%",
        "\"resource\":%",
        "\"extensions\":%",
        "\"x402Version\":%",
        "accepted.scheme",
        "accepted.network",
        "accepted.amount",
        "accepted.asset",
        "accepted.payTo",
        "accepted.maxTimeoutSeconds",
        "accepted.extra",
        "payload.signature",
        "payload.authorization.from",
        "payload.authorization.value",
        "payload.authorization.validBefore",
        "payload.authorization.nonce",
        "payload.authorization",
        "resource",
        "extensions",
        "x",
    ];
    let of_channels = [
        "payload.type",
        "payload.channelConfig",
        "payload.channelConfig.payer",
        "payload.channelConfig.payerAuthorizer",
        "payload.channelConfig.receiverAuthorizer",
        "payload.channelConfig.token",
        "payload.channelConfig.withdrawDelay",
        "payload.channelConfig.salt",
        "payload.voucher",
        "payload.voucher.channelId",
        "payload.voucher.maxClaimableAmount",
        "payload.voucher.signature",
        "payload.amount",
        "payload.deposit",
        "payload.deposit.amount",
        "payload.deposit.authorization",
        "payload.deposit.authorization.erc3009Authorization",
        "payload.deposit.authorization.erc3009Authorization.validBefore",
        "payload.deposit.authorization.erc3009Authorization.salt",
        "payload.deposit.authorization.erc3009Authorization.signature",
        "accepted.extra.receiverAuthorizer",
        "accepted.extra.withdrawDelay",
    ];
    let ways = [
        ("/weather", "payment-signature"),
        ("/weather", "x-payment"),
        ("/members/x", "payment-signature"),
        ("/hedera", "payment-signature"),
        ("/solana", "payment-signature"),
        ("/channel", "payment-signature"),
    ];
    for (path, header) in ways {
        let more = if path == "/channel" { &of_channels[..] } else { &[] };
        let holes = holes.iter().filter(|hole| path != "/channel" || !hole.starts_with("payload."));
        for (hole, shape) in holes.chain(more).flat_map(|hole| shapes.iter().map(move |shape| (*hole, *shape))) {
            let name = format!("{header} on {path}: {hole} with ({shape:?})*");
            let request = move |size: usize| {
                let json =
                    with_hole(hole, shape, size * 3 / 4 - if path == "/channel" { 2_000 } else { 800 }, path, header);
                Request::get(path).with(header, STANDARD.encode(json))
            };
            cases.push(case("payment header", name, PAYMENT, request));
        }
    }
    cases.push(case("payment header", "forged".to_owned(), 8, |_| {
        Request::get("/weather").with("payment-signature", STANDARD.encode(payment().to_string()))
    }));
    cases
}

fn with_hole(hole: &str, shape: &str, size: usize, path: &str, header: &str) -> String {
    let mut payment = payment();
    match path {
        "/hedera" => {
            payment["accepted"] = json!({"scheme": "exact", "network": "hedera:mainnet", "amount": "1000", "asset": "0.0.456858", "payTo": "0.0.4567",
                "maxTimeoutSeconds": 300, "extra": {"memo": "order", "feePayer": "0.0.9"}});
            payment["payload"] = json!({"transaction": "AAAA"});
        }
        "/channel" => {
            payment["accepted"] = channels::accepted();
            payment["payload"] = channels::voucher(0);
            payment["payload"]["type"] = json!("deposit");
            let authorization = json!({"validAfter": "0", "validBefore": (NOW + 100).to_string(), "salt": format!("0x{}", "01".repeat(32)),
                "signature": format!("0x{}1b", "7f".repeat(64))});
            payment["payload"]["deposit"] =
                json!({"amount": "10000", "authorization": {"erc3009Authorization": authorization}});
        }
        "/solana" => {
            payment["accepted"] = json!({"scheme": "exact", "network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "amount": "1000",
                "asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", "payTo": "CKPKJWNdJEqa81x7CkZ14BVPiY6y16Sxs7owznqtWYp5",
                "maxTimeoutSeconds": 300, "extra": {"feePayer": "CKPKJWNdJEqa81x7CkZ14BVPiY6y16Sxs7owznqtWYp5"}});
            payment["payload"] = json!({"transaction": "AAAA"});
        }
        _ => {}
    }
    if header == "x-payment" {
        payment["x402Version"] = json!(1);
        payment["scheme"] = json!("exact");
        payment["network"] = json!("base-sepolia");
    }
    // What begins so is a value, or the inside of one.
    let filled = fill(shape, size);
    let value = match shape {
        "[" | "{\"a\":" => filled,
        "\"a\":0," | "\"a\":{\"b\":[]}," => {
            let fields: String =
                (0..size / (shape.len() + 5)).map(|number| shape.replacen('a', &format!("a{number}"), 1)).collect();
            format!("{{{}}}", fields.trim_end_matches(','))
        }
        "1" => filled,
        _ if shape.ends_with(',') => format!("[{}]", filled.trim_end_matches(',')),
        "\"" => filled,
        "f7" => format!("\"0x{filled}\""),
        _ => format!("\"{filled}\""),
    };
    match hole.strip_suffix('%') {
        Some(key) => {
            let rest = payment.to_string();
            format!("{{{key}{value},{}", &rest[1..])
        }
        None => {
            let mut place = &mut payment;
            for step in hole.split('.') {
                place = &mut place[step];
            }
            *place = json!("%HOLE%");
            payment.to_string().replace("\"%HOLE%\"", &value)
        }
    }
}

fn sign_ins() -> Vec<Case> {
    let mut cases = Vec::new();
    let fields = [
        "domain",
        "address",
        "statement",
        "uri",
        "version",
        "chainId",
        "nonce",
        "issuedAt",
        "expirationTime",
        "notBefore",
        "requestId",
        "resources",
        "signature",
        "x",
    ];
    for field in fields {
        for shape in
            ["a", "1", "\\u0061", "\u{e4}", "ab", "[", "\"a\",", "http://a/", "2026-01-02T03:04:05.0", "\"a\":0,"]
        {
            let request = move |size: usize| {
                let filled = fill(shape, size * 3 / 4 - 700);
                let value = match shape {
                    "[" => filled,
                    "\"a\"," => format!("[{}]", filled.trim_end_matches(',')),
                    "\"a\":0," => format!("{{{}}}", filled.trim_end_matches(',')),
                    "ab" => format!("\"0x{filled}\""),
                    _ => format!("\"{filled}\""),
                };
                let issued = "2026-09-21T14:13:20Z";
                let mut sign_in = json!({
                    "domain": "api.example.com", "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "uri": "http://api.example.com/members/x", "version": "1",
                    "chainId": "eip155:84532", "type": "eip191", "nonce": "0123456789abcdef", "issuedAt": issued,
                    "signature": format!("0x{}1b", "7f".repeat(64)),
                });
                sign_in[field] = json!("%HOLE%");
                let json = sign_in.to_string().replace("\"%HOLE%\"", &value);
                Request::get("/members/x").with("sign-in-with-x", STANDARD.encode(json))
            };
            cases.push(case("sign-in", format!("{field} with ({shape:?})*"), SIGN_IN, request));
        }
    }
    cases
}

/// Bodies: what stands before, what is repeated, what stands behind.
fn bodies() -> Vec<Case> {
    const VALUES: &[&str] = &[
        "0,",
        "-1.5e+10,",
        "11111111111,",
        "true,",
        "null,",
        "[],",
        "{},",
        "\"\",",
        "\"a\",",
        "\"abcdefg\",",
        "{\"a\":0},",
        "{\"a\":{\"b\":[]}},",
        " 0 , ",
        "\"\\n\",",
        "\"\u{e4}\",",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],",
        "[0,0,0,0,0,0],",
        "{\"role\":\"user\",\"content\":\"Hello, world\"},",
    ];
    const LETTERS: &[&str] = &[
        "a",
        " ",
        "\\n",
        "\\\\",
        "\\\"",
        "\\u0061",
        "\\ud83d\\ude00",
        "\\na",
        "\u{e4}",
        "\u{20ac}",
        "\u{1f600}",
        "a\u{e4}",
        "aaaaaaa\u{e4}",
        "\u{7f}",
    ];
    const KEYS: &[&str] = &[
        "\"a\":0,",
        "\"\":0,",
        "\"m\":0,",
        "\"_\":0,",
        "\"max_completion_tokenx\":0,",
        "\"\\u006dax_completion_tokenx\":0,",
        "\"\\u006d\\u0061\\u0078\\u005f\\u0063\\u006f\\u006d\\u0070\\u006c\\u0065\\u0074\":0,",
        "\"max_completion_to\u{212a}enx\":0,",
        "\"\u{e4}\":0,",
        "\"a\":[],",
        "\"a\":{},",
        "\"a\":\"\",",
        "\"m\" : 0 , ",
        "\"include_usagx\":0,",
        "\"modex\":{\"modex\":0},",
    ];
    let mut cases = Vec::new();
    let mut add = |path: &'static str,
                   before: &'static str,
                   what: String,
                   behind: &'static str,
                   repeated: Box<dyn Fn(usize) -> String>| {
        let request = move |size: usize| {
            let size = size.saturating_sub(before.len() + behind.len()).max(1);
            Request::post(path, format!("{before}{}{behind}", repeated(size)))
        };
        let name = format!("{path}: {before}({what})*{behind}");
        cases.push(body_case("body", name, request));
    };
    let repeated =
        |pattern: &'static str| -> Box<dyn Fn(usize) -> String> { Box::new(move |size| fill(pattern, size)) };
    let places: [(&str, &str, &str); 6] = [
        ("/v1/chat/completions", r#"{"model":"gpt-4o","messages":["#, "0]}"),
        ("/v1/chat/completions", r#"{"model":"gpt-4o","prompt":["#, "0]}"),
        ("/v1/chat/completions", r#"{"model":"gpt-4o","stream_options":{"x":["#, "0]}}"),
        ("/v1/messages", r#"{"model":"gpt-4o","messages":["#, "0]}"),
        ("/pointers", r#"{"a":{"b":{"model":"gpt-4o"}},"x":["#, "0]}"),
        ("/pointers", r#"{"a":{"b":{"model":"gpt-4o"}},"c":["#, "0]}"),
    ];
    for (path, before, behind) in places {
        for value in VALUES {
            add(path, before, format!("{value:?}"), behind, repeated(value));
        }
        add(path, before, "values mixed".to_owned(), behind, Box::new(|size| mix(VALUES, size)));
        add(
            path,
            before,
            "short values mixed".to_owned(),
            behind,
            Box::new(|size| mix(&["0,", "[],", "{},", "\"\",", "1.5,", "true,"], size)),
        );
        add(path, before, "[".to_owned(), behind, repeated("["));
        add(path, before, "{\"a\":".to_owned(), behind, repeated("{\"a\":"));
    }
    let objects: [(&str, &str, &str); 6] = [
        ("/v1/chat/completions", r#"{"model":"gpt-4o","#, "\"x\":0}"),
        ("/v1/chat/completions", r#"{"model":"gpt-4o","stream_options":{"#, "\"x\":0}}"),
        ("/v1/chat/completions", r#"{"model":"gpt-4o","messages":{"#, "\"x\":0}}"),
        ("/v1/messages", r#"{"model":"gpt-4o","#, "\"x\":0}"),
        ("/pointers", r#"{"a":{"b":{"model":"gpt-4o"}},"#, "\"x\":0}"),
        ("/pointers", r#"{"a":{"b":{"model":"gpt-4o","#, "\"x\":0}}}"),
    ];
    for (path, before, behind) in objects {
        for key in KEYS {
            add(path, before, format!("{key:?}"), behind, repeated(key));
        }
        add(
            path,
            before,
            "keys of their own".to_owned(),
            behind,
            Box::new(|size| (0..size / 12).map(|number| format!("\"k{number:06}\":0,")).collect()),
        );
        add(path, before, "keys mixed".to_owned(), behind, Box::new(|size| mix(KEYS, size)));
    }
    let texts: [(&str, &str, &str); 5] = [
        ("/v1/chat/completions", r#"{"model":"gpt-4o","messages":""#, "\"}"),
        ("/v1/chat/completions", r#"{"model":""#, "\"}"),
        ("/v1/chat/completions", r#"{"model":"gpt-4o",""#, "\":0}"),
        ("/v1/messages", r#"{"model":"gpt-4o","messages":""#, "\"}"),
        ("/pointers", r#"{"a":{"b":{"model":""#, "\"}}}"),
    ];
    for (path, before, behind) in texts {
        for letter in LETTERS {
            add(path, before, format!("{letter:?}"), behind, repeated(letter));
        }
        add(path, before, "letters mixed".to_owned(), behind, Box::new(|size| mix(LETTERS, size)));
        add(
            path,
            before,
            "bytes mixed".to_owned(),
            behind,
            Box::new(|size| mix(&["a", "\u{e4}", "\u{20ac}", "\\n"], size)),
        );
        add(path, before, "_".to_owned(), behind, repeated("_"));
    }
    for (before, behind) in [
        ("", ""),
        (r#"{"model":"gpt-4o","max_tokens":"#, "}"),
        (r#"{"model":"gpt-4o","#, "}"),
        (r#"{"model":"gpt-4o","n":1"#, "}"),
    ] {
        for pattern in [" ", "\n", "1", "{", "0", "\"", "a", "\u{e4}", ","] {
            add("/v1/chat/completions", before, format!("{pattern:?}"), behind, repeated(pattern));
        }
    }
    cases
}
