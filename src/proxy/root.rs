//! One for each worker and plugin configuration: reads the configuration and makes the contexts of requests.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::callouts;
use super::entry::Door;
use super::fleet::{Fleet, Founding, FoundingQuestion};
use super::health::Health;
use super::host::{Buffer, Host, LogLevel};
use super::http::HttpContext;
use super::keeper::{Around, Keeping, Tokens};
use super::properties;
use super::shared::{Memory, Shared};
use super::words::{Next, Sharing};
use super::{stats, store};
use crate::chain::{self, MAX_ANSWER_BYTES};
use crate::channel::IS_BUILT_IN;
use crate::config::{Config, Facilitator, Offer, Rpc, Service};
use crate::evm::keccak256;
use crate::exchange::{LogText, Warning};
use crate::facilitator::{self, CalloutAnswer, Directory, MAX_SUPPORTED_BYTES, Supported};
use crate::ledger::exposure;
use crate::schedule::{Need, Pace, Schedule, Step, Word, mix};
use crate::time::UnixTime;
use crate::x402::NetworkId;

/// How often the host is asked to let time pass for those that wait for it.
pub(super) const TICK_PERIOD: Duration = Duration::from_secs(1);

/// The same, until it is known what the facilitator supports.
const FIRST_TICK_PERIOD: Duration = Duration::from_millis(100);

/// A root context.
pub(super) struct RootContext<H> {
    host: H,
    configured: Option<Configured>,
    shared: Shared,
    /// When each facilitator answered last, as far as this worker knows: milliseconds since the epoch, 0 for never.
    heard_at: Vec<u64>,
    /// What the fleet knows of each.
    words: Vec<Sharing>,
    /// Differs among all root contexts of all proxies.
    seed: u64,
    /// The facilitators of which the log has said what they support.
    introduced: BTreeSet<usize>,
    /// Those of which it has said that they do not say so.
    missed: BTreeSet<usize>,
    /// The nodes of the configuration, each once.
    nodes: Vec<Arc<Rpc>>,
    /// Whether the nodes were asked which chains they are of.
    has_asked_nodes: bool,
    /// Entries that the facilitator does not settle.
    left_out: BTreeSet<String>,
    /// The second in which what is done once a second was done last.
    acted_at: UnixTime,
    /// What is done about channels while nobody asks.
    keeping: Keeping,
    /// The assets in which responses leave before they are paid.
    exposed: Vec<(NetworkId, String)>,
    /// The question for what the fleet has in common, while it is not known.
    founding: Option<FoundingQuestion>,
    /// True if the log has it that the shared store does not answer.
    has_told_of_store: bool,
}

struct Configured {
    config: Arc<Config>,
    /// Differs among all root contexts of the process.
    number: u32,
}

impl<H: Host> RootContext<H> {
    /// Makes a root context that is to be configured.
    pub(super) fn new(host: H) -> Self {
        Self {
            host,
            configured: None,
            shared: Shared::default(),
            heard_at: Vec::new(),
            words: Vec::new(),
            seed: 0,
            introduced: BTreeSet::new(),
            missed: BTreeSet::new(),
            nodes: Vec::new(),
            has_asked_nodes: false,
            left_out: BTreeSet::new(),
            acted_at: UnixTime::from_secs(0),
            keeping: Keeping::default(),
            exposed: Vec::new(),
            founding: None,
            has_told_of_store: false,
        }
    }

    /// Reads the configuration of `size` bytes; `false` where it is refused.
    pub(super) fn configure(&mut self, size: usize) -> bool {
        match configure(&self.host, size) {
            Ok((configured, memory)) => {
                self.retire();
                self.shared.memory = memory;
                #[cfg(any(feature = "etcd", feature = "dynamodb"))]
                {
                    self.shared.store = configured.config.shared_ledger.as_ref().and_then(|ledger| {
                        let random = self.host.random().ok()?;
                        Some(Rc::new(Fleet::new(ledger, configured.config.ledger, random)))
                    });
                }
                let facilitators = configured.config.facilitators.len();
                self.shared.supported = Arc::new(vec![Supported::default(); facilitators]);
                self.shared.health = Rc::new(RefCell::new(Health::new(facilitators)));
                self.heard_at = vec![0; facilitators];
                self.words.clear();
                self.words.resize_with(facilitators, Sharing::default);
                self.seed = self
                    .host
                    .random()
                    .ok()
                    .and_then(|bytes| bytes.first_chunk().copied())
                    .map_or(0, u64::from_be_bytes);
                self.keeping.jitter_by(self.seed);
                self.nodes = configured.config.nodes();
                self.exposed = configured.config.exposed();
                let routes = configured.config.routes.len();
                self.host.log(LogLevel::Info, &format!("x402: configured, {routes} routes"));
                if let Some(note) = configured.config.buffer_note() {
                    self.host.log(LogLevel::Info, &format!("x402: {note}"));
                }
                for warning in &configured.config.warnings {
                    self.host.log(LogLevel::Warn, &format!("x402: {warning}"));
                }
                self.configured = Some(configured);
                self.plan_questions();
                true
            }
            Err(error) => {
                self.host.log(LogLevel::Critical, &format!("x402: the configuration is refused: {error}"));
                false
            }
        }
    }

    /// Has the facilitators asked soon that no worker of this process has asked: not by all proxies in one moment.
    fn plan_questions(&self) {
        let (Some(Configured { config, .. }), Some(now)) = (&self.configured, self.millis()) else { return };
        let window = if config.needs_introduction { Schedule::SOON } else { Schedule::LATER };
        for facilitator in config.facilitators.iter().filter(|_| config.has_offers) {
            let name = store::supported_schedule(&facilitator.service);
            if let Some((None, version)) = store::schedule(&self.host, &name) {
                store::set_schedule(&self.host, &name, Schedule::start(window, now, self.seed), version);
            }
        }
    }

    /// Takes back what the host was told, for the configuration is replaced or the context is deleted.
    pub(super) fn retire(&self) {
        if let Some(Configured { config, .. }) = &self.configured {
            self.shared.health.borrow_mut().retire(&self.host, config);
        }
    }

    /// Returns the number that tells the worker's requests from those of others; `None` where there is no configuration.
    pub(super) fn number(&self) -> Option<u32> {
        self.configured.as_ref().map(|configured| configured.number)
    }

    /// Returns what the worker's requests share.
    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Returns whether it is time for what is done once a second, or oftener at first.
    pub(super) fn is_due(&mut self) -> bool {
        let Ok(now) = self.host.unix_time() else { return true };
        let is_new = self.introduced.is_empty() || self.acted_at != now;
        self.acted_at = now;
        is_new
    }

    /// Takes over what other workers have heard of the facilitators, and asks those whose turn it is what they support; the tokens
    /// of the callouts, each with a place.
    pub(super) fn ask_supported(&mut self) -> Vec<(u32, usize)> {
        let (Some(Configured { config, .. }), Some(now)) = (&self.configured, self.millis()) else { return Vec::new() };
        let config = Arc::clone(config);
        // Of a fleet that is out of reach, nothing is sold.
        let is_cut_off = self.shared.fleet().is_some() && !self.shared.memory.is_known;
        if !config.has_offers || is_cut_off {
            return Vec::new();
        }
        let places = config.facilitators.iter().enumerate();
        places.filter_map(|(place, one)| Some((self.ask_in_turn(&config, place, one, now)?, place))).collect()
    }

    fn ask_in_turn(&mut self, config: &Config, place: usize, facilitator: &Facilitator, now: u64) -> Option<u32> {
        let service = &facilitator.service;
        let name = store::supported_schedule(service);
        let (schedule, version) = store::schedule(&self.host, &name)?;
        let schedule = schedule.unwrap_or_default();
        self.adopt_supported(config, place, service, schedule.heard_at);
        let need = self.need(config, place, service);
        match schedule.step(Pace::FACILITATOR, need, now, self.draw(now)) {
            Step::Wait => None,
            Step::Plan(next) => {
                store::set_schedule(&self.host, &name, next, version);
                None
            }
            Step::Ask(next) if store::set_schedule(&self.host, &name, next, version) => self
                .look_up(place, service, schedule)
                .or_else(|| self.ask_facilitator(service, need.is_failing || config.needs_introduction)),
            Step::Ask(_) => None,
        }
    }

    fn need(&self, config: &Config, place: usize, service: &Service) -> Need {
        let of_store = self.shared.fleet().map_or(Duration::ZERO, |fleet| fleet.timeout().saturating_mul(3));
        Need {
            is_failing: self.shared.health.borrow().is_failing(config, place),
            is_unknown: config.needs_introduction
                && self.shared.supported.get(place).is_none_or(|one| one.kinds.is_empty()),
            timeout: millis(service.timeout.saturating_add(of_store)),
        }
    }

    fn ask_facilitator(&self, service: &Service, is_urgent: bool) -> Option<u32> {
        let token = callouts::dispatch(&self.host, &self.shared.tokens, service, "GET", Supported::PATH, "").ok();
        if token.is_none() {
            self.note_word(&store::supported_schedule(service), Pace::FACILITATOR, Word::Fails, is_urgent);
        }
        token
    }

    /// Asks the fleet's store first, where nothing has failed lately: another proxy may know.
    fn look_up(&mut self, place: usize, service: &Service, schedule: Schedule) -> Option<u32> {
        let fleet = self.shared.fleet().cloned().filter(|_| schedule.is_undisturbed())?;
        self.words.get_mut(place)?.look(&self.host, &fleet, service)
    }

    /// The store has said what the fleet knows of a facilitator; the token of what is asked next.
    fn on_word(&mut self, place: usize, headers: usize, body_size: usize) -> Option<u32> {
        let (fleet, now) = (self.shared.fleet().cloned()?, self.millis()?);
        let config = Arc::clone(&self.configured.as_ref()?.config);
        let service = &config.facilitators.get(place)?.service;
        let (need, at) = (self.need(&config, place, service), (now, self.draw(now)));
        match self.words.get_mut(place)?.hear(&self.host, &fleet, need, (headers, body_size), at) {
            Next::More(token) => Some(token),
            Next::Nothing => None,
            Next::Ask => self.ask_facilitator(service, need.is_failing || config.needs_introduction),
            Next::Wait(known, due) => {
                let is_known = known.is_some();
                if let Some(known) = known {
                    store::share_supported(&self.host, service, |earlier| known.clone().or_earlier(earlier));
                }
                store::note_word(&self.host, &store::supported_schedule(service), &|schedule| Schedule {
                    due,
                    heard_at: if is_known { now } else { schedule.heard_at },
                    ..schedule
                });
                None
            }
        }
    }

    /// Takes over what another worker has heard of the facilitator at a place, where that is news.
    fn adopt_supported(&mut self, config: &Config, place: usize, service: &Service, heard_at: u64) {
        let Some(seen) = self.heard_at.get_mut(place).filter(|seen| **seen != heard_at) else { return };
        *seen = heard_at;
        self.shared.health.borrow_mut().revive(&self.host, config, place);
        let known = store::supported(&self.host, service).unwrap_or_default();
        if known.kinds.is_empty() && known.extensions.is_empty() {
            return;
        }
        set_supported(&mut self.shared.supported, place, known);
        self.introduced.insert(place);
        self.log_left_out();
        let _ = self.host.set_tick_period(TICK_PERIOD);
    }

    /// Returns milliseconds since the epoch.
    fn millis(&self) -> Option<u64> {
        self.host.now().ok()?.checked_div(1_000_000)
    }

    /// Returns a number that nobody else has at the time.
    const fn draw(&self, now: u64) -> u64 {
        mix(self.seed ^ now)
    }

    /// Notes for all workers of the process what an answer was worth.
    fn note_word(&self, name: &str, pace: Pace, word: Word, is_urgent: bool) {
        let Some(now) = self.millis() else { return };
        let random = self.draw(now);
        store::note_word(&self.host, name, &|schedule| schedule.heard(pace, word, is_urgent, now, random));
    }

    /// The facilitator at a place has answered what it supports, or has not, or the fleet's store was asked about it; the token of
    /// what is asked next.
    pub(super) fn on_supported(&mut self, place: usize, headers: usize, body_size: usize) -> Option<u32> {
        if self.words.get(place).is_some_and(Sharing::is_under_way) {
            return self.on_word(place, headers, body_size);
        }
        let answer = callouts::read_answer(&self.host, headers, body_size, MAX_SUPPORTED_BYTES);
        let Configured { config, .. } = self.configured.as_ref()?;
        let facilitator = config.facilitators.get(place)?;
        let Facilitator { name, service, .. } = facilitator;
        self.shared.health.borrow_mut().note(&self.host, config, service, &answer);
        let supported = Supported::read(&answer);
        let word = match &supported {
            Some(_) => Word::Says,
            None if facilitator::is_failing(&answer) => Word::Fails,
            None => Word::Answers,
        };
        let is_urgent = config.needs_introduction || self.shared.health.borrow().is_failing(config, place);
        let mut text = None;
        match supported {
            Some(supported) => {
                // A client is given terms by one worker and pays at another, so all have to know the same accounts.
                let merge = |earlier: &Supported| supported.clone().or_earlier(earlier);
                let merged = store::share_supported(&self.host, service, merge);
                if self.introduced.insert(place) {
                    log_introduction(&self.host, facilitator, &answer, &supported);
                }
                let known = merged.unwrap_or(supported);
                text = self.shared.fleet().map(|_| known.to_text());
                set_supported(&mut self.shared.supported, place, known);
                // Behind what all are to read then.
                self.note_word(&store::supported_schedule(service), Pace::FACILITATOR, word, is_urgent);
                self.log_left_out();
                let _ = self.host.set_tick_period(TICK_PERIOD);
            }
            None => {
                self.note_word(&store::supported_schedule(service), Pace::FACILITATOR, word, is_urgent);
                let report = LogText::new(&facilitator::report(service, Supported::PATH, &answer));
                let consequence = match config.needs_introduction {
                    true => {
                        "; until it does, entries are not offered that need its word: scheme upto, and what it alone judges"
                    }
                    false => "",
                };
                // Once, and again whenever something depends on it.
                if config.needs_introduction || self.missed.insert(place) {
                    let line =
                        format!("x402: the facilitator {name:?} does not say what it supports: {report}{consequence}");
                    self.host.log(LogLevel::Warn, &line);
                }
            }
        }
        self.tell_fleet(place, word, is_urgent, text)
    }

    /// Tells the fleet what came of a question that this worker has asked for all; the token of the callout.
    fn tell_fleet(&mut self, place: usize, word: Word, is_urgent: bool, supported: Option<String>) -> Option<u32> {
        let fleet = self.shared.fleet().cloned()?;
        let now = self.millis()?;
        let random = self.draw(now);
        let hear = |schedule: Schedule| schedule.heard(Pace::FACILITATOR, word, is_urgent, now, random);
        self.words.get_mut(place)?.tell(&self.host, &fleet, &hear, supported, now)
    }

    /// Asks the nodes which chains they are of, once; the tokens of the callouts, each with the place of its node.
    pub(super) fn ask_chain_ids(&mut self) -> Vec<(u32, usize)> {
        if std::mem::replace(&mut self.has_asked_nodes, true) {
            return Vec::new();
        }
        let mut asked = Vec::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let token = callouts::dispatch(
                &self.host,
                &self.shared.tokens,
                &node.service,
                "POST",
                "",
                &chain::chain_id_question(),
            );
            asked.extend(token.map(|token| (token, place)));
        }
        asked
    }

    /// A node has answered which chain it is of, or has not.
    pub(super) fn on_chain_id(&self, place: usize, headers: usize, body_size: usize) {
        let Some(Rpc { chain_id, service, .. }) = self.nodes.get(place).map(|node| &**node) else { return };
        let answer = callouts::read_answer(&self.host, headers, body_size, MAX_ANSWER_BYTES);
        let (cluster, authority) = (&service.cluster, &service.authority);
        let (level, line) = match chain::read_chain_id(&answer) {
            Ok(id) if id == *chain_id => {
                (LogLevel::Info, format!("the node {authority} (cluster {cluster}) is one of chain {id}"))
            }
            Ok(_) => {
                let warning = Warning::OtherChain { cluster: cluster.clone(), chain_id: *chain_id };
                (LogLevel::Critical, warning.to_string())
            }
            Err(_) => {
                let report = LogText::new(&facilitator::report(service, "", &answer));
                (LogLevel::Warn, format!("the node of chain {chain_id} does not say which chain it is of: {report}"))
            }
        };
        self.host.log(level, &format!("x402: {line}"));
    }

    /// Claims channels, gives idle ones back, and asks the chain of them.
    pub(super) fn keep_channels(&mut self) -> Tokens {
        if !IS_BUILT_IN {
            return Tokens::new();
        }
        let Ok(now) = self.host.unix_time() else { return Tokens::new() };
        let Some(Configured { config, number }) = &self.configured else { return Tokens::new() };
        let around = Around { host: &self.host, config, shared: &self.shared, number: *number };
        self.keeping.keep(&around, now)
    }

    /// Tells how much is delivered and not paid.
    pub(super) fn tell_exposure(&self) {
        if !exposure::IS_BUILT_IN {
            return;
        }
        let Ok(now) = self.host.unix_time() else { return };
        for (network, asset) in &self.exposed {
            let mut store = store::SharedData::new(&self.host);
            let open = exposure::open_of_all(&mut store, &self.shared.memory.secret, network, asset, now);
            if let Ok(open) = open {
                stats::tell_exposure(&self.host, network.as_str(), asset, open);
            }
        }
    }

    /// A question of the keeper's is answered; what it asks next.
    pub(super) fn on_job(&mut self, job: u32, headers: usize, body_size: usize) -> Tokens {
        if !IS_BUILT_IN {
            return Tokens::new();
        }
        if self.keeping.is_of_store(job) {
            let Ok(now) = self.host.unix_time() else { return Tokens::new() };
            let Some(Configured { config, number }) = &self.configured else { return Tokens::new() };
            let around = Around { host: &self.host, config, shared: &self.shared, number: *number };
            return self.keeping.on_store(&around, job, (headers, body_size), now);
        }
        let answer = callouts::read_answer(&self.host, headers, body_size, self.keeping.max_answer_bytes(job));
        let Ok(now) = self.host.unix_time() else { return Tokens::new() };
        let Some(Configured { config, number }) = &self.configured else { return Tokens::new() };
        let around = Around { host: &self.host, config, shared: &self.shared, number: *number };
        self.keeping.on_answer(&around, job, &answer, now)
    }

    /// Asks the shared store for what the fleet has in common, until it is known; the token of the callout.
    pub(super) fn ask_founding(&mut self) -> Option<u32> {
        let fleet = self.shared.fleet().cloned().filter(|_| !self.shared.memory.is_known)?;
        if let Some(known) = self.founded() {
            self.found(known);
            return None;
        }
        if self.founding.is_some() || !self.takes_turn_at_store(&fleet) {
            return None;
        }
        let proposed = Founding { secret: self.host.random().ok()?, since: self.host.unix_time().ok()? };
        let question = FoundingQuestion::ask(&self.host, &fleet, proposed);
        let token = question.token();
        if token.is_none() {
            self.note_founding_failure();
        }
        self.founding = token.map(|_| question);
        token
    }

    /// Returns whether this worker is to ask for it, for all of the process.
    fn takes_turn_at_store(&self, fleet: &Fleet) -> bool {
        let (Some(name), Some(now)) = (self.founding_name(), self.millis()) else { return false };
        let Some((schedule, version)) = store::schedule(&self.host, &name) else { return false };
        let need = Need { timeout: millis(fleet.timeout()), ..Need::default() };
        match schedule.unwrap_or_default().step(Pace::STORE, need, now, self.draw(now)) {
            Step::Ask(next) => store::set_schedule(&self.host, &name, next, version),
            Step::Wait | Step::Plan(_) => false,
        }
    }

    fn note_founding_failure(&self) {
        if let Some(name) = self.founding_name() {
            self.note_word(&name, Pace::STORE, Word::Fails, true);
        }
    }

    /// The shared store has said what the fleet has in common, or has not; the token of what it is asked next.
    pub(super) fn on_founding(&mut self, headers: usize, body_size: usize) -> Option<u32> {
        let (Some(mut question), Some(fleet)) = (self.founding.take(), self.shared.fleet().cloned()) else {
            return None;
        };
        match question.hear(&self.host, &fleet, headers, body_size) {
            Some(founding) => {
                let known = self.founding_name().and_then(|name| store::share_founding(&self.host, &name, founding));
                self.found(known.unwrap_or(founding));
                None
            }
            None => {
                let token = question.token();
                if token.is_none() {
                    self.note_founding_failure();
                    if !std::mem::replace(&mut self.has_told_of_store, true) {
                        let text = "x402: until the ledger's store answers, nothing is sold";
                        self.host.log(LogLevel::Warn, text);
                    }
                }
                self.founding = token.map(|_| question);
                token
            }
        }
    }

    fn founding_name(&self) -> Option<String> {
        Some(self.configured.as_ref()?.config.shared_ledger.as_ref()?.name())
    }

    /// What another worker of the process knows of it.
    fn founded(&self) -> Option<Founding> {
        store::founding(&self.host, &self.founding_name()?)
    }

    fn found(&mut self, founding: Founding) {
        self.shared.memory = founding.into();
        self.has_told_of_store = false;
        self.host.log(LogLevel::Info, "x402: the ledger's store answers");
    }

    /// Brings to an end what was left open while the shared store was silent; the tokens of the callouts, each with a number.
    pub(super) fn mend(&self) -> Vec<(u32, u32)> {
        let fleet = self.shared.fleet();
        fleet.map(|fleet| fleet.mend_some(&self.host)).unwrap_or_default()
    }

    /// The shared store has answered about what was left open; the token of what it is asked next.
    pub(super) fn on_mended(&self, number: u32, headers: usize, body_size: usize) -> Option<u32> {
        self.shared.fleet()?.on_mended(&self.host, number, headers, body_size)
    }

    /// Logs which entries nobody can pay by, where that is news.
    fn log_left_out(&mut self) {
        let Some(Configured { config, .. }) = &self.configured else { return };
        let offers = config.routes.iter().filter_map(|route| route.terms.as_ref()).flat_map(|terms| &terms.offers);
        let supported = &self.shared.supported;
        let is_excluded =
            |offer: &&Arc<Offer>| Directory::new(supported, &offer.facilitators).excludes(&offer.requirement);
        let excluded = offers.filter(is_excluded).map(|offer| &offer.requirement);
        let mut left_out = BTreeSet::new();
        left_out.extend(excluded.map(|one| format!("scheme {} on {}", one.scheme.as_str(), one.network)));
        for entry in left_out.difference(&self.left_out) {
            self.host.log(
                LogLevel::Warn,
                &format!("x402: the facilitator does not settle {entry}; entries that say so are left out"),
            );
        }
        self.left_out = left_out;
    }

    /// Returns what decides about a request at first sight; `None` where there is no configuration.
    pub(super) fn door(&self) -> Option<Door> {
        let Configured { config, .. } = self.configured.as_ref()?;
        let supported = self.shared.memory.is_known.then(|| Arc::clone(&self.shared.supported));
        Some(Door { config: Arc::clone(config), supported })
    }

    /// Makes the context of a new stream; `None` where there is no configuration.
    pub(super) fn stream(&self, id: u32) -> Option<HttpContext<H>> {
        let configured = self.configured.as_ref()?;
        Some(HttpContext::new(
            self.host.clone(),
            Arc::clone(&configured.config),
            self.shared.clone(),
            configured.number,
            id,
        ))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn set_supported(all: &mut Arc<Vec<Supported>>, place: usize, supported: Supported) {
    if let Some(known) = Arc::make_mut(all).get_mut(place) {
        *known = supported;
    }
}

/// Logs that a facilitator answers, and what it supports.
fn log_introduction(host: &impl Host, facilitator: &Facilitator, answer: &CalloutAnswer, supported: &Supported) {
    /// Kinds that are named in the line.
    const MOST: usize = 8;
    let Facilitator { name, service, .. } = facilitator;
    let Service { authority, cluster, .. } = &**service;
    let status = if let CalloutAnswer::Answered { status, .. } = answer { *status } else { 0 };
    let kinds =
        supported.kinds.iter().take(MOST).map(|kind| LogText::new(&format!("{} on {}", kind.scheme, kind.network)));
    let named = kinds.map(|kind| kind.to_string()).collect::<Vec<_>>().join(", ");
    let more = supported.kinds.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    host.log(
        LogLevel::Info,
        &format!(
            "x402: the facilitator {name:?} at {authority} (cluster {cluster}) answers ({status}), and supports {named}{more}"
        ),
    );
    if let Some(unread) = &supported.unread {
        host.log(LogLevel::Warn, &format!("x402: of what the facilitator {name:?} supports, {}", LogText::new(unread)));
    }
}

const NO_SHARED_DATA: &str = "the host's shared data does not work";

const OTHER_FORM: &str = "the proxy's shared data holds a ledger that another version of the filter wrote in another form; this version starts in a new proxy process, or under another vm_id";

/// Says so where another plugin's ledger is this one's, and nobody said that it should be.
fn tell_neighbour(host: &impl Host, configuration: &[u8]) {
    let Some(name) = properties::unparted_name(host) else { return };
    let mark = hex::encode(keccak256(configuration));
    if let Some(other) = store::note_instance(host, &name, &mark) {
        host.log(
            LogLevel::Warn,
            &format!(
                "x402: the plugin {other:?} was loaded into this proxy with another configuration, and no vm_id parts it from {name:?}: they share one ledger, and so does every other plugin without a vm_id. Load one for all routes, or give each a vm_id (in Istio by an EnvoyFilter)"
            ),
        );
    }
}

fn configure(host: &impl Host, size: usize) -> Result<(Configured, Memory), String> {
    let bytes = host.buffer(Buffer::PluginConfiguration, size).map_err(|error| error.to_string())?;
    let config =
        Config::from_host(&bytes, &|name| host.variable(name).ok().flatten()).map_err(|error| error.to_string())?;
    match store::has_own_form(host) {
        Some(true) => {}
        Some(false) => return Err(OTHER_FORM.to_owned()),
        None => return Err(NO_SHARED_DATA.to_owned()),
    }
    let number = store::draw_number(host).ok_or(NO_SHARED_DATA)?;
    let period =
        if config.needs_introduction || config.shared_ledger.is_some() { FIRST_TICK_PERIOD } else { TICK_PERIOD };
    host.set_tick_period(period).map_err(|error| error.to_string())?;
    let secret = store::shared_secret(host).ok_or("the host's shared data or random numbers do not work")?;
    properties::declare(host);
    tell_neighbour(host, &bytes);
    let is_known = config.shared_ledger.is_none();
    Ok((Configured { config: Arc::new(config), number }, Memory { secret, is_known }))
}
