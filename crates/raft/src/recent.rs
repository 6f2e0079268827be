//! What took effect last at a replica: a subscriber that is not far behind is told just that.

use std::collections::VecDeque;

use wire::encoding::Bytes;
use wire::peer::LogId;

use crate::limits::{RECENT_BYTES_MAX, RECENT_ENTRIES_MAX};

/// The last entries that were applied here, without a gap.
#[derive(Default)]
pub(crate) struct Recent {
    /// The one before the first of them, if there was one.
    base: Option<LogId>,
    /// With the command, if it took effect as one.
    entries: VecDeque<(LogId, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Recent {
    /// Of a state that begins with a snapshot.
    pub(crate) fn behind(base: Option<LogId>) -> Recent {
        Recent { base, ..Recent::default() }
    }

    pub(crate) fn note(&mut self, id: LogId, command: Option<Vec<u8>>) {
        self.bytes += command.as_ref().map_or(0, Vec::len);
        self.entries.push_back((id, command));
        while self.entries.len() > RECENT_ENTRIES_MAX || (self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1) {
            let Some((id, command)) = self.entries.pop_front() else { break };
            self.base = Some(id);
            self.bytes -= command.map_or(0, |command| command.len());
        }
    }

    /// The commands behind `have`. `None`: that one is not known any more, or was never on the way to this state.
    pub(crate) fn since(&self, have: LogId) -> Option<Vec<Bytes>> {
        // Terms differ where a forced recovery has dropped what somebody had heard of.
        let known = match self.base == Some(have) {
            true => 0,
            false => self.entries.binary_search_by_key(&have, |(id, _)| *id).ok()? + 1,
        };
        let commands = self.entries.iter().skip(known).filter_map(|(_, command)| command.clone());
        Some(commands.map(Bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        for index in 0..100 {
            recent.note(LogId { term: 1, index }, Some(vec![0; RECENT_BYTES_MAX / 10]));
            assert!(recent.bytes <= RECENT_BYTES_MAX && recent.entries.len() <= 10);
        }
        for index in 100..2000 + RECENT_ENTRIES_MAX as u64 {
            recent.note(LogId { term: 1, index }, None);
        }
        assert_eq!((recent.entries.len(), recent.bytes), (RECENT_ENTRIES_MAX, 0));
    }

    #[test]
    fn what_came_behind_a_snapshot_is_told_from_there() {
        let id = |index| LogId { term: 1, index };
        let mut recent = Recent::behind(Some(id(7)));
        assert_eq!(recent.since(id(7)), Some(vec![]));
        recent.note(id(8), None);
        recent.note(id(9), Some(vec![5]));
        assert_eq!(recent.since(id(7)), Some(vec![Bytes(vec![5])]));
        assert_eq!(recent.since(id(9)), Some(vec![]));
        assert_eq!(recent.since(id(6)), None);
        assert_eq!(recent.since(LogId { term: 2, index: 8 }), None, "of another history");
    }
}
