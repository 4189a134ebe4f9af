//! A scripted fake of Envoy: heads, bodies and callouts come when a test says so, and any host call can be made to fail.
//!
//! It does what was measured of Envoy 1.40: a stream's calls act on the effective context; a stream that is gone cannot be
//! acted on; a head can be read and edited until it has passed, and a body while it is shown or kept; replies, resumed
//! halves and resets take place after the callback that asked for them; a reply in the request's phase passes through the
//! filter's own response callbacks, one in the response's phase does not; answers of callouts come to the root context,
//! whoever asked, and are lost with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use x402_proxy_wasm::proxy::host::{
    Buffer, DataVerdict, Half, HostError, Lifespan, LogLevel, Map, MetricKind, Verdict,
};
use x402_proxy_wasm::proxy::pairs::{self, Pair};
use x402_proxy_wasm::proxy::{Contexts, Host};

const BAD_ARGUMENT: u32 = 2;
const INTERNAL_FAILURE: u32 = 10;

pub type Headers = Vec<(String, String)>;

/// Which host calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// None.
    None,
    /// The call of this number, counted from 0.
    At(usize),
    /// The call of this number and all that follow.
    From(usize),
    /// All of this name.
    Named(&'static str),
    /// The call of this number, and all of this name.
    AtAndNamed(usize, &'static str),
}

/// A part of a body, or what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, and whether the body ends with them.
    Data(Vec<u8>, bool),
    /// Trailers, which end a body.
    Trailers,
}

/// A callout that was sent.
#[derive(Debug, Clone)]
pub struct SentCallout {
    pub token: u32,
    pub headers: Headers,
    pub path: String,
    pub body: Value,
    /// The same, as it was sent.
    pub bytes: Vec<u8>,
    root: u32,
}

/// What the client has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientView {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// Whether the end of it came.
    pub is_whole: bool,
    /// Whether it is the filter's own.
    pub is_own: bool,
}

/// How a half is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    None,
    /// At its head, and the body is not shown.
    All,
    /// At its head, and the body is shown and kept.
    Head,
    /// In its body, which is kept; the head has passed.
    Body,
}

#[derive(Default)]
struct HalfState {
    head: Option<Headers>,
    is_head_shown: bool,
    has_head_passed: bool,
    stop: Stop,
    /// Kept of the body, or shown at the moment.
    kept: Vec<u8>,
    /// What has not been shown yet.
    incoming: VecDeque<Piece>,
    /// What has passed.
    passed: Vec<u8>,
    trailers: Headers,
    is_end_shown: bool,
    has_end_passed: bool,
}

#[derive(Default)]
struct Stream {
    root: u32,
    request: HalfState,
    response: HalfState,
    properties: BTreeMap<String, Vec<u8>>,
    received: u64,
    has_reply: bool,
    is_reset: bool,
    is_own: bool,
}

impl Stream {
    const fn half(&mut self, half: Half) -> &mut HalfState {
        match half {
            Half::Request => &mut self.request,
            Half::Response => &mut self.response,
        }
    }
}

enum Action {
    Resume(Half),
    Reply(u16, Headers, Vec<u8>),
    Reset,
}

#[derive(Default)]
struct State {
    nanoseconds: u64,
    /// Properties that every context has.
    facts: BTreeMap<String, Vec<u8>>,
    /// The time as the callback that is under way has heard it.
    known_time: Option<u64>,
    log: Vec<(LogLevel, String)>,
    configuration: Vec<u8>,
    environment: BTreeMap<String, String>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    effective: u32,
    roots: BTreeSet<u32>,
    streams: BTreeMap<u32, Stream>,
    callouts: Vec<SentCallout>,
    tokens: u32,
    answer: Option<(Headers, Vec<u8>)>,
    actions: Vec<(u32, Action)>,
    metrics: BTreeMap<String, i64>,
    calls: Vec<&'static str>,
    faults: Option<Faults>,
    failed: Vec<&'static str>,
    most_of_an_answer: usize,
    /// `allow_on_headers_stop_iteration`.
    shows_held_bodies: bool,
}

/// The handle that the filter calls.
#[derive(Clone, Default)]
pub struct FakeHost(Rc<RefCell<State>>);

impl FakeHost {
    fn with<T>(&self, call: &'static str, act: impl FnOnce(&mut State) -> Result<T, u32>) -> Result<T, HostError> {
        let mut state = self.0.borrow_mut();
        let number = state.calls.len();
        state.calls.push(call);
        let fails = match state.faults.unwrap_or(Faults::None) {
            Faults::None => false,
            Faults::At(n) => n == number,
            Faults::From(n) => number >= n,
            Faults::Named(name) => name == call,
            Faults::AtAndNamed(n, name) => n == number || name == call,
        };
        if fails {
            state.failed.push(call);
            return Err(HostError { call, status: INTERNAL_FAILURE });
        }
        act(&mut state).map_err(|status| HostError { call, status })
    }
}

impl State {
    fn stream(&mut self) -> Result<&mut Stream, u32> {
        self.streams.get_mut(&self.effective).ok_or(BAD_ARGUMENT)
    }

    fn map(&mut self, map: Map) -> Result<&mut Headers, u32> {
        match map {
            Map::CalloutTrailers => Err(BAD_ARGUMENT),
            Map::CalloutAnswer => self.answer.as_mut().map(|(headers, _)| headers).ok_or(BAD_ARGUMENT),
            Map::ResponseTrailers => {
                let response = &mut self.stream()?.response;
                let is_there = response.is_end_shown && !response.has_end_passed;
                is_there.then_some(&mut response.trailers).ok_or(BAD_ARGUMENT)
            }
            Map::Request | Map::Response => {
                let half = if map == Map::Request { Half::Request } else { Half::Response };
                let half = self.stream()?.half(half);
                half.head.as_mut().filter(|_| !half.has_head_passed).ok_or(BAD_ARGUMENT)
            }
        }
    }
}

fn owned(headers: &[(&str, &str)]) -> Headers {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Host for FakeHost {
    fn log(&self, level: LogLevel, message: &str) {
        self.0.borrow_mut().log.push((level, message.to_owned()));
    }

    fn logs(&self, _: LogLevel) -> bool {
        true
    }

    fn now(&self) -> Result<u64, HostError> {
        let known = self.0.borrow().known_time;
        known.map_or_else(|| self.read_clock(), Ok)
    }

    fn read_clock(&self) -> Result<u64, HostError> {
        self.with("get_current_time", |state| {
            state.known_time = Some(state.nanoseconds);
            Ok(state.nanoseconds)
        })
    }

    fn random(&self) -> Result<[u8; 32], HostError> {
        self.with("random_get", |_| Ok([9; 32]))
    }

    fn variable(&self, name: &str) -> Result<Option<String>, HostError> {
        self.with("environ_get", |state| Ok(state.environment.get(name).cloned()))
    }

    fn headers<T>(&self, map: Map, read: impl FnOnce(Vec<Pair<'_>>) -> T) -> Result<T, HostError> {
        let headers = self.with("get_header_map_pairs", |state| state.map(map).cloned())?;
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(read(pairs::decode(&pairs::encode(&headers)).expect("what is written is read again")))
    }

    fn remove_header(&self, map: Map, name: &str) -> Result<(), HostError> {
        self.with("remove_header_map_value", |state| {
            state.map(map)?.retain(|(other, _)| other != name);
            Ok(())
        })
    }

    fn set_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError> {
        self.with("replace_header_map_value", |state| {
            let map = state.map(map)?;
            map.retain(|(other, _)| other != name);
            map.push((name.to_owned(), value.to_owned()));
            Ok(())
        })
    }

    fn add_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError> {
        self.with("add_header_map_value", |state| {
            state.map(map)?.push((name.to_owned(), value.to_owned()));
            Ok(())
        })
    }

    fn buffer_from(&self, buffer: Buffer, start: usize, max_length: usize) -> Result<Vec<u8>, HostError> {
        self.with("get_buffer_bytes", |state| {
            let bytes = match buffer {
                Buffer::PluginConfiguration => state.configuration.clone(),
                Buffer::CalloutAnswer => {
                    state.most_of_an_answer = state.most_of_an_answer.max(max_length);
                    state.answer.as_ref().ok_or(BAD_ARGUMENT)?.1.clone()
                }
                Buffer::Body(half) => state.stream()?.half(half).kept.clone(),
            };
            let bytes = &bytes[start.min(bytes.len())..];
            Ok(bytes[..bytes.len().min(max_length)].to_vec())
        })
    }

    fn replace_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError> {
        self.with("set_buffer_bytes", |state| {
            let half = state.stream()?.half(half);
            if half.has_end_passed {
                return Err(BAD_ARGUMENT);
            }
            half.kept = bytes.to_vec();
            Ok(())
        })
    }

    fn append_to_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError> {
        self.with("set_buffer_bytes", |state| {
            let half = state.stream()?.half(half);
            if half.has_end_passed {
                return Err(BAD_ARGUMENT);
            }
            half.kept.extend(bytes);
            Ok(())
        })
    }

    fn send_reply(&self, status: u16, _: &str, headers: &[(&str, &str)], body: &str) -> Result<(), HostError> {
        self.with("send_local_response", |state| {
            let id = state.effective;
            state.stream()?;
            state.actions.push((id, Action::Reply(status, owned(headers), body.as_bytes().to_vec())));
            Ok(())
        })
    }

    fn resume(&self, half: Half) -> Result<(), HostError> {
        self.with("continue_stream", |state| {
            let id = state.effective;
            state.stream()?;
            state.actions.push((id, Action::Resume(half)));
            Ok(())
        })
    }

    fn close(&self, _: Half) -> Result<(), HostError> {
        self.with("close_stream", |state| {
            let id = state.effective;
            state.stream()?;
            state.actions.push((id, Action::Reset));
            Ok(())
        })
    }

    fn act_on(&self, context_id: u32) -> Result<(), HostError> {
        self.with("set_effective_context", |state| {
            if !state.streams.contains_key(&context_id) && !state.roots.contains(&context_id) {
                return Err(BAD_ARGUMENT);
            }
            state.effective = context_id;
            Ok(())
        })
    }

    fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.with("get_shared_data", |state| Ok(state.shared.get(key).cloned()))
    }

    fn set_shared_data(&self, key: &str, value: &[u8], expected: Option<u32>) -> Result<bool, HostError> {
        self.with("set_shared_data", |state| {
            let current = state.shared.get(key).map(|(_, version)| *version);
            if current != expected {
                return Ok(false);
            }
            state.shared.insert(key.to_owned(), (value.to_vec(), current.unwrap_or(0) + 1));
            Ok(true)
        })
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        let path = path.join(".");
        self.with("get_property", |state| {
            if let Some(fact) = state.facts.get(&path) {
                return Ok(Some(fact.clone()));
            }
            let Ok(stream) = state.stream() else { return Ok(None) };
            Ok(match path.as_str() {
                "request.id" => Some(b"request-1".to_vec()),
                "request.total_size" => Some(stream.received.to_le_bytes().to_vec()),
                _ => stream.properties.get(&path).cloned(),
            })
        })
    }

    fn set_property(&self, name: &str, value: &str) -> Result<(), HostError> {
        self.with("set_property", |state| {
            state.stream()?.properties.insert(name.to_owned(), value.as_bytes().to_vec());
            Ok(())
        })
    }

    fn declare_property(&self, _: &str, _: Lifespan) -> Result<(), HostError> {
        self.with("call_foreign_function", |_| Ok(()))
    }

    fn set_tick_period(&self, _: Duration) -> Result<(), HostError> {
        self.with("set_tick_period_milliseconds", |_| Ok(()))
    }

    fn dispatch(&self, _: &str, headers: &[(&str, &str)], body: &[u8], _: Duration) -> Result<u32, HostError> {
        self.with("http_call", |state| {
            let root = state.streams.get(&state.effective).map_or(state.effective, |stream| stream.root);
            if !state.roots.contains(&root) {
                return Err(BAD_ARGUMENT);
            }
            state.tokens += 1;
            let path = headers.iter().find(|(name, _)| *name == ":path").map(|(_, path)| (*path).to_owned());
            state.callouts.push(SentCallout {
                token: state.tokens,
                headers: owned(headers),
                path: path.expect("a callout has a path"),
                body: serde_json::from_slice(body).unwrap_or_default(),
                bytes: body.to_vec(),
                root,
            });
            Ok(state.tokens)
        })
    }

    fn add_metric(&self, kind: MetricKind, name: &str, by: i64) -> Result<(), HostError> {
        self.with("increment_metric", |state| {
            assert!(by > 0 || kind == MetricKind::Gauge, "a counter grows: {name}");
            *state.metrics.entry(name.to_owned()).or_default() += by;
            Ok(())
        })
    }

    fn set_gauge(&self, name: &str, value: u64) -> Result<(), HostError> {
        self.with("record_metric", |state| {
            state.metrics.insert(name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX));
            Ok(())
        })
    }

    fn record_metric(&self, name: &str, _: u64) -> Result<(), HostError> {
        self.with("record_metric", |state| {
            *state.metrics.entry(name.to_owned()).or_default() += 1;
            Ok(())
        })
    }
}

/// A worker of the fake, with the filter in it.
pub struct FakeEnvoy {
    pub contexts: Contexts<FakeHost>,
    host: FakeHost,
    /// What clients got of streams that are over.
    over: BTreeMap<u32, ClientView>,
    ids: u32,
}

/// The id of the first root context.
pub const ROOT: u32 = 1;

impl FakeEnvoy {
    /// A worker with this configuration, which must be good.
    pub fn new(configuration: &Value, unix_seconds: u64) -> Self {
        let host = FakeHost::default();
        host.0.borrow_mut().nanoseconds = unix_seconds * 1_000_000_000;
        host.0.borrow_mut().shows_held_bodies = true;
        let mut envoy = Self { contexts: Contexts::new(host.clone()), host, over: BTreeMap::new(), ids: 0 };
        assert_eq!(envoy.add_root(configuration), Some(ROOT));
        envoy
    }

    /// Gives every context a property.
    pub fn set_fact(&self, path: &str, value: &str) {
        self.state(|state| state.facts.insert(path.to_owned(), value.as_bytes().to_vec()));
    }

    /// Puts a value into the shared data.
    pub fn set_shared(&self, key: &str, value: &str) {
        self.state(|state| state.shared.insert(key.to_owned(), (value.as_bytes().to_vec(), 1)));
    }

    /// Puts a variable into the environment.
    pub fn set_variable(&self, name: &str, value: &str) {
        self.state(|state| state.environment.insert(name.to_owned(), value.to_owned()));
    }

    /// Makes and configures a root context; its id, or `None` where the configuration is refused.
    pub fn add_root(&mut self, configuration: &Value) -> Option<u32> {
        let id = self.next_id();
        let configuration = configuration.to_string().into_bytes();
        let size = configuration.len();
        self.state(|state| {
            state.roots.insert(id);
            state.configuration = configuration;
        });
        self.act_as(id);
        self.contexts.on_create(id, 0);
        self.contexts.on_configure(id, size).then_some(id)
    }

    /// Deletes a root context, and the callouts that it waits for.
    pub fn delete_root(&mut self, id: u32) {
        self.act_as(id);
        self.contexts.on_delete(id);
        self.state(|state| {
            state.roots.remove(&id);
            state.callouts.retain(|callout| callout.root != id);
        });
        self.carry_out();
    }

    /// The id of the context that was made last.
    pub const fn last_id(&self) -> u32 {
        self.ids
    }

    fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.host.0.borrow_mut())
    }

    /// A callback begins.
    fn act_as(&self, id: u32) {
        self.state(|state| {
            state.effective = id;
            state.known_time = None;
        });
    }

    fn stream<T>(&self, id: u32, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        self.state(|state| state.streams.get_mut(&id).map(act))
    }

    // ------------------------------------------------------------------------------------------ what a test looks at

    /// Lets host calls fail from now on; they are counted from here.
    pub fn fail(&self, faults: Faults) {
        self.state(|state| {
            state.calls.clear();
            state.failed.clear();
            state.faults = Some(faults);
        });
    }

    /// The names of the calls that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.state(|state| state.failed.clone())
    }

    /// The host calls since the last [`Self::fail`].
    pub fn calls(&self) -> Vec<&'static str> {
        self.state(|state| state.calls.clone())
    }

    /// Callouts that nothing has answered yet.
    pub fn callouts(&self) -> Vec<SentCallout> {
        self.state(|state| state.callouts.clone())
    }

    /// All values in shared data.
    pub fn shared_values(&self) -> Vec<Vec<u8>> {
        self.state(|state| state.shared.values().map(|(bytes, _)| bytes.clone()).collect())
    }

    /// The only callout that nothing has answered yet.
    pub fn callout(&self) -> SentCallout {
        let callouts = self.callouts();
        assert_eq!(callouts.len(), 1, "{callouts:?}");
        callouts[0].clone()
    }

    /// A counter or gauge; 0 where nothing was added.
    pub fn metric(&self, name: &str) -> i64 {
        self.state(|state| state.metrics.get(name).copied().unwrap_or_default())
    }

    /// The sum of the counters of a stat, whatever their labels.
    pub fn metrics(&self, stat: &str) -> i64 {
        let is_one = |(name, _): &(&String, &i64)| name.ends_with(stat);
        self.state(|state| state.metrics.iter().filter(is_one).map(|(_, value)| value).sum())
    }

    /// The most bytes that were asked for of the answer to a callout.
    pub fn most_of_an_answer(&self) -> usize {
        self.state(|state| state.most_of_an_answer)
    }

    /// Whether a line of the log contains a text.
    pub fn has_logged(&self, text: &str) -> bool {
        self.state(|state| state.log.iter().any(|(_, line)| line.contains(text)))
    }

    /// How many lines of the log contain a text.
    pub fn logged(&self, text: &str) -> usize {
        self.state(|state| state.log.iter().filter(|(_, line)| line.contains(text)).count())
    }

    /// The filter panics, and hears of it.
    pub fn panic(&mut self) {
        self.contexts.on_panic();
        self.carry_out();
    }

    /// The lines of the log that tell of the end of a request.
    pub fn outcomes(&self) -> Vec<String> {
        let outcome = |(_, line): &(LogLevel, String)| {
            line.split_once("outcome=").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
        };
        self.state(|state| state.log.iter().filter_map(outcome).collect())
    }

    /// Whether the stream is there.
    pub fn is_open(&self, id: u32) -> bool {
        self.stream(id, |_| ()).is_some()
    }

    /// The head of the request as the upstream has it, and what it has of the body; `None` before it has it.
    pub fn at_upstream(&self, id: u32) -> Option<(Headers, Vec<u8>)> {
        let head = |stream: &mut Stream| {
            let HalfState { head, has_head_passed, passed, .. } = &stream.request;
            has_head_passed.then(|| (head.clone().unwrap(), passed.clone()))
        };
        self.stream(id, head).flatten()
    }

    /// Whether the upstream has the whole request, and has not answered.
    pub fn awaits_upstream(&self, id: u32) -> bool {
        let awaits = |stream: &mut Stream| stream.request.has_end_passed && stream.response.head.is_none();
        self.stream(id, awaits).unwrap_or_default()
    }

    /// What the client has got; `None` while that is not even a head.
    pub fn client(&self, id: u32) -> Option<ClientView> {
        self.over.get(&id).cloned().or_else(|| self.stream(id, |stream| view(stream)).flatten())
    }

    /// The status that the client has got; 0 where it has none.
    pub fn status(&self, id: u32) -> u16 {
        self.client(id).map_or(0, |client| client.status)
    }

    // ------------------------------------------------------------------------------------------ what happens

    /// Hides bodies while a head is held, as Envoy does without `allow_on_headers_stop_iteration`.
    pub fn hide_held_bodies(&self) {
        self.state(|state| state.shows_held_bodies = false);
    }

    /// Time passes, and nothing is told of it.
    pub fn wait(&self, seconds: u64) {
        self.state(|state| state.nanoseconds += seconds * 1_000_000_000);
    }

    /// A tick of a root context, a second after the last.
    pub fn tick(&mut self, root: u32) {
        self.wait(1);
        self.act_as(root);
        self.contexts.on_tick(root);
        self.carry_out();
    }

    /// The head of a request comes; the id of its stream.
    pub fn request(&mut self, root: u32, head: &[(&str, &str)], has_body: bool) -> u32 {
        let id = self.next_id();
        let mut stream = Stream { root, received: 100, ..Stream::default() };
        stream.request.head = Some(owned(head));
        self.state(|state| state.streams.insert(id, stream));
        self.contexts.on_create(id, root);
        self.show_head(id, Half::Request, has_body);
        id
    }

    /// A piece of the request's body comes.
    pub fn request_piece(&mut self, id: u32, piece: Piece) {
        self.stream(id, |stream| {
            if let Piece::Data(bytes, _) = &piece {
                stream.received += u64::try_from(bytes.len()).unwrap();
            }
            stream.request.incoming.push_back(piece);
        });
        self.show_body(id, Half::Request);
    }

    /// The upstream answers.
    pub fn respond(&mut self, id: u32, head: &[(&str, &str)], has_body: bool) {
        let is_new = self.stream(id, |stream| {
            let is_new = stream.response.head.is_none();
            stream.response.head.get_or_insert_with(|| owned(head));
            is_new
        });
        if is_new == Some(true) {
            self.show_head(id, Half::Response, has_body);
        }
    }

    /// A piece of the response's body comes.
    pub fn response_piece(&mut self, id: u32, piece: Piece) {
        if self.stream(id, |stream| !stream.has_reply) == Some(true) {
            self.stream(id, |stream| stream.response.incoming.push_back(piece));
            self.show_body(id, Half::Response);
        }
    }

    /// The client goes away.
    pub fn leave(&mut self, id: u32) {
        self.finish(id);
    }

    /// A callout is answered; `false` where nobody can be told any more.
    pub fn answer(&mut self, token: u32, status: u16, body: &Value) -> bool {
        self.answer_with(token, vec![(":status".to_owned(), status.to_string())], body.to_string().into_bytes())
    }

    /// A callout is answered with these headers (none: it failed).
    pub fn answer_with(&mut self, token: u32, headers: Headers, body: Vec<u8>) -> bool {
        let callout = self.state(|state| {
            let position = state.callouts.iter().position(|callout| callout.token == token)?;
            Some(state.callouts.remove(position))
        });
        let Some(callout) = callout else { return false };
        self.call_back(callout.root, token, headers, body);
        true
    }

    /// A callout's callback, whether or not there is such a callout.
    pub fn call_back(&mut self, root: u32, token: u32, headers: Headers, body: Vec<u8>) {
        self.act_as(root);
        let (count, size) = (headers.len(), body.len());
        self.state(|state| state.answer = Some((headers, body)));
        self.contexts.on_callout(token, count, size);
        self.state(|state| state.answer = None);
        self.carry_out();
    }

    // ------------------------------------------------------------------------------------------ the filter chain

    fn show_head(&mut self, id: u32, half: Half, has_body: bool) {
        self.stream(id, |stream| {
            stream.half(half).is_head_shown = true;
            stream.half(half).is_end_shown = !has_body;
        });
        self.act_as(id);
        let verdict = match half {
            Half::Request => self.contexts.on_request_head(id, has_body),
            Half::Response => self.contexts.on_response_head(id, has_body),
        };
        let shows_held_bodies = self.state(|state| state.shows_held_bodies);
        self.stream(id, |stream| match verdict {
            Verdict::Continue => stream.half(half).pass(),
            Verdict::Collect if shows_held_bodies => stream.half(half).stop = Stop::Head,
            Verdict::Collect | Verdict::Hold => stream.half(half).stop = Stop::All,
        });
        self.carry_out();
        self.show_body(id, half);
    }

    /// Shows what has come of a body, as far as it is shown.
    fn show_body(&mut self, id: u32, half: Half) {
        loop {
            let piece = self.stream(id, |stream| {
                // After a reply nothing of the request is shown any more.
                let is_aborted = half == Half::Request && stream.has_reply || stream.is_reset;
                let half = stream.half(half);
                let is_shown = half.is_head_shown && half.stop != Stop::All && !is_aborted;
                if is_shown { half.incoming.pop_front() } else { None }
            });
            let Some(Some(piece)) = piece else { return };
            self.act_as(id);
            let verdict = match piece {
                Piece::Data(bytes, is_last) => {
                    let size = self.stream(id, |stream| {
                        let half = stream.half(half);
                        half.kept.extend(bytes);
                        half.is_end_shown = is_last;
                        half.kept.len()
                    });
                    self.contexts.on_body(id, half, size.unwrap_or_default(), is_last)
                }
                Piece::Trailers => {
                    self.stream(id, |stream| stream.half(half).is_end_shown = true);
                    self.contexts.on_trailers(id, half)
                }
            };
            self.stream(id, |stream| {
                let half = stream.half(half);
                match verdict {
                    DataVerdict::Continue => half.pass(),
                    DataVerdict::Buffer if half.has_head_passed => half.stop = Stop::Body,
                    DataVerdict::Buffer => {}
                }
            });
            self.carry_out();
        }
    }

    /// Does what the filter asked for, now that its callback is over.
    fn carry_out(&mut self) {
        loop {
            let actions = self.state(|state| std::mem::take(&mut state.actions));
            if actions.is_empty() {
                break;
            }
            for (id, action) in actions {
                match action {
                    Action::Resume(half) => self.resume(id, half),
                    Action::Reply(status, headers, body) => self.reply(id, status, headers, body),
                    Action::Reset => {
                        self.stream(id, |stream| stream.is_reset = true);
                    }
                }
            }
        }
        let is_done =
            |(id, stream): (&u32, &Stream)| (stream.response.has_end_passed || stream.is_reset).then_some(*id);
        let done: Vec<u32> = self.state(|state| state.streams.iter().filter_map(is_done).collect());
        done.into_iter().for_each(|id| self.finish(id));
    }

    fn resume(&mut self, id: u32, half: Half) {
        let shows_more = self.stream(id, |stream| {
            if stream.has_reply {
                return false;
            }
            let half = stream.half(half);
            let shows_more = half.stop == Stop::All;
            // What was kept behind a head of which nothing was shown is shown now.
            half.pass();
            shows_more
        });
        if shows_more == Some(true) {
            self.show_body(id, half);
        }
    }

    fn reply(&mut self, id: u32, status: u16, headers: Headers, body: Vec<u8>) {
        let mut head = vec![(":status".to_owned(), status.to_string())];
        head.extend(headers);
        let has_body = !body.is_empty();
        let passes_the_filter = self.stream(id, |stream| {
            if stream.has_reply || stream.response.has_head_passed {
                stream.is_reset |= !stream.has_reply;
                return false;
            }
            stream.has_reply = true;
            stream.is_own = true;
            let is_direct = stream.response.head.is_some();
            stream.response = HalfState { head: Some(head), ..HalfState::default() };
            if is_direct {
                stream.response.has_head_passed = true;
                stream.response.passed.clone_from(&body);
                stream.response.has_end_passed = true;
            }
            !is_direct
        });
        if passes_the_filter == Some(true) {
            if has_body {
                self.stream(id, |stream| stream.response.incoming.push_back(Piece::Data(body, true)));
            }
            self.show_head(id, Half::Response, has_body);
        }
    }

    /// A stream ends: its log is written, and then it is gone.
    fn finish(&mut self, id: u32) {
        if let Some(Some(client)) = self.stream(id, |stream| view(stream)) {
            self.over.insert(id, client);
        }
        if !self.is_open(id) {
            return;
        }
        self.act_as(id);
        self.contexts.on_log(id);
        self.act_as(id);
        self.contexts.on_delete(id);
        self.state(|state| {
            state.streams.remove(&id);
            state.actions.retain(|(other, _)| *other != id);
        });
        self.carry_out();
    }
}

impl HalfState {
    /// The head goes on if it has not, and what is kept of the body behind it.
    fn pass(&mut self) {
        self.stop = Stop::None;
        self.has_head_passed = true;
        self.passed.append(&mut self.kept);
        self.has_end_passed = self.is_end_shown;
    }
}

fn view(stream: &Stream) -> Option<ClientView> {
    let HalfState { head: Some(head), has_head_passed: true, passed, trailers, has_end_passed, .. } = &stream.response
    else {
        return None;
    };
    let status = head.iter().find(|(name, _)| name == ":status").and_then(|(_, status)| status.parse().ok());
    Some(ClientView {
        status: status.unwrap_or_default(),
        headers: head.clone(),
        body: passed.clone(),
        trailers: trailers.clone(),
        is_whole: *has_end_passed,
        is_own: stream.is_own,
    })
}
