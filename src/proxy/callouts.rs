//! Callouts: how they are sent, and how their answers are read.

use std::cell::RefCell;
use std::sync::Arc;

use super::answers::{Answers, Question};
use super::host::{Buffer, Host, LogLevel, Map};
use super::shared::Shared;
use super::tokens::{Tokens, authorization};
use super::{heads, stats};
use crate::config::Service;
use crate::exchange::{Call, CallKind};
use crate::facilitator::CalloutAnswer;

/// A callout of an exchange that is under way.
pub(super) struct Callout {
    /// The host's mark of its answer.
    pub(super) token: u32,
    pub(super) kind: CallKind,
    /// The service that was called.
    pub(super) service: Arc<Service>,
    /// The question whose answer may be used again.
    question: Option<Question>,
    /// When it was sent, in nanoseconds since the epoch, where its answer is timed.
    sent_at: Option<u64>,
}

/// The fate of a callout that was to be sent.
pub(super) enum Sent {
    /// It is under way.
    UnderWay(Callout),
    /// Its answer is known already.
    Answered(CalloutAnswer),
}

/// The error of a request to a service that could not be sent, and that was logged.
pub(super) struct NotSent;

/// Sends a callout of an exchange, unless its answer is known.
pub(super) fn send(host: &impl Host, shared: &Shared, Call { kind, service, body }: &Call) -> Sent {
    let question = kind.is_cacheable().then(|| Question::new(service, body));
    if let (Some(question), Ok(now)) = (&question, host.unix_time())
        && let Some(answer) = shared.answers.borrow().get(question, now)
    {
        return Sent::Answered(answer);
    }
    match dispatch(host, &shared.tokens, service, "POST", kind.path(), body) {
        Ok(token) => {
            let sent_at = if stats::times(*kind) { host.read_clock().ok() } else { None };
            Sent::UnderWay(Callout { token, kind: *kind, service: Arc::clone(service), question, sent_at })
        }
        Err(NotSent) => Sent::Answered(CalloutAnswer::NotSent),
    }
}

impl Callout {
    /// Reads the answer: `headers` of them, and a body of `body_size` bytes.
    pub(super) fn read(
        self,
        host: &impl Host,
        answers: &RefCell<Answers>,
        headers: usize,
        body_size: usize,
    ) -> CalloutAnswer {
        if let (Some(sent_at), Ok(now)) = (self.sent_at, host.now()) {
            stats::time_callout(host, self.kind, now.saturating_sub(sent_at));
        }
        let answer = read_answer(host, headers, body_size, self.kind.max_answer_bytes());
        if let (Some(question), Ok(now)) = (self.question, host.unix_time()) {
            let until = now.plus(max_age(host));
            answers.borrow_mut().keep(question, answer.clone(), now, until);
        }
        answer
    }
}

/// Sends a request to a service, of a path behind the service's own; the token of its answer. That one could not be sent,
/// mostly because the proxy has no such cluster, is logged.
pub(super) fn dispatch(
    host: &impl Host,
    tokens: &RefCell<Tokens>,
    service: &Service,
    method: &str,
    path: &str,
    body: &str,
) -> Result<u32, NotSent> {
    let path = match (service.base_path.as_str(), path) {
        ("", "") => "/".to_owned(),
        (base, path) => format!("{base}{path}"),
    };
    let mut headers = vec![
        (":method", method),
        (":scheme", service.scheme.as_str()),
        (":authority", service.authority.as_str()),
        (":path", path.as_str()),
        ("accept", "application/json"),
    ];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    headers.extend(service.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let token = service.cdp_key.as_ref().map(|key| authorization(host, tokens, key, service, method, &path));
    let token = token.transpose().map_err(|error| {
        host.log(LogLevel::Critical, &format!("x402: the call of {} cannot be signed: {error}", service.authority));
        NotSent
    })?;
    headers.extend(token.as_deref().map(|token| ("authorization", token)));
    host.dispatch(&service.cluster, &headers, body.as_bytes(), service.timeout).map_err(|error| {
        let cluster = &service.cluster;
        host.log(
            LogLevel::Critical,
            &format!("x402: the cluster {cluster:?} cannot be called ({error}); is there one of that name in the proxy's configuration?"),
        );
        NotSent
    })
}

/// Reads the answer of the callout that is over: `headers` of them, and a body of `body_size` bytes, of which no more than
/// `max_bytes` and one are read.
pub(super) fn read_answer(host: &impl Host, headers: usize, body_size: usize, max_bytes: usize) -> CalloutAnswer {
    // A callout that failed calls back without headers.
    if headers == 0 {
        return CalloutAnswer::Lost;
    }
    let answer = heads::status(host, Map::CalloutAnswer).and_then(|status| {
        // One byte more than may be read, so that the reader sees that it is too long.
        let body = host.buffer(Buffer::CalloutAnswer, body_size.min(max_bytes.saturating_add(1)))?;
        Ok(CalloutAnswer::Answered { status, body })
    });
    answer.unwrap_or(CalloutAnswer::Lost)
}

/// Seconds for which the answer that is there holds.
fn max_age(host: &impl Host) -> u64 {
    let head = heads::all(host, Map::CalloutAnswer).unwrap_or_default();
    let control = head.text("cache-control").to_ascii_lowercase();
    let mut directives = control.split(',').map(str::trim);
    if directives.clone().any(|directive| matches!(directive, "no-store" | "no-cache")) {
        return 0;
    }
    directives.find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok()).unwrap_or(0)
}
