//! Prints what happens in pools and systems of 100, 1,000 and 10,000 servers: `cargo xtask sim scale`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use net::membership::RANKS_MAX;
use placement::{Layout, MapError};
use sim::scale::detection::{self, Answer, Question};
use sim::scale::rebuild::{self, Assumed};
use sim::scale::{Shape, fan_out};

/// Placement groups that differences are taken over: a per cent is exact to a hundredth.
const SAMPLE: u32 = 1 << 19;
/// What `detection` runs unless asked for more; see [`USAGE`] for what ten thousand take.
const SERVERS: [usize; 3] = [100, 1_000, 3_000];
const GIB: u64 = 1 << 30;

const USAGE: &str = "\
Usage: scale [placement | detection [SERVERS [LOSS STARVED]] | change | healing]

All tables, or one of them. Detection is asked of 100, 1,000 and 3,000 servers, or only of so many, with some shares of lost
messages and of starved servers, or with one of each, in per cent.

A row of `detection 10000` takes 2.5 GB, and four to six minutes of one processor while up to 5 % is lost and nobody is
starved; with more of either, by an estimate, half an hour. All rows of 3,000 take 400 MB and five minutes.
";

/// What is asked for.
#[derive(Debug, PartialEq)]
enum Asked {
    All,
    Placement,
    /// Of so many servers only, and with such shares of lost messages and starved servers only.
    Detection(Option<usize>, Option<(f64, f64)>),
    Change,
    Healing,
}

fn parse(arguments: &[&str]) -> Option<Asked> {
    let servers = |text: &str| text.parse().ok().filter(|servers| (2..=RANKS_MAX as usize).contains(servers));
    let share =
        |text: &str| text.parse().ok().filter(|share| (0.0..=100.0).contains(share)).map(|share: f64| share / 100.0);
    Some(match arguments {
        [] => Asked::All,
        ["placement"] => Asked::Placement,
        ["detection"] => Asked::Detection(None, None),
        ["detection", count] => Asked::Detection(Some(servers(count)?), None),
        ["detection", count, lost, starved] => {
            Asked::Detection(Some(servers(count)?), Some((share(lost)?, share(starved)?)))
        }
        ["change"] => Asked::Change,
        ["healing"] => Asked::Healing,
        _ => return None,
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(asked) = parse(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match print(&asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(asked: &Asked) -> Result<(), MapError> {
    match asked {
        Asked::All => {
            placement()?;
            detection(None, None);
            change()?;
            healing()
        }
        Asked::Placement => placement(),
        Asked::Detection(servers, shares) => {
            detection(*servers, *shares);
            Ok(())
        }
        Asked::Change => change(),
        Asked::Healing => healing(),
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    [5, 50, 500].into_iter().map(|racks| Shape { racks, servers_per_rack: 20, targets_per_server: 8 })
}

/// How soon deaths are known, what that costs, and who is wronged.
fn detection(only_servers: Option<usize>, only_shares: Option<(f64, f64)>) {
    println!(
        "\n| servers | loss | starved | p50 | p99 | last | periods (p99) | messages, bytes a server and second | wronged |"
    );
    println!("|---:|---:|---|---:|---:|---:|---:|---:|---:|");
    for servers in only_servers.map_or(SERVERS.to_vec(), |servers| vec![servers]) {
        let shares = [(0.0, 0.0), (0.01, 0.0), (0.05, 0.0), (0.1, 0.0), (0.0, 0.05), (0.05, 0.05)];
        let starved_for = Duration::from_secs(2);
        for (loss, starved) in only_shares.map_or(shares.to_vec(), |shares| vec![shares]) {
            // The least that has a round of announcements in it, which are 9 s apart.
            let calm = if servers > 1_000 { Duration::from_millis(9_100) } else { Duration::from_secs(30) };
            let deaths = 10;
            let answer = detection::ask(Question { servers, loss, starved, starved_for, calm, deaths, seed: 7 });
            let Answer { p50, p99, max, missed, messages, bytes, wronged, bystanders, watched, .. } = answer;
            println!(
                "| {servers} | {:.0} % | {} | {:.2} s | {:.2} s | {:.2} s{} | {:.1} | {messages:.1}, {bytes:.0} | {wronged}, {bystanders} of them not starved, in {watched:.0} server-seconds |",
                loss * 100.0,
                if starved > 0.0 {
                    format!("{:.0} %, up to {:.0} s", starved * 100.0, starved_for.as_secs_f64())
                } else {
                    "-".into()
                },
                p50.as_secs_f64(),
                p99.as_secs_f64(),
                max.as_secs_f64(),
                if missed > 0 { format!(", {missed} never") } else { String::new() },
                Answer::periods(p99),
            );
        }
    }
}

/// What a change of the map takes until all have it.
fn change() -> Result<(), MapError> {
    println!(
        "\n| servers | change, whole map | by five voters, each | asked at rest, each | as a tree of {} |",
        fan_out::BRANCHES
    );
    println!("|---:|---:|---:|---:|---:|");
    for shape in shapes() {
        let told = fan_out::exclusion(shape)?;
        println!(
            "| {} | {} B, {} B | {} messages, {} KiB | {:.0} questions/s | {} messages, {} B at the leader, {} rounds |",
            shape.servers(),
            told.change_bytes,
            told.map_bytes,
            told.voter_messages,
            told.voter_bytes >> 10,
            told.voter_questions,
            fan_out::BRANCHES.min(u64::from(shape.servers()) - 1),
            told.tree_bytes,
            told.tree_rounds,
        );
    }
    Ok(())
}

/// What it takes to heal the loss of a target and of a server.
fn healing() -> Result<(), MapError> {
    let assumed = Assumed { target_bytes: 1024 * GIB, bytes_per_second: GIB / 4 };
    println!("\n| servers | lost | moves | planned in | from, to targets | copied in |");
    println!("|---:|---|---:|---:|---:|---:|");
    for shape in shapes() {
        let layout = Layout::new(shape.map()?);
        for targets in [1, shape.targets_per_server] {
            let healing = rebuild::heal(shape, &layout, targets, assumed, Instant::now)?;
            assert_eq!(healing.lost, 0, "three copies bear the loss of one server");
            println!(
                "| {} | {} | {} | {:.2} s | {}, {} | {:.0} s |",
                shape.servers(),
                if targets == 1 { "a target" } else { "a server" },
                healing.moves,
                healing.planning.as_secs_f64(),
                healing.sources,
                healing.destinations,
                healing.copying.as_secs_f64(),
            );
        }
    }
    Ok(())
}

/// How even layouts are, and what moves.
fn placement() -> Result<(), MapError> {
    println!(
        "| servers | PGs | map and layout | all slots | fullest target, leader, server | copysets | partners \
         | failed server | server more | rack more |"
    );
    println!("|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|");
    for shape in shapes() {
        let start = Instant::now();
        let layout = Layout::new(shape.map()?);
        let made = start.elapsed();
        let start = Instant::now();
        shape.walk(&layout);
        let walked = start.elapsed();
        let balance = shape.balance(&layout);
        println!(
            "| {} | {} | {:.1} ms | {:.2} s | {:.2}, {:.2}, {:.2} | {} | {} | {:.3} | {:.3} | {:.3} |",
            shape.servers(),
            layout.pg_count(),
            made.as_secs_f64() * 1e3,
            walked.as_secs_f64(),
            balance.slots,
            balance.led,
            balance.server_slots,
            balance.copysets,
            balance.partners,
            shape.failure(&layout, SAMPLE)?.ratio(),
            shape.growth(&layout, 1, false, SAMPLE)?.ratio(),
            shape.growth(&layout, 20, true, SAMPLE)?.ratio(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let parse = |line: &str| parse(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Asked::All));
        assert_eq!(parse("healing"), Some(Asked::Healing));
        assert_eq!(parse("detection"), Some(Asked::Detection(None, None)));
        assert_eq!(parse("detection 10000"), Some(Asked::Detection(Some(10_000), None)));
        assert_eq!(parse("detection 10000 1 0"), Some(Asked::Detection(Some(10_000), Some((0.01, 0.0)))));
        for wrong in [
            "detect",
            "healing 100",
            "detection 1",
            "detection 65537",
            "detection 100 1",
            "detection 100 0 101",
            "detection 9 0 0 0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
