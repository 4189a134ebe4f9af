//! Secrets: texts that must not be shown, and the parts of a configuration that an error may repeat.
//!
//! An error names the path of what is wrong and says what would be right. What stands there it repeats only where that
//! cannot be a secret, for a secret may have been pasted anywhere.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::ConfigError;
use crate::json;

/// A lookup of a variable of the environment that the proxy gives to its plugins; `None` where there is none of the name.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text that nobody is shown: a key, the value of a header, a URL that may hold either.
#[derive(Clone)]
pub(super) enum Secret {
    /// The text itself.
    Text(String),
    /// The name of the variable that holds it.
    Variable(String),
    /// Something else: refused where its path is known, which serde does not tell of a value that it has passed.
    Neither,
}

impl Secret {
    /// Returns the text of what stands at `path`. Line breaks at the end of a variable are not part of it: they come with
    /// files and with `echo`.
    ///
    /// # Errors
    /// A variable that is not there, or empty; a text that names one in the syntax of another tool; and what is neither a
    /// text nor the name of a variable.
    pub fn reveal(&self, path: &str, environment: Environment<'_>) -> Result<String, ConfigError> {
        let refuse = |message: String| Err(ConfigError { path: path.to_owned(), message });
        let name = match self {
            Self::Text(text) if is_placeholder(text) => return refuse(PLACEHOLDER.to_owned()),
            Self::Text(text) => return Ok(text.clone()),
            Self::Variable(name) => name,
            Self::Neither => return refuse("expected a string or {env: NAME}".to_owned()),
        };
        let value = environment(name).unwrap_or_default();
        match value.trim_end_matches(['\r', '\n']) {
            "" => refuse(missing(name)),
            value => Ok(value.to_owned()),
        }
    }
}

const PLACEHOLDER: &str = "names a variable in the syntax of another tool, and nothing fills it in here; write {env: NAME} in place of the whole value, and let the variable hold all of it";

/// Returns whether a text is a variable of a shell, of a manifest or of Envoy's formatter, alone or behind the word that
/// names a kind of credentials: it would be sent as it stands, and refused by a service that does not say why.
fn is_placeholder(text: &str) -> bool {
    const BRACKETS: [(&str, &str); 4] = [("${", "}"), ("$(", ")"), ("%ENVIRONMENT(", ")%"), ("{{", "}}")];
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte))
    };
    let is_variable = |text: &str| {
        let mut names = BRACKETS.iter().filter_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close));
        names.any(is_name) || text.strip_prefix('$').is_some_and(|name| name.bytes().all(is_upper) && is_name(name))
    };
    is_variable(text) || text.split_once(' ').is_some_and(|(_, behind)| is_variable(behind))
}

fn is_upper(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_')
}

/// Returns the message about a variable that is not there. It names the variable, unless that may be the secret itself.
#[cold]
fn missing(name: &str) -> String {
    let is_variable =
        name.bytes().all(is_upper) && !name.split('_').any(is_long_word) && (1..=LONGEST_SHOWN).contains(&name.len());
    if is_variable {
        format!(
            "needs the environment variable {name}, which the filter does not see, or which is empty: add {name} to vm_config.environment_variables.host_env_keys (Istio: vmConfig.env, with valueFrom: HOST; Envoy Gateway: env.hostKeys), and set it where the proxy starts"
        )
    } else {
        "needs an environment variable that the filter does not see, or that is empty (its name is not shown: it may be the secret itself); env takes the name of a variable, such as FACILITATOR_KEY, that stands in vm_config.environment_variables.host_env_keys (Istio: vmConfig.env; Envoy Gateway: env.hostKeys)".to_owned()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, for serde makes much code of the choice between a text and an object.
        let value = Box::<RawValue>::deserialize(deserializer)?;
        let text = |json: &str| serde_json::from_str::<String>(json).ok();
        Ok(match text(value.get()) {
            Some(text) => Self::Text(text),
            None => json::canonical_fields(&value)
                .ok()
                .filter(|fields| fields.len() == 1)
                .and_then(|fields| text(fields.get("env")?))
                .map_or(Self::Neither, Self::Variable),
        })
    }
}

/// Every key that a configuration knows, but for names of the operator's choice. A test holds it against the schema.
const KEYS: &str = "accepts address allow amount app ask_for_usage asset assets auth authorizer bazaar body body_schema \
    body_type builder_code bundle bytes_per_token cache_write cached_input cached_input_tokens calls cdp chain_id \
    channels choices claim_above claim_every cluster confirm confirmations contract_wallets cors credit csp \
    decimals defaults deny description discovery dynamodb eip712 enabled enforce_min_deposit env etcd exposure \
    extensions extra facilitator facilitators fleet flush free free_for headers hosts html icon_url \
    input input_tokens keep_headers key key_id key_secret lasts ledger log_range match max_body_bytes \
    max_channels max_claims max_failures max_output_tokens max_redemptions max_response_bytes \
    max_timeout_seconds metadata method methods mime_type min_deposit minimum missing_usage mode model \
    models name namespace network networks offer_receipt offers origins output output_schema output_tokens \
    page path path_params path_params_schema pay_to payer payers payment_identifier price principals query \
    query_schema quote refund_idle routes rpc scheme schemes secret service_name services settle \
    settlement_overrides sign_in_with_x split statement store table tags timeout to total transaction transfer_method \
    unmatched url usage usd_pegged verify version weight withdraw_delay";

/// Keys that belong elsewhere than where people put them, and where that is.
const PLACES: [(&str, &str); 13] = [
    (
        "allow_on_headers_stop_iteration fail_open failure_policy root_id vm_config",
        "beside `configuration` in Envoy's plugin configuration",
    ),
    ("host hosts method methods path", "in `match` of a route"),
    ("path_separated_prefix prefix", "in `path`, as /prefix/{*rest}"),
    ("bundle description extensions free match mime_type price", "in an entry of `routes`"),
    ("accepts exposure free_for max_timeout_seconds payTo pay_to settle", "in `defaults` or an entry of `routes`"),
    (
        "asset confirm contract_wallets enforce_min_deposit min_deposit network scheme transfer_method withdraw_delay",
        "in an entry of `accepts`",
    ),
    (
        "amount ask_for_usage bytes_per_token max_body_bytes max_output_tokens max_response_bytes minimum missing_usage models usage",
        "in `price`",
    ),
    ("auth cluster headers max_failures schemes timeout url verify", "in `facilitator`"),
    ("authorizer claim_above claim_every flush max_channels refund_idle", "in `channels`"),
    ("key_id key_secret", "in `facilitator.auth.cdp`"),
    ("max_claims max_redemptions store", "in `ledger`"),
    ("calls credit", "in `bundle` of a route"),
    ("bazaar builder_code payment_identifier sign_in_with_x", "in `extensions`"),
];

/// Returns where a key belongs, if that is known.
pub(super) fn place_of(key: &str) -> Option<&'static str> {
    PLACES.iter().find(|(keys, _)| keys.split(' ').any(|known| known == key)).map(|(_, place)| *place)
}

/// Keys that mean nothing any more, and what does their work.
const GONE: [(&str, &str); 1] = [(
    "exclusive exclusive_after",
    "it no longer exists; let all proxies that take the same payments share one ledger by `ledger.store`",
)];

/// Returns what to write instead of a key that means nothing any more, if it is one.
pub(super) fn instead_of(key: &str) -> Option<&'static str> {
    GONE.iter().find(|(keys, _)| keys.split(' ').any(|gone| gone == key)).map(|(_, instead)| *instead)
}

/// Returns the one of these keys that was meant, if one was.
pub(super) fn nearest<'a>(known: impl Iterator<Item = &'a str>, key: &str) -> Option<&'a str> {
    let key = key.to_ascii_lowercase();
    known.filter(|known| is_near(known, &key)).min_by_key(|known| distance(known.as_bytes(), key.as_bytes()))
}

/// Headers by which services are commonly told who calls, and which therefore are no secret themselves. Any other name may
/// be one that stands in the place of its value.
const HEADERS: &str = "accept api-key api-token apikey authorization cf-access-client-id cf-access-client-secret content-length \
    content-type cookie host proxy-authorization te transfer-encoding user-agent x-access-token x-api-key x-api- \
    token x-auth x-auth-key x-auth-token x-client-id x-client-secret x-goog-api-key x-key x-token";

/// Objects whose keys are names of the operator's choice.
const NAMED: [&str; 4] = ["assets", "models", "networks", "rpc"];

/// Returns whether an error may repeat a key of a configuration, given the key of the object around it.
pub(super) fn shows_key(around: &str, key: &str) -> bool {
    match around {
        "headers" => is_known_header(key),
        _ if NAMED.contains(&around) => is_harmless(key),
        _ => KEYS.split(' ').any(|known| is_near(known, key)) || place_of(key).is_some() || instead_of(key).is_some(),
    }
}

/// Returns the path of a header, as far as its name may be shown.
pub(super) fn header_path(service: &str, name: &str) -> String {
    if is_known_header(name) { format!("{service}.headers.{name}") } else { format!("{service}.headers") }
}

fn is_known_header(name: &str) -> bool {
    HEADERS.split(' ').any(|known| known.eq_ignore_ascii_case(name))
}

/// A name of the operator's choice, as a part of a path.
pub(super) fn named(name: &str) -> &str {
    if is_harmless(name) { name } else { "…" }
}

/// A text of the configuration as an error repeats it: in quotes, if at all.
pub(super) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_harmless(self.0) { write!(f, "{:?}", self.0) } else { f.write_str("what stands there") }
    }
}

/// Returns whether a text is too short and too plain for a secret.
fn is_harmless(text: &str) -> bool {
    const SIGNS: [&str; 9] = ["basic ", "bearer", "key", "passw", "secret", "sk-", "sk_", "token", "://"];
    let lower = text.to_ascii_lowercase();
    text.len() <= LONGEST_SHOWN
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'@' | b'=' | b'?' | b'%' | b'&'))
        && !SIGNS.iter().any(|sign| lower.contains(sign))
        && !text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(is_long_word)
}

/// Bytes of the longest text that is shown.
const LONGEST_SHOWN: usize = 48;

/// Returns whether letters and digits in a row are so many that they may be a key.
fn is_long_word(word: &str) -> bool {
    const LONGEST_WORD: usize = 24;
    const LONGEST_MIXED: usize = 11;
    let is_mixed =
        word.bytes().any(|byte| byte.is_ascii_digit()) && word.bytes().any(|byte| byte.is_ascii_alphabetic());
    word.len() > if is_mixed { LONGEST_MIXED } else { LONGEST_WORD }
}

/// Returns whether a key is a known one, or was meant to be: at most one letter in three is wrong, and no more than two.
///
/// Letters that have changed places count as none.
pub(super) fn is_near(known: &str, key: &str) -> bool {
    const MOST: usize = 2;
    let count = |text: &str, letter: &u8| text.bytes().filter(|byte| byte.eq_ignore_ascii_case(letter)).count();
    if known.len() == key.len() && known.bytes().all(|letter| count(known, &letter) == count(key, &letter)) {
        return true;
    }
    let most = known.len().checked_div(3).unwrap_or_default().min(MOST);
    key.len() <= known.len().saturating_add(most) && known.len() <= key.len().saturating_add(most) && {
        distance(known.as_bytes(), key.to_ascii_lowercase().as_bytes()) <= most
    }
}

/// Letters to be put in, left out or changed, to make one text of the other (Levenshtein).
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut next = vec![index.saturating_add(1)];
        for (column, (second, above)) in other.iter().zip(row.windows(2)).enumerate() {
            let [diagonal, above] = above else { continue };
            let left = next.get(column).copied().unwrap_or_default();
            let changed = diagonal.saturating_add(usize::from(letter != second));
            next.push(changed.min(above.saturating_add(1)).min(left.saturating_add(1)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_known_keys_are_those_of_the_schema() {
        fn collect(value: &Value, keys: &mut BTreeSet<String>) {
            match value {
                Value::Object(object) => {
                    let properties = object.get("properties").and_then(Value::as_object);
                    keys.extend(properties.into_iter().flat_map(|properties| properties.keys().cloned()));
                    object.values().for_each(|value| collect(value, keys));
                }
                Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
                _ => {}
            }
        }
        let mut keys = BTreeSet::new();
        collect(&serde_json::from_str(include_str!("../../envoy/plugin.schema.json")).unwrap(), &mut keys);
        assert_eq!(KEYS.split(' ').collect::<Vec<_>>(), Vec::from_iter(&keys));
    }

    #[test]
    fn a_key_is_shown_that_is_known_or_nearly() {
        for (around, key, is_shown) in [
            ("", "routes", true),
            ("routes", "prise", true),
            ("match", "pth", true),
            ("facilitator", "uri", true),
            ("eip712", "chainId", true),
            ("facilitator", "hunter", false),
            ("facilitator", "sk-live-0123456789", false),
            ("", "", false),
            ("headers", "X-Api-Key", true),
            ("headers", "routes", false),
            ("headers", "0123", false),
            ("models", "gpt-4o-mini", true),
            ("rpc", "eip155:84532", true),
            ("rpc", "https://node.example/v2/0123", false),
            ("models", "0123456789abcdef", false),
        ] {
            assert_eq!(shows_key(around, key), is_shown, "{around}.{key}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not_repeated() {
        for (text, is_shown) in [
            ("$0.0000001", true),
            ("10 seconds", true),
            ("base-sepollia", true),
            ("/a//b", true),
            ("", true),
            ("0x0123456789abcdef0123456789abcdef01234567", false),
            ("Bearer x", false),
            ("my secret", false),
            ("https://a.example", false),
            ("a\nb", false),
            ("abcdefghijklmnopqrstuvwxyz", false),
            ("a1b2c3d4e5f6", false),
        ] {
            assert_eq!(Shown(text).to_string() == format!("{text:?}"), is_shown, "{text}");
        }
        assert_eq!(format!("{:?}", Secret::Text("x".to_owned())), "Secret(…)");
    }

    #[test]
    fn what_is_near_is_counted_in_letters() {
        for (one, other, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("price", "prise", 1)] {
            assert_eq!(distance(one.as_bytes(), other.as_bytes()), expected);
            assert_eq!(distance(other.as_bytes(), one.as_bytes()), expected);
        }
    }
}
