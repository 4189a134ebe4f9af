//! A browser that asks whether a script of another origin may send a request (Fetch standard, CORS-preflight fetch).

use std::sync::Arc;

use super::state::State;
use super::{Context, Effects, Event, Next, Reply, RequestEdits, RequestHead, Stream};

/// State: the question is at the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Preflight;

/// Answers where the configuration says who may, and lets the upstream answer where it does not.
pub(super) fn begin(context: Context<'_>, head: &RequestHead, route: &Arc<str>) -> Next {
    if context.config.admits_origin(&head.text("origin")) {
        return Effects::reply(Reply::cors_preflight(head)).and_over();
    }
    let remove = head.unwanted(context.config, None);
    let edits = RequestEdits { passes_for: Some(Arc::clone(route)), remove, set: Vec::new() };
    (Preflight.into(), Effects { stream: Stream::Forward(edits), ..Effects::default() })
}

impl State for Preflight {
    fn handle(self, _: Context<'_>, event: Event) -> Next {
        match event {
            Event::Upstream(head) => Effects::reply(Reply::preflight(head)).and_over(),
            _ => self.ignore(event),
        }
    }
}
