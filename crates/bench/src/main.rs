//! `cargo xtask bench`: every figure of the project, beside what it is measured against.
//!
//! # Shape
//! A bench is a function from a [`Plan`] to [`Figure`]s; `BENCHES` lists them. Baselines (bare system
//! calls, bare ping-pongs, other stores, `cp`) are measured in the same run, in turns with ours, and
//! ratios are what the budgets of docs/performance.md are about.
//!
//! # Not here
//! Assertions: a missed budget is printed, not failed. The machine may be busy; a person judges.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "it measures the outside world; the simulator never runs it")]

mod bulk;
mod cluster;
mod copy;
mod deep;
mod drive;
mod failover;
mod figure;
mod history;
mod idle;
mod log;
mod measure;
mod peers;
mod place;
mod process;
mod rebuild;
mod replication;
mod report;
mod rpc;
mod server;
mod store;
mod upkeep;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use figure::Figure;
use measure::Plan;

/// A name, what it measures, and how.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn(&Plan) -> Result<Vec<Figure>>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "store", about: "vos alone: values of 64 B and 4 KiB, against redb and fjall", run: store::run },
    Bench { name: "bulk", about: "vos alone: arrays of 1 MiB, against raw transfers", run: bulk::run },
    Bench {
        name: "history",
        about: "versions: depth of history, overlapping extents, diff, upkeep, recovery, bytes written",
        run: history::run,
    },
    Bench {
        name: "deep",
        about: "millions of small records (50 million with --full), and the way back",
        run: deep::run,
    },
    Bench {
        name: "log",
        about: "durable appends to the write-ahead log, against bare pwrite + fdatasync",
        run: log::run,
    },
    Bench {
        name: "rpc",
        about: "64 B and 1 MiB echoes over mem, unix and tcp, against bare ping-pongs",
        run: rpc::run,
    },
    Bench { name: "server", about: "key-value and array operations through a server over TCP", run: server::run },
    Bench { name: "replication", about: "three servers: what copies cost", run: replication::run },
    Bench { name: "failover", about: "three servers: how long the death of one is felt", run: failover::run },
    Bench {
        name: "rebuild",
        about: "three servers: how fast lost copies are made anew, and a server is brought up to date",
        run: rebuild::run,
    },
    Bench { name: "upkeep", about: "what is left to requests while history is given back", run: upkeep::run },
    Bench {
        name: "copy",
        about: "filesystem copy of a 2 GiB file and of 20,000 small ones, against cp",
        run: copy::run,
    },
    Bench { name: "idle", about: "processor of an idle server, memory of one with 1 GiB", run: idle::run },
];

/// Measures what the budgets of docs/performance.md are about.
#[derive(Parser)]
#[command(name = "bench")]
struct Options {
    /// Benches to run; all when none is named
    names: Vec<String>,
    /// Name the benches and stop
    #[arg(long)]
    list: bool,
    /// Also what takes minutes and many GiB (10 million records)
    #[arg(long)]
    full: bool,
    /// Write machine and figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A directory on the disk to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    disk: PathBuf,
    /// A directory in memory
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    if options.list {
        BENCHES.iter().for_each(|bench| println!("{:11} {}", bench.name, bench.about));
        return Ok(());
    }
    if let Some(unknown) = options.names.iter().find(|name| BENCHES.iter().all(|bench| bench.name != **name)) {
        bail!("no bench `{unknown}`: see --list");
    }
    let plan = Plan { rounds: options.rounds.max(1), full: options.full, disk: options.disk, memory: options.memory };
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    println!("{}\n", report::machine());
    for bench in BENCHES {
        if !options.names.is_empty() && !options.names.iter().any(|name| name == bench.name) {
            continue;
        }
        eprintln!("# {}: {}", bench.name, bench.about);
        match (bench.run)(&plan) {
            Ok(found) => {
                report::print(&found);
                figures.extend(found);
            }
            // One bench that cannot run here is no reason to lose the others.
            Err(error) => {
                eprintln!("{} did not finish: {error:#}\n", bench.name);
                failed.push(bench.name);
            }
        }
    }
    if let Some(path) = &options.json {
        report::write_json(path, &figures)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}
