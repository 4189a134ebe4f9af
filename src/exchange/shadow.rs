//! A request for a priced route that asks nobody to pay: the other states decide about it as if it did, and what they decide
//! is told to logs and stats alone.
//!
//! Nothing that they want of the ledger is done, and no settlement is asked for. The operator's price service and `/verify` are
//! asked where the route asks them; whatever they answer, the request passes.

use std::sync::Arc;

use super::state::State;
use super::{
    Call, CallKind, Context, Effects, Event, Exchange, Head, Next, Outcome, PricedRequest, Record, RequestEdits,
    Settled, Stream,
};
use crate::channel::record::apply;
use crate::config::Config;
use crate::ledger::{Answer, Operation, exposure};

/// State: the request waits for a decision, which it passes by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shadow {
    /// The state that decides.
    decides: Box<Exchange>,
    /// Headers that the upstream gets from no client: by them, one that passes could become one that other routes sell.
    remove: Vec<String>,
}

/// Takes in a request for a route in shadow.
pub(super) fn begin(context: Context<'_>, request: PricedRequest) -> Next {
    if request.head.is_preflight() {
        return Effects::from(Settled::pass(context.config, &request.head)).and_over();
    }
    let remove = request.head.unwanted(context.config, None);
    watch(context, remove, super::take_in(context, request))
}

/// Lets a request pass that could be one for several routes, all in shadow, of which `index` is one.
pub(super) fn pass_unsure(config: &Config, head: &Head<'_>, index: usize) -> Settled {
    let route = config.routes.get(index).map_or_else(|| "-".into(), |route| Arc::clone(&route.label));
    pass(config, head, Record::new(&route, Outcome::Malformed, super::AMBIGUOUS_PATH))
}

/// Lets a request pass that would end like this.
pub(super) fn pass(config: &Config, head: &Head<'_>, record: Record) -> Settled {
    Settled { record: Some(Record { is_shadow: true, ..record }), ..Settled::pass(config, head) }
}

/// Follows the decision as far as it comes without anybody's answer.
fn watch(context: Context<'_>, remove: Vec<String>, (mut decides, mut effects): Next) -> Next {
    let (mut has_checked, mut is_good, mut outcome) = (false, false, Outcome::Served);
    loop {
        has_checked |= effects.has_checked;
        let event = match &effects {
            Effects { record: Some(_), .. } => break,
            Effects { ledger: Some((_, Operation::Claim { .. })), .. } => Event::Ledger(Answer::Granted),
            // It would be served, or money would move.
            Effects { ledger: Some((_, Operation::Settle { .. } | Operation::ClaimToSettle { .. })), .. }
            | Effects { exposure: Some((_, exposure::Operation::Reserve { .. })), .. }
            | Effects { stream: Stream::Forward(_), .. } => {
                is_good = true;
                Event::Ended
            }
            // Nor is any channel known.
            Effects { channel: Some((_, operation)), .. } => {
                let (_, answer) = apply(None, 0, operation, context.now);
                Event::Channel(answer)
            }
            // A refund is all that is settled without the ledger.
            Effects { call: Some(Call { kind: CallKind::Settle, .. }), .. } => {
                (is_good, outcome) = (true, Outcome::Refunded);
                Event::Ended
            }
            // Of what is not remembered nothing is found.
            Effects { ledger: Some(_), .. } => Event::Ledger(Answer::NotHeld),
            Effects { ledger: None, .. } => break,
        };
        (decides, effects) = match decides {
            Exchange::Refunding(refunding) => refunding.forgo(),
            decides => decides.step(context, event),
        };
        if is_good {
            break;
        }
    }
    let Effects { record, call, stream, .. } = effects;
    if record.is_some() || decides.is_over() {
        let record = record.map(|record| match is_good {
            true => Record { outcome, ..record },
            false => record,
        });
        return finish(remove, Effects { record, has_checked, stream, ..Effects::default() });
    }
    // Nothing else is asked before money moves.
    let call = call.filter(|call| matches!(call.kind, CallKind::Verify | CallKind::Price));
    (Shadow { decides: Box::new(decides), remove }.into(), Effects { call, stream, has_checked, ..Effects::default() })
}

/// Ends the filter's part in a request, which passes unless its client has its answer, or has gone.
fn finish(remove: Vec<String>, effects: Effects) -> Next {
    let Effects { record, has_checked, stream, .. } = effects;
    let record = record.map(|record| Record { is_shadow: true, ..record });
    let stream = match stream {
        Stream::Deliver(_) => stream,
        _ => Stream::Forward(RequestEdits { passes_for: None, remove, set: Vec::new() }),
    };
    Effects { record, has_checked, stream, ..Effects::default() }.and_over()
}

impl State for Shadow {
    fn handle(self, context: Context<'_>, event: Event) -> Next {
        let has_ended = matches!(event, Event::Ended | Event::Redirected);
        let Self { decides, remove } = self;
        let (exchange, effects) = watch(context, remove, decides.step(context, event));
        let stream = if has_ended { Stream::Hold } else { effects.stream };
        (exchange, Effects { stream, ..effects })
    }
}
