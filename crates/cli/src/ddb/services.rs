//! `ddb services`: the replicas of services that a server has; and what is left when most of one are gone for good.

use std::collections::BTreeSet;

use clap::Args;
use control::offline::Labels;
use control::recovery::{Replica, Service};
use serde_json::{Value, json};
use types::{Code, Error, Rank};

use super::Session;
use crate::failure::Result;
use crate::output::Outcome;
use crate::table::table;

#[derive(Args, Debug)]
pub(crate) struct Services {
    /// Only these: `system`, or a pool's label or UUID
    #[arg(value_name = "SERVICE")]
    only: Vec<String>,
    /// Ranks of servers that are lost for good, with their storage: 1,2
    #[arg(long, value_name = "RANKS", value_delimiter = ',')]
    lost: Vec<u32>,
    /// Have this server's replicas speak, alone, for services that have no majority without the lost. What only the lost knew is
    /// lost: choose, for each service, the server where term and last are highest
    #[arg(long, requires = "lost", conflicts_with = "forget")]
    dictate: bool,
    /// Remove this server's replicas of such services: another server's dictate, and give it new ones
    #[arg(long, requires = "lost")]
    forget: bool,
}

impl Services {
    pub(crate) fn run(self, session: &Session) -> Result<Outcome> {
        let lost: BTreeSet<Rank> = self.lost.iter().copied().map(Rank).collect();
        let (mut replicas, faults) = session.offline.replicas()?;
        let is_here = |wanted: &&String| replicas.iter().any(|one| is_named(one.service, &session.labels, wanted));
        if let Some(missing) = self.only.iter().find(|wanted| !is_here(wanted)) {
            let error = Error::new(Code::NotFound, format!("no replica of a service '{missing}' is here"));
            return Err(error.remedy("`ddb STORAGE services` lists those that are").into());
        }
        if !self.only.is_empty() {
            replicas
                .retain(|replica| self.only.iter().any(|wanted| is_named(replica.service, &session.labels, wanted)));
        }
        let (mut rows, mut responses) = (Vec::new(), Vec::new());
        for replica in &replicas {
            let left = replica.without(&lost).filter(|_| !lost.is_empty());
            let said = match (&left, self.dictate, self.forget) {
                (None, _, _) if replica.is_empty() => Ok("empty".to_string()),
                (None, _, _) if lost.is_empty() => Ok(String::new()),
                (None, _, _) => Ok("has a majority".to_string()),
                (Some(_), true, _) => {
                    let dictated = session.offline.dictate(replica, &lost);
                    dictated.map(|dictated| format!("dictates, in term {}", dictated.term))
                }
                (Some(_), _, true) => session.offline.forget(replica, &lost).map(|()| "is removed".to_string()),
                (Some(left), false, false) => Ok(format!("lost its majority; left: {}", ranks(left))),
            };
            // Of one that may not, the others do not wait.
            let said = said.or_else(|error| match error.code {
                Code::Invalid => {
                    let remedy = error.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                    Ok(format!("stays: {}{remedy}", error.message))
                }
                _ => Err(error),
            })?;
            rows.push(row(replica, &session.labels, &said));
            responses.push(in_json(replica, &session.labels, left.as_ref(), &said));
        }
        let header = &["Service", "Rank>", "Voters", "Term>", "Last>", "Committed>", "State"];
        let mut text = match rows.is_empty() {
            true => "no replica of any service is here\n".to_string(),
            false => table(header, rows),
        };
        if self.dictate && responses.iter().any(|one| !one["left"].is_null()) {
            text.push_str(AFTER_DICTATING);
        }
        let response = json!({ "storage": session.storage.display().to_string(), "services": responses });
        let fault = (!faults.is_empty()).then(|| {
            Error::new(Code::BadFormat, faults.join("; ")).remedy("another server's replica is whole, if there is one")
        });
        Ok(Outcome::new(response, text).with_fault(fault))
    }
}

const AFTER_DICTATING: &str = "\nOn every other server that is left: `ddb STORAGE services --lost RANKS --forget`. What it says stays there has no other \
    replica, and dictates there. Then start all of them. \
    The lost may not come back with their replicas: remove their storage, or run `--forget` on it, first.\n";

fn ranks(ranks: &BTreeSet<Rank>) -> String {
    match ranks.is_empty() {
        true => "none".to_string(),
        false => ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

fn name(service: Service, labels: &Labels) -> String {
    match service {
        Service::System => "system".to_string(),
        Service::Pool(id) => format!("pool {}", labels.pools.get(&id).cloned().unwrap_or_else(|| id.to_string())),
    }
}

fn is_named(service: Service, labels: &Labels, wanted: &str) -> bool {
    match service {
        Service::System => wanted == "system",
        Service::Pool(id) => wanted == id.to_string() || labels.pools.get(&id).is_some_and(|label| label == wanted),
    }
}

fn row(replica: &Replica, labels: &Labels, said: &str) -> Vec<String> {
    let (term, last) = replica.at_rest.last;
    vec![
        name(replica.service, labels),
        replica.at_rest.rank.to_string(),
        ranks(&replica.voters()),
        term.to_string(),
        last.to_string(),
        replica.at_rest.committed.to_string(),
        said.to_string(),
    ]
}

fn in_json(replica: &Replica, labels: &Labels, left: Option<&BTreeSet<Rank>>, said: &str) -> Value {
    let numbers = |ranks: &BTreeSet<Rank>| ranks.iter().map(|rank| rank.0).collect::<Vec<_>>();
    let (term, last) = replica.at_rest.last;
    json!({
        "service": name(replica.service, labels),
        "rank": replica.at_rest.rank.0,
        "voters": numbers(&replica.voters()),
        "term": term,
        "last": last,
        "committed": replica.at_rest.committed,
        "left": left.map(numbers),
        "state": said,
    })
}
