//! What every state of the exchange has in common.

use super::{Context, Effects, Event, Exchange, Next, Outcome, Reply, ResponseEdits, Stream, UpstreamHead};

/// A state of the exchange: what a request waits for, and what it has to know for that.
pub(super) trait State: Sized + Into<Exchange> {
    /// Takes in an event. One that the state does not wait for goes to [`State::ignore`].
    fn handle(self, context: Context<'_>, event: Event) -> Next;

    /// Ends a request whose client has gone, or that the proxy begins anew.
    fn end(self) -> Next {
        Effects::default().and_over()
    }

    /// Returns whether a response that comes unasked could be what was to be paid for.
    fn could_be_sold(&self) -> bool {
        false
    }

    /// Takes in an event that the state does not wait for.
    fn ignore(self, event: Event) -> Next {
        match event {
            Event::Ended | Event::Redirected => self.end(),
            Event::Upstream(head) => self.pass_stray(&head),
            _ => self.stay(),
        }
    }

    /// Goes on waiting.
    fn stay(self) -> Next {
        (self.into(), Effects::default())
    }

    /// Takes in a response that the state does not wait for: the proxy's own, about a request that it gave up on.
    fn pass_stray(self, head: &UpstreamHead) -> Next {
        let could_be_sold = self.could_be_sold();
        pass_stray(self.end(), could_be_sold, head)
    }
}

/// Lets a response pass that nobody waits for, unless it could be what was to be paid for. Apart from the trait, for each
/// state would have a copy of it.
#[inline(never)]
fn pass_stray((exchange, effects): Next, could_be_sold: bool, head: &UpstreamHead) -> Next {
    let stream = if could_be_sold && !head.is_error() {
        Stream::Reply(Reply::error(502, "the upstream answered twice"))
    } else {
        Stream::Deliver(ResponseEdits::default())
    };
    // Its client is there, and has this answer.
    let record = effects.record.filter(|record| record.outcome != Outcome::Left);
    (exchange, Effects { stream, record, ..effects })
}
