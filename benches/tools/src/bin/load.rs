//! A load generator that pays. One thread, keep-alive connections of HTTP/1.1, one request at a time on each.
//!
//! It asks for the terms of a path, signs as many different payments as it may need, and only then starts the clock.
//! Each answer's status is compared with the one that is expected; nothing else counts as a request that was served. It
//! writes one line of JSON: rates, latencies, and the processor time of the servers that it was told of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use x402_proxy_wasm::channel::Record;
use x402_proxy_wasm_bench_tools::{ChannelPayer, Failure, Kind, Payer, Quote};

const USAGE: &str =
    "load --port N [--path /x] [--kinds free|unpaid|honest|forged|misdirected|voucher,…] [--expect 200,…]
     [--connections 16] [--seconds 2] [--warmup 0.3] [--most N] [--payments N] [--sample SECONDS] [--body TEXT]
     [--entry N] [--channels N] [--seed TEXT] [--first N] [--pid N]… [--cpu N]";

/// What one run is about.
struct Options {
    port: u16,
    path: String,
    /// What is sent in turn, and the status that each is to be answered with.
    kinds: Vec<(String, u16)>,
    connections: usize,
    seconds: f64,
    warmup: f64,
    /// Ends the run after so many requests.
    most: u64,
    /// Payments that are signed in advance, of each kind. Where the honest ones run out, the run ends.
    payments: u64,
    /// Every so many seconds, the memory of the servers.
    sample: f64,
    /// Makes the requests POST.
    body: Option<String>,
    /// Which of the terms is paid by, the first unless told.
    entry: usize,
    /// Channels whose vouchers are sent in turn, each of another payer.
    channels: u64,
    /// Tells the channels of one server from those of another.
    seed: String,
    /// The number of the first voucher: so many were sent before.
    first: u64,
    pids: Vec<u32>,
    /// Where the run itself takes place; payments are signed wherever there is room.
    cpu: Option<String>,
}

fn options() -> Result<Options, Failure> {
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let name = name.strip_prefix("--").ok_or(USAGE)?.to_owned();
        given.entry(name).or_default().push(arguments.next().ok_or(USAGE)?);
    }
    let mut one = |name: &str, default: &str| -> String {
        given.remove(name).and_then(|values| values.into_iter().next_back()).unwrap_or_else(|| default.to_owned())
    };
    let (kinds, statuses) = (one("kinds", "free"), one("expect", "200"));
    let mut statuses = statuses.split(',').map(str::parse);
    let mut kind_of = |kind: &str| -> Result<_, Failure> { Ok((kind.to_owned(), statuses.next().ok_or(USAGE)??)) };
    Ok(Options {
        port: one("port", "").parse().map_err(|_| USAGE)?,
        path: one("path", "/"),
        kinds: kinds.split(',').map(&mut kind_of).collect::<Result<_, _>>()?,
        connections: one("connections", "16").parse()?,
        seconds: one("seconds", "2").parse()?,
        warmup: one("warmup", "0.3").parse()?,
        most: one("most", "18446744073709551615").parse()?,
        payments: one("payments", "1000").parse()?,
        sample: one("sample", "0").parse()?,
        entry: one("entry", "0").parse()?,
        channels: one("channels", "1").parse()?,
        seed: one("seed", ""),
        first: one("first", "0").parse()?,
        body: Some(one("body", "")).filter(|body| !body.is_empty()),
        cpu: Some(one("cpu", "")).filter(|cpu| !cpu.is_empty()),
        pids: given.remove("pid").unwrap_or_default().iter().map(|pid| pid.parse()).collect::<Result<_, _>>()?,
    })
}

/// Requests of one kind, as bytes, with what each is to be answered with.
struct Work {
    requests: Vec<Vec<u8>>,
    expected: u16,
    /// Payments that buy a response are good for one request each.
    is_used_up: bool,
    next: usize,
    /// Of vouchers: whether a request is under way on each channel, whose turn comes with every so many requests. Its next total
    /// is not sent before that is answered.
    busy: Vec<bool>,
}

impl Work {
    fn new(requests: Vec<Vec<u8>>, expected: u16, is_used_up: bool, channels: u64) -> Self {
        Self { requests, expected, is_used_up, next: 0, busy: vec![false; channels as usize] }
    }

    /// The channel of a request; `None` where it has none.
    fn channel(&self, request: usize) -> Option<usize> {
        request.checked_rem(self.busy.len())
    }
}

fn works(options: &Options) -> Result<Vec<Work>, Failure> {
    let head = |extra: &str| -> Vec<u8> {
        let (method, body) = options.body.as_ref().map_or(("GET", ""), |body| ("POST", body.as_str()));
        let mut text = format!("{method} {} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n{extra}", options.path, options.port);
        if options.body.is_some() {
            let _ = write!(text, "content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        format!("{text}\r\n{body}").into_bytes()
    };
    let mut payer = None;
    let mut work = |(kind, expected): &(String, u16)| -> Result<Work, Failure> {
        let kind = match kind.as_str() {
            "free" | "unpaid" => {
                return Ok(Work::new(vec![head("")], *expected, false, 0));
            }
            "voucher" => {
                let payer = ChannelPayer::new(&quote(options.port, &head(""))?, options.channels, &options.seed)?;
                let request =
                    |number| Ok(head(&format!("payment-signature: {}\r\n", payer.voucher(options.first + number)?)));
                let requests = in_order(options.payments, &request)?;
                return Ok(Work::new(requests, *expected, true, options.channels));
            }
            "honest" => Kind::Honest,
            "forged" => Kind::Forged,
            "misdirected" => Kind::Misdirected,
            other => return Err(format!("no such kind: {other}\n{USAGE}").into()),
        };
        let payer = match &mut payer {
            Some(payer) => payer,
            none => none.insert(Payer::new(&quote(options.port, &head(""))?, options.entry)?),
        };
        let request = |number| Ok(head(&format!("payment-signature: {}\r\n", payer.payment(number, kind)?)));
        Ok(Work::new(in_parallel(options.payments, &request)?, *expected, kind == Kind::Honest, 0))
    };
    options.kinds.iter().map(&mut work).collect()
}

/// Signing takes longer than anything else before the clock starts.
fn in_parallel<T: Send>(count: u64, make: &(impl Fn(u64) -> Result<T, Failure> + Sync)) -> Result<Vec<T>, Failure> {
    let threads = thread::available_parallelism()?.get() as u64;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || (first..count).step_by(threads as usize).map(make).collect()))
            .collect();
        let parts: Vec<Result<Vec<T>, Failure>> = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a thread panicked"))
            .collect::<Result<_, _>>()?;
        Ok(parts.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}

/// The same, in the order of their numbers: totals have to grow.
fn in_order<T: Send>(count: u64, make: &(impl Fn(u64) -> Result<T, Failure> + Sync)) -> Result<Vec<T>, Failure> {
    let mut numbered = in_parallel(count, &|number| Ok((number, make(number)?)))?;
    numbered.sort_unstable_by_key(|(number, _)| *number);
    Ok(numbered.into_iter().map(|(_, made)| made).collect())
}

/// Asks for the terms of a path.
fn quote(port: u16, request: &[u8]) -> Result<Quote, Failure> {
    let mut socket = Blocking::connect(("127.0.0.1", port))?;
    socket.write_all(request)?;
    let mut received = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while end_of_head(&received).is_none() {
        match socket.read(&mut chunk)? {
            0 => return Err("closed before the terms came".into()),
            size => received.extend_from_slice(&chunk[..size]),
        }
    }
    let text = String::from_utf8_lossy(&received);
    let terms = text.lines().filter_map(|line| line.split_once(':'));
    let mut terms = terms.filter(|(name, _)| name.eq_ignore_ascii_case("payment-required"));
    let (_, value) = terms.next().ok_or_else(|| format!("no terms: {}", text.lines().next().unwrap_or_default()))?;
    Quote::from_header(value.trim())
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The status of a whole response; `None` while its end is missing.
fn status_of(bytes: &[u8]) -> Option<(u16, bool)> {
    let end = end_of_head(bytes)?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    let value = |name: &str| {
        head.split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    };
    let body = &bytes[end..];
    let is_whole = match value("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => value("transfer-encoding").is_none() || body.ends_with(b"0\r\n\r\n"),
    };
    let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    is_whole.then_some((status, closes))
}

/// A connection and the request that it waits for.
struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    /// The request that it waits for; `None` where there is nothing to send.
    waits: Option<Sent>,
    unsent: Vec<u8>,
    /// True if it has nothing to send until a channel is free.
    is_idle: bool,
}

/// A request that is under way.
#[derive(Clone, Copy)]
struct Sent {
    /// The kind.
    turn: usize,
    /// The channel, of a voucher.
    channel: Option<usize>,
    at: Instant,
}

/// What has been counted since the warm-up.
#[derive(Default)]
struct Counts {
    right: u64,
    all: u64,
    statuses: BTreeMap<u16, u64>,
    nanoseconds: Vec<u32>,
    /// The first answer that was not expected, whenever it came.
    first_wrong: Option<String>,
}

struct Run {
    address: SocketAddr,
    works: Vec<Work>,
    turn: usize,
    sent: u64,
    most: u64,
    counts: Counts,
    is_counting: bool,
    chunk: Vec<u8>,
}

impl Run {
    /// Sends the next request of the next kind, where there is one.
    fn send(&mut self, connection: &mut Connection) {
        connection.waits = None;
        connection.is_idle = false;
        if self.sent >= self.most {
            return;
        }
        let turn = self.turn % self.works.len();
        let work = &mut self.works[turn];
        if work.next >= work.requests.len() {
            if work.is_used_up {
                return;
            }
            work.next = 0;
        }
        let channel = work.channel(work.next);
        if let Some(busy) = channel.and_then(|channel| work.busy.get_mut(channel)) {
            if *busy {
                connection.is_idle = true;
                return;
            }
            *busy = true;
        }
        let request = &work.requests[work.next];
        work.next += 1;
        self.turn += 1;
        self.sent += 1;
        connection.waits = Some(Sent { turn, channel, at: Instant::now() });
        let written = connection.socket.write(request).unwrap_or(0);
        connection.unsent.clear();
        connection.unsent.extend_from_slice(&request[written..]);
    }

    /// Reads what is there. `None` where the connection is of no more use.
    fn receive(&mut self, connection: &mut Connection) -> Option<()> {
        if !connection.unsent.is_empty() {
            let written = connection.socket.write(&connection.unsent).unwrap_or(0);
            connection.unsent.drain(..written);
        }
        loop {
            match connection.socket.read(&mut self.chunk) {
                Ok(0) => return None,
                Ok(size) => connection.received.extend_from_slice(&self.chunk[..size]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            }
            let Some((status, closes)) = status_of(&connection.received) else { continue };
            if let Some(Sent { turn, .. }) = connection.waits
                && status != self.works[turn].expected
            {
                let answer = || String::from_utf8_lossy(&connection.received).into_owned();
                self.counts.first_wrong.get_or_insert_with(answer);
            }
            connection.received.clear();
            self.count(connection, status);
            if closes {
                return None;
            }
            self.send(connection);
        }
    }

    /// Takes in that nothing is under way any more on a connection, and so on its channel.
    fn free(&mut self, connection: &mut Connection) -> Option<Sent> {
        let sent = connection.waits.take()?;
        if let Some(busy) = sent.channel.and_then(|channel| self.works[sent.turn].busy.get_mut(channel)) {
            *busy = false;
        }
        Some(sent)
    }

    fn count(&mut self, connection: &mut Connection, status: u16) {
        let Some(Sent { turn, at, .. }) = self.free(connection) else { return };
        if !self.is_counting {
            return;
        }
        let counts = &mut self.counts;
        counts.all += 1;
        *counts.statuses.entry(status).or_default() += 1;
        counts.right += u64::from(status == self.works[turn].expected);
        counts.nanoseconds.push(u32::try_from(at.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }

    fn connect(&self, poll: &Poll, token: usize) -> Result<Connection, Failure> {
        let blocking = Blocking::connect(self.address)?;
        blocking.set_nodelay(true)?;
        blocking.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(blocking);
        poll.registry().register(&mut socket, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { socket, received: Vec::new(), waits: None, unsent: Vec::new(), is_idle: false })
    }
}

/// Processor time that processes have used, their children not included, in microseconds: by the scheduler's own count of each
/// thread, in nanoseconds. (Ticks of the clock, which `stat` counts, are ten milliseconds.)
fn used(pids: &[u32]) -> f64 {
    let of_thread = |thread: fs::DirEntry| -> Option<f64> {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse().ok()
    };
    let of =
        |pid: &u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().filter_map(of_thread);
    pids.iter().flat_map(of).sum::<f64>() / 1000.0
}

/// Resident memory of processes in KB.
fn resident(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// Waits for the answers that are under way, so that whoever goes on where this run ends knows what was paid for.
fn drain(run: &mut Run, poll: &mut Poll, connections: &mut [Connection]) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(5);
    run.most = 0;
    let mut events = Events::with_capacity(1024);
    let begun = Instant::now();
    while connections.iter().any(|connection| connection.waits.is_some()) && begun.elapsed() < PATIENCE {
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            let connection = &mut connections[event.token().0];
            if run.receive(connection).is_none() {
                connection.waits = None;
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let works = works(&options)?;
    if let Some(cpu) = &options.cpu {
        let me = std::process::id().to_string();
        if !Command::new("taskset").args(["-cp", cpu, &me]).stdout(Stdio::null()).status()?.success() {
            return Err("taskset failed".into());
        }
    }
    let mut run = Run {
        address: SocketAddr::from(([127, 0, 0, 1], options.port)),
        works,
        turn: 0,
        sent: 0,
        most: options.most,
        counts: Counts::default(),
        is_counting: false,
        chunk: vec![0; 64 * 1024],
    };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut connections = Vec::new();
    for token in 0..options.connections {
        let mut connection = run.connect(&poll, token)?;
        run.send(&mut connection);
        connections.push(connection);
    }

    let me = [std::process::id()];
    let (warmup, seconds) = (Duration::from_secs_f64(options.warmup), Duration::from_secs_f64(options.seconds));
    let begun = Instant::now();
    let mut started = begun;
    let (mut before, mut own_before) = (used(&options.pids), used(&me));
    let mut broken = 0_u64;
    let mut samples = vec![(0, resident(&options.pids))];
    let mut sampled = begun;
    let mut last = begun;
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            let token = event.token().0;
            let connection = &mut connections[token];
            if run.receive(connection).is_none() {
                // A connection that breaks with a request under way is a failure of that request.
                broken += u64::from(connection.waits.is_some() && run.is_counting);
                run.free(connection);
                *connection = run.connect(&poll, token)?;
                run.send(&mut connections[token]);
            }
        }
        for connection in connections.iter_mut().filter(|connection| connection.is_idle) {
            run.send(connection);
        }
        let now = Instant::now();
        let is_over = connections.iter().all(|connection| connection.waits.is_none());
        if !events.is_empty() {
            last = now;
        }
        if !run.is_counting && now - begun >= warmup && !is_over {
            run.is_counting = true;
            started = now;
            (before, own_before) = (used(&options.pids), used(&me));
        }
        if options.sample > 0.0 && (now - sampled).as_secs_f64() >= options.sample {
            sampled = now;
            samples.push((run.counts.all, resident(&options.pids)));
        }
        if is_over || now - begun >= warmup + seconds {
            break;
        }
    }
    let elapsed = (last - started).as_secs_f64();
    let (cpu, own) = (used(&options.pids) - before, used(&me) - own_before);
    samples.push((run.counts.all, resident(&options.pids)));
    run.is_counting = false;
    drain(&mut run, &mut poll, &mut connections)?;

    let sent = run.sent;
    let Counts { right, all, statuses, mut nanoseconds, first_wrong } = run.counts;
    nanoseconds.sort_unstable();
    let at = |part: f64| {
        let index = (nanoseconds.len() as f64 * part) as usize;
        nanoseconds.get(index.min(nanoseconds.len().saturating_sub(1))).map_or(0.0, |ns| f64::from(*ns) / 1000.0)
    };
    let report = serde_json::json!({
        "requests": all,
        "sent": sent,
        "record_bytes": Record::BYTES,
        "wrong": all - right + broken,
        "broken": broken,
        "statuses": statuses,
        "first_wrong": first_wrong,
        "seconds": elapsed,
        "rate": right as f64 / elapsed,
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "cpu_us": cpu / all.max(1) as f64,
        "busy": cpu / 1e6 / elapsed,
        "own_busy": own / 1e6 / elapsed,
        "rss_kb": resident(&options.pids),
        "samples": samples,
    });
    println!("{report}");
    Ok(())
}
