//! Extensions of the protocol: catalogues (`bazaar`), names of payments, and signing in.

use std::sync::Arc;
use std::time::Duration;

use super::{Result, refuse};
use crate::config::raw;
use crate::config::secret::Shown;
use crate::config::{Extensions, Offer, SignInTerms};
use crate::evm::keccak256;
use crate::json;
use crate::route::Pattern;
use crate::time::parse_duration;
use crate::x402::extensions::{Bazaar, declare_builder_code};
use crate::x402::requirement::Scheme;
use crate::x402::sign_in::chains;

const MAX_STATEMENT_BYTES: usize = 512;
/// Not longer, for payers who may come back take up memory.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Methods whose input is the query.
const WITH_QUERY: [&str; 3] = ["GET", "HEAD", "DELETE"];
/// Methods whose input is a body.
const WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];

/// Resolves the extensions of a route.
#[inline(never)]
pub(super) fn extensions(path: &str, route: &raw::Route, offers: &[Arc<Offer>]) -> Result<Extensions> {
    let Some(raw) = &route.extensions else { return Ok(Extensions::default()) };
    let bazaar = raw.bazaar.as_ref().map(|raw| bazaar(&format!("{path}.bazaar"), raw, &route.matcher)).transpose()?;
    let sign_in = raw.sign_in_with_x.as_ref().map(|raw| sign_in(&format!("{path}.sign_in_with_x"), raw, offers));
    let builder_code =
        raw.builder_code.as_ref().map(|raw| builder_code(&format!("{path}.builder_code"), raw)).transpose()?;
    let bazaar = bazaar.map(|bazaar| bazaar.to_json().into());
    let (identifier, sign_in) = (raw.payment_identifier, sign_in.transpose()?);
    Ok(Extensions { identifier, bazaar, builder_code, sign_in, declared: None }.prepared())
}

/// Resolves the codes of who sells, by the limits of `@x402/extensions` 2.27.0.
fn builder_code(path: &str, raw: &raw::BuilderCode) -> Result<Arc<str>> {
    const MOST_SERVICES: usize = 5;
    let is_code = |code: &str| {
        (1..=32).contains(&code.len()) && code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    if raw.services.len() > MOST_SERVICES || !raw.services.iter().chain([&raw.app]).all(|code| is_code(code)) {
        return refuse(
            path,
            format_args!(
                "has a code that is not of 1 to 32 of a to z, 0 to 9 and _, or more than {MOST_SERVICES} services"
            ),
        );
    }
    Ok(declare_builder_code(&raw.app, &raw.services).into())
}

fn sign_in(path: &str, raw: &raw::SignIn, offers: &[Arc<Offer>]) -> Result<SignInTerms> {
    let lasts = parse_duration(&raw.lasts).filter(|lasts| lasts.subsec_nanos() == 0 && *lasts <= LONGEST_SIGN_IN);
    let Some(seconds @ 1..) = lasts.map(|lasts| lasts.as_secs()) else {
        return refuse(
            format!("{path}.lasts"),
            format_args!("{} is not of whole seconds such as \"3600s\", from 1s to 30 days", Shown(&raw.lasts)),
        );
    };
    let is_line = |text: &str| (1..=MAX_STATEMENT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    if !raw.statement.as_deref().is_none_or(is_line) {
        return refuse(
            format!("{path}.statement"),
            format_args!("is not one line of 1 to {MAX_STATEMENT_BYTES} bytes"),
        );
    }
    check_sign_in_offers(path, offers)?;
    let requirements: Vec<String> = offers.iter().map(|offer| json::to_text(&offer.requirement)).collect();
    let price = keccak256(requirements.join("\n").as_bytes());
    Ok(SignInTerms { seconds, statement: raw.statement.as_deref().map(Arc::from), price })
}

/// Checks that a payment of these offers is one by which its payer may come back.
fn check_sign_in_offers(path: &str, offers: &[Arc<Offer>]) -> Result<()> {
    if offers.iter().any(|offer| offer.requirement.scheme == Scheme::Upto) {
        return refuse(path, "does not go with scheme upto, by which a payment may cost nothing");
    }
    if chains(offers.iter().map(|offer| &offer.requirement.network)).is_empty() {
        return refuse(path, "needs an entry on a network of eip155 or solana, whose accounts can sign in");
    }
    if offers.iter().any(|offer| offer.recipient_from.is_some()) {
        return refuse(
            path,
            "does not go with pay_to from metadata: whoever pays themselves would come back to others' goods",
        );
    }
    Ok(())
}

fn bazaar(path: &str, raw: &raw::Bazaar, matcher: &raw::Match) -> Result<Bazaar> {
    let method = match (&raw.method, matcher.methods.as_slice()) {
        (Some(method), _) | (None, [method]) => method.to_ascii_uppercase(),
        (None, _) => return refuse(format!("{path}.method"), "is missing, and the route is not for just one"),
    };
    let has_body = has_body(path, raw, &method)?;
    let body_type = body_type(path, raw)?;
    let json = |object: &Option<raw::Extra>| object.as_ref().map(raw::Extra::to_json);
    let (input, input_schema) = if has_body { (&raw.body, &raw.body_schema) } else { (&raw.query, &raw.query_schema) };
    let pattern = Pattern::parse(&matcher.path).map_or_else(|_| String::new(), |pattern| pattern.to_string());
    let has_params = pattern.contains('{');
    Ok(Bazaar {
        method,
        template: (has_params && !pattern.contains("{*")).then(|| pattern.replace('{', ":").replace('}', "")),
        body_type: has_body.then_some(body_type),
        input: json(input),
        input_schema: json(input_schema),
        path_params: json(&raw.path_params),
        path_params_schema: json(&raw.path_params_schema),
        output: json(&raw.output),
        output_schema: json(&raw.output_schema),
    })
}

/// Returns whether the input is a body, and not the query.
fn has_body(path: &str, raw: &raw::Bazaar, method: &str) -> Result<bool> {
    let has_body = raw.body.is_some() || raw.body_schema.is_some() || raw.body_type.is_some();
    let known = if has_body { WITH_BODY } else { WITH_QUERY };
    let has_query = raw.query.is_some() || raw.query_schema.is_some();
    if has_body && has_query {
        return refuse(format!("{path}.query"), "stands beside body; keep one");
    }
    // What takes a body, and says nothing of it, takes any.
    let has_body = has_body || (!has_query && WITH_BODY.contains(&method));
    if !known.contains(&method) && !has_body {
        return refuse(format!("{path}.method"), format_args!("{} is none of {}", Shown(method), known.join(", ")));
    }
    if raw.body.is_some() && !WITH_BODY.contains(&method) {
        return refuse(format!("{path}.body"), format_args!("does not go with {method}"));
    }
    Ok(has_body)
}

fn body_type(path: &str, raw: &raw::Bazaar) -> Result<String> {
    let body_type = raw.body_type.clone().unwrap_or_else(|| "json".to_owned());
    if !["json", "form-data", "text"].contains(&body_type.as_str()) {
        return refuse(
            format!("{path}.body_type"),
            format_args!("{} is none of json, form-data, text", Shown(&body_type)),
        );
    }
    Ok(body_type)
}
