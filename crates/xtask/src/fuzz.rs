//! `cargo xtask fuzz`: builds the targets of `fuzz/` and runs each for some seconds.
//!
//! # Shape
//! With a C++ compiler: libFuzzer on the stable toolchain, guided by coverage, without a sanitizer
//! (safe code needs none to find a panic). Without one, or with `--fallback`: the same targets under
//! a plain loop of seeded mutations.
//!
//! # Always true
//! Every run starts from the golden files of the crates, the inputs that once failed (`fuzz/found`), and what earlier runs
//! found in `fuzz/corpus`. With `--seed` a run goes the same way again, as far as its seconds reach: so does continuous
//! integration, and what is new is looked for by runs without.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::step::{self, cargo};

/// What makes LLVM count edges and report comparisons to libFuzzer.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Inputs larger than the largest frame body teach nothing new and slow every run.
const INPUT_BYTES_MAX: u32 = 1 << 16;

struct Options {
    seconds: u32,
    seed: Option<u32>,
    fallback: bool,
    names: Vec<String>,
}

pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let workspace = root.join("fuzz");
    let guided = !options.fallback && has_cpp_compiler();
    if !guided && !options.fallback {
        println!("no C++ compiler for libFuzzer: running unguided mutations");
    }
    let names = if options.names.is_empty() { targets(&workspace)? } else { options.names.clone() };
    let program = build(&workspace, guided)?;
    let scratch = Scratch::new(&workspace)?;
    for name in &names {
        let corpus = workspace.join("corpus").join(name);
        std::fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        let seeds = seeds(root, name)?;
        let mut command = Command::new(&program);
        command.current_dir(&workspace).env("FUZZ_TARGET", name).env("FUZZ_SCRATCH", &scratch.0);
        if guided {
            command.arg(format!("-max_total_time={}", options.seconds));
            command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
            // A virtual machine may stand still for a while: only what is far beyond that is a loop without an end.
            command.args(["-print_final_stats=1", "-timeout=60", "-rss_limit_mb=4096"]);
            if let Some(seed) = options.seed {
                command.arg(format!("-seed={seed}"));
            }
            command.arg(format!("-artifact_prefix={name}-"));
            command.arg(&corpus).args(&seeds);
        } else {
            command.arg(options.seconds.to_string()).arg(&corpus).args(&seeds);
        }
        report(name, &mut command)?;
    }
    Ok(())
}

/// Runs one target. libFuzzer says much while all is well: of that, only the number of runs is printed.
fn report(name: &str, command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("fuzz {name}: cannot start"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !output.status.success() {
        eprint!("{said}");
        bail!("fuzz {name} failed ({}); the input is kept in fuzz/", output.status);
    }
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    println!("fuzz {name}: {} runs", runs.map_or(said.trim(), str::trim));
    Ok(())
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { seconds: 10, seed: None, fallback: false, names: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--seconds" => options.seconds = number("--seconds", rest.next())?,
                "--seed" => options.seed = Some(number("--seed", rest.next())?),
                "--fallback" => options.fallback = true,
                option if option.starts_with('-') => {
                    bail!("fuzz: no option `{option}`; --seconds N, --seed N, --fallback")
                }
                name => options.names.push(name.to_owned()),
            }
        }
        Ok(options)
    }
}

fn number(option: &str, value: Option<&String>) -> Result<u32> {
    let value = value.with_context(|| format!("fuzz: {option} wants a number"))?;
    value.parse().with_context(|| format!("fuzz: `{value}` is not a number"))
}

/// A directory for files that targets make, in memory where there is such a place; gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(workspace: &Path) -> Result<Scratch> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { workspace.join("target") };
        let directory = parent.join(format!("daos-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(Scratch(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only files of this run are in it; one that stays does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn has_cpp_compiler() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let asked = Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Builds one program that holds every target, and returns its path.
fn build(workspace: &Path, guided: bool) -> Result<PathBuf> {
    // A target directory of its own: other flags would rebuild everything in the main one.
    let target = workspace.join("target");
    let mut command = cargo(workspace);
    command.args(["build", "--quiet", "--release"]).env("CARGO_TARGET_DIR", &target);
    if !guided {
        command.args(["--bin", "unguided"]);
        step::run("fuzz build", &mut command)?;
        return Ok(target.join("release/unguided"));
    }
    let host = host()?;
    // Naming the platform keeps the flags away from build scripts, which have no libFuzzer to link.
    command.args(["--bin", "guided", "--features", "libfuzzer", "--target", &host]);
    command.env("RUSTFLAGS", COVERAGE.join(" "));
    step::run("fuzz build", &mut command)?;
    Ok(target.join(host).join("release/guided"))
}

/// The platform of this compiler, as in `x86_64-unknown-linux-gnu`.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(line.to_owned())
}

/// The names of the targets: the `TARGETS` table of `fuzz/src/lib.rs`, asked from the program itself.
fn targets(workspace: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(workspace.join("src/lib.rs")).context("fuzz/src/lib.rs")?;
    let table = text.split("pub const TARGETS").nth(1).context("fuzz/src/lib.rs has no TARGETS table")?;
    let rows = table.split("];").next().unwrap_or_default().lines();
    Ok(rows.filter_map(|row| row.trim().strip_prefix("(\"")?.split('"').next()).map(str::to_owned).collect())
}

/// The directories whose files are seeds: golden bytes, and what once made `target` fail.
fn seeds(root: &Path, target: &str) -> Result<Vec<PathBuf>> {
    let failed = root.join("fuzz/found").join(target);
    let mut found: Vec<_> = failed.is_dir().then_some(failed).into_iter().collect();
    for entry in std::fs::read_dir(root.join("crates")).context("crates")? {
        let directory = entry?.path().join("golden/v1");
        if directory.is_dir() {
            found.push(directory);
        }
    }
    found.sort();
    Ok(found)
}
