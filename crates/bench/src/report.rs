//! Figures as a table for people and as JSON for programs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figure::{Baseline, Figure, number};

const HEADS: [&str; 8] = ["figure", "value", "", "beside", "its value", "ratio", "budget", ""];

/// Prints one bench's figures: a line a figure, one more for each further baseline.
pub fn print(figures: &[Figure]) {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for figure in figures {
        let verdict = match figure.verdict() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let mut row = [
            format!("{}/{}", figure.bench, figure.name),
            number(figure.samples.median()),
            figure.unit.name().to_owned(),
            String::new(),
            String::new(),
            String::new(),
            figure.budget_text(),
            verdict.to_owned(),
        ];
        for baseline in &figure.baselines {
            let [name, value, ratio] = cells(figure, baseline);
            (row[3], row[4], row[5]) = (name, value, ratio);
            rows.push(row);
            row = Default::default();
        }
        if figure.baselines.is_empty() {
            rows.push(row);
        }
    }
    let widths: Vec<usize> =
        (0..HEADS.len()).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let is_number = matches!(n, 1 | 4 | 5);
            let cell = if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        println!("{}", line.trim_end());
    }
    println!();
}

fn cells(figure: &Figure, baseline: &Baseline) -> [String; 3] {
    let name = if baseline.published { format!("{} (published)", baseline.name) } else { baseline.name.clone() };
    [name, number(baseline.samples.median()), format!("{:.2}x", figure.ratio(baseline))]
}

/// The machine and the commit that the figures belong to.
pub fn machine() -> Value {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    json!({
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gib": memory_kib / (1 << 20),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "commit": said("git", &["rev-parse", "--short=12", "HEAD"]),
        "changed_since_commit": !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "compiler": said("rustc", &["--version"]),
        "date": said("date", &["-u", "+%Y-%m-%d %H:%M"]),
    })
}

/// What a program prints; nothing if it is not there.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Writes everything to `path`.
pub fn write_json(path: &Path, figures: &[Figure]) -> Result<()> {
    let document = json!({
        "machine": machine(),
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&document)?;
    std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}
