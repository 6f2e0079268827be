//! What this process logs, changed while it runs.
//!
//! A log is the process's, as `tracing` is: the program that made it says here how its filter is changed, and whoever is
//! asked to may change it. A program that only embeds a server, and says nothing here, keeps its log to itself.

use std::sync::OnceLock;

/// Sets the filter to some text, or, when that is empty, to what it was at the program's start. The error says what cannot be
/// read in the text.
pub type SetFilter = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static SET: OnceLock<SetFilter> = OnceLock::new();

/// Why the filter is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("{cause}")]
    Unreadable { cause: String },
    #[error("this program's log is its own")]
    NotOurs,
}

/// The log of this process is changed by `set`. The first call counts.
pub fn install(set: SetFilter) {
    let _ = SET.set(set);
}

/// Changes what this process logs: `info,engine=debug`; empty: what it logged at its start.
///
/// # Errors
/// [`SetError`]; it goes on as before.
pub fn set_filter(text: &str) -> Result<(), SetError> {
    let set = SET.get().ok_or(SetError::NotOurs)?;
    set(text).map_err(|cause| SetError::Unreadable { cause })
}
