//! `dmg pool exclude`, `drain`, `reintegrate`, `give-up`, `extend` and `query-targets`: which servers and targets a pool has.

use clap::Args;
use serde_json::{Value, json};
use types::{ByteSize, Rank, TargetIndex};
use wire::control::{MemberState, PoolInfo, PoolTarget, TargetChange, TargetState};

use crate::failure::Result;
use crate::options::Numbers;
use crate::output::Outcome;
use crate::session::Session;
use crate::show;
use crate::table::table;

/// Targets of a pool, by rank.
#[derive(Args, Debug)]
pub(crate) struct Targets {
    /// Label or UUID
    pool: String,
    /// Ranks: 2,5-7
    #[arg(short, long, value_name = "RANKS")]
    ranks: Numbers,
    /// Targets of each of the ranks: 0,2-3 [default: all]
    #[arg(long, value_name = "TARGETS")]
    target_idx: Option<Numbers>,
}

#[derive(Args, Debug)]
pub(crate) struct Exclude {
    #[command(flatten)]
    targets: Targets,
    /// Also when data may be out of reach by it
    #[arg(short, long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Extend {
    /// Label or UUID
    pool: String,
    /// Ranks that joined the system and are not in the pool: 2,5-7
    #[arg(short, long, value_name = "RANKS")]
    ranks: Numbers,
}

#[derive(Args, Debug)]
pub(crate) struct Query {
    /// Label or UUID
    pool: String,
    /// Rank
    #[arg(short, long, value_name = "RANK")]
    rank: u32,
    /// Targets of the rank: 0,2-3 [default: all]
    #[arg(long, value_name = "TARGETS")]
    target_idx: Option<Numbers>,
}

fn ranks(numbers: Numbers) -> Vec<Rank> {
    numbers.0.into_iter().map(Rank).collect()
}

fn indices(numbers: Option<Numbers>) -> Vec<TargetIndex> {
    numbers.into_iter().flat_map(|numbers| numbers.0).map(TargetIndex).collect()
}

impl Exclude {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome> {
        let Exclude { targets, force } = self;
        targets.change(session, TargetChange::Exclude, force, "excluded").await
    }
}

impl Targets {
    pub(crate) async fn drain(self, session: &Session) -> Result<Outcome> {
        self.change(session, TargetChange::Drain, false, "draining").await
    }

    pub(crate) async fn reintegrate(self, session: &Session) -> Result<Outcome> {
        self.change(session, TargetChange::Reintegrate, false, "on their way back").await
    }

    pub(crate) async fn give_up(self, session: &Session) -> Result<Outcome> {
        self.change(session, TargetChange::GiveUp, false, "given up").await
    }

    async fn change(self, session: &Session, change: TargetChange, force: bool, done: &str) -> Result<Outcome> {
        let (numbers, indices) = (self.ranks.to_string(), indices(self.target_idx));
        let info = session.change_targets(&self.pool, change, ranks(self.ranks), indices, force).await?;
        Ok(changed(&info, &format!("targets of ranks {numbers} are {done}")))
    }
}

impl Extend {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome> {
        let numbers = self.ranks.to_string();
        let info = session.extend_pool(&self.pool, ranks(self.ranks)).await?;
        Ok(changed(&info, &format!("targets of ranks {numbers} are on their way in")))
    }
}

fn changed(info: &PoolInfo, what: &str) -> Outcome {
    let text = format!("pool {}: {what}; see `dmg pool query {}`", info.label, info.label);
    Outcome::new(show::pool(info).0, text)
}

impl Query {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome> {
        let rank = Rank(self.rank);
        let targets = session.query_targets(&self.pool, rank, indices(self.target_idx)).await?;
        // Why a target says nothing of its use, the system knows.
        let members = match targets.iter().any(|target| target.space.is_none()) {
            true => session.info().await?.members,
            false => Vec::new(),
        };
        let is_there = members.iter().any(|member| member.rank == rank && member.state == MemberState::Joined);
        Ok(Outcome::new(json(rank, &targets), text(&targets, is_there)))
    }
}

/// Upstream's words for a target's state; where a target on its way in came from, it does not say.
fn state(target: &PoolTarget) -> &'static str {
    match target.state {
        TargetState::New => "new",
        TargetState::UpFromNew | TargetState::UpFromDown | TargetState::UpFromAway | TargetState::UpFromDownOut => "up",
        TargetState::UpIn => "up_in",
        TargetState::Down => "down",
        TargetState::Away => "away",
        TargetState::DownOut => "down_out",
        TargetState::Drain => "drain",
    }
}

fn json(rank: Rank, targets: &[PoolTarget]) -> Value {
    let info = |target: &PoolTarget| {
        let space = target.space.iter().map(|space| {
            json!({ "media_type": "data", "total": space.total, "free": space.total.saturating_sub(space.used) })
        });
        json!({
            "rank": rank.0,
            "target_idx": target.index.0,
            "target_state": state(target),
            "kept_out": target.is_kept_out,
            "failed": target.is_failed,
            "space": space.collect::<Vec<_>>(),
        })
    };
    json!({ "status": 0, "infos": targets.iter().map(info).collect::<Vec<_>>() })
}

/// `is_there`: the rank takes part in the system.
fn text(targets: &[PoolTarget], is_there: bool) -> String {
    let row = |target: &PoolTarget| {
        let mut remarks = Vec::new();
        if target.is_kept_out {
            remarks.push("kept out by an administrator");
        }
        if target.is_failed {
            remarks.push("its device failed");
        }
        let (size, free) = match &target.space {
            Some(space) => {
                (ByteSize(space.total).to_string(), ByteSize(space.total.saturating_sub(space.used)).to_string())
            }
            None => {
                remarks.push(match target.state {
                    TargetState::DownOut if is_there => "it holds nothing of the pool",
                    _ => "its rank does not answer",
                });
                ("?".to_string(), "?".to_string())
            }
        };
        vec![target.index.to_string(), state(target).to_string(), size, free, remarks.join(", ")]
    };
    table(&["Target>", "State", "Size>", "Free>", ""], targets.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a rank that was drained and answers it was said that it does not.
    #[test]
    fn a_target_that_is_out_of_a_rank_that_is_there_holds_nothing() {
        let target =
            |state| PoolTarget { index: TargetIndex(0), state, is_kept_out: false, space: None, is_failed: false };
        let drained = [target(TargetState::DownOut)];
        assert!(text(&drained, true).contains("it holds nothing of the pool"));
        assert!(text(&drained, false).contains("its rank does not answer"));
        assert!(text(&[target(TargetState::UpIn)], true).contains("its rank does not answer"));
    }
}
