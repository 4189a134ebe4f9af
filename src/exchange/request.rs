//! The head of a request, as the filter sees it.

use crate::config::{Config, MetadataKey, Terms};
use crate::route::Target;
use crate::x402::header::{PAYMENT_SIGNATURE, X_PAYMENT};
use crate::x402::sign_in::SIGN_IN_WITH_X;

/// Headers by which the filter tells the upstream about the payment begin with this; clients may not set them.
pub const IDENTITY_PREFIX: &str = "x-x402-";

/// Tells the upstream the payment's key, the same for every try with one payment.
pub(super) const PAYMENT_ID: &str = "x-x402-id";

/// By which Envoy says what URL a request had before an internal redirect.
const ORIGINAL_URL: &str = "x-envoy-original-url";

/// Headers by which some upstreams let a client override the path or the method that the proxy saw.
const OVERRIDES: [&str; 16] = [
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-method",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-method",
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method",
    "x-method-override",
    "x-override-url",
    "x-request-uri",
    "x-script-name",
];

/// Headers by which some upstreams let a client override the host, which matters where prices depend on it, and rights to
/// come back.
const HOST_OVERRIDES: [&str; 4] = ["forwarded", "x-forwarded-host", "x-host", "x-original-host"];

/// The headers of a request in the order they came, pseudo-headers (`:method`, `:authority`, `:path`) among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RequestHead(Vec<(String, Vec<u8>)>);

/// Under which a head keeps what no header can say.
const PRINCIPAL: &str = "\0principal";

impl MetadataKey {
    fn fact(&self) -> String {
        format!("\0{}\0{}", self.namespace, self.key)
    }
}

impl RequestHead {
    /// A head from the host's list of headers. Names are folded to lower case.
    pub fn new(headers: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let fold = |name: Vec<u8>| {
            let mut name =
                String::from_utf8(name).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            name.make_ascii_lowercase();
            name
        };
        Self(headers.into_iter().map(|(name, value)| (fold(name), value)).collect())
    }

    /// The same head with what the proxy knows beside it. Clients have no way to set it: no header has such a name.
    #[must_use]
    pub fn with_metadata(mut self, values: impl IntoIterator<Item = (MetadataKey, Vec<u8>)>) -> Self {
        self.0.extend(values.into_iter().map(|(key, value)| (key.fact(), value)));
        self
    }

    /// A value of the proxy's dynamic metadata, as bytes: a text, or a double of 64 bits, least significant byte first.
    pub fn metadata(&self, key: &MetadataKey) -> Option<&[u8]> {
        let fact = key.fact();
        self.0.iter().find(|(name, _)| *name == fact).map(|(_, value)| value.as_slice())
    }

    /// The same head with the names that the certificate of the calling proxy or client is for, as the proxy checked it.
    #[must_use]
    pub fn with_principals(mut self, names: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.0.extend(names.into_iter().map(|name| (PRINCIPAL.to_owned(), name)));
        self
    }

    /// The names that the caller's certificate is for. Clients have no way to set them: no header has such a name.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        self.all(PRINCIPAL).filter_map(|name| std::str::from_utf8(name).ok())
    }

    /// Every value of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(candidate, _)| candidate == name).map(|(_, value)| value.as_slice())
    }

    /// The first value of a header as text, with a replacement character for every byte that is none.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.all(name).next().unwrap_or_default()).into_owned()
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

    /// What a browser wants to read on every answer to a script of another origin (Fetch standard, CORS check), where
    /// the configuration admits that origin. Empty where it does not.
    pub fn admission(&self, config: &Config) -> Vec<(&'static str, String)> {
        let origin = self.text("origin");
        if origin.is_empty() || !config.admits_origin(&origin) {
            return Vec::new();
        }
        vec![("access-control-allow-origin", origin), ("vary", "origin".to_owned())]
    }

    /// Whether something has come by that only the filter or the proxy says of a request: then it may be one that the filter
    /// has let through before.
    pub fn may_be_seen(&self) -> bool {
        self.0.iter().any(|(name, _)| name.starts_with(IDENTITY_PREFIX) || name == ORIGINAL_URL)
    }

    /// Whether the headers say that the filter has let it through before, and the proxy has begun it anew. A client that says
    /// so itself is turned away, and nothing else.
    pub(super) fn is_redirected(&self) -> bool {
        let has = |is_it: fn(&str) -> bool| self.0.iter().any(|(name, _)| is_it(name));
        has(|name| name == ORIGINAL_URL) && has(|name| name == PAYMENT_ID)
    }

    /// Whether its body is compressed, or encoded in another way.
    pub fn is_encoded(&self) -> bool {
        self.all_spelt("content-encoding").any(|encoding| !encoding.trim_ascii().eq_ignore_ascii_case(b"identity"))
    }

    /// Whether nothing says that its body is in another encoding of letters than UTF-8, which some servers would follow.
    pub fn is_plain_text(&self) -> bool {
        let is_utf8 = |kind: &[u8]| {
            let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
            let charset =
                kind.split(';').skip(1).filter_map(|part| part.trim().strip_prefix("charset").map(str::to_owned));
            charset
                .map(|value| value.replace(['=', '"', '\'', ' '], ""))
                .all(|value| value == "utf-8" || value == "utf8")
        };
        self.all_spelt("content-type").count() <= 1 && self.all_spelt("content-type").all(is_utf8)
    }

    /// Every value of a header in all spellings of its name that CGI and its heirs make one of.
    fn all_spelt<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |other: &str| other.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-") == name;
        self.0.iter().filter(move |(other, _)| is_it(other)).map(|(_, value)| value.as_slice())
    }

    /// What a response says to browsers about requests of other origins.
    pub fn cors(&self) -> Vec<(String, String)> {
        let is_cors = |name: &str| name.starts_with("access-control-") || matches!(name, "vary" | "allow");
        let headers = self.0.iter().filter(|(name, _)| is_cors(name));
        headers.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
    }

    /// Whether a browser asks for leave to send a request of another origin (Fetch standard, CORS-preflight fetch).
    pub fn is_preflight(&self) -> bool {
        self.text(":method").eq_ignore_ascii_case("OPTIONS")
            && self.all("origin").next().is_some()
            && self.all("access-control-request-method").next().is_some()
    }

    /// The names of headers that the upstream must not see from this client. CGI and its heirs take every other
    /// character for the `-` of a name, so the filter does here.
    ///
    /// `terms` are those by which the request pays or comes back, so that payment and sign-in are for the filter.
    pub fn unwanted(&self, config: &Config, terms: Option<&Terms>) -> Vec<String> {
        let is_priced = terms.is_some();
        let has_sign_in = terms.is_some_and(|terms| terms.extensions.sign_in.is_some());
        let minds_host = config.table.prices_by_host() || has_sign_in;
        let is_unwanted = |name: &str| {
            // What is unwanted begins with one of these in every spelling, and most headers do not.
            if !(name.starts_with(['x', 'f', 'p']) || has_sign_in && name.starts_with('s')) {
                return false;
            }
            let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
            let overrides =
                OVERRIDES.contains(&name.as_str()) || (minds_host && HOST_OVERRIDES.contains(&name.as_str()));
            name.starts_with(IDENTITY_PREFIX)
                || (overrides && !config.keeps_header(&name))
                || (is_priced && [PAYMENT_SIGNATURE, X_PAYMENT].contains(&name.as_str()))
                || (has_sign_in && name == SIGN_IN_WITH_X)
        };
        let mut names: Vec<String> = Vec::new();
        for (name, _) in &self.0 {
            if is_unwanted(name) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
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
}
