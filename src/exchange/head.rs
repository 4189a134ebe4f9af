//! Heads of requests and responses, as the filter sees them.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use crate::config::{Config, RouteTerms};
use crate::metadata::MetadataKey;
use crate::route::Target;
use crate::route::overrides::{HOST_OVERRIDES, OVERRIDES, is_one_of, is_spelt};
use crate::x402::header::{self, PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::sign_in::{self, SIGN_IN_WITH_X};

/// Headers by which the filter tells the upstream about the payment begin with this; clients may not set them.
pub const IDENTITY_PREFIX: &str = "x-x402-";

/// Tells the upstream the payment's key, the same for every try with one payment.
pub(super) const PAYMENT_ID: &str = "x-x402-id";

/// By which Envoy says what URL a request had before an internal redirect.
const ORIGINAL_URL: &str = "x-envoy-original-url";

/// Headers whose values the filter reads. Of all others it keeps nothing: a client may send many kilobytes of them, and
/// hold its request open for long.
const READ: [&str; 19] = [
    ":method",
    ":authority",
    ":path",
    ":scheme",
    ":protocol",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "x-forwarded-proto",
    "origin",
    "access-control-request-method",
    "access-control-request-headers",
    "authorization",
    "accept",
    "sec-fetch-dest",
    ORIGINAL_URL,
    PAYMENT_SIGNATURE,
    X_PAYMENT,
    SIGN_IN_WITH_X,
];

/// Headers that it reads in all spellings of their names.
const READ_IN_ALL_SPELLINGS: [&str; 2] = ["content-type", "content-encoding"];

/// Bytes of a value beyond which the filter cannot read it; those that may be longer have their own limits.
const MAX_VALUE_BYTES: usize = 2 * 1024;

/// In the place of a value that is too long, or of several. No header that the filter reads means anything by it.
const UNREADABLE: &[u8] = b"?";

/// Names that the upstream must not see, beyond which a request is refused, and bytes of one. The filter has to keep them
/// to remove them, and a proxy looks for each of them among all. Envoy takes no more headers than so many, unless told to.
const MOST_UNWANTED: usize = 100;
const MAX_UNWANTED_BYTES: usize = 128;

/// Bytes of a URL (as `:authority` and `:path`) beyond which it is not sold: it is repeated in the terms several times
/// over, and signed. Most servers take no longer one.
const MAX_URL_BYTES: usize = 8 * 1024;

/// A name and a value, as a host lists them.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// The headers and pseudo-headers (`:status`, `:path`, …) of a head, in the order they came; names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Headers<'a>(Vec<(Cow<'a, str>, Cow<'a, [u8]>)>);

impl<'a> Headers<'a> {
    /// Reads a host's list of headers, all of it.
    pub fn read(list: &[Pair<'a>]) -> Self {
        Self(list.iter().map(|(name, value)| (fold(name), Cow::Borrowed(*value))).collect())
    }

    /// The same headers, kept.
    #[inline(never)]
    pub fn into_owned(self) -> Headers<'static> {
        let whole = |(name, value): (Cow<'_, str>, Cow<'_, [u8]>)| (kept(name), value.into_owned().into());
        Headers(self.0.into_iter().map(whole).collect())
    }
}

/// A name that outlives the list that it stands in. Most are among those that are read, and need no room.
fn kept(name: Cow<'_, str>) -> Cow<'static, str> {
    match READ.iter().chain(&READ_IN_ALL_SPELLINGS).find(|read| **read == name) {
        Some(read) => Cow::Borrowed(read),
        None => Cow::Owned(name.into_owned()),
    }
}

impl Headers<'_> {
    /// Takes over a list of headers, all of it.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Headers<'static> {
        let headers: Vec<(N, V)> = headers.into_iter().collect();
        Headers::read(&views(&headers)).into_owned()
    }

    /// Returns every value of a header.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.0.iter().filter(move |(candidate, _)| candidate == name).map(|(_, value)| &**value)
    }

    /// Returns the first value of a header as text, with a replacement character for every byte that is none; empty where the
    /// header is missing.
    pub fn text<'s>(&'s self, name: &'s str) -> Cow<'s, str> {
        String::from_utf8_lossy(self.all(name).next().unwrap_or_default())
    }

    /// Returns every value of a header in all spellings of its name.
    fn all_spelt<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.0.iter().filter(move |(other, _)| is_spelt(other, name)).map(|(_, value)| &**value)
    }

    /// Returns whether the body is compressed, or encoded in another way.
    pub fn is_encoded(&self) -> bool {
        self.all_spelt("content-encoding").any(|encoding| !encoding.trim_ascii().eq_ignore_ascii_case(b"identity"))
    }

    /// Returns what a response says to browsers about requests of other origins.
    pub fn cors(&self) -> Vec<(String, String)> {
        let is_cors = |name: &str| name.starts_with("access-control-") || matches!(name, "vary" | "allow");
        let headers = self.0.iter().filter(|(name, _)| is_cors(name));
        headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned())).collect()
    }
}

/// The head of a request that is kept.
pub type RequestHead = Head<'static>;

/// The head of a request, as far as the filter reads it, with what the proxy knows beside it: in the host's own list, until it
/// is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Head<'a> {
    headers: Headers<'a>,
    /// Values of the proxy's dynamic metadata, as bytes.
    metadata: Vec<(MetadataKey, Vec<u8>)>,
    /// Names that the caller's certificate is for.
    principals: Vec<Vec<u8>>,
    /// Names that the upstream must not see of some route or other, each once.
    unwanted: Vec<Cow<'a, str>>,
    /// True if there are more of them, or longer ones, than are kept.
    has_too_many: bool,
    /// True if a body follows, whatever the headers say.
    has_body: bool,
    /// The routes whose upstreams have refused the wish for usage.
    refused_wishes: Vec<Arc<str>>,
}

/// A request's head is its headers, and more.
impl<'a> Deref for Head<'a> {
    type Target = Headers<'a>;

    fn deref(&self) -> &Headers<'a> {
        &self.headers
    }
}

/// The pairs of a list that is somebody else's.
fn views<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: &[(N, V)]) -> Vec<Pair<'_>> {
    headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect()
}

fn is_identity(name: &str) -> bool {
    name.get(..IDENTITY_PREFIX.len()).is_some_and(|prefix| is_spelt(prefix, IDENTITY_PREFIX))
}

/// A name as text, in lower case. Proxies give it so.
fn fold(name: &[u8]) -> Cow<'_, str> {
    let name = String::from_utf8_lossy(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name }
}

impl RequestHead {
    /// The head of a request from a list of headers, of which nothing else is kept.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let headers: Vec<(N, V)> = headers.into_iter().collect();
        Head::read(&views(&headers)).into_owned()
    }
}

impl<'a> Head<'a> {
    /// Reads the head of a request in the host's list of headers.
    pub fn read(list: &[Pair<'a>]) -> Self {
        let mut head = Self::default();
        for (name, value) in list {
            let name = fold(name);
            let meant = READ_IN_ALL_SPELLINGS.iter().find(|meant| name.len() == meant.len() && is_spelt(&name, meant));
            if let Some(name) = meant.or_else(|| READ.iter().find(|read| **read == name)) {
                head.take(name, value);
            }
            head.note_unwanted(name);
        }
        head
    }

    /// The same head, kept: it needs the host's list no more.
    #[must_use]
    pub fn into_owned(self) -> RequestHead {
        let Self { headers, metadata, principals, unwanted, has_too_many, has_body, refused_wishes } = self;
        let unwanted = unwanted.into_iter().map(|name| Cow::Owned(name.into_owned())).collect();
        let headers = headers.into_owned();
        Head { headers, metadata, principals, unwanted, has_too_many, has_body, refused_wishes }
    }

    /// Takes a header in that is read: the first two of a name, for one that stands more often is as good as unreadable.
    fn take(&mut self, name: &'static str, value: &'a [u8]) {
        // Of what has its own limit one byte more is kept than is taken, so that its reader sees that it is too long.
        let most = match name {
            ":path" => Some(usize::MAX),
            PAYMENT_SIGNATURE | X_PAYMENT => Some(header::MAX_LENGTH.saturating_add(1)),
            SIGN_IN_WITH_X => Some(sign_in::MAX_LENGTH.saturating_add(1)),
            _ => None,
        };
        let readable = match most {
            Some(most) => value.get(..most).unwrap_or(value),
            None if value.len() > MAX_VALUE_BYTES => UNREADABLE,
            None => value,
        };
        let mut same = self.headers.0.iter_mut().filter(|(other, _)| *other == name);
        match (same.next(), same.next()) {
            (Some(_), None) if most.is_some() => self.headers.0.push((name.into(), UNREADABLE.into())),
            (_, None) => self.headers.0.push((name.into(), readable.into())),
            (_, Some((_, second))) => *second = UNREADABLE.into(),
        }
    }

    fn note_unwanted(&mut self, name: Cow<'a, str>) {
        // What is unwanted begins with one of these in every spelling, and most headers do not.
        if self.has_too_many || !name.starts_with(['x', 'f', 'p', 's']) {
            return;
        }
        let is_unwanted = is_identity(&name)
            || is_one_of(&name, &OVERRIDES)
            || is_one_of(&name, &HOST_OVERRIDES)
            || is_one_of(&name, &[PAYMENT_SIGNATURE, X_PAYMENT, SIGN_IN_WITH_X]);
        if !is_unwanted || self.unwanted.contains(&name) {
            return;
        }
        if self.unwanted.len() < MOST_UNWANTED && name.len() <= MAX_UNWANTED_BYTES {
            self.unwanted.push(name);
        } else {
            self.has_too_many = true;
        }
    }

    /// Returns whether more headers came that the upstream must not see than the filter removes.
    pub const fn has_too_many_unwanted(&self) -> bool {
        self.has_too_many
    }

    /// Returns whether the URL is longer than one that is sold.
    pub fn has_long_url(&self) -> bool {
        let length = |name| self.all(name).next().map_or(0, <[u8]>::len);
        length(":authority").saturating_add(length(":path")) > MAX_URL_BYTES
    }

    /// The same head with values of the proxy's dynamic metadata.
    #[must_use]
    pub fn with_metadata(mut self, values: impl IntoIterator<Item = (MetadataKey, Vec<u8>)>) -> Self {
        self.metadata.extend(values);
        self
    }

    /// A value of the proxy's dynamic metadata, as bytes: a text, or a double of 64 bits, least significant byte first.
    pub fn metadata(&self, key: &MetadataKey) -> Option<&[u8]> {
        self.metadata.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    /// The same head with the names that the certificate of the calling proxy or client is for, as the proxy checked it.
    #[must_use]
    pub fn with_principals(mut self, names: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.principals.extend(names);
        self
    }

    /// The same head of a request behind which a body comes, or may come. Not every proxy leaves the headers that say so.
    #[must_use]
    pub fn with_body(self, has_body: bool) -> Self {
        Self { has_body, ..self }
    }

    /// Returns whether a body follows, or may follow.
    pub(super) const fn has_body(&self) -> bool {
        self.has_body
    }

    /// The same head, with the routes whose upstreams have refused the wish for usage of late.
    #[must_use]
    pub fn with_refused_wishes(self, refused_wishes: Vec<Arc<str>>) -> Self {
        Self { refused_wishes, ..self }
    }

    /// Returns whether the upstream of a route takes no wish for usage.
    pub(super) fn has_refused_wish(&self, route: &str) -> bool {
        self.refused_wishes.iter().any(|refused| **refused == *route)
    }

    /// Returns the names that the caller's certificate is for.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        self.principals.iter().filter_map(|name| std::str::from_utf8(name).ok())
    }

    /// Decides with the parts of the request that routing cares for.
    pub fn with_target<T>(&self, decide: impl FnOnce(Target<'_>) -> T) -> T {
        let (method, authority) = (self.text(":method"), self.text(":authority"));
        decide(Target { method: &method, authority: &authority, path: self.all(":path").next().unwrap_or_default() })
    }

    /// The path as it was written, without the query.
    pub fn path(&self) -> &[u8] {
        let target = self.all(":path").next().unwrap_or_default();
        target.split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// The URL that the client used, as far as the proxy knows.
    pub fn url(&self) -> String {
        let forwarded = self.text("x-forwarded-proto").to_ascii_lowercase();
        let scheme = match forwarded.as_str() {
            "http" | "https" => forwarded,
            _ if self.text(":scheme").eq_ignore_ascii_case("https") => "https".to_owned(),
            _ => "http".to_owned(),
        };
        format!("{scheme}://{}{}", self.text(":authority"), self.text(":path"))
    }

    /// Returns what a browser wants to read on every answer to a script of another origin (Fetch standard, CORS check), where
    /// the configuration admits that origin. Empty where it does not.
    pub fn admission(&self, config: &Config) -> Vec<(&'static str, String)> {
        let origin = self.text("origin");
        if origin.is_empty() || !config.admits_origin(&origin) {
            return Vec::new();
        }
        vec![("access-control-allow-origin", origin.into_owned()), ("vary", "origin".to_owned())]
    }

    /// Returns whether something has come by that only the filter or the proxy says of a request: then it may be one that the filter
    /// has let through before.
    pub fn may_be_seen(&self) -> bool {
        self.unwanted.iter().any(|name| is_identity(name)) || self.all(ORIGINAL_URL).next().is_some()
    }

    /// Returns whether the headers say that the filter has let it through before, and the proxy has begun it anew. A client that says
    /// so itself is turned away, and nothing else.
    pub(super) fn is_redirected(&self) -> bool {
        self.all(ORIGINAL_URL).next().is_some() && self.unwanted.iter().any(|name| name == PAYMENT_ID)
    }

    /// Returns whether nothing says that its body is in another encoding of letters than UTF-8, which some servers would follow.
    pub fn is_plain_text(&self) -> bool {
        let is_utf8 = |kind: &[u8]| {
            let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
            let mut charsets = kind.split(';').skip(1).filter_map(|part| part.trim().strip_prefix("charset"));
            let is_one = |value: &str| matches!(value.replace(['=', '"', '\'', ' '], "").as_str(), "utf-8" | "utf8");
            kind.as_bytes() != UNREADABLE && charsets.all(is_one)
        };
        self.all_spelt("content-type").count() <= 1 && self.all_spelt("content-type").all(is_utf8)
    }

    /// Returns whether a payment came.
    pub fn has_payment(&self) -> bool {
        let is_there = |value: &[u8]| !value.trim_ascii().is_empty();
        [PAYMENT_SIGNATURE, X_PAYMENT].into_iter().any(|name| self.all(name).any(is_there))
    }

    /// Returns whether a header is there that a payment would stand in, whatever it says.
    pub(super) fn names_payment(&self) -> bool {
        [PAYMENT_SIGNATURE, X_PAYMENT].into_iter().any(|name| self.all(name).next().is_some())
    }

    /// Returns whether a browser asks for leave to send a request of another origin (Fetch standard, CORS-preflight fetch). It
    /// says where from and what for, and nothing else: no body, and no other protocol, by which an upstream could be made
    /// to take it for something else.
    pub fn is_preflight(&self) -> bool {
        let (mut origins, mut methods, mut is_plain) = (0_u32, 0_u32, !self.has_body);
        for (name, value) in &self.headers.0 {
            let is_said = !value.trim_ascii().is_empty();
            match &**name {
                "origin" => origins = origins.saturating_add(u32::from(is_said)),
                "access-control-request-method" => methods = methods.saturating_add(u32::from(is_said)),
                "content-length" => is_plain &= value.trim_ascii() == b"0",
                "transfer-encoding" | "upgrade" | ":protocol" => is_plain = false,
                _ => {}
            }
        }
        is_plain && origins == 1 && methods == 1 && self.text(":method").eq_ignore_ascii_case("OPTIONS")
    }

    /// The names of headers that the upstream must not see from this client.
    ///
    /// `terms` are those by which the request pays or comes back, so that payment and sign-in are for the filter.
    pub fn unwanted(&self, config: &Config, terms: Option<&RouteTerms>) -> Vec<String> {
        let is_priced = terms.is_some();
        let has_sign_in = terms.is_some_and(RouteTerms::lets_sign_in);
        let minds_host = config.table.prices_by_host() || has_sign_in;
        let overrides: &[&[&str]] = if minds_host { &[&OVERRIDES, &HOST_OVERRIDES] } else { &[&OVERRIDES] };
        let is_unwanted = |name: &&Cow<'_, str>| {
            let override_of = overrides.iter().copied().flatten().find(|meant| is_spelt(name, meant));
            is_identity(name)
                || override_of.is_some_and(|meant| !config.keeps_header(meant))
                || (is_priced && is_one_of(name, &[PAYMENT_SIGNATURE, X_PAYMENT]))
                || (has_sign_in && is_one_of(name, &[SIGN_IN_WITH_X]))
        };
        self.unwanted.iter().filter(is_unwanted).map(|name| name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        RequestHead::new(headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())))
    }

    #[test]
    fn the_url_is_the_one_that_the_client_used() {
        let plain = [(":scheme", "http"), (":authority", "api.example.com"), (":path", "/a?b=c")];
        assert_eq!(head(&plain).url(), "http://api.example.com/a?b=c");
        let behind_tls = [plain.as_slice(), &[("x-forwarded-proto", "https")]].concat();
        assert_eq!(head(&behind_tls).url(), "https://api.example.com/a?b=c");
        let nonsense = [plain.as_slice(), &[("x-forwarded-proto", "javascript")]].concat();
        assert_eq!(head(&nonsense).url(), "http://api.example.com/a?b=c");
    }

    #[test]
    fn only_a_whole_preflight_is_one() {
        let origin = ("origin", "https://app.example");
        let asks = ("access-control-request-method", "GET");
        assert!(head(&[(":method", "OPTIONS"), origin, asks]).is_preflight());
        assert!(!head(&[(":method", "OPTIONS"), origin]).is_preflight());
        assert!(!head(&[(":method", "OPTIONS"), asks]).is_preflight());
        assert!(!head(&[(":method", "GET"), origin, asks]).is_preflight());
        assert!(!head(&[(":method", "OPTIONS"), ("origin", ""), asks]).is_preflight());
        assert!(!head(&[(":method", "OPTIONS"), origin, ("access-control-request-method", " ")]).is_preflight());
        for more in [
            ("upgrade", "websocket"),
            (":protocol", "websocket"),
            ("content-length", "1"),
            ("content-length", ""),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "identity"),
        ] {
            assert!(!head(&[(":method", "OPTIONS"), origin, asks, more]).is_preflight(), "{more:?}");
        }
        assert!(head(&[(":method", "OPTIONS"), origin, asks, ("content-length", "0")]).is_preflight());
        assert!(!head(&[(":method", "OPTIONS"), origin, asks]).with_body(true).is_preflight());
    }

    #[test]
    fn what_a_client_must_not_say_is_named_in_every_spelling() {
        let head = head(&[
            ("X-X402-Payer", "0x"),
            ("x_x402_payer", "0x"),
            ("x.x402|payer", "0x"),
            ("x-original-url", "/free"),
            ("x_http_method_override", "GET"),
            ("payment-signature", "e30="),
            ("sign_in-with.x", "e30="),
            ("accept", "*/*"),
        ]);
        let config = |json: &str| Config::from_json(json.as_bytes()).unwrap();
        let plain = config(r#"{"facilitator": {"cluster": "f", "url": "http://f"}, "routes": []}"#);
        let keeping = config(
            r#"{"facilitator": {"cluster": "f", "url": "http://f"}, "routes": [], "keep_headers": ["x-original-url"]}"#,
        );
        let always = ["x-x402-payer", "x_x402_payer", "x.x402|payer", "x-original-url", "x_http_method_override"];
        assert_eq!(head.unwanted(&plain, None), always);
        assert!(!head.unwanted(&keeping, None).contains(&"x-original-url".to_owned()));
        let priced = |extensions: &str| {
            config(&format!(
                r#"{{"facilitator": {{"cluster": "f", "url": "http://f"}}, "routes": [{{"match": {{"path": "/"}}, "price": "$1",
                    "extensions": {extensions}, "accepts": [{{"scheme": "exact", "network": "base", "asset": "USDC",
                    "pay_to": "0x1111111111111111111111111111111111111111"}}]}}]}}"#
            ))
        };
        for (extensions, more) in [
            ("{}", vec!["payment-signature"]),
            (r#"{"sign_in_with_x": {"lasts": "60s"}}"#, vec!["payment-signature", "sign_in-with.x"]),
        ] {
            let config = priced(extensions);
            let terms = config.routes[0].terms.as_deref();
            assert_eq!(head.unwanted(&config, terms), [&always[..], &more].concat());
        }
    }

    #[test]
    fn of_junk_nothing_is_kept() {
        let junk = "j".repeat(50 * 1024);
        let kept = |headers: &[(&str, &str)]| {
            let head = head(headers);
            let text = |name: &Cow<'static, str>| match name {
                Cow::Owned(name) => size_of::<String>() + name.capacity(),
                Cow::Borrowed(_) => size_of::<String>(),
            };
            let bytes = |(name, value): &(Cow<'static, str>, Cow<'static, [u8]>)| match value {
                Cow::Owned(value) => text(name) + size_of::<Vec<u8>>() + value.capacity(),
                Cow::Borrowed(_) => text(name) + size_of::<Vec<u8>>(),
            };
            head.headers.0.iter().map(bytes).sum::<usize>() + head.unwanted.iter().map(text).sum::<usize>()
        };
        let plain = [(":method", "GET"), (":authority", "api.example.com"), (":path", "/weather")];
        assert_eq!(
            kept(&[&plain[..], &[("user-agent", &junk), (&junk, ""), ("cookie", &junk)]].concat()),
            kept(&plain)
        );
        for name in READ.into_iter().chain(READ_IN_ALL_SPELLINGS).filter(|name| *name != ":path") {
            let most = match name {
                PAYMENT_SIGNATURE | X_PAYMENT => header::MAX_LENGTH,
                SIGN_IN_WITH_X => sign_in::MAX_LENGTH,
                _ => 0,
            };
            let alone = kept(&[(name, &junk)]);
            assert!(alone < most + 300, "{name}: {alone}");
            let many = kept(&[(name, "j".repeat(1000).as_str()); 50]);
            assert!(many < 2500, "{name}: {many}");
        }
        let names: Vec<String> = (0..3000).map(|number| format!("x-x402-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(kept(&many) < 8 * 1024 && head(&many).has_too_many_unwanted());
        let spelt: Vec<String> = (b'!'..=b'/').map(|byte| format!("content{}type", char::from(byte))).collect();
        assert!(kept(&spelt.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>()) < 1024);
        let long = format!("x-x402-{junk}");
        assert!(kept(&[(&long, "")]) < 1024 && head(&[(&long, "")]).has_too_many_unwanted());
        assert!(!head(&plain).has_too_many_unwanted());
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_something_else() {
        let long = " ".repeat(3000);
        assert!(!head(&[("content-type", &format!("text/plain;{long};charset=utf-7"))]).is_plain_text());
        assert!(head(&[("content-encoding", &format!("identity{long},gzip"))]).is_encoded());
        assert!(
            head(&[("content-encoding", "identity"), ("content-encoding", "identity"), ("content-encoding", "gzip")])
                .is_encoded()
        );
        assert!(!head(&[("content-type", "a"); 3]).is_plain_text());
        assert_eq!(head(&[("payment-signature", "a"); 3]).all(PAYMENT_SIGNATURE).count(), 2);
        assert!(!head(&[(":path", &"/".repeat(8 * 1024))]).has_long_url());
        assert!(head(&[(":authority", "a"), (":path", &"/".repeat(8 * 1024))]).has_long_url());
    }
}
