//! `daos filesystem copy` into and out of an embedded system, against `cp` on the same disk.
//!
//! # Shape
//! The source lies in the page cache for both. What `daos` has copied in is durable, so `cp` is
//! followed by a `sync` of its file system; plain `cp` stands beside it. Copies out are judged
//! against plain `cp`: neither side syncs, and `cp` reads from the page cache what `daos` reads from the disk.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::figure::{Figure, Samples, Unit};
use crate::measure::{Chance, Plan, timed};
use crate::place::Place;
use crate::process::program;

const MIB: usize = 1 << 20;
const LARGE_MIB: usize = 2048;
const SMALL_FILES: usize = 20_000;
const SMALL_PER_DIRECTORY: usize = 100;
/// Small files have 1 to this many bytes.
const SMALL_BYTES_MAX: usize = 8192;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Disk.directory(plan)?;
    let large = directory.path().join("large");
    std::fs::create_dir(&large)?;
    write_large(&large.join("file")).context("the large file")?;
    let small = directory.path().join("small");
    write_small(&small).context("the small files")?;
    let mut figures = Vec::new();
    let mib = |seconds: f64| LARGE_MIB as f64 / 1024.0 / seconds;
    figures.extend(measure(plan, directory.path(), &large, "2 GiB file", Unit::GibPerSecond, mib)?);
    let files = |seconds: f64| SMALL_FILES as f64 / seconds;
    figures.extend(measure(plan, directory.path(), &small, "20 000 small files", Unit::PerSecond, files)?);
    Ok(figures)
}

/// Copies `source` in and out, by `daos` and by `cp`, in turns; `rate` turns seconds into the unit.
fn measure(
    plan: &Plan,
    directory: &Path,
    source: &Path,
    what: &str,
    unit: Unit,
    rate: impl Fn(f64) -> f64,
) -> Result<Vec<Figure>> {
    let [mut copy_in, mut copy_out, mut cp, mut cp_sync] = std::array::from_fn(|_| Samples::default());
    for _ in 0..plan.rounds.min(3) {
        let system = directory.join("system");
        let back = directory.join("back");
        let peer = directory.join("cp");
        daos("dmg", &system, ["pool", "create", "bench", "--size", "6GiB"])?;
        daos("daos", &system, ["container", "create", "bench", "files", "--type", "POSIX"])?;
        let remote = "daos://bench/files/copy";
        let (seconds, outcome) = timed(|| {
            daos("daos", &system, [OsStr::new("filesystem"), "copy".as_ref(), source.as_ref(), remote.as_ref()])
        });
        outcome?;
        copy_in.push(rate(seconds));
        let (seconds, outcome) = timed(|| {
            daos("daos", &system, [OsStr::new("filesystem"), "copy".as_ref(), remote.as_ref(), back.as_ref()])
        });
        outcome?;
        copy_out.push(rate(seconds));
        let (seconds, outcome) = timed(|| run_quietly(Command::new("cp").arg("-r").arg(source).arg(&peer)));
        outcome?;
        let (more, outcome) = timed(|| run_quietly(Command::new("sync").arg("-f").arg(&peer)));
        outcome?;
        cp.push(rate(seconds));
        cp_sync.push(rate(seconds + more));
        run_quietly(Command::new("diff").arg("-r").arg(source).arg(&back)).context("what came back differs")?;
        for gone in [&system, &back, &peer] {
            std::fs::remove_dir_all(gone)?;
        }
    }
    Ok(vec![
        Figure::new("copy", format!("in, {what}"), unit, copy_in)
            .beside("cp and sync", cp_sync)
            .beside("cp", cp.clone()),
        Figure::new("copy", format!("out, {what}"), unit, copy_out).beside("cp", cp),
    ])
}

/// Runs a command of ours on the embedded system in `system`.
fn daos<A: AsRef<OsStr>>(name: &str, system: &Path, arguments: impl IntoIterator<Item = A>) -> Result<()> {
    run_quietly(Command::new(program(name)?).arg("--embedded").arg(system).args(arguments))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        bail!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn write_large(path: &Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut chance = Chance::new(17);
    let mut block = vec![0; MIB];
    for _ in 0..LARGE_MIB {
        chance.fill(&mut block);
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

fn write_small(root: &Path) -> Result<()> {
    let mut chance = Chance::new(19);
    let mut bytes = vec![0; SMALL_BYTES_MAX];
    for n in 0..SMALL_FILES {
        let directory = root.join(format!("d{:03}", n / SMALL_PER_DIRECTORY));
        if n.is_multiple_of(SMALL_PER_DIRECTORY) {
            std::fs::create_dir_all(&directory)?;
        }
        let length = 1 + chance.below(SMALL_BYTES_MAX);
        chance.fill(&mut bytes[..length]);
        std::fs::write(directory.join(format!("f{n:05}")), &bytes[..length])?;
    }
    Ok(())
}
