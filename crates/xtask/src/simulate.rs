//! `cargo xtask sim`: campaigns of the simulator, and the tables of large systems.
//!
//! # Not here
//! Scenarios and how their seeds are spread over processors (`crates/sim/tests/invariants`), and what CI runs of them:
//! the same tests, without options.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::step::{self, cargo};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Of clusters; variables for the test program.
    Clusters(Vec<(&'static str, String)>),
    /// Of one server and its clients.
    Server(Vec<(&'static str, String)>),
    Scale(Vec<String>),
}

pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let mut command = cargo(root);
    match parse(arguments)? {
        Asked::Clusters(variables) => {
            command.args(["test", "--quiet", "--package", "sim", "--test", "invariants", "--"]);
            command.args(["campaign", "--ignored", "--nocapture"]).envs(variables);
        }
        Asked::Server(variables) => {
            command.args(["test", "--package", "sim"]);
            command.args(["--test", "exactly_once", "--test", "first_light", "--test", "resize"]);
            command.args(["--", "--nocapture"]).envs(variables);
        }
        Asked::Scale(table) => {
            command.args(["run", "--quiet", "--release", "--package", "sim", "--bin", "scale", "--"]).args(table);
        }
    }
    step::run("sim", &mut command)
}

fn parse(arguments: &[String]) -> Result<Asked> {
    type Options = [(&'static str, &'static str)];
    const CLUSTERS: &Options = &[("--seeds", "SIM_SEEDS"), ("--first", "SIM_FIRST"), ("--scenario", "SIM_SCENARIO")];
    const SERVER: &Options = &[("--seeds", "SIM_SEEDS"), ("--seed", "SIM_SEED")];
    match arguments.first().map(String::as_str) {
        Some("scale") => Ok(Asked::Scale(arguments[1..].to_vec())),
        Some("server") => variables(&arguments[1..], SERVER).map(Asked::Server),
        _ => variables(arguments, CLUSTERS).map(Asked::Clusters),
    }
}

fn variables(arguments: &[String], options: &[(&str, &'static str)]) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some((_, variable)) = options.iter().find(|(option, _)| option == argument) else {
            let known: Vec<_> = options.iter().map(|(option, _)| *option).collect();
            bail!("sim: no option `{argument}`; {}", known.join(", "));
        };
        let value = rest.next().with_context(|| format!("sim: {argument} wants a value"))?;
        if *variable != "SIM_SCENARIO" {
            value.parse::<u64>().with_context(|| format!("sim: {argument}: `{value}` is not a number"))?;
        }
        found.push((*variable, value.clone()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let parse = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let (seeds, first) = (("SIM_SEEDS", "5".to_owned()), ("SIM_FIRST", "9".to_owned()));
        assert_eq!(parse("").unwrap(), Asked::Clusters(vec![]));
        assert_eq!(parse("--seeds 5 --first 9").unwrap(), Asked::Clusters(vec![seeds.clone(), first]));
        assert_eq!(parse("server --seeds 5").unwrap(), Asked::Server(vec![seeds]));
        assert_eq!(parse("scale healing").unwrap(), Asked::Scale(vec!["healing".into()]));
        assert!(parse("--seeds many").unwrap_err().to_string().contains("`many` is not a number"));
        assert!(parse("--seed 5").unwrap_err().to_string().contains("--first"));
        assert!(parse("--first").unwrap_err().to_string().contains("wants a value"));
    }
}
