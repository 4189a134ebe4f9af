//! Paths, hosts and methods. Whatever a lenient upstream makes of a request, it gets nothing priced for free, and nothing
//! dear for the price of something cheap.
//!
//! An input is a byte that chooses the table, the method, the authority and the path, each of the first two up to a line
//! feed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::LazyLock;

use x402_proxy_wasm::route::{Access, Decision, HostPattern, Matcher, Pattern, RouteTable, Target};

/// A route: host and method (empty for any), pattern, and whether it is priced.
struct Row {
    host: &'static str,
    method: &'static str,
    pattern: &'static str,
    is_priced: bool,
}

const fn priced(host: &'static str, method: &'static str, pattern: &'static str) -> Row {
    Row { host, method, pattern, is_priced: true }
}

const fn free(host: &'static str, method: &'static str, pattern: &'static str) -> Row {
    Row { host, method, pattern, is_priced: false }
}

const TABLES: [&[Row]; 4] = [
    &[
        priced("", "GET", "/weather"),
        free("", "", "/weather/about"),
        priced("", "POST", "/v1/chat/{*rest}"),
        free("", "", "/docs/{*rest}"),
        priced("", "", "/docs/secret"),
        priced("", "GET", "/items/{id}"),
        priced("", "GET", "/items/{id}/deep"),
        free("", "", "/healthz"),
    ],
    &[
        free("api.example.com", "", "/healthz"),
        priced("api.example.com", "", "/{*rest}"),
        free("*.example.com", "", "/{*rest}"),
        priced("*.paid.example", "", "/a"),
        priced("[::1]", "", "/six"),
    ],
    &[free("", "", "/"), free("", "", "/static/{file}"), priced("", "", "/{*rest}")],
    &[
        priced("", "", "/a/b/c"),
        priced("", "", "/a/{x}"),
        free("", "", "/a"),
        priced("", "", "/kiss"),
        priced("", "", "/x.y/"),
    ],
];

static READY: LazyLock<Vec<RouteTable>> = LazyLock::new(|| {
    let route = |row: &Row| {
        let listed = |text: &'static str| (!text.is_empty()).then_some(text).into_iter();
        let matcher = Matcher {
            hosts: listed(row.host).map(|host| HostPattern::parse(host).expect("a host")).collect(),
            methods: listed(row.method).map(str::to_owned).collect(),
            path: Pattern::parse(row.pattern).expect("a pattern"),
        };
        (matcher, if row.is_priced { Access::Priced } else { Access::Free })
    };
    TABLES.iter().map(|table| RouteTable::new(table.iter().map(route).collect())).collect()
});

pub(super) fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let mut lines = rest.splitn(3, |byte| *byte == b'\n');
    let (Some(method), Some(authority), Some(path)) = (lines.next(), lines.next(), lines.next()) else { return };
    let (method, authority) = (String::from_utf8_lossy(method), String::from_utf8_lossy(authority));
    let choice = usize::from(*choice) % TABLES.len();
    let decision = READY[choice].decide(Target { method: &method, authority: &authority, path });
    let path = cut(path, b"?");
    let is_clean = authority.bytes().all(|byte| byte.is_ascii_graphic());
    let request =
        Request { rows: TABLES[choice], method: method.to_ascii_uppercase(), hosts: hosts(&authority), is_clean, path };
    request.check(decision);
}

struct Request<'a> {
    rows: &'static [Row],
    method: String,
    /// What servers may take the authority for.
    hosts: BTreeSet<String>,
    /// Whether no server finds anything in the authority to trim.
    is_clean: bool,
    /// Without its query.
    path: &'a [u8],
}

impl Request<'_> {
    fn check(&self, decision: Decision) {
        let written = self.path;
        let is_host = |host: &String| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        let has_host = self.is_clean && self.hosts.len() == 1 && self.hosts.iter().all(is_host);
        // Free is what is written like a free route; what is written so may also be a price that stands before it.
        let as_written = self.rows.iter().position(|row| match row.is_priced {
            true => self.is_for(row) && leniently(row.pattern, written),
            false => self.is_for(row) && to_the_letter(row.pattern, written),
        });
        let priced = |index: &usize| self.rows[*index].is_priced;
        match decision {
            Decision::Ambiguous | Decision::Unsure(_) => {
                let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
                let is_clear = written.iter().all(is_plain) && !written.windows(2).any(|pair| pair == b"//");
                assert!(!has_host || !is_clear || !written.starts_with(b"/"), "no honest request is ambiguous");
            }
            Decision::Free(index) => assert!(!has_host || as_written == Some(index), "free, and not to the letter"),
            // What is no text is written like nothing.
            Decision::Unmatched => assert!(
                as_written.is_none() || std::str::from_utf8(written).is_err(),
                "a route is for what is written like it"
            ),
            Decision::Priced(index) => assert!(priced(&index), "a price stands where one is"),
        }
        for reading in readings(self.path) {
            let is_free =
                |index: usize| leniently_equal(&reading, written) || to_the_letter(self.rows[index].pattern, &reading);
            let sold =
                self.rows.iter().position(|row| row.is_priced && self.is_for(row) && leniently(row.pattern, &reading));
            let Some(sold) = sold else { continue };
            let shown = reading.escape_ascii();
            match decision {
                Decision::Ambiguous | Decision::Unsure(_) => {}
                Decision::Priced(index) => assert_eq!(index, sold, "another price for /{shown}"),
                Decision::Free(index) => assert!(is_free(index) && index < sold, "free, and priced as /{shown}"),
                Decision::Unmatched => panic!("unmatched, and priced as /{shown}"),
            }
        }
    }

    fn is_for(&self, row: &Row) -> bool {
        let is_host = |host: &String| match row.host.strip_prefix('*') {
            _ if row.host.is_empty() => true,
            Some(suffix) => host.ends_with(suffix),
            None => host == row.host,
        };
        let is_method = row.method.is_empty()
            || row.method == self.method
            || (row.method == "GET" && self.method == "HEAD")
            || (row.is_priced && self.method == "OPTIONS");
        is_method && self.hosts.iter().any(is_host)
    }
}

/// Whether a path is written just like a pattern.
fn to_the_letter(pattern: &str, path: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = pattern.as_bytes().split(|byte| *byte == b'/').collect();
    let path: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let is_for = |(pattern, segment): (&&[u8], &&[u8])| match pattern.starts_with(b"{") {
        true => !segment.is_empty(),
        false => pattern == segment,
    };
    match pattern.split_last() {
        Some((last, before)) if last.starts_with(b"{*") => {
            path.len() > before.len() && before.iter().zip(&path).all(is_for)
        }
        _ => pattern.len() == path.len() && pattern.iter().zip(&path).all(is_for),
    }
}

/// Whether a path is a pattern's to a server that cares neither for letter case nor for a final slash.
fn leniently(pattern: &str, path: &[u8]) -> bool {
    let (pattern, has_rest) = match pattern.split_once("{*") {
        Some((before, _)) => (before, true),
        None => (pattern, false),
    };
    let segments = |path: &[u8]| -> Vec<String> {
        let text = fold(path);
        text.trim_matches('/').split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
    };
    let (pattern, path) = (segments(pattern.as_bytes()), segments(path));
    let fits = pattern.len() == path.len() || (has_rest && pattern.len() < path.len());
    fits && pattern.iter().zip(&path).all(|(pattern, segment)| pattern.starts_with('{') || pattern == segment)
}

fn leniently_equal(one: &[u8], other: &[u8]) -> bool {
    fold(one).trim_end_matches('/') == fold(other).trim_end_matches('/')
}

/// A text without letter case, as servers do it that compare letter by letter, in either direction.
fn fold(path: &[u8]) -> String {
    let upper = |letter: char| Some(letter.to_uppercase()).filter(|upper| upper.len() == 1)?.next();
    let lower = |letter: char| letter.to_lowercase().next().unwrap_or(letter);
    String::from_utf8_lossy(path).chars().map(|letter| lower(upper(letter).unwrap_or(letter))).collect()
}

/// What servers may take an authority for.
fn hosts(authority: &str) -> BTreeSet<String> {
    let pieces = |separators: &'static [char]| authority.split(separators);
    let without_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.to_owned(),
        _ => host.to_owned(),
    };
    let candidates = pieces(&[]).chain(pieces(&['@'])).chain(pieces(&[',', ' ', '/', '\\', '?', '#', '@', '\t', '\0']));
    let first = authority.split(':').next().unwrap_or_default().to_owned();
    let hosts = candidates.map(without_port).chain([first]);
    hosts.map(|host| host.trim().trim_end_matches('.').to_ascii_lowercase()).collect()
}

/// All that servers make of a path by their habits, in whatever order: those readings that still say where they lead.
fn readings(path: &[u8]) -> BTreeSet<Vec<u8>> {
    /// Readings beyond which more of the same follows.
    const ENOUGH: usize = 250;
    type Habit = fn(&[u8]) -> Vec<u8>;
    const HABITS: [Habit; 12] = [
        decode,
        |path| replace(path, b"\\", b"/"),
        |path| replace(path, b"//", b"/"),
        resolve,
        |path| per_segment(path, |segment| cut(segment, b";").to_vec()),
        |path| cut(path, b";").to_vec(),
        |path| cut(path, b"?#").to_vec(),
        |path| cut(path, b"\0").to_vec(),
        |path| path.iter().copied().filter(|byte| !byte.is_ascii_control()).collect(),
        |path| per_segment(path, trim),
        drop_authority,
        |path| replace(&replace(path, b"\xc0\xaf", b"/"), b"\xc0\xae", b"."),
    ];
    let mut readings = BTreeSet::from([path.to_vec()]);
    let mut todo = VecDeque::from([path.to_vec()]);
    while let Some(reading) = todo.pop_front().filter(|_| readings.len() < ENOUGH) {
        for more in HABITS.map(|habit| habit(&reading)) {
            if readings.insert(more.clone()) {
                todo.push_back(more);
            }
        }
    }
    // Nobody serves what still has a query, or steps up or down, in it.
    let is_final = |path: &Vec<u8>| {
        let mut segments = path.split(|byte| *byte == b'/');
        path.starts_with(b"/") && !path.contains(&b'?') && !segments.any(|segment| matches!(segment, b"." | b".."))
    };
    readings.into_iter().filter(is_final).collect()
}

/// Every escape that is one, decoded once.
fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::new();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let escape = match rest {
            [b'%', high, low, after @ ..] => digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escape.unwrap_or((*byte, after));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

fn replace(path: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        match rest.strip_prefix(from) {
            Some(after) => {
                replaced.extend_from_slice(to);
                rest = after;
            }
            None => {
                replaced.push(*byte);
                rest = after;
            }
        }
    }
    replaced
}

fn cut<'a>(text: &'a [u8], ends: &[u8]) -> &'a [u8] {
    text.split(|byte| ends.contains(byte)).next().unwrap_or_default()
}

fn per_segment(path: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    path.split(|byte| *byte == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}

/// Without white space around it, and without the dots that some file systems drop.
fn trim(segment: &[u8]) -> Vec<u8> {
    let segment = segment.trim_ascii();
    let end = segment.iter().rposition(|byte| *byte != b'.');
    end.map_or(segment, |end| &segment[..=end]).to_vec()
}

/// Dot segments resolved (RFC 3986, section 5.2.4).
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut resolved: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    for (position, segment) in segments.iter().enumerate() {
        match *segment {
            b"." => {}
            b".." => resolved.truncate(resolved.len().saturating_sub(1).max(1)),
            segment => resolved.push(segment),
        }
        if position + 1 == segments.len() && matches!(*segment, b"." | b"..") {
            resolved.push(b"");
        }
    }
    resolved.join(&b'/')
}

/// `//host/path` and `http://host/path` without what stands before the path.
fn drop_authority(path: &[u8]) -> Vec<u8> {
    let after = path.strip_prefix(b"//").or_else(|| path.strip_prefix(b"http://"));
    let after = after.or_else(|| path.strip_prefix(b"https://"));
    match after.map(|after| after.iter().position(|byte| *byte == b'/').map(|at| &after[at..])) {
        Some(Some(path)) => path.to_vec(),
        Some(None) => b"/".to_vec(),
        None => path.to_vec(),
    }
}
