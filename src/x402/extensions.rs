//! Extensions of the protocol: their declarations in the terms, and the client's part as far as the filter reads it.
//!
//! Source: `specs/extensions` of the x402 repository, and the package `@x402/extensions` 2.27.0, whose validators take
//! what is written here.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{self, JsonError, Object, to_text};

/// A client's own name for a payment, so that its retries are known for what they are.
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";
/// A description of what is sold, for catalogues.
pub const BAZAAR: &str = "bazaar";
/// The codes by which a settlement's transaction names who sold (ERC-8021).
pub const BUILDER_CODE: &str = "builder-code";
/// The sponsoring of gas by which the facilitator takes a permit for Permit2 along (EIP-2612).
pub const EIP2612_GAS_SPONSORING: &str = "eip2612GasSponsoring";
/// The sponsoring of gas by which the facilitator sends the payer's signed approval of Permit2.
pub const ERC20_APPROVAL_GAS_SPONSORING: &str = "erc20ApprovalGasSponsoring";

/// The rule for names that clients give to their payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Identifier {
    /// They may.
    Optional,
    /// They must.
    Required,
}

/// An error in a client's part of [`PAYMENT_IDENTIFIER`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Not of the right shape.
    #[error("extensions.{0}")]
    Shape(JsonError),
    /// Not a name.
    #[error("extensions.payment-identifier.info.id: is not of 16 to 128 letters, digits, _ and -")]
    Malformed,
    /// There is none where there must be one.
    #[error("this route wants extensions.payment-identifier.info.id")]
    Missing,
}

/// Reads the name that a client gives its payment, from the payment's `extensions`.
///
/// # Errors
/// [`IdentifierError`].
pub fn read_identifier(wanted: Identifier, extensions: Option<&RawValue>) -> Result<Option<String>, IdentifierError> {
    #[derive(Deserialize)]
    struct Extensions {
        #[serde(rename = "payment-identifier")]
        identifier: Option<Object<Extension>>,
    }
    #[derive(Deserialize)]
    struct Extension {
        info: Object<Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        id: Option<String>,
    }
    let read = |extensions: &RawValue| json::from_slice::<Extensions>(extensions.get().as_bytes());
    let extensions = extensions.map(read).transpose().map_err(IdentifierError::Shape)?;
    let identifier = extensions.and_then(|extensions| extensions.identifier).and_then(|Object(one)| one.info.0.id);
    match identifier {
        Some(id) if is_identifier(&id) => Ok(Some(id)),
        Some(_) => Err(IdentifierError::Malformed),
        None if wanted == Identifier::Required => Err(IdentifierError::Missing),
        None => Ok(None),
    }
}

fn is_identifier(id: &str) -> bool {
    (16..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The declaration of [`PAYMENT_IDENTIFIER`], as JSON.
pub fn declare_identifier(wanted: Identifier) -> String {
    let required = wanted == Identifier::Required;
    format!(
        r#"{{"info":{{"required":{required}}},"schema":{{"$schema":"{DRAFT}","type":"object","properties":{{"required":{{"type":"boolean"}},"id":{{"type":"string","minLength":16,"maxLength":128,"pattern":"^[a-zA-Z0-9_-]+$"}}}},"required":["required"]}}}}"#
    )
}

/// The declaration of [`BUILDER_CODE`] by the code of the app that sells and those of the services that it depends on, as JSON.
pub fn declare_builder_code(app: &str, services: &[String]) -> String {
    #[derive(serde::Serialize)]
    struct Info<'a> {
        a: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        s: &'a [String],
    }
    let code = r#"{"type":"string","pattern":"^[a-z0-9_]{1,32}$"}"#;
    // As many services as server, client and facilitator may name together.
    format!(
        r#"{{"info":{},"schema":{{"$schema":"{DRAFT}","type":"object","properties":{{"a":{code},"w":{code},"s":{{"type":"array","maxItems":11,"items":{code}}}}},"additionalProperties":false}}}}"#,
        to_text(&Info { a: app, s: services })
    )
}

/// The dialect of the schemas here.
pub(super) const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The declaration of a way for the facilitator to pay for the payer's approval of Permit2, as JSON; `None` for
/// extensions that are none.
pub fn declare_sponsoring(extension: &str) -> Option<String> {
    let (does, last, pattern) = match extension {
        EIP2612_GAS_SPONSORING => ("takes an EIP-2612 permit for Permit2 along", "deadline", "^[0-9]+$"),
        ERC20_APPROVAL_GAS_SPONSORING => {
            ("sends a signed approval of Permit2", "signedTransaction", "^0x[a-fA-F0-9]+$")
        }
        _ => return None,
    };
    let text = |pattern: &str| format!(r#"{{"type":"string","pattern":"{pattern}"}}"#);
    let (address, number, hex) = (text("^0x[a-fA-F0-9]{40}$"), text("^[0-9]+$"), text("^0x[a-fA-F0-9]+$"));
    let mut fields = vec![("from", &address), ("asset", &address), ("spender", &address), ("amount", &number)];
    let (last_schema, version) = (text(pattern), text(r"^[0-9]+(\\.[0-9]+)*$"));
    if extension == EIP2612_GAS_SPONSORING {
        fields.extend([("nonce", &number), ("signature", &hex)]);
    }
    fields.extend([(last, &last_schema), ("version", &version)]);
    let properties: Vec<String> = fields.iter().map(|(name, schema)| format!(r#""{name}":{schema}"#)).collect();
    let required = to_text(&fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    Some(format!(
        r#"{{"info":{{"description":"The facilitator {does}, and pays the gas.","version":"1"}},"schema":{{"$schema":"{DRAFT}","type":"object","properties":{{{}}},"required":{required}}}}}"#,
        properties.join(",")
    ))
}

/// A route's input and output, for [`BAZAAR`]. Examples and schemas are JSON objects as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bazaar {
    /// The method, in upper case.
    pub method: String,
    /// The route's path with `:param` in place of what differs; `None` where it is always the same.
    pub template: Option<String>,
    /// The encoding of the body (`json`, `form-data`, `text`); `None` where there is none, and `input` is the query.
    pub body_type: Option<String>,
    /// An example of the query, or of the body.
    pub input: Option<String>,
    /// Its schema.
    pub input_schema: Option<String>,
    /// An example of the path's parameters.
    pub path_params: Option<String>,
    /// Its schema.
    pub path_params_schema: Option<String>,
    /// An example of the response.
    pub output: Option<String>,
    /// Its schema.
    pub output_schema: Option<String>,
}

impl Bazaar {
    /// The declaration, as JSON.
    pub fn to_json(&self) -> String {
        let method = to_text(&self.method);
        let empty = || "{}".to_owned();
        let mut input = format!(r#""type":"http","method":{method}"#);
        let mut properties =
            format!(r#""type":{{"type":"string","const":"http"}},"method":{{"type":"string","enum":[{method}]}}"#);
        let mut required = r#""type","method""#.to_owned();
        let example = self.input.clone().unwrap_or_else(empty);
        let schema = self.input_schema.clone().unwrap_or_else(|| r#"{"type":"object"}"#.to_owned());
        match &self.body_type {
            Some(kind) => {
                let kind = to_text(kind);
                input.push_str(&format!(r#","bodyType":{kind},"body":{example}"#));
                properties.push_str(&format!(r#","bodyType":{{"type":"string","enum":[{kind}]}},"body":{schema}"#));
                required.push_str(r#","bodyType","body""#);
            }
            None => {
                input.push_str(&format!(r#","queryParams":{example}"#));
                properties.push_str(&format!(r#","queryParams":{schema}"#));
            }
        }
        if self.path_params.is_some() || self.path_params_schema.is_some() {
            let example = self.path_params.clone().unwrap_or_else(empty);
            let schema = self.path_params_schema.clone().unwrap_or_else(|| r#"{"type":"object"}"#.to_owned());
            input.push_str(&format!(r#","pathParams":{example}"#));
            properties.push_str(&format!(r#","pathParams":{schema}"#));
        }
        let (mut output, mut output_schema) = (String::new(), String::new());
        if let Some(example) = &self.output {
            let schema = self.output_schema.clone().unwrap_or_else(|| r#"{"type":"object"}"#.to_owned());
            output = format!(r#","output":{{"type":"json","example":{example}}}"#);
            output_schema = format!(
                r#","output":{{"type":"object","properties":{{"type":{{"type":"string"}},"example":{schema}}},"required":["type"]}}"#
            );
        }
        let template =
            self.template.as_ref().map_or_else(String::new, |path| format!(r#","routeTemplate":{}"#, to_text(path)));
        format!(
            r#"{{"info":{{"input":{{{input}}}{output}}},"schema":{{"$schema":"{DRAFT}","type":"object","properties":{{"input":{{"type":"object","properties":{{{properties}}},"required":[{required}],"additionalProperties":false}}{output_schema}}},"required":["input"]}}{template}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wanted: Identifier, extensions: &str) -> Result<Option<String>, String> {
        let extensions: Option<&RawValue> = (!extensions.is_empty()).then(|| serde_json::from_str(extensions).unwrap());
        read_identifier(wanted, extensions).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_is_read_where_it_is_one() {
        let id = "pay_0123456789abcdef";
        let sent = |id: &str| {
            format!(r#"{{"other":1,"payment-identifier":{{"info":{{"required":true,"id":{id}}},"schema":{{}}}}}}"#)
        };
        for wanted in [Identifier::Optional, Identifier::Required] {
            assert_eq!(read(wanted, &sent(&format!("\"{id}\""))), Ok(Some(id.to_owned())));
            for wrong in ["\"short\"", "\"pay 0123456789abcdef\"", "\"\"", &format!("\"{}\"", "a".repeat(129))] {
                assert!(read(wanted, &sent(wrong)).unwrap_err().contains("is not of 16 to 128"), "{wrong}");
            }
            for wrong in [sent("7").as_str(), "[]", r#"{"payment-identifier":7}"#, r#"{"payment-identifier":{}}"#] {
                assert!(read(wanted, wrong).unwrap_err().starts_with("extensions."), "{wrong}");
            }
        }
        for none in ["", "{}", r#"{"payment-identifier":{"info":{"required":false}}}"#] {
            assert_eq!(read(Identifier::Optional, none), Ok(None));
            assert!(read(Identifier::Required, none).unwrap_err().contains("wants"), "{none}");
        }
    }

    #[test]
    fn declarations_are_json() {
        let mut declared = vec![declare_identifier(Identifier::Optional), declare_identifier(Identifier::Required)];
        declared
            .extend([EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING].into_iter().filter_map(declare_sponsoring));
        let object = Some(r#"{"a":1}"#.to_owned());
        for body_type in [None, Some("json".to_owned())] {
            let template = Some("/a/:b".to_owned());
            let (input, path_params, output) = (object.clone(), object.clone(), object.clone());
            let full = Bazaar {
                method: "PUT".to_owned(),
                template,
                body_type,
                input,
                path_params,
                output,
                ..Bazaar::default()
            };
            declared.extend([full.to_json(), Bazaar { method: "GET".to_owned(), ..Bazaar::default() }.to_json()]);
        }
        assert_eq!(declared.len(), 8);
        for json in declared {
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(value["info"].is_object() && value["schema"].is_object(), "{json}");
        }
        assert_eq!(declare_sponsoring("bazaar"), None);
    }
}
