//! Runs the fuzz targets: `fuzz help` says how.
#![allow(clippy::expect_used, reason = "a runner that cannot run may say so and stop")]

mod bounded;
mod long;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use x402_proxy_wasm_fuzz::mutate::{Material, read_dictionary};
use x402_proxy_wasm_fuzz::targets::{self, Target};
use x402_proxy_wasm_fuzz::{STACK_BYTES, seeds};

const HELP: &str = "\
fuzz list                                            the targets
fuzz bounded [--seed N] [--rounds N] [TARGET…]       the corpus, and mutations of it by the seed (default: 1 round)
fuzz long    [--minutes N] [TARGET…]                 as coverage leads, so long for each target (default 5; 0: endless)
fuzz keep    [TARGET…]                               take what the long runs found into the corpus, as little as covers it all
fuzz replay  TARGET FILE…                            run a target on these inputs
fuzz seeds                                           write the inputs that the corpus began with";

/// What follows the command: options by name, and the rest.
struct Arguments {
    seed: u64,
    rounds: u64,
    minutes: u64,
    rest: Vec<String>,
}

impl Arguments {
    fn read(words: &mut dyn Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self { seed: 1, rounds: 1, minutes: 5, rest: Vec::new() };
        while let Some(word) = words.next() {
            let number = match word.as_str() {
                "--seed" => &mut arguments.seed,
                "--rounds" => &mut arguments.rounds,
                "--minutes" => &mut arguments.minutes,
                _ => {
                    arguments.rest.push(word);
                    continue;
                }
            };
            let value = words.next().and_then(|value| value.parse().ok());
            *number = value.ok_or_else(|| format!("{word} needs a number"))?;
        }
        Ok(arguments)
    }

    /// The targets that are named; all where none is.
    fn targets(&self) -> Result<Vec<&'static Target>, String> {
        if self.rest.is_empty() {
            return Ok(targets::ALL.iter().collect());
        }
        self.rest.iter().map(|name| find(name)).collect()
    }
}

fn find(name: &str) -> Result<&'static Target, String> {
    targets::ALL
        .iter()
        .find(|target| target.name == name)
        .ok_or_else(|| format!("{name} is not a target; see fuzz list"))
}

/// This package's directory.
fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus_of(target: &Target) -> PathBuf {
    home().join("corpus").join(target.name)
}

/// The files of a directory, in the order of their names, which is the same everywhere; none where it is absent.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

fn material_of(target: &Target) -> Material {
    let corpus = files_in(&corpus_of(target)).iter().filter_map(|file| std::fs::read(file).ok()).collect();
    let dictionary = std::fs::read_to_string(home().join("dictionary.txt")).unwrap_or_default();
    Material { corpus, dictionary: read_dictionary(&dictionary), max_length: target.max_length }
}

/// Saves an input under a name made of its content; gives the path.
fn save(directory: &Path, input: &[u8]) -> PathBuf {
    let hash = x402_proxy_wasm::evm::keccak256(input);
    let path = directory.join(hex::encode(&hash[..20]));
    std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, input)).expect("inputs can be saved");
    path
}

fn run() -> Result<bool, String> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_else(|| "help".to_owned());
    let arguments = Arguments::read(&mut words)?;
    match command.as_str() {
        "list" => targets::ALL.iter().for_each(|target| println!("{:<14}{}", target.name, target.what)),
        "bounded" => return Ok(bounded::run(&arguments.targets()?, arguments.seed, arguments.rounds)),
        "long" => return long::run(&arguments.targets()?, arguments.minutes),
        "keep" => long::keep(&arguments.targets()?)?,
        "replay" => {
            let (name, files) = arguments.rest.split_first().ok_or("replay what?")?;
            let target = find(name)?;
            for file in files {
                (target.run)(&std::fs::read(file).map_err(|error| format!("{file}: {error}"))?);
                println!("{file}: nothing to complain of");
            }
        }
        "seeds" => {
            for target in targets::ALL {
                for input in seeds::of(target.name) {
                    save(&corpus_of(target), &input);
                }
            }
        }
        _ => println!("{HELP}"),
    }
    Ok(true)
}

fn main() -> ExitCode {
    // Targets go as deep as their input is nested.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run);
    match thread.expect("a thread can be started").join() {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) | Err(_) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("fuzz: {error}");
            ExitCode::from(2)
        }
    }
}
