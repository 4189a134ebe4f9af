//! Long runs, led by coverage: LLVM's libFuzzer, on stable Rust.

use std::path::{Path, PathBuf};
use std::process::Command;

use x402_proxy_wasm_fuzz::targets::Target;

use crate::{corpus_of, files_in, home};

/// What lets rustc put counters and hooks for comparisons into the code, for libFuzzer to look at.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Seconds that one input may take.
const TIMEOUT_SECONDS: u32 = 10;

/// Inputs that the corpus keeps of one target, and their bytes, about.
const KEPT_FILES: usize = 120;
const KEPT_BYTES: u64 = 30_000;

/// Runs each target for so many minutes, 0 for ever; `false` where one fails.
pub fn run(targets: &[&'static Target], minutes: u64) -> Result<bool, String> {
    let program = build()?;
    let mut is_good = true;
    for target in targets {
        println!("== {}: {}", target.name, target.what);
        let found = found_of(target);
        std::fs::create_dir_all(&found).map_err(|error| error.to_string())?;
        let status = guided(&program, target)
            .arg(format!("-max_total_time={}", minutes * 60))
            .args([found, corpus_of(target)])
            .status()
            .map_err(|error| error.to_string())?;
        if !status.success() {
            println!("{} FAILED; inputs that fail are in {}", target.name, crashes_of(target).display());
            is_good = false;
        }
    }
    Ok(is_good)
}

/// Replaces the corpus of each target by the few small inputs that cover as much as it and all that long runs found.
pub fn keep(targets: &[&'static Target]) -> Result<(), String> {
    let program = build()?;
    let failed = |error: std::io::Error| error.to_string();
    for target in targets {
        let (corpus, merged) = (corpus_of(target), home().join("found").join(format!("{}.merged", target.name)));
        let _ = std::fs::remove_dir_all(&merged);
        std::fs::create_dir_all(&merged).map_err(failed)?;
        let merge =
            guided(&program, target).arg("-set_cover_merge=1").args([&merged, &corpus, &found_of(target)]).status();
        if !merge.map_err(failed)?.success() {
            return Err(format!("{}: the merge failed", target.name));
        }
        std::fs::remove_dir_all(&corpus).map_err(failed)?;
        std::fs::create_dir_all(&corpus).map_err(failed)?;
        let mut files = files_in(&merged);
        let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        files.sort_by_key(size);
        let mut total = 0;
        for file in files.into_iter().take(KEPT_FILES) {
            total += size(&file);
            if total <= KEPT_BYTES {
                std::fs::copy(&file, corpus.join(file.file_name().unwrap_or_default())).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn found_of(target: &Target) -> PathBuf {
    home().join("found").join(target.name)
}

fn crashes_of(target: &Target) -> PathBuf {
    home().join("crashes").join(target.name)
}

/// libFuzzer on a target, with what holds for every run.
fn guided(program: &Path, target: &Target) -> Command {
    let crashes = crashes_of(target);
    let _ = std::fs::create_dir_all(&crashes);
    let mut command = Command::new(program);
    command.env("FUZZ_TARGET", target.name).args([
        format!("-dict={}", home().join("dictionary.txt").display()),
        format!("-max_len={}", target.max_length),
        format!("-timeout={TIMEOUT_SECONDS}"),
        format!("-artifact_prefix={}/", crashes.display()),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
    ]);
    command
}

/// Builds the targets with counters in them; gives the path of the program.
fn build() -> Result<PathBuf, String> {
    let cxx = find_cxx()?;
    let host = host()?;
    // This program is <target directory>/debug/fuzz.
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = here.parent().and_then(Path::parent).ok_or("no target directory")?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // With --target the flags are for the targets alone, and not for build scripts and macros.
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--features", "guided", "--bin", "guided", "--target", &host])
        .arg("--target-dir")
        .arg(directory)
        .env("CXX", cxx)
        .env("RUSTFLAGS", FLAGS.join(" "))
        .current_dir(home())
        .status()
        .map_err(|error| error.to_string())?;
    if !status.success() {
        return Err("the targets cannot be built for a long run".to_owned());
    }
    Ok(directory.join(host).join("debug").join("guided"))
}

/// A C++ compiler, for libFuzzer.
fn find_cxx() -> Result<String, String> {
    let candidates =
        std::env::var("CXX").map_or_else(|_| ["c++", "g++", "clang++"].map(str::to_owned).to_vec(), |cxx| vec![cxx]);
    let is_there =
        |name: &&String| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    candidates.iter().find(is_there).cloned().ok_or_else(|| {
        format!(
            "a long run needs a C++ compiler (tried {}), for LLVM's libFuzzer. Install one (Debian: apt-get install g++), \
             or run without the lead of coverage: fuzz bounded --rounds 1000",
            candidates.join(", ")
        )
    })
}

fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.ok_or_else(|| "rustc does not name its host".to_owned())
}
