//! `ddb check`: everything verified, every fault with its place; with `--repair`, mended where that can be
//! done honestly.

use clap::Args;
use control::offline::{Labels, OfflineTarget};
use serde_json::{Value, json};
use types::{ByteSize, Code, Error};
use vos::{CheckOptions, Finding, FindingKind, Mended, RepairOptions, Repaired, Report};

use super::at_rest::{Access, Looked, glance, look, open, unreadable};
use super::{Part, Session};
use crate::failure::Result;
use crate::output::Outcome;
use crate::table::{count, table};

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Read every value, and verify its checksums
    #[arg(short, long)]
    data: bool,
    /// Mend what can be mended, and write a checkpoint; records in pages that cannot be read are lost
    #[arg(short, long)]
    repair: bool,
    /// Give up what is damaged, but could be of use: values with wrong checksums, the log behind a damaged
    /// place
    #[arg(long, requires = "repair")]
    drop_corrupt: bool,
    /// List so many faults of each target
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// What was found on a target before anything was done about it.
#[derive(Default)]
struct Before {
    findings: Vec<Finding>,
    total: u64,
    report: Option<Report>,
    /// Log records replayed.
    records: u64,
    /// A copy of the superblock is damaged.
    rewrite: bool,
    /// The store could be opened at all.
    is_open: bool,
    /// Parts of it cannot be read: what they refer to is among what looks like nobody's.
    is_partial: bool,
}

impl Before {
    fn add(&mut self, kind: FindingKind, place: impl Into<String>, fault: impl Into<String>) {
        self.total += 1;
        self.findings.push(Finding { kind, container: None, place: place.into(), fault: fault.into() });
    }
}

impl Check {
    pub(crate) fn run(self, session: &Session) -> Result<Outcome> {
        session.each(|target| self.one(session, target))
    }

    fn options(&self) -> CheckOptions {
        CheckOptions { data: self.data || self.drop_corrupt, findings_max: self.limit }
    }

    fn one(&self, session: &Session, target: &OfflineTarget) -> Result<Part> {
        let before = self.look(session, target)?;
        let repaired = match self.repair && before.total > 0 && before.is_open {
            true => Some(self.mend(session, target, before.rewrite)?),
            false => None,
        };
        Ok(self.tell(session, target, &before, repaired))
    }

    /// Finds everything, without changing anything.
    fn look(&self, session: &Session, target: &OfflineTarget) -> Result<Before, Error> {
        let mut before = Before::default();
        let glance = glance(target)?;
        for (superblock, copy) in glance.superblocks.iter().zip(0..) {
            if let Err(fault) = superblock {
                before.add(FindingKind::Superblock, format!("superblock {copy} of the data region"), fault);
                before.rewrite = true;
            }
        }
        let Looked { opened, damaged } = match look(target, session.memory) {
            Ok(looked) => looked,
            Err(error) if error.code == Code::BadFormat => {
                before.add(FindingKind::Catalog, format!("target {}", target.index), error.message);
                return Ok(before);
            }
            Err(other) => return Err(other),
        };
        before.is_open = true;
        for corrupt in damaged {
            let kind = if corrupt.place.is_header() { FindingKind::Superblock } else { FindingKind::Bitmap };
            before.add(kind, corrupt.place.to_string(), corrupt.fault.to_string());
        }
        let report = opened.store.check_with(self.options());
        before.total += opened.findings_total + report.findings_total;
        before.is_partial = opened.is_blind || report.is_partial;
        before.records = opened.records;
        before.findings.extend(opened.findings);
        before.findings.extend(report.findings.iter().cloned());
        before.findings.truncate(self.limit);
        before.report = Some(report);
        Ok(before)
    }

    fn mend(&self, session: &Session, target: &OfflineTarget, rewrite: bool) -> Result<Repaired, Error> {
        let (media, recovery, damaged) = open(target, Access::Write, session.memory)?;
        let options = RepairOptions { check: self.options(), drop_corrupt: self.drop_corrupt, rewrite };
        vos::Store::repair(media, recovery, &damaged, options).map_err(|error| unreadable(&error))
    }

    fn tell(&self, session: &Session, target: &OfflineTarget, before: &Before, repaired: Option<Repaired>) -> Part {
        let mut text = findings_table(&before.findings, before.total, &session.labels);
        if let Some(report) = &before.report {
            text.push_str(&summary(report, before.records, self.options().data));
        }
        if before.is_partial {
            text.push_str("parts cannot be read: what they refer to is among what looks like nobody's\n");
        }
        let mut response = json!({
            "target": target.index.0,
            "clean": before.total == 0,
            "findings": before.findings.iter().map(|f| finding_json(f, &session.labels)).collect::<Vec<_>>(),
            "findings_total": before.total,
            "is_partial": before.is_partial,
            "replayed": before.records,
            "records": before.report.as_ref().map(|report| report.records),
            "pages": before.report.as_ref().map(|report| report.pages),
            "values": before.report.as_ref().map(|report| report.verified),
            "value_bytes": before.report.as_ref().map(|report| report.verified_bytes),
            "repair": null,
        });
        let mut left = before.total;
        if let Some(repaired) = &repaired {
            if let Some(report) = &repaired.left {
                left = report.findings_total;
            }
            text.push_str(&repair_text(repaired, &session.labels));
            response["repair"] = repair_json(repaired, left, &session.labels);
            response["clean"] = json!(left == 0);
        } else if self.repair && before.total > 0 {
            text.push_str("not repaired: what all else hangs on cannot be read\n");
        }
        let fault = (left > 0).then(|| {
            let what = if repaired.is_some() { "left after the repair" } else { "found" };
            let error =
                Error::new(Code::BadFormat, format!("target {}: {} {what}", target.index, count(left, "fault")));
            error.remedy(self.remedy(before, repaired.as_ref()))
        });
        Part { target: target.index, response, text, fault }
    }

    /// What to do about what is left.
    fn remedy(&self, before: &Before, repaired: Option<&Repaired>) -> &'static str {
        let is_corrupt = |findings: &[Finding]| {
            findings.iter().any(|f| matches!(f.kind, FindingKind::Value | FindingKind::Log | FindingKind::Replay))
        };
        let left = repaired.and_then(|repaired| repaired.left.as_ref()).map_or(&before.findings, |left| &left.findings);
        match repaired {
            None if !before.is_open => "restore the target from a copy: nothing it needs can be derived",
            None => "run it again with --repair to mend what can be mended; nothing was changed",
            Some(_) if !self.drop_corrupt && is_corrupt(left) => {
                "restore these from a copy, or give them up with --repair --drop-corrupt"
            }
            Some(_) => "what is left cannot be derived from anything: restore it from a copy",
        }
    }
}

fn whose(container: Option<types::ContainerId>, labels: &Labels) -> String {
    container.map(|id| labels.containers.get(&id).cloned().unwrap_or_else(|| id.to_string())).unwrap_or_default()
}

fn findings_table(findings: &[Finding], total: u64, labels: &Labels) -> String {
    if total == 0 {
        return "no faults\n".into();
    }
    let row = |f: &Finding| vec![f.kind.to_string(), whose(f.container, labels), f.place.clone(), f.fault.clone()];
    let mut text = table(&["Kind", "Container", "Place", "Fault"], findings.iter().map(row).collect());
    if total > findings.len() as u64 {
        text.push_str(&format!("... and {} more\n", total - findings.len() as u64));
    }
    text
}

fn summary(report: &Report, replayed: u64, data: bool) -> String {
    let values = match data {
        true => format!(", {} of {}", count(report.verified, "value"), ByteSize(report.verified_bytes)),
        false => ", values not read (--data reads them)".into(),
    };
    let (pages, records) = (count(report.pages, "page"), count(report.records, "record"));
    format!("checked: {pages}, {records}{values}; {} replayed from the log\n", count(replayed, "log record"))
}

fn repair_text(repaired: &Repaired, labels: &Labels) -> String {
    if let Some(refused) = &repaired.refused {
        return format!("\nnot repaired, nothing was written: {refused}\n");
    }
    if !repaired.is_written {
        return "\nnothing that could be mended: nothing was written\n".into();
    }
    let row = |m: &Mended| vec![m.kind.to_string(), whose(m.container, labels), m.place.clone(), m.deed.clone()];
    let mut text = String::from("\n");
    text.push_str(&table(
        &["Mended", "Container", "Place", "What was done"],
        repaired.mended.iter().map(row).collect(),
    ));
    if repaired.mended_total > repaired.mended.len() as u64 {
        text.push_str(&format!("... and {} more\n", repaired.mended_total - repaired.mended.len() as u64));
    }
    text.push_str("a checkpoint was written\n");
    if let Some(left) = &repaired.left {
        text.push_str(if left.findings_total == 0 { "\nleft: " } else { "\nleft:\n" });
        text.push_str(&findings_table(&left.findings, left.findings_total, labels));
    }
    text
}

fn finding_json(finding: &Finding, labels: &Labels) -> Value {
    json!({
        "kind": finding.kind.name(),
        "container": finding.container.map(|id| id.to_string()),
        "label": finding.container.and_then(|id| labels.containers.get(&id)),
        "place": finding.place,
        "fault": finding.fault,
    })
}

fn repair_json(repaired: &Repaired, left: u64, labels: &Labels) -> Value {
    let mended = |m: &Mended| {
        json!({
            "kind": m.kind.name(),
            "container": m.container.map(|id| id.to_string()),
            "label": m.container.and_then(|id| labels.containers.get(&id)),
            "place": m.place,
            "deed": m.deed,
            "is_loss": m.deed.starts_with("lost:"),
        })
    };
    let findings = repaired
        .left
        .as_ref()
        .map(|left| left.findings.iter().map(|finding| finding_json(finding, labels)).collect::<Vec<_>>());
    json!({
        "written": repaired.is_written,
        "refused": repaired.refused,
        "mended": repaired.mended.iter().map(mended).collect::<Vec<_>>(),
        "mended_total": repaired.mended_total,
        "left": findings,
        "left_total": left,
    })
}
