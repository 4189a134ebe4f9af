//! Reports of the ends of requests, for people: a line of the log, properties for access logs, and stats.

use super::host::{Host, LogLevel};
use super::{properties, stats};
use crate::exchange::{Outcome, Record};

/// Tells of the end of a request. `known_id` is the host's name of it, where it was read while it was to be had.
pub(super) fn tell(host: &impl Host, record: &Record, known_id: Option<String>) {
    stats::count_request(host, record);
    log(
        host,
        record,
        |name, value| {
            // Access logs that lack a field are no reason to fail a request.
            let _ = host.set_property(&["x402_", name].concat(), value);
        },
        || known_id.or_else(|| properties::request_id(host)),
    );
}

/// Tells what came of the payment of a response that left before it settled. Its request was told of before.
pub(super) fn tell_aftermath(host: &impl Host, record: &Record) {
    if record.outcome == Outcome::Lost {
        stats::count_loss(host, record);
    }
    log(host, record, |_, _| {}, || None);
}

/// Writes a text in quotes, with what is not plain in it escaped.
fn push_quoted(line: &mut String, text: &str) {
    match text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        true => line.extend(["\"", text, "\""]),
        false => line.push_str(&format!("{text:?}")),
    }
}

fn log(host: &impl Host, record: &Record, note: impl Fn(&str, &str), request_id: impl FnOnce() -> Option<String>) {
    let level = match record.outcome {
        Outcome::Unknown | Outcome::Overloaded | Outcome::SettledUpstreamFailed | Outcome::Lost => LogLevel::Warn,
        // Whoever only asks costs nobody anything, and must not fill a log.
        Outcome::Unpaid | Outcome::Exempt => LogLevel::Debug,
        _ => LogLevel::Info,
    };
    let is_logged = host.logs(level);
    let mut line = "x402:".to_owned();
    for (name, value) in record.facts() {
        if is_logged {
            let is_bare = matches!(name, "route" | "outcome");
            line.extend([" ", name, "="]);
            if is_bare { line.push_str(&value) } else { push_quoted(&mut line, &value) }
        }
        note(name, &value);
    }
    if !is_logged {
        return;
    }
    if let Some(id) = request_id() {
        line.push_str(" request_id=");
        push_quoted(&mut line, &id);
    }
    host.log(level, &line);
}
