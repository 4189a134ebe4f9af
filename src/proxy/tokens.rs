//! Tokens that callouts carry, each signed once and used for a while.

use std::cell::RefCell;

use super::answers::Question;
use super::host::{Host, HostError};
use crate::config::Service;
use crate::facilitator::cdp::CdpKey;
use crate::time::UnixTime;

/// Tokens by service, method and path, each with the time of its signature. A worker has its own.
#[derive(Default)]
pub(super) struct Tokens(Vec<(Question, UnixTime, String)>);

/// Seconds for which a token is used: half of those for which it is good.
const USED_SECONDS: u64 = 60;

/// Returns the header `authorization` of a call that `key` signs.
pub(super) fn authorization(
    host: &impl Host,
    tokens: &RefCell<Tokens>,
    key: &CdpKey,
    service: &Service,
    method: &str,
    path: &str,
) -> Result<String, HostError> {
    let now = host.unix_time()?;
    let call = format!("{method} {}{path}", service.authority);
    let question = Question::new(service, &call);
    // The clock may be set back, and a token of the future is good for nothing.
    tokens.borrow_mut().0.retain(|(_, signed_at, _)| *signed_at <= now && now < signed_at.plus(USED_SECONDS));
    if let Some((.., value)) = tokens.borrow().0.iter().find(|(known, ..)| *known == question) {
        return Ok(value.clone());
    }
    let [nonce, _] = *host.random()?.as_chunks::<16>().0 else {
        return Err(HostError { call: "random_get", status: 0 });
    };
    let value = format!("Bearer {}", key.token(&call, now, nonce));
    tokens.borrow_mut().0.push((question, now, value.clone()));
    Ok(value)
}
