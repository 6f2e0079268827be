//! The state machine of a target: what the pool map says of it, and what may happen to it.
//!
//! ```text
//!   New            --extend-->  Up(new)
//!   Up(new)        --extended-->  UpIn          --exclude, cancel-->  New
//!   UpIn           --exclude-->  Down           --drain-->  Drain
//!   Drain          --drained-->  DownOut        --exclude-->  Down         --cancel-->  UpIn
//!   Down           --rebuilt-->  Away           --reintegrate-->  Up(down)
//!   Up(down)       --reintegrated-->  UpIn      --exclude, cancel-->  Down
//!   Away           --give up-->  DownOut        --reintegrate-->  Up(away)
//!   Up(away)       --reintegrated-->  UpIn      --exclude, cancel-->  Away
//!   DownOut        --reintegrate-->  Up(down-out)
//!   Up(down-out)   --reintegrated-->  UpIn      --exclude, cancel-->  DownOut
//! ```
//! What changes nothing is left out; the whole table is in `golden/transitions.txt`.
//!
//! Names and meanings are upstream's (`PO_COMP_ST_*`), with three differences. A draining target that
//! fails goes [`TargetState::Down`], where upstream ignores its failure. A target that fails on its way in goes
//! back where it came from, where upstream takes it for down and rebuilds what it never held alone. And
//! [`TargetState::Away`] is new: a target whose copies are elsewhere by now may still have what nobody had a copy of,
//! and that is not written off until somebody says so.

use std::fmt;

/// What the pool map says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetState {
    /// Known, and not yet part of the pool.
    New,
    /// On its way in: it gets writes and is filled with what it is to hold.
    Up(CameFrom),
    /// In service.
    UpIn,
    /// Failed: what it held is being rebuilt elsewhere.
    Down,
    /// Failed, and others hold what they had copies of. What it alone had waits for it.
    Away,
    /// Out: nothing waits for it.
    DownOut,
    /// In service, and on its way out: what it holds is being copied elsewhere.
    Drain,
}

/// Where a target that is on its way in came from, and goes back to if it does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CameFrom {
    /// It takes a share of what others hold.
    New,
    /// It keeps the places it had, and what was written meanwhile is brought to it.
    Down,
    /// It takes back the places that others stand in for, and has those that nobody could.
    Away,
    /// It takes back the places that others stand in for.
    DownOut,
}

/// What happens to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// It failed, or is taken for failed.
    Exclude,
    /// All that a target which is down held, and others too, is elsewhere.
    Rebuilt,
    /// Nobody waits any more for what only this target had.
    GiveUp,
    /// An operator wants it empty.
    Drain,
    /// All that a draining target held is elsewhere.
    Drained,
    /// A target that was excluded shall come back.
    Reintegrate,
    /// It has everything that it is to hold.
    Reintegrated,
    /// A new target shall take its share.
    Extend,
    /// It has its share.
    Extended,
    /// Draining, extending or reintegrating is given up.
    Cancel,
}

/// An event that means nothing in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event '{event}' means nothing to a target that is {state}")]
pub struct Refused {
    pub state: TargetState,
    pub event: Event,
}

impl TargetState {
    pub const ALL: [TargetState; 10] = [
        TargetState::New,
        TargetState::Up(CameFrom::New),
        TargetState::Up(CameFrom::Down),
        TargetState::Up(CameFrom::Away),
        TargetState::Up(CameFrom::DownOut),
        TargetState::UpIn,
        TargetState::Down,
        TargetState::Away,
        TargetState::DownOut,
        TargetState::Drain,
    ];

    /// The state after `event`; `None` if it changes nothing, because it has happened already.
    ///
    /// # Errors
    /// [`Refused`]: the event means nothing in this state.
    pub fn after(self, event: Event) -> Result<Option<TargetState>, Refused> {
        use TargetState::{Away, Down, DownOut, Drain, New, Up, UpIn};
        let refused = Err(Refused { state: self, event });
        match (self, event) {
            (New, Event::Extend) => Ok(Some(Up(CameFrom::New))),
            // A failure of what holds nothing yet is told to whoever wants to extend by it.
            (New, _) => refused,

            (Up(CameFrom::New), Event::Extended) => Ok(Some(UpIn)),
            (Up(CameFrom::New), Event::Exclude | Event::Cancel) => Ok(Some(New)),
            (Up(CameFrom::New), Event::Extend) => Ok(None),
            (Up(CameFrom::Down), Event::Reintegrated) => Ok(Some(UpIn)),
            (Up(CameFrom::Down), Event::Exclude | Event::Cancel) => Ok(Some(Down)),
            (Up(CameFrom::Away | CameFrom::DownOut), Event::Reintegrated) => Ok(Some(UpIn)),
            // Whoever stands in for it still does: nothing is lost, and nothing is to be rebuilt.
            (Up(CameFrom::Away), Event::Exclude | Event::Cancel) => Ok(Some(Away)),
            (Up(CameFrom::DownOut), Event::Exclude | Event::Cancel) => Ok(Some(DownOut)),
            (Up(CameFrom::Down | CameFrom::Away | CameFrom::DownOut), Event::Reintegrate) => Ok(None),
            (Up(_), _) => refused,

            (UpIn, Event::Exclude) => Ok(Some(Down)),
            (UpIn, Event::Drain) => Ok(Some(Drain)),
            (UpIn, Event::Extended | Event::Reintegrated | Event::Cancel) => Ok(None),
            (UpIn, _) => refused,

            (Down, Event::Rebuilt) => Ok(Some(Away)),
            (Down, Event::Reintegrate) => Ok(Some(Up(CameFrom::Down))),
            (Down, Event::Exclude) => Ok(None),
            (Down, _) => refused,

            (Away, Event::Reintegrate) => Ok(Some(Up(CameFrom::Away))),
            (Away, Event::GiveUp) => Ok(Some(DownOut)),
            (Away, Event::Exclude | Event::Rebuilt) => Ok(None),
            (Away, _) => refused,

            (DownOut, Event::Reintegrate) => Ok(Some(Up(CameFrom::DownOut))),
            (DownOut, Event::Exclude | Event::Drained | Event::GiveUp) => Ok(None),
            (DownOut, _) => refused,

            (Drain, Event::Drained) => Ok(Some(DownOut)),
            (Drain, Event::Exclude) => Ok(Some(Down)),
            (Drain, Event::Cancel) => Ok(Some(UpIn)),
            (Drain, Event::Drain) => Ok(None),
            (Drain, _) => refused,
        }
    }

    /// It has data of places that are its own, and answers.
    pub fn serves(self) -> bool {
        matches!(self, TargetState::UpIn | TargetState::Drain)
    }

    /// It gets what is written to its places.
    pub fn gets_writes(self) -> bool {
        matches!(self, TargetState::Up(_) | TargetState::UpIn | TargetState::Drain)
    }

    /// It failed, and what only it had is not written off.
    pub(crate) fn is_awaited(self) -> bool {
        matches!(self, TargetState::Down | TargetState::Away | TargetState::Up(CameFrom::Away))
    }

    /// Something is under way that ends with an event of its own.
    pub fn in_change(self) -> bool {
        matches!(self, TargetState::Up(_) | TargetState::Down | TargetState::Drain)
    }
}

impl Event {
    pub const ALL: [Event; 10] = [
        Event::Exclude,
        Event::Rebuilt,
        Event::GiveUp,
        Event::Drain,
        Event::Drained,
        Event::Reintegrate,
        Event::Reintegrated,
        Event::Extend,
        Event::Extended,
        Event::Cancel,
    ];
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TargetState::New => "new",
            TargetState::Up(CameFrom::New) => "up (new)",
            TargetState::Up(CameFrom::Down) => "up (down)",
            TargetState::Up(CameFrom::Away) => "up (away)",
            TargetState::Up(CameFrom::DownOut) => "up (down-out)",
            TargetState::UpIn => "up-in",
            TargetState::Down => "down",
            TargetState::Away => "away",
            TargetState::DownOut => "down-out",
            TargetState::Drain => "drain",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Event::Exclude => "exclude",
            Event::Rebuilt => "rebuilt",
            Event::GiveUp => "give-up",
            Event::Drain => "drain",
            Event::Drained => "drained",
            Event::Reintegrate => "reintegrate",
            Event::Reintegrated => "reintegrated",
            Event::Extend => "extend",
            Event::Extended => "extended",
            Event::Cancel => "cancel",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table is in `golden/transitions.txt`: a change of it is a change of that file.
    #[test]
    fn every_state_and_event_is_in_the_table() {
        let mut table = String::from("state          event         after\n");
        for state in TargetState::ALL {
            for event in Event::ALL {
                let after = match state.after(event) {
                    Ok(Some(after)) => after.to_string(),
                    Ok(None) => "(unchanged)".into(),
                    Err(_) => "-".into(),
                };
                table += format!("{state:<14} {event:<13} {after}").trim_end();
                table.push('\n');
            }
        }
        assert_eq!(table, include_str!("../golden/transitions.txt"), "\n{table}");
    }

    #[test]
    fn a_draining_target_that_fails_is_down() {
        assert_eq!(TargetState::Drain.after(Event::Exclude), Ok(Some(TargetState::Down)));
    }

    #[test]
    fn an_event_that_came_twice_changes_nothing_or_is_refused() {
        for state in TargetState::ALL {
            for event in Event::ALL {
                if let Ok(Some(after)) = state.after(event) {
                    assert_ne!(after, state);
                    // Only giving up goes back over an own way, and a second time means the next thing.
                    let again = after.after(event);
                    assert!(
                        again == Ok(None) || again.is_err() || matches!(event, Event::Exclude | Event::Cancel),
                        "{state} {event} twice: {again:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_what_cannot_be() {
        let refused = TargetState::New.after(Event::Drain).unwrap_err();
        assert_eq!(refused.to_string(), "event 'drain' means nothing to a target that is new");
    }
}
