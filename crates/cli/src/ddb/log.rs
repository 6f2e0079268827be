//! `ddb log`: the records after the checkpoint, decoded, one a line.

use clap::Args;
use control::offline::{Labels, OfflineTarget};
use serde_json::{Value, json};
use types::{Code, Error};
use vos::{LogEntry, describe_record};

use super::at_rest::{Access, open};
use super::{Part, Session};
use crate::failure::Result;
use crate::output::Outcome;
use crate::table::count;

#[derive(Args, Debug)]
pub(crate) struct Log {
    /// Show so many records of each target
    #[arg(short, long, value_name = "N", default_value_t = 100_000)]
    limit: usize,
}

impl Log {
    pub(crate) fn run(self, session: &Session) -> Result<Outcome> {
        session.each(|target| self.one(session, target))
    }

    fn one(&self, session: &Session, target: &OfflineTarget) -> Result<Part> {
        let (media, mut recovery, _) = open(target, Access::ReadOnly, session.memory)?;
        let from = media.newest_checkpoint().checkpoint;
        let (mut text, mut records, mut total) = (String::new(), Vec::new(), 0u64);
        let mut fault = None;
        loop {
            match recovery.next_record() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    total += 1;
                    if records.len() < self.limit {
                        let entry = describe_record(record.kind, record.payload);
                        text.push_str(&line(record.lsn.0, &entry, &session.labels));
                        records.push(in_json(record.lsn.0, record.kind, record.payload.len(), &entry));
                    }
                }
                Err(error) => {
                    text.push_str(&format!("the log cannot be read further: {error}\n"));
                    fault = Some(Error::new(Code::BadFormat, error.to_string()).remedy(
                        "`ddb STORAGE check --repair --drop-corrupt` gives up what follows; another copy has it",
                    ));
                    break;
                }
            }
        }
        media.rest(recovery);
        if total > records.len() as u64 {
            text.push_str(&format!("... and {} more: see --limit\n", total - records.len() as u64));
        }
        let end = media.end_lsn().0;
        text.push_str(&format!("{} from {} to {end}\n", count(total, "record"), from.0));
        let response = json!({
            "target": target.index.0,
            "from": from.0,
            "to": end,
            "total": total,
            "records": records,
            "fault": fault.as_ref().map(|fault: &Error| fault.message.clone()),
        });
        Ok(Part { target: target.index, response, text, fault })
    }
}

fn line(lsn: u64, entry: &LogEntry, labels: &Labels) -> String {
    let label = |name: Option<&String>, id: String| name.cloned().unwrap_or(id);
    let pool = entry.pool.map(|pool| format!(", pool {}", label(labels.pools.get(&pool), pool.to_string())));
    let container = entry
        .container
        .map(|container| format!(", container {}", label(labels.containers.get(&container), container.to_string())));
    let whose = pool.unwrap_or_default() + &container.unwrap_or_default();
    let text = if entry.text.is_empty() { String::new() } else { format!(": {}", entry.text) };
    format!("{lsn:>12}  {}{whose}{text}\n", entry.name)
}

fn in_json(lsn: u64, kind: u16, bytes: usize, entry: &LogEntry) -> Value {
    json!({
        "lsn": lsn,
        "kind": kind,
        "name": entry.name,
        "bytes": bytes,
        "pool": entry.pool.map(|pool| pool.to_string()),
        "container": entry.container.map(|container| container.to_string()),
        "epoch": entry.epoch.map(|epoch| epoch.0),
        "session": entry.origin.session.0,
        "seq": entry.origin.seq,
        "text": entry.text,
    })
}
