//! Counts the instructions of the filter, as it is released, for requests without a valid payment: whatever a client
//! makes longer, twice as long costs at most [`MOST_GROWTH`] times as much, and the longest not more than [`most`].
//!
//! `growth MODULE` measures all; with kinds behind it, those. `--corpus` adds what fuzzing found; `--write` writes the
//! requests to a directory instead, for who measures their time.
#![allow(clippy::expect_used, reason = "a runner that cannot run may say so and stop")]

mod cases;
mod channels;
mod host;
mod request;

use std::path::Path;
use std::process::ExitCode;

use cases::Case;
use host::{Failure, Filter, Outcome};
use request::Request;
use serde_json::json;

/// The factor by which twice as much of something may cost more.
const MOST_GROWTH: f64 = 2.4;

/// Instructions below which nothing is said about growth: those of the request itself, and of what becomes of a path at
/// two kilobytes and of a text at its first thousands of values.
const TOO_FEW: u64 = 1_000_000;

/// What one case costs at each of its sizes.
struct Measured<'a> {
    case: &'a Case,
    costs: Vec<(usize, Outcome)>,
}

impl Measured<'_> {
    fn worst(&self) -> u64 {
        self.costs.iter().map(|(_, outcome)| outcome.instructions).max().unwrap_or(0)
    }

    /// What is wrong with it, if anything is.
    fn complaint(&self) -> Option<String> {
        let what = &self.case.name;
        let grows = self.costs.windows(2).find_map(|pair| {
            let [(size, few), (twice, many)] = pair else { return None };
            let (few, many) = (few.instructions, many.instructions);
            let factor = ratio(many, few.max(TOO_FEW));
            (factor > MOST_GROWTH)
                .then(|| format!("{what}: {few} instructions at {size}, {many} at {twice}: {factor:.2} times as many"))
        });
        let (worst, most) = (self.worst(), self.case.most);
        grows.or_else(|| (worst > most).then(|| format!("{what}: {worst} instructions, more than {most}")))
    }
}

#[allow(clippy::as_conversions, clippy::cast_precision_loss, reason = "for a factor of two digits")]
fn ratio(many: u64, few: u64) -> f64 {
    many as f64 / few as f64
}

fn measure<'a>(filter: &mut Filter, case: &'a Case) -> Result<Measured<'a>, Failure> {
    let sizes = [4, 2, 1].map(|part| case.longest / part);
    let costs = sizes.into_iter().map(|size| {
        let request = (case.request)(size);
        // What is made once, at the first such request, is not this one's.
        if size == sizes[0] {
            filter.play(&request)?;
        }
        Ok((size, filter.play(&request)?))
    });
    Ok(Measured { case, costs: costs.collect::<Result<_, Failure>>()? })
}

/// What is asked of the runner.
struct Arguments {
    module: String,
    corpus: Option<String>,
    directory: Option<String>,
    kinds: Vec<String>,
}

impl Arguments {
    fn read() -> Result<Self, Failure> {
        let mut words = std::env::args().skip(1);
        let module = words.next().ok_or("growth MODULE [--corpus DIRECTORY] [--write DIRECTORY] [KIND…]")?;
        let mut arguments = Self { module, corpus: None, directory: None, kinds: Vec::new() };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--corpus" => arguments.corpus = words.next(),
                "--write" => arguments.directory = words.next(),
                _ => arguments.kinds.push(word),
            }
        }
        Ok(arguments)
    }
}

fn run() -> Result<bool, Failure> {
    let Arguments { module, corpus, directory, kinds } = Arguments::read()?;
    let mut cases = cases::all();
    if let Some(corpus) = corpus {
        cases.extend(cases::found(Path::new(&corpus))?);
    }
    cases.retain(|case| kinds.is_empty() || kinds.iter().any(|kind| case.kind == kind));
    if let Some(directory) = &directory {
        return write_all(directory, &cases).map(|()| true);
    }
    let wasm = std::fs::read(&module).map_err(|error| format!("{module}: {error}"))?;
    let mut filter = Filter::new(&wasm, &cases::plugin(cases::BODY / cases::SMALLER), &cases::supported())?;
    let (mut passed, mut failed) = (0, 0);
    let mut worst: Vec<Measured<'_>> = Vec::new();
    for case in &cases {
        let measured = measure(&mut filter, case)?;
        match measured.complaint() {
            Some(complaint) => {
                println!("FAILED {}: {complaint}", case.kind);
                failed += 1;
            }
            None => passed += 1,
        }
        match worst.iter_mut().find(|known| known.case.kind == case.kind) {
            Some(known) if known.worst() >= measured.worst() => {}
            Some(known) => *known = measured,
            None => worst.push(measured),
        }
    }
    let (plugin, supported) = (cases::plugin(cases::BODY), cases::supported());
    let mut filter = Filter::new(&wasm, &plugin, &supported)?;
    for Measured { case, .. } in &worst {
        let request = (case.request)(case.full);
        filter.play(&request)?;
        let Outcome { instructions, status } = filter.play(&request)?;
        println!("worst {}: {instructions} instructions, {status} ({})", case.kind, case.name);
    }
    if kinds.is_empty() || kinds.iter().any(|kind| kind == "channels") {
        let (cases, complaints) = channels::measure(&wasm, &plugin, &supported)?;
        complaints.iter().for_each(|complaint| println!("FAILED channels: {complaint}"));
        (passed, failed) = (passed + cases - complaints.len(), failed + complaints.len());
    }
    println!("growth result: {passed} passed; {failed} failed");
    Ok(failed == 0)
}

/// Writes requests, as long as they can be, for whoever plays them elsewhere: about each, its headers as the host has them,
/// its body; and the configuration.
fn write_all(directory: &str, cases: &[Case]) -> Result<(), Failure> {
    std::fs::write(format!("{directory}/plugin.json"), cases::plugin(cases::BODY).to_string())?;
    std::fs::write(format!("{directory}/supported.json"), cases::supported().to_string())?;
    for (number, case) in cases.iter().enumerate() {
        let Request { headers, body } = (case.request)(case.full);
        let path = format!("{directory}/{number}");
        std::fs::write(format!("{path}.about"), json!({"kind": case.kind, "name": case.name}).to_string())?;
        std::fs::write(format!("{path}.headers"), host::encode_pairs(&headers))?;
        if let Some(body) = body {
            std::fs::write(format!("{path}.body"), body)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("growth: {error}");
            ExitCode::from(2)
        }
    }
}
