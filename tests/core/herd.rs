//! A fleet that asks its facilitator what it supports: how many questions a second reach it. The pure scheduler and a clock.

use x402_proxy_wasm::schedule::{Need, Pace, Schedule, Step, Turn, Word, jittered, mix, part};

const PROXIES: u64 = 1000;
const WORKERS: u64 = 4;

/// Milliseconds of a step, and after which a worker looks at the times.
const STEP: u64 = 50;
const TICK: u64 = 1_000;
const TIMEOUT: u64 = 10_000;

/// A proxy: what its workers have in common, and what each of them knows.
struct Proxy {
    number: u64,
    schedule: Schedule,
    is_known: bool,
    /// Of each worker: when it heard last, and whether its own calls fail.
    workers: Vec<(u64, bool)>,
    /// An answer that is under way: when it comes, of which worker.
    answer: Option<(u64, usize)>,
    /// Whether it asks for all of the fleet.
    has_turn: bool,
}

/// The fleet, the facilitator's state, and the questions of each second since it began.
struct Fleet {
    proxies: Vec<Proxy>,
    now: u64,
    needs_word: bool,
    is_down: bool,
    went_down_at: u64,
    /// The times of the fleet, where its proxies share a store.
    store: Option<Schedule>,
    asked: Vec<u32>,
    looked: Vec<u32>,
}

const BEGIN: u64 = 1_800_000_000_000;

impl Fleet {
    /// All proxies are started at once.
    fn start(needs_word: bool, is_down: bool) -> Self {
        let window = if needs_word { Schedule::SOON } else { Schedule::LATER };
        let proxy = |number| Proxy {
            number,
            schedule: Schedule::start(window, BEGIN, mix(number)),
            is_known: false,
            workers: vec![(0, false); 4],
            answer: None,
            has_turn: false,
        };
        let proxies = (0..PROXIES).map(proxy).collect();
        Self {
            proxies,
            now: BEGIN,
            needs_word,
            is_down,
            went_down_at: BEGIN,
            store: None,
            asked: vec![0],
            looked: vec![0],
        }
    }

    fn run(&mut self, seconds: u64) -> Vec<u32> {
        let first = self.asked.len() - 1;
        for _ in 0..seconds * 1000 / STEP {
            self.step();
        }
        self.asked[first..self.asked.len() - 1].to_vec()
    }

    fn step(&mut self) {
        let Self { now, needs_word, is_down, went_down_at, .. } = *self;
        let (mut asked, mut looked) = (0, 0);
        for proxy in &mut self.proxies {
            // The answer takes a few milliseconds, of a facilitator that is down a time-out for every other proxy.
            if let Some((_, worker)) = proxy.answer.take_if(|(at, _)| *at <= now) {
                let word = if is_down { Word::Fails } else { Word::Says };
                let is_urgent = needs_word || (is_down && proxy.workers[worker].1);
                proxy.schedule = proxy.schedule.heard(Pace::FACILITATOR, word, is_urgent, now, mix(proxy.number ^ now));
                proxy.is_known |= !is_down;
                if let (Some(store), true) = (&mut self.store, std::mem::take(&mut proxy.has_turn)) {
                    *store = store.heard(Pace::FACILITATOR, word, is_urgent, now, mix(proxy.number ^ now));
                }
            }
            for worker in 0..WORKERS {
                // Ticks are fast until something is known, and then once a second; workers do not tick together.
                let tick = if needs_word && !proxy.is_known { 100 } else { TICK };
                if (now + mix(proxy.number * WORKERS + worker)) % tick >= STEP {
                    continue;
                }
                let (heard_at, is_failing) = &mut proxy.workers[usize::try_from(worker).unwrap()];
                if *heard_at != proxy.schedule.heard_at {
                    (*heard_at, *is_failing) = (proxy.schedule.heard_at, false);
                }
                // Payments come to every worker: within ten seconds it notices that its calls fail.
                *is_failing |= is_down && now > went_down_at + part(10_000, mix(now ^ proxy.number ^ worker));
                let need =
                    Need { is_failing: *is_failing, is_unknown: needs_word && !proxy.is_known, timeout: TIMEOUT };
                match proxy.schedule.step(
                    Pace::FACILITATOR,
                    need,
                    now,
                    mix(proxy.number.rotate_left(20) ^ worker ^ now),
                ) {
                    Step::Wait => {}
                    Step::Plan(next) => proxy.schedule = next,
                    Step::Ask(next) => {
                        let turn = self.store.filter(|_| proxy.schedule.is_undisturbed()).map(|store| {
                            looked += 1;
                            (store, store.turn(Pace::FACILITATOR, need, now, mix(proxy.number ^ now)))
                        });
                        proxy.schedule = next;
                        match turn {
                            Some((_, Turn::Take(next))) => (self.store, proxy.has_turn) = (Some(next), true),
                            Some((store, Turn::Wait(until))) => {
                                proxy.schedule.due = until;
                                if store.heard_at > 0 {
                                    (proxy.is_known, proxy.schedule.heard_at) = (true, now);
                                }
                                continue;
                            }
                            Some((_, Turn::Alone)) | None => {}
                        }
                        let delay = if is_down && proxy.number % 2 == 0 { TIMEOUT } else { STEP };
                        proxy.answer = Some((now + delay, usize::try_from(worker).unwrap()));
                        asked += 1;
                    }
                }
            }
        }
        *self.asked.last_mut().unwrap() += asked;
        *self.looked.last_mut().unwrap() += looked;
        self.now += STEP;
        if self.now.is_multiple_of(1000) {
            self.asked.push(0);
            self.looked.push(0);
        }
    }

    /// Lets time pass until all know what is supported, or hear again; how many seconds that takes.
    fn until_all(&mut self, holds: impl Fn(&Proxy) -> bool) -> u64 {
        for seconds in 0.. {
            if self.proxies.iter().all(&holds) {
                return seconds;
            }
            self.run(1);
        }
        0
    }
}

fn mean(asked: &[u32]) -> f64 {
    f64::from(asked.iter().sum::<u32>()) / f64::from(u32::try_from(asked.len()).unwrap())
}

fn peak(asked: &[u32]) -> u32 {
    asked.iter().copied().max().unwrap()
}

fn tell(what: &str, asked: &[u32], within: Option<u64>) {
    let within = within.map_or(String::new(), |seconds| format!("{seconds} s"));
    println!("| {what} | {} | {:.1} | {within} |", peak(asked), mean(asked));
}

#[test]
fn a_thousand_proxies_are_no_herd() {
    println!("| 1,000 proxies of four workers | most questions in a second | mean in a second | all know after |");
    println!("| - | - | - | - |");
    for needs_word in [false, true] {
        let name = if needs_word { "something waits for the answer" } else { "nothing waits for the answer" };
        let mut fleet = Fleet::start(needs_word, false);
        let within = fleet.until_all(|proxy| proxy.is_known);
        let start = fleet.asked.clone();
        tell(&format!("start, {name}"), &start, Some(within));
        let (most, latest) = if needs_word { (1000, 2) } else { (330, 6) };
        assert!(peak(&start) <= most && within <= latest, "{} {within}", peak(&start));
        assert_eq!(start.iter().sum::<u32>(), 1000, "one of a proxy, and each once");

        fleet.run(600);
        let steady = fleet.run(3600);
        tell("steady, for an hour", &steady, None);
        assert!(mean(&steady) <= 2.0 && peak(&steady) <= 20, "{} {}", mean(&steady), peak(&steady));

        (fleet.is_down, fleet.went_down_at) = (true, fleet.now);
        let first = fleet.run(60);
        tell("down, the first minute", &first, None);
        assert!(peak(&first) <= 400 && mean(&first) <= 80.0, "{} {}", peak(&first), mean(&first));
        let down = fleet.run(540);
        tell("down, nine minutes more", &down, None);
        assert!(mean(&down) <= 20.0 && peak(&down) <= 60, "{} {}", mean(&down), peak(&down));

        fleet.is_down = false;
        let (back_at, from) = (fleet.now, fleet.asked.len() - 1);
        let within = fleet.until_all(|proxy| proxy.schedule.heard_at >= back_at);
        let back = fleet.asked[from..].to_vec();
        tell("back", &back, Some(within));
        assert!(within <= 90 && peak(&back) <= 50, "{within} {}", peak(&back));
        let after = fleet.run(1200);
        tell("the twenty minutes after that", &after, None);
        assert!(mean(&after) <= 2.0 && peak(&after) <= 20, "{} {}", mean(&after), peak(&after));
    }

    let mut fleet = Fleet::start(true, false);
    fleet.store = Some(Schedule::default());
    let within = fleet.until_all(|proxy| proxy.is_known);
    tell("with a store: start, something waits for the answer", &fleet.asked, Some(within));
    assert!(fleet.asked.iter().sum::<u32>() == 1 && within <= 5, "{:?} {within}", fleet.asked);
    fleet.run(600);
    let (steady, looked) = (fleet.run(3600), fleet.looked.split_off(600));
    tell("with a store: steady, for an hour", &steady, None);
    println!("| the same, questions to the store | {} | {:.1} | |", peak(&looked), mean(&looked));
    assert!(steady.iter().sum::<u32>() <= 7 && peak(&looked) <= 200, "{} {}", mean(&steady), peak(&looked));
    fleet.looked = vec![0];
    (fleet.is_down, fleet.went_down_at) = (true, fleet.now);
    let down = fleet.run(600);
    tell("with a store: down for ten minutes", &down, None);
    assert!(mean(&down[60..]) <= 20.0 && peak(&down[60..]) <= 60, "{} {}", mean(&down), peak(&down));
    fleet.is_down = false;
    let (back_at, from) = (fleet.now, fleet.asked.len() - 1);
    let within = fleet.until_all(|proxy| proxy.schedule.heard_at >= back_at);
    tell("with a store: back", &fleet.asked[from..], Some(within));
    assert!(within <= 90, "{within}");
    fleet.run(700);
    let after = fleet.run(1200);
    tell("with a store: twenty minutes later", &after, None);
    assert!(after.iter().sum::<u32>() <= 4, "{after:?}");

    let mut fleet = Fleet::start(true, true);
    let start = fleet.run(60);
    tell("start while it is down, the first minute", &start, None);
    assert!(peak(&start) <= 1000, "{}", peak(&start));
    let down = fleet.run(540);
    tell("start while it is down, nine minutes more", &down, None);
    assert!(mean(&down) <= 20.0 && peak(&down) <= 80, "{} {}", mean(&down), peak(&down));
    fleet.is_down = false;
    let within = fleet.until_all(|proxy| proxy.is_known);
    assert!(within <= 90, "{within}");
}

const fn now() -> u64 {
    BEGIN
}

#[test]
fn one_worker_asks_and_another_takes_over_from_one_that_is_gone() {
    let need = Need { timeout: 5_000, ..Need::default() };
    let schedule = Schedule::start(Schedule::SOON, now(), u64::MAX);
    assert_eq!(schedule.due, now() + 999);
    assert_eq!(schedule.step(Pace::FACILITATOR, need, now() + 998, 0), Step::Wait);
    let Step::Ask(turn) = schedule.step(Pace::FACILITATOR, need, now() + 999, 0) else { panic!("it is due") };
    assert_eq!(turn.step(Pace::FACILITATOR, need, now() + 6_998, 0), Step::Wait);
    assert!(matches!(turn.step(Pace::FACILITATOR, need, now() + 6_999, 0), Step::Ask(_)));
    assert_eq!(Schedule::read(&turn.to_bytes()), Some(turn));
    assert_eq!(Schedule::read(b"x"), None);
    // A clock that was set back by a day.
    assert!(matches!(turn.step(Pace::FACILITATOR, need, now() - 86_400_000, 0), Step::Ask(_)));
}

#[test]
fn pauses_double_and_who_fails_soon_again_is_not_asked_more_often() {
    let mut schedule = Schedule::default();
    let mut at = now();
    for least in [2_000, 4_000, 8_000, 16_000, 32_000, 40_000, 40_000] {
        for (random, most) in [(0, least), (u64::MAX, 2 * least - 1)] {
            let next = schedule.heard(Pace::FACILITATOR, Word::Fails, true, at, random);
            assert_eq!(next.due, at + most);
        }
        schedule = schedule.heard(Pace::FACILITATOR, Word::Fails, true, at, 0);
        at = schedule.due;
    }
    let said = schedule.heard(Pace::FACILITATOR, Word::Says, true, at, 0);
    assert_eq!(said.due, at + 540_000);
    let failing = Need { is_failing: true, ..Need::default() };
    let due = |later: u64| match said.step(Pace::FACILITATOR, failing, at + later, 0) {
        Step::Plan(next) => next.due - at - later,
        other => panic!("{other:?}"),
    };
    assert_eq!((due(1_000), due(120_000)), (40_000, 2_000));
    // Where nobody needs the answer, a failure is no reason to ask again soon; that something else fails, is.
    let quiet = Schedule::default().heard(Pace::FACILITATOR, Word::Fails, false, at, 0);
    assert_eq!((quiet.due, quiet.step(Pace::FACILITATOR, Need::default(), at + 1, 0)), (at + 540_000, Step::Wait));
    assert!(matches!(quiet.step(Pace::FACILITATOR, failing, at + 1, 0), Step::Plan(next) if next.due == at + 2_001));
    let unknown = Need { is_unknown: true, ..Need::default() };
    assert!(matches!(quiet.step(Pace::FACILITATOR, unknown, at + 1, 0), Step::Plan(next) if next.due == at + 2_001));
}

#[test]
fn numbers_are_spread_evenly_and_pauses_grow_by_half_at_most() {
    let mut counts = [0_u32; 10];
    for number in 0..10_000 {
        counts[usize::try_from(part(10, mix(number))).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    assert_eq!((jittered(1, u64::MAX), jittered(60, 0), jittered(60, u64::MAX)), (1, 60, 90));
}
