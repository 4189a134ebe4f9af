//! An operator's wish that everything is claimed and paid out now, as before a planned stop (`channels.flush`).

use serde::Serialize;

use super::state::State;
use super::{Context, Effects, Event, Head, Next, Reply, RequestHead};
use crate::channel::IS_BUILT_IN;
use crate::config::Config;
use crate::json;
use crate::time::UnixTime;

/// Seconds after which the wish is answered, whatever is left.
const MOST_SECONDS: u64 = 60;

/// Something that is wanted of the keeper of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flush {
    /// Everything that is charged by now is to be claimed and paid out.
    Begin,
    /// How far is the wish of this number?
    Look(u64),
}

/// The progress of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flushed {
    /// The wish's number.
    pub number: u64,
    /// True once nothing is left.
    pub is_done: bool,
    /// Atomic units that are left of what was charged when the wish came, of all tokens; `None` where nobody has looked yet.
    pub unclaimed: Option<u128>,
    /// Atomic units that were claimed since.
    pub claimed: u128,
}

/// State: everything is being claimed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flushing {
    /// The wish's number, once it has one.
    number: Option<u64>,
    /// The time at which it is answered at the latest.
    until: UnixTime,
}

/// Returns whether the path and the method are those of the wish.
pub(super) fn is_asked(config: &Config, head: &Head<'_>) -> bool {
    let flush = config.channels.flush.as_ref().filter(|_| IS_BUILT_IN);
    flush.is_some_and(|flush| head.path() == flush.path.as_bytes() && head.text(":method") == "POST")
}

/// Takes in such a request. Whoever may not wish it is told what they would be told of a path that is not there.
pub(super) fn begin(context: Context<'_>, head: &RequestHead) -> Next {
    let is_welcome = context.config.channels.flush.as_ref().is_some_and(|flush| {
        let mut values = head.all("authorization");
        let authorization = values.next().filter(|_| values.next().is_none());
        flush.admits(head.principals(), authorization)
    });
    if !is_welcome {
        return Effects::reply(Reply::error(404, "not found")).and_over();
    }
    let state = Flushing { number: None, until: context.now.plus(MOST_SECONDS) };
    (state.into(), Effects { flush: Some(Flush::Begin), ..Effects::default() })
}

impl State for Flushing {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        if !IS_BUILT_IN {
            return self.ignore(event);
        }
        match (event, self.number) {
            (Event::Flushed(None), _) => {
                Effects::reply(Reply::error(503, "the host's shared data does not work")).and_over()
            }
            (Event::Flushed(Some(flushed)), _) if flushed.is_done => answer(200, &flushed),
            (Event::Flushed(Some(flushed)), _) if context.now >= self.until => answer(504, &flushed),
            (Event::Flushed(Some(flushed)), _) => Self { number: Some(flushed.number), ..self }.stay(),
            (Event::Tick, Some(number)) => {
                (self.into(), Effects { flush: Some(Flush::Look(number)), ..Effects::default() })
            }
            (event, _) => self.ignore(event),
        }
    }
}

fn answer(status: u16, flushed: &Flushed) -> Next {
    #[derive(Serialize)]
    struct Body {
        unclaimed: Option<String>,
        claimed: String,
    }
    let unclaimed = flushed.unclaimed.map(|units| units.to_string());
    let body = json::to_text(&Body { unclaimed, claimed: flushed.claimed.to_string() });
    Effects::reply(Reply::of_json(status, body)).and_over()
}
