//! What a source file may contain.
//!
//! # Shape
//! [`check`] runs each rule over each file. Most rules look for words in the code; a few look at the
//! first lines or at comments. `RULES` at the bottom of the page is the list a reader wants: which
//! word, where it is allowed, and what to do instead.

use super::layers::Layers;
use super::source::Source;
use super::{Finding, Tree};

/// A chapter has 150 to 800 lines.
const LINES_WARN: usize = 800;
/// Beyond this a file holds two ideas: split it.
const LINES_MAX: usize = 1000;

/// Names that say nothing about what a module is for.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// A word that may not stand in code.
struct Forbidden {
    word: &'static str,
    scope: Scope,
    instead: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// Nowhere, tests included.
    Everywhere,
    /// Not outside tests.
    Production,
    /// Not outside tests, except where layers.toml opens the outside world.
    Simulated,
}

pub(super) fn check(tree: &Tree, layers: &Layers) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        check_head(source, layers, &mut findings);
        check_length(source, &mut findings);
        check_words(source, layers, &mut findings);
        check_globs(source, &mut findings);
        check_choices(source, &mut findings);
        check_promises(source, &mut findings);
    }
    findings
}

/// A crate's root forbids unsafe code; every file of a crate opens by saying what it is for; no file has
/// an empty name.
fn check_head(source: &Source, layers: &Layers, findings: &mut Vec<Finding>) {
    let path = source.path.as_str();
    let Some(crate_name) = source.crate_name() else { return };
    let within = path.strip_prefix("crates/").and_then(|rest| rest.strip_prefix(crate_name)).unwrap_or(path);
    let is_root = matches!(within, "/src/lib.rs" | "/src/main.rs") || within.starts_with("/src/bin/");
    if is_root
        && !layers.unsafe_crates.iter().any(|name| name == crate_name)
        && !source.code.contains("#![forbid(unsafe_code)]")
    {
        findings.push(Finding::fail(path, 1, "`#![forbid(unsafe_code)]` is missing".into()));
    }
    if within.starts_with("/src/") && !source.text.starts_with("//!") {
        let message = "no module header: open with `//!` and say what the file is for";
        findings.push(Finding::fail(path, 1, message.into()));
    }
    // `tests/common/mod.rs` is cargo's own name for what several tests share.
    let parts = within.strip_prefix("/src/").unwrap_or_default().trim_end_matches(".rs").split('/');
    for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
        findings.push(Finding::fail(path, 1, format!("a module called `{part}`: name it for what it does")));
    }
}

fn check_length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        let message = format!("{lines} lines, at most {LINES_MAX}: does it hold two ideas?");
        findings.push(Finding::fail(&source.path, LINES_MAX, message));
    } else if lines > LINES_WARN {
        findings.push(Finding::warn(&source.path, LINES_WARN, format!("{lines} lines: a chapter has 150 to 800")));
    }
}

fn check_words(source: &Source, layers: &Layers, findings: &mut Vec<Finding>) {
    let opened = layers.outside_world.iter().any(|prefix| source.path.starts_with(prefix.as_str()));
    // Outside `crates/` (fuzz targets) there is no simulated path.
    let simulated = !opened && source.crate_name().is_some();
    for rule in RULES {
        for at in source.find_word(rule.word) {
            let allowed = match rule.scope {
                Scope::Everywhere => false,
                Scope::Production => source.is_test(at),
                Scope::Simulated => !simulated || source.is_test(at),
            };
            if !allowed {
                let message = format!("`{}`: {}", rule.word, rule.instead);
                findings.push(Finding::fail(&source.path, source.line(at), message));
            }
        }
    }
}

/// `pub use a::*` makes a crate's surface depend on what someone adds elsewhere.
fn check_globs(source: &Source, findings: &mut Vec<Finding>) {
    for at in source.find_word("use ") {
        let statement = source.code[at..].split(';').next().unwrap_or_default();
        let line_start = source.code[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let is_public = source.code[line_start..at].trim_start().starts_with("pub");
        if is_public && (statement.contains("::*") || statement.contains("{*")) {
            findings.push(Finding::fail(&source.path, source.line(at), "glob re-export: name what is public".into()));
        }
    }
}

/// What looks at a branch of its own choice first makes a seed another story each time: by tokio's dice, not the simulator's.
fn check_choices(source: &Source, findings: &mut Vec<Finding>) {
    for at in source.find_word("select!") {
        let branches = source.code[at..].split_once('{').map_or("", |(_, rest)| rest.trim_start());
        if !branches.starts_with("biased;") {
            let message = "`select!` without `biased;`: the same seed must give the same trace".to_string();
            findings.push(Finding::fail(&source.path, source.line(at), message));
        }
    }
}

/// A promise to come back says what ends it.
fn check_promises(source: &Source, findings: &mut Vec<Finding>) {
    for (n, line) in source.comments.lines().enumerate() {
        let promise = PROMISES.iter().find(|word| super::source::words(line, word).next().is_some());
        let ends = ["until ", "when ", "once ", "after "].iter().any(|word| line.contains(word));
        if let Some(word) = promise.filter(|_| !ends) {
            let message = format!("{word} without an end: say until when, or do it");
            findings.push(Finding::fail(&source.path, n + 1, message));
        }
    }
}

/// Spelled apart, so that this page does not find itself.
const PROMISES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

const CLOCK: &str = "the simulator owns time: use rt::now, rt::sleep, rt::wall_micros";
const FILES: &str = "the simulator owns files: use rt::disk";
const SOCKETS: &str = "the simulator owns the network: use rt::stream, rt::mem or net";
const TASKS: &str = "the simulator owns scheduling: use rt::spawn, rt::spawn_thread";
const CHANCE: &str = "the same seed must give the same trace: use rt::random_u64, rt::random_bytes, rt::random_uuid";

const fn forbidden(word: &'static str, scope: Scope, instead: &'static str) -> Forbidden {
    Forbidden { word, scope, instead }
}

const RULES: &[Forbidden] = &[
    forbidden("todo!", Scope::Everywhere, "unfinished code is not committed"),
    forbidden("unimplemented!", Scope::Everywhere, "unfinished code is not committed"),
    forbidden("dbg!", Scope::Everywhere, "a trace left behind"),
    forbidden("println!", Scope::Simulated, "a library does not print: use tracing, or return what happened"),
    forbidden("eprintln!", Scope::Simulated, "a library does not print: use tracing, or return what happened"),
    forbidden("process::exit", Scope::Simulated, "only a program's main ends the process"),
    forbidden("allow(dead_code)", Scope::Production, "delete it"),
    forbidden("time::Instant", Scope::Simulated, CLOCK),
    forbidden("time::SystemTime", Scope::Simulated, CLOCK),
    forbidden("Instant::now", Scope::Simulated, CLOCK),
    forbidden("SystemTime::now", Scope::Simulated, CLOCK),
    forbidden("tokio::time", Scope::Simulated, CLOCK),
    forbidden("std::fs", Scope::Simulated, FILES),
    forbidden("tokio::fs", Scope::Simulated, FILES),
    forbidden("rustix::fs", Scope::Simulated, FILES),
    forbidden("TcpStream", Scope::Simulated, SOCKETS),
    forbidden("UdpSocket", Scope::Simulated, SOCKETS),
    forbidden("UnixStream", Scope::Simulated, SOCKETS),
    forbidden("ToSocketAddrs", Scope::Simulated, SOCKETS),
    forbidden("tokio::net", Scope::Simulated, SOCKETS),
    forbidden("std::thread", Scope::Simulated, TASKS),
    forbidden("tokio::spawn", Scope::Simulated, TASKS),
    forbidden("tokio::task", Scope::Simulated, TASKS),
    forbidden("tokio::runtime", Scope::Simulated, TASKS),
    forbidden("spawn_blocking", Scope::Simulated, TASKS),
    forbidden("rand", Scope::Simulated, CHANCE),
    forbidden("fastrand", Scope::Simulated, CHANCE),
    forbidden("getrandom", Scope::Simulated, CHANCE),
    forbidden("new_v4", Scope::Simulated, CHANCE),
    forbidden("RandomState", Scope::Simulated, CHANCE),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let layers = "rows = []\n[edges]\n[beside]\n[dev-edges]\n[unsafe]\ncrates = [\"rt\"]\n\
                      [outside-world]\n\"crates/rt/src/\" = \"door\"\n[modules]\n[golden]\n";
        let tree = Tree::of([(path, text)]);
        let layers = Layers::parse(layers).unwrap();
        check(&tree, &layers).into_iter().map(|finding| finding.to_string()).collect()
    }

    /// `text` in a module of `vos` gives one finding that says `part`; an empty `part` means none.
    fn check_text(text: &str, part: &str) {
        let found = found("crates/vos/src/tree.rs", &format!("//! Trees.\n{text}"));
        if part.is_empty() {
            assert_eq!(found, [""; 0], "{text}");
        } else {
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(part), "{found:?}");
        }
    }

    #[test]
    fn unfinished_code_is_found_and_its_mention_is_not() {
        check_text("fn f() { todo!() }", "tree.rs:2: error: `todo!`");
        check_text("fn f() { dbg!(1); }", "`dbg!`");
        check_text("// todo!() in a comment\nconst X: &str = \"dbg!\";", "");
    }

    #[test]
    fn the_clock_belongs_to_the_simulator_except_in_tests() {
        check_text("use std::time::Instant;", "rt::now");
        check_text("use std::time::Duration;", "");
        check_text("#[cfg(test)]\nmod tests { use std::time::Instant; }", "");
        assert_eq!(found("crates/rt/src/lib.rs", "//! Door.\nuse std::fs;"), [""; 0]);
        assert_eq!(found("crates/vos/tests/crash.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn addresses_are_not_sockets() {
        check_text("use std::net::SocketAddr;", "");
        check_text("use std::net::TcpStream;", "rt::stream");
    }

    #[test]
    fn chance_is_seeded() {
        check_text("let id = Uuid::new_v4();", "same trace");
        check_text("let operand = 1;", "");
    }

    /// Two of them came into the servers, and no seed of a cluster was the same twice.
    #[test]
    fn a_choice_says_what_it_looks_at_first() {
        check_text("tokio::select! {\n    () = a => {}\n}", "biased");
        check_text("tokio::select! {\n    biased;\n    () = a => {}\n}", "");
        check_text("let two = select(a, b);", "");
    }

    #[test]
    fn roots_forbid_unsafe_code_unless_they_have_an_address_for_it() {
        assert!(found("crates/vos/src/lib.rs", "//! V.\n")[0].contains("forbid(unsafe_code)"));
        assert_eq!(found("crates/vos/src/lib.rs", "//! V.\n#![forbid(unsafe_code)]\n"), [""; 0]);
        assert_eq!(found("crates/rt/src/lib.rs", "//! R.\n"), [""; 0]);
    }

    #[test]
    fn a_file_opens_by_saying_what_it_is_for() {
        assert!(found("crates/vos/src/tree.rs", "use a::b;\n")[0].contains("module header"));
    }

    #[test]
    fn empty_names_are_refused() {
        assert!(found("crates/vos/src/utils.rs", "//! U.\n")[0].contains("`utils`"));
        assert!(found("crates/vos/src/common/keys.rs", "//! K.\n")[0].contains("`common`"));
    }

    #[test]
    fn a_long_file_is_a_warning_and_a_very_long_one_an_error() {
        let of = |lines: usize| found("crates/vos/src/tree.rs", &"//! L\n".repeat(lines));
        assert_eq!(of(LINES_WARN), [""; 0]);
        assert!(of(LINES_WARN + 1)[0].contains("warning"));
        assert!(of(LINES_MAX + 1)[0].contains("error"));
    }

    #[test]
    fn glob_reexports_are_refused_and_glob_imports_of_tests_are_not() {
        check_text("pub use a::*;", "glob");
        check_text("pub(crate) use a::{b::*, c};", "glob");
        check_text("use super::*;", "");
    }

    #[test]
    fn a_promise_says_what_ends_it() {
        let word = PROMISES[0];
        check_text(&format!("// {word}: speed this up"), "without an end");
        check_text(&format!("// {word}: keep until version 1 is gone"), "");
    }
}
