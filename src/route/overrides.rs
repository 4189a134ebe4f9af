//! Headers by which a client could make an upstream read another request than the proxy saw.

/// Headers by which some upstreams let a client override the path or the method that the proxy saw.
pub const OVERRIDES: [&str; 16] = [
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
pub const HOST_OVERRIDES: [&str; 4] = ["forwarded", "x-forwarded-host", "x-host", "x-original-host"];

/// Returns whether a header, in lower case, is removed unless the operator keeps it.
pub fn is_override(name: &str) -> bool {
    is_one_of(name, &OVERRIDES) || is_one_of(name, &HOST_OVERRIDES)
}

/// Returns whether CGI and its heirs, who take every other character for the `-` of a name, take `name` for `meant`.
#[inline(never)]
pub fn is_spelt(name: &str, meant: &str) -> bool {
    let is_letter = |(one, other): (u8, u8)| one == other || (other == b'-' && !one.is_ascii_alphanumeric());
    name.len() == meant.len() && name.bytes().zip(meant.bytes()).all(is_letter)
}

/// Returns whether CGI and its heirs take `name` for one of `meant`.
#[inline(never)]
pub fn is_one_of(name: &str, meant: &[&str]) -> bool {
    meant.iter().any(|meant| name.len() == meant.len() && is_spelt(name, meant))
}
