//! `cargo xtask`: the one door to every check, measurement and long test of this repository.
//!
//! # Not here
//! What the checks check ([`tidy`]), what the benches measure (crate `bench`), what a fuzz target
//! feeds (`fuzz/`).
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "runs cargo and reads the tree; the simulator never runs it")]

mod campaign;
mod coverage;
mod fuzz;
mod simulate;
mod step;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use step::cargo;

const USAGE: &str = "\
Usage: cargo xtask <command>

  check                  what CI runs before it builds a release: fmt, clippy, tidy, test
  tidy                   crate edges, module order and the other facts of layers.toml
  bench [arguments]      measure; names of benches, --list, --full, --json FILE
  fuzz [--seconds N] [--fallback] [names]
                         run each fuzz target for N seconds (default 10)
  campaign [--times N] [names]
                         the long form of the storage tests, in release: random sequences, power cuts, faults,
                         damage; N times the default, or only those named
  coverage [packages]    lines, functions and regions that the tests of packages reach (default vos and media)
  sim [--seeds N] [--first S] [--scenario NAME]
                         simulated clusters under N seeds (default 10) from S on, over all processors: every invariant
                         of the design attacked and checked, or one scenario; what fails says how to run it again
  sim server [--seeds N] [--seed S]
                         one simulated server and its clients, the same way
  sim scale [table ...]  placement, detection of failures, changes of maps and healing with up to 10,000 servers
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let root = root()?;
    let Some((command, rest)) = arguments.split_first() else {
        print!("{USAGE}");
        return Ok(());
    };
    match command.as_str() {
        "check" => check(&root),
        "tidy" => tidy::run(&root),
        "bench" => {
            // The server and the commands are measured as programs of their own.
            let build = ["build", "--quiet", "--release", "--package", "cli", "--package", "bench"];
            step::run("bench build", cargo(&root).args(build))?;
            let arguments = ["run", "--quiet", "--release", "--package", "bench", "--"];
            step::run("bench", cargo(&root).args(arguments).args(rest))
        }
        "campaign" => campaign::run(&root, rest),
        "coverage" => coverage::run(&root, rest),
        "fuzz" => fuzz::run(&root, rest),
        "sim" => simulate::run(&root, rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no command `{other}`\n\n{USAGE}"),
    }
}

/// The checks that need no release build, cheapest first.
fn check(root: &Path) -> Result<()> {
    step::run("format", cargo(root).args(["fmt", "--all", "--check"]))?;
    println!("== tidy");
    tidy::run(root)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    step::run("clippy", cargo(root).args(clippy))?;
    step::run("test", cargo(root).args(["test", "--workspace", "--quiet"]))
}

/// The directory of the workspace this program was built from.
fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(Path::to_owned).context("crates/xtask stands two levels below the root")
}
