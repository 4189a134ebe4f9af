//! The bounded run: the corpus, and a fixed number of mutations of it. What it runs depends on the seed alone.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::time::Instant;

use x402_proxy_wasm_fuzz::STACK_BYTES;
use x402_proxy_wasm_fuzz::mutate::{Random, shrink};
use x402_proxy_wasm_fuzz::targets::Target;

use crate::{home, material_of, save};

thread_local! {
    /// What the last panic of this thread said.
    static COMPLAINT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs targets, as many at a time as there are processors; `false` where one fails.
pub fn run(targets: &[&'static Target], seed: u64, rounds: u64) -> bool {
    panic::set_hook(Box::new(|info| COMPLAINT.with_borrow_mut(|complaint| *complaint = info.to_string())));
    let queue = Mutex::new(targets.iter());
    let next = || queue.lock().ok()?.next();
    let failures = Mutex::new(0);
    let work = || {
        while let Some(target) = next() {
            if !run_target(target, seed, rounds) {
                failures.lock().into_iter().for_each(|mut failures| *failures += 1);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
            thread.expect("a thread can be started");
        }
    });
    let failures = failures.into_inner().unwrap_or(usize::MAX);
    println!("fuzz result: {} passed; {failures} failed; seed {seed}", targets.len().saturating_sub(failures));
    failures == 0
}

fn run_target(target: &Target, seed: u64, rounds: u64) -> bool {
    let material = material_of(target);
    let mut random = Random::new(seed, target.name);
    let mutations = target.mutations * rounds;
    let start = Instant::now();
    let mutated = (0..mutations).map(|_| material.mutate(&mut random));
    // Nothing is where everybody begins.
    let inputs = [Vec::new()].into_iter().chain(material.corpus.iter().cloned()).chain(mutated);
    let failed = inputs.into_iter().find(|input| fails(target, input));
    if let Some(input) = failed {
        complain(target, input);
        return false;
    }
    let (name, known, seconds) = (target.name, material.corpus.len(), start.elapsed().as_secs_f64());
    println!("{name:<14}{known} inputs and {mutations} mutations  ({seconds:.1} s)");
    true
}

fn fails(target: &Target, input: &[u8]) -> bool {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err()
}

/// Makes a failing input as small as it gets, saves it, and says what is wrong with it.
fn complain(target: &Target, input: Vec<u8>) {
    let input = shrink(input, |input| fails(target, input));
    let path = save(&home().join("crashes").join(target.name), &input);
    fails(target, &input);
    let (name, path) = (target.name, path.display());
    let complaint = COMPLAINT.with_borrow(String::clone);
    println!(
        "{name} FAILED: {complaint}\n  input: {:?}\n  again: fuzz replay {name} {path}",
        input.escape_ascii().to_string()
    );
}
