//! Counts the instructions of the filter, as it is released, for requests without a valid payment: whatever a client
//! makes longer, twice as long costs at most [`MOST_GROWTH`] times as much, and the longest not more than [`most`].
//!
//! `growth MODULE` measures all; `growth MODULE KIND…` those kinds; `growth MODULE --write DIRECTORY` also writes the worst
//! request of each kind, for who measures its time.
#![allow(clippy::expect_used, reason = "a runner that cannot run may say so and stop")]

mod cases;
mod host;
mod request;

use std::process::ExitCode;

use cases::Case;
use host::{Failure, Filter, Outcome};
use request::Request;

/// The factor by which twice as much of something may cost more.
const MOST_GROWTH: f64 = 2.3;

/// Instructions below which nothing is said about growth: they are those of the request itself.
const TOO_FEW: u64 = 20_000;

/// What one case costs at each of its sizes.
struct Measured<'a> {
    case: &'a Case,
    costs: Vec<(usize, Outcome)>,
}

impl Measured<'_> {
    fn worst(&self) -> u64 {
        self.costs.iter().map(|(_, outcome)| outcome.instructions).max().unwrap_or(0)
    }

    fn last_status(&self) -> u32 {
        self.costs.last().map_or(0, |(_, outcome)| outcome.status)
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

fn run() -> Result<bool, Failure> {
    let mut arguments = std::env::args().skip(1);
    let module = arguments.next().ok_or("growth MODULE [--write DIRECTORY] [KIND…]")?;
    let mut rest: Vec<String> = arguments.collect();
    let directory = rest.iter().position(|word| word == "--write").and_then(|at| rest.drain(at..=at + 1).nth(1));
    if let (Some(directory), "-") = (&directory, module.as_str()) {
        std::fs::write(format!("{directory}/plugin.json"), cases::plugin().to_string())?;
        std::fs::write(format!("{directory}/supported.json"), cases::supported().to_string())?;
        for (number, case) in cases::all().iter().enumerate() {
            if rest.is_empty() || rest.iter().any(|kind| case.kind == kind) {
                write(directory, &format!("{number:05}"), &Measured { case, costs: Vec::new() })?;
            }
        }
        return Ok(true);
    }
    let wasm = std::fs::read(&module).map_err(|error| format!("{module}: {error}"))?;
    let mut filter = Filter::new(&wasm, &cases::plugin(), &cases::supported())?;
    let (mut passed, mut failed) = (0, 0);
    let mut worst: Vec<(&str, Measured<'_>)> = Vec::new();
    let cases = cases::all();
    for case in cases.iter().filter(|case| rest.is_empty() || rest.iter().any(|kind| case.kind == kind)) {
        let measured = measure(&mut filter, case)?;
        match measured.complaint() {
            Some(complaint) => {
                println!("FAILED {}: {complaint}", case.kind);
                failed += 1;
            }
            None => passed += 1,
        }
        match worst.iter_mut().find(|(kind, _)| *kind == case.kind) {
            Some((_, known)) if known.worst() >= measured.worst() => {}
            Some((_, known)) => *known = measured,
            None => worst.push((case.kind, measured)),
        }
    }
    for (kind, measured) in &worst {
        println!(
            "worst {kind}: {} instructions, {} ({})",
            measured.worst(),
            measured.last_status(),
            measured.case.name
        );
        if let Some(directory) = &directory {
            write(directory, kind, measured)?;
        }
    }
    println!("growth result: {passed} passed; {failed} failed");
    Ok(failed == 0)
}

/// Writes a request for whoever plays it elsewhere: a line of JSON about it, its headers as the host has them, its body.
fn write(directory: &str, file: &str, measured: &Measured<'_>) -> Result<(), Failure> {
    let Request { headers, body } = (measured.case.request)(measured.case.longest);
    let path = |ending: &str| format!("{directory}/{file}.{ending}");
    let about = serde_json::json!({
        "kind": measured.case.kind, "name": measured.case.name, "instructions": measured.worst(), "status": measured.last_status(), "hasBody": body.is_some(),
    });
    std::fs::write(path("json"), about.to_string())?;
    std::fs::write(path("headers"), host::encode_pairs(&headers))?;
    std::fs::write(path("body"), body.unwrap_or_default())?;
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
