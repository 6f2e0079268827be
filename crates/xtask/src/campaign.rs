//! `cargo xtask campaign`: the long form of the storage tests, in release. Each prints its seeds and totals.
//!
//! # Not here
//! What a test does, and its short form: beside the test. A failing seed names the command that runs it alone.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::step::{self, cargo};

/// A test with a long form.
struct Campaign {
    name: &'static str,
    package: &'static str,
    /// Test program, and the test in it; empty for all of it.
    test: (&'static str, &'static str),
    /// What says how long, and how long by default.
    variable: &'static str,
    count: u64,
}

#[rustfmt::skip]
const CAMPAIGNS: &[Campaign] = &[
    Campaign { name: "sequences", package: "vos", test: ("random", ""), variable: "VOS_SEQUENCES", count: 50_000 },
    Campaign { name: "conflicts", package: "vos", test: ("conflicts", "admitted"), variable: "VOS_SEQUENCES", count: 5_000 },
    Campaign { name: "crashes", package: "vos", test: ("crash", "every"), variable: "VOS_CRASHES", count: 20 },
    Campaign { name: "faults", package: "vos", test: ("campaign", ""), variable: "VOS_FAULTS", count: 40 },
    Campaign { name: "damage", package: "vos", test: ("damage", "random"), variable: "DAMAGE_SEEDS", count: 5_000 },
];

pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let (times, names) = parse(arguments)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).to_string();
    for campaign in CAMPAIGNS.iter().filter(|c| names.is_empty() || names.iter().any(|name| name == c.name)) {
        let (program, test) = campaign.test;
        let count = campaign.count * times;
        let mut command = cargo(root);
        command.args(["test", "--quiet", "--release", "--package", campaign.package, "--test", program]);
        command.args(["--", "--nocapture"]).args(Some(test).filter(|test| !test.is_empty()));
        command.env(campaign.variable, count.to_string()).env("VOS_THREADS", &threads);
        step::run(&format!("campaign {} ({}={count})", campaign.name, campaign.variable), &mut command)?;
    }
    Ok(())
}

/// How many times the default, and which campaigns; none for all.
fn parse(arguments: &[String]) -> Result<(u64, Vec<String>)> {
    let (mut times, mut names) = (1, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--times" => {
                let value = rest.next().context("campaign: --times wants a number")?;
                times = value.parse().with_context(|| format!("campaign: `{value}` is not a number"))?;
            }
            name if CAMPAIGNS.iter().any(|campaign| campaign.name == name) => names.push(name.to_owned()),
            other => {
                let known: Vec<_> = CAMPAIGNS.iter().map(|campaign| campaign.name).collect();
                bail!("campaign: no `{other}`; --times N, {}", known.join(", "));
            }
        }
    }
    Ok((times, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn campaigns_are_named_and_multiplied() {
        let parse = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("").unwrap(), (1, vec![]));
        assert_eq!(parse("--times 3 crashes faults").unwrap(), (3, vec!["crashes".to_owned(), "faults".to_owned()]));
        assert!(parse("--times many").unwrap_err().to_string().contains("`many` is not a number"));
        assert!(parse("crash").unwrap_err().to_string().contains("crashes"));
    }
}
