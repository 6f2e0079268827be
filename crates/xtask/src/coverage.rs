//! `cargo xtask coverage`: which lines of packages their own tests reach, by the compiler's instrumentation.
//!
//! # Shape
//! Tests are built with `-C instrument-coverage` in a target directory of their own and run once; `llvm-profdata`
//! merges what they wrote, `llvm-cov` counts. Both come with the compiler (`rustup component add llvm-tools`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::step::{self, cargo};

const DEFAULT: &[&str] = &["vos", "media"];

pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if let Some(option) = arguments.iter().find(|argument| argument.starts_with('-')) {
        bail!("coverage: no option `{option}`; names of packages only");
    }
    let default: Vec<String> = DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let packages = if arguments.is_empty() { &default[..] } else { arguments };
    let tools = tools()?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("coverage");
    let raw = target.join("raw");
    // What an earlier run left would be counted again.
    let _ = std::fs::remove_dir_all(&raw);
    std::fs::create_dir_all(&raw).with_context(|| format!("create {}", raw.display()))?;
    let instrumented = |command: &mut Command| {
        command.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", "-Cinstrument-coverage");
        command.env("LLVM_PROFILE_FILE", raw.join("%m-%p.profraw"));
    };
    for package in packages {
        let mut command = cargo(root);
        command.args(["test", "--quiet", "--package", package, "--lib", "--tests"]);
        instrumented(&mut command);
        step::run(&format!("coverage of {package}"), &mut command)?;
    }
    let merged = target.join("all.profdata");
    let raws: Vec<PathBuf> = std::fs::read_dir(&raw)?.flatten().map(|entry| entry.path()).collect();
    let mut merge = Command::new(tools.join("llvm-profdata"));
    merge.args(["merge", "-sparse", "-o"]).arg(&merged).args(&raws);
    step::run("merge", &mut merge)?;
    let mut programs = Vec::new();
    for package in packages {
        let mut command = cargo(root);
        command.args(["test", "--no-run", "--message-format=json", "--package", package, "--lib", "--tests"]);
        instrumented(&mut command);
        let output = command.stderr(Stdio::null()).output().context("cargo test --no-run")?;
        programs.extend(executables(&String::from_utf8_lossy(&output.stdout)));
    }
    for package in packages {
        let mut report = Command::new(tools.join("llvm-cov"));
        report.arg("report").arg(format!("-instr-profile={}", merged.display()));
        report.args(programs.iter().take(1));
        for program in programs.iter().skip(1) {
            report.arg("-object").arg(program);
        }
        report.arg("-sources").arg(root.join("crates").join(package).join("src"));
        step::run(&format!("figures of {package}"), &mut report)?;
    }
    Ok(())
}

/// The test programs that cargo's messages name.
fn executables(messages: &str) -> Vec<String> {
    let of = |line: &str| line.split("\"executable\":\"").nth(1)?.split('"').next().map(str::to_owned);
    messages.lines().filter_map(of).collect()
}

/// Where the compiler's own `llvm-cov` is: another one may not read what this compiler writes.
fn tools() -> Result<PathBuf> {
    let asked = |argument: &[&str]| -> Result<String> {
        let output = Command::new("rustc").args(argument).output().context("rustc")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = asked(&["--print", "sysroot"])?;
    let about = asked(&["-vV"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let place = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    if place.join("llvm-cov").is_file() && place.join("llvm-profdata").is_file() {
        return Ok(place);
    }
    bail!("coverage needs the compiler's llvm-cov and llvm-profdata: `rustup component add llvm-tools`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/deps/vos-1\",\"fresh\":true}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":null}\n";
        assert_eq!(executables(messages), ["/t/deps/vos-1"]);
    }
}
