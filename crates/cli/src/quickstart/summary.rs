//! What quickstart tells, step by step and at the end.

use std::path::{Path, PathBuf};

use dfs::CopyReport;
use dfs::compare::Comparison;
use indicatif::ProgressBar;
use serde::Serialize;
use types::{ByteSize, Rank};

use super::changes::Touched;
use super::cluster::{self, Killed};
use super::{CONTAINER, POOL, Way};
use crate::output::{Outcome, write_raw};
use crate::place::DaosPath;
use crate::progress;
use crate::table::count;
use crate::transfer::{self, Survey};

/// Everything a run found out. The JSON response.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) path: String,
    pub(super) source: String,
    /// `embedded`, `server` or `servers`.
    pub(super) mode: &'static str,
    pub(super) pool: String,
    pub(super) container: String,
    pub(super) directory: String,
    pub(super) snapshot: String,
    pub(super) run: u64,
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) symlinks: u64,
    pub(super) bytes: u64,
    pub(super) in_mb_s: f64,
    pub(super) out_mb_s: f64,
    pub(super) verified_files: u64,
    /// Of several servers.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) lived: Option<Lived>,
    pub(super) changed: Vec<String>,
    pub(super) deleted: Vec<String>,
    pub(super) snapshot_intact: bool,
    pub(super) space_used: u64,
    pub(super) space_total: u64,
    /// Commands to try, as one would type them.
    pub(super) next: Vec<String>,
}

/// What several servers lived through.
#[derive(Serialize)]
pub(super) struct Lived {
    pub(super) servers: usize,
    /// Copies of everything, each on another server.
    pub(super) copies: u32,
    /// Who was killed, and when so many bytes were stored; zero: there were none to store.
    pub(super) killed_rank: u32,
    pub(super) killed_after_bytes: u64,
    /// Files that were read back and compared while it was dead.
    pub(super) verified_files_without: u64,
    /// From its start until all its targets had what they missed, and served.
    pub(super) back_in_service_s: f64,
}

/// Prints each step as it is done; silent for JSON.
pub(super) struct Teller {
    json: bool,
}

impl Teller {
    pub(super) fn new(json: bool) -> Teller {
        Teller { json }
    }

    fn line(&self, text: &str) {
        if !self.json {
            // A reader that left ends the program at its last line, after the work is done.
            let _ = write_raw(format!("{text}\n").as_bytes());
        }
    }

    fn step(&self, name: &str, text: &str) {
        self.line(&format!("  {name:<12} {text}"));
    }

    pub(super) fn title(&self, source: &Path, tree: &Survey) {
        self.line("DAOS quickstart: store, verify, version and give back a directory tree\n");
        let size = ByteSize(tree.bytes);
        self.step("source", &format!("{}: {}, {size}", source.display(), count(tree.files.len() as u64, "file")));
    }

    pub(super) fn opened(&self, way: &Way, path: &Path, copies: u32, is_new: bool, run: u64) {
        let how = match way {
            Way::Embedded => format!("embedded in this process, data in {}", path.display()),
            Way::Child => format!("a daos_server, started for this, data in {}", path.display()),
            Way::Cluster(servers) => format!("{servers} daos_servers, started for this, data in {}", path.display()),
            Way::Running(address) => format!("the server at {address}"),
        };
        self.step("system", &how);
        let again = if is_new { "new" } else { "there already" };
        let safe = if copies > 1 { format!(", {copies} copies of everything") } else { String::new() };
        self.step("container", &format!("daos://{POOL}/{CONTAINER} ({again}), directory run-{run}{safe}"));
    }

    pub(super) fn bar(&self, label: &str, total: u64) -> ProgressBar {
        progress::bar(label, total, self.json)
    }

    pub(super) fn copied(&self, copied: &CopyReport) {
        let what = format!("{}, {}", count(copied.files, "file"), ByteSize(copied.bytes));
        self.step(
            "stored",
            &format!("{what} in {:.2} s: {}", copied.seconds, rate(transfer::rate(copied.bytes, copied.seconds))),
        );
    }

    pub(super) fn verified(&self, verified: &Comparison) {
        let what = format!("{} read back and compared", count(verified.files, "file"));
        self.step(
            "verified",
            &format!("{what} in {:.2} s: {}", verified.seconds, rate(transfer::rate(verified.bytes, verified.seconds))),
        );
    }

    pub(super) fn killed(&self, killed: &Killed) {
        let when = ByteSize(killed.after_bytes);
        self.step("killed", &format!("server {} (kill -9), with {when} stored; the copy went on", killed.rank));
    }

    pub(super) fn verified_without(&self, verified: &Comparison, rank: Rank) {
        let what = format!("{} read back and compared", count(verified.files, "file"));
        self.step("nothing lost", &format!("{what} while server {rank} was dead"));
    }

    pub(super) fn brought_back(&self, rank: Rank, seconds: f64) {
        let text = format!("server {rank} started again; {seconds:.1} s later it had what it missed, and served");
        self.step("back", &text);
    }

    pub(super) fn changed(&self, snapshot: &str, touched: &Touched) {
        self.step("snapshot", &format!("'{snapshot}' taken"));
        let mut parts = vec![format!("changed {}", names(&touched.changed))];
        if !touched.deleted.is_empty() {
            parts.push(format!("deleted {}", names(&touched.deleted)));
        }
        if touched.count() > 0 {
            self.step("then", &parts.join("; "));
        }
    }

    pub(super) fn intact(&self, touched: &Touched) {
        if touched.count() > 0 {
            let what = count(touched.count() as u64, "file");
            self.step("versions", &format!("the snapshot still has the old contents of all {what}"));
        }
    }

    pub(super) fn summary(&self, report: &Report) -> Outcome {
        let rule = "─".repeat(64);
        let rows = [
            ("files", format!("{} in {}", count(report.files, "file"), directories(report.directories))),
            ("size", ByteSize(report.bytes).to_string()),
            ("in", rate(report.in_mb_s)),
            ("out", rate(report.out_mb_s)),
            ("space used", format!("{} of {}", ByteSize(report.space_used), ByteSize(report.space_total))),
        ];
        let mut text = format!("\n{rule}\n");
        for (name, value) in rows {
            text.push_str(&format!("  {name:<12} {value}\n"));
        }
        if let Some(lived) = &report.lived {
            let what = format!("{} servers, {} copies; survived the death of one", lived.servers, lived.copies);
            text.push_str(&format!("  {:<12} {what}\n", "servers"));
        }
        text.push_str(&format!("{rule}\n\nNext, try:\n"));
        for command in &report.next {
            text.push_str(&format!("  {command}\n"));
        }
        Outcome::new(report, if self.json { String::new() } else { text })
    }
}

fn directories(n: u64) -> String {
    if n == 1 { "1 directory".to_string() } else { format!("{} directories", crate::table::grouped(n)) }
}

fn rate(mb_s: f64) -> String {
    if mb_s >= 10.0 { format!("{mb_s:.0} MB/s") } else { format!("{mb_s:.1} MB/s") }
}

fn names(list: &[String]) -> String {
    if list.is_empty() { "nothing".to_string() } else { list.join(", ") }
}

/// Commands that work as printed, in this directory, after this run.
pub(super) fn suggestions(way: &Way, path: &Path, source: &Path, run: &str) -> Vec<String> {
    let directory = quoted(&path.display().to_string());
    let reach = match way {
        Way::Embedded | Way::Child => format!("--embedded {directory}"),
        Way::Running(address) => format!("--server {}", quoted(address)),
        // They are stopped, and one of several is not opened alone: what each holds can be looked at.
        Way::Cluster(servers) => return after_cluster(*servers, path, source),
    };
    let daos = format!("{} {reach}", program("daos"));
    let place = DaosPath::new(POOL, CONTAINER, run);
    vec![
        format!("{daos} filesystem ls --long {place}"),
        format!("{daos} container list-snaps {POOL} {CONTAINER}"),
        format!("{daos} filesystem copy --snap {run} {place} ./restored-{run}"),
    ]
}

fn after_cluster(servers: usize, path: &Path, source: &Path) -> Vec<String> {
    let text = |path: &Path| quoted(&path.display().to_string());
    let again = format!("{} quickstart --servers {servers} --path {} {}", program("daos"), text(path), text(source));
    let at = |number| text(&cluster::directory(path, number));
    let ddb = program("ddb");
    let mut commands = vec![again];
    // Cargo builds the one program it runs, unless it is told to build all.
    if sibling("ddb").is_some() {
        commands.push(format!("{ddb} {} ls /{POOL}/{CONTAINER}", at(0)));
        commands.push(format!("{ddb} {} check --data", at(servers - 1)));
    }
    commands
}

/// A program of ours that lies beside this one.
fn sibling(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

/// How to call a program of ours from here: by name if the shell finds it, else by path.
fn program(name: &str) -> String {
    let this = || std::env::current_exe().ok();
    let Some(executable) = (if name == "daos" { this() } else { sibling(name) }) else { return name.to_string() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    if found.is_some_and(|file| file.canonicalize().is_ok_and(|file| file == executable)) {
        return name.to_string();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let short = executable.strip_prefix(&here).map(|rest| Path::new(".").join(rest)).unwrap_or(executable);
    quoted(&short.display().to_string())
}

/// As a shell reads it back as one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("./a-b/c.d"), "./a-b/c.d");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
    }
}
