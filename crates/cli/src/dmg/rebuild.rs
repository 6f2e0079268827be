//! `dmg pool rebuild`, and watching what is on its way in a pool.

use std::time::Duration;

use clap::Subcommand;
use wire::control::{PoolInfo, RebuildState};

use crate::failure::Result;
use crate::output::{self, Outcome};
use crate::session::Session;
use crate::show;

/// How often a watched pool is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Go on with what was stopped; make anew what failed, also if the pool's policy is not to
    Start {
        /// Label or UUID
        pool: String,
        /// Show what changes, until all is where it is to be
        #[arg(short, long)]
        wait: bool,
    },
    /// Leave everything as far as it came, until it is started again
    Stop {
        /// Label or UUID
        pool: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, session: &Session, json: bool) -> Result<Outcome> {
        let (pool, start, wait) = match &self {
            Verb::Start { pool, wait } => (pool, true, *wait),
            Verb::Stop { pool } => (pool, false, false),
        };
        match session.rebuild(pool, start).await {
            Ok(_) if wait => watch(session, pool, json).await,
            Ok(info) => {
                let text = format!("pool {}: rebuild {}", info.label, show::rebuild(&info));
                Ok(Outcome::new(show::pool(&info).0, text))
            }
            // Of a pool that there is, it says why.
            Err(error) if session.pool_info(pool).await.is_ok() => Err(error.into()),
            Err(error) => Err(session.pool_error(error, pool).await),
        }
    }
}

/// Shows a pool whenever something changes of what is on its way in it, until nothing is: a line each, for programs an
/// object each, of which the last is that of `pool query`.
pub(crate) async fn watch(session: &Session, pool: &str, json: bool) -> Result<Outcome> {
    let mut last: Option<PoolInfo> = None;
    loop {
        let info = match session.pool_info(pool).await {
            Ok(info) => info,
            Err(error) => return Err(session.pool_error(error, pool).await),
        };
        let is_idle = info.rebuild.state == RebuildState::Idle;
        let is_new = last.as_ref().is_none_or(|last| has_changed(last, &info));
        let line = format!("map {}: {}", info.map_version, show::rebuild(&info));
        if is_idle {
            return Ok(Outcome::new(show::pool(&info).0, line).on_a_line());
        }
        if is_new {
            output::write_raw(match json {
                true => output::line(&show::pool(&info).0),
                false => format!("{line}\n"),
            })?;
        }
        last = Some(info);
        rt::sleep(LOOK_EVERY).await;
    }
}

/// What is on its way is not where it was, or something else is.
fn has_changed(before: &PoolInfo, now: &PoolInfo) -> bool {
    let of = |info: &PoolInfo| (info.map_version, info.disabled_targets, info.rebuild.clone());
    of(before) != of(now)
}
