//! Every bound of this crate, in one place, with its reason.

use std::time::Duration;

/// A command of a service is a row or a few; what is larger belongs into a pool.
pub const COMMAND_BYTES_MAX: usize = 256 << 10;
/// A response of a machine; it is remembered for its session.
pub const RESPONSE_BYTES_MAX: usize = 256 << 10;
/// Voters and learners of one group. Voters are five at most, learners those that are to vote; the rest is room for changes.
/// All other servers subscribe ([`crate::Group::told`]), and there is no bound to them here.
pub const MEMBERS_MAX: usize = 32;
/// More voters make a change slower, and no group safer in practice.
pub const VOTERS_MAX: usize = 5;
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Entries in one message, and their bytes together: the first entry always fits.
pub(crate) const APPEND_ENTRIES_MAX: u64 = 64;
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;
/// A snapshot travels in parts of this size.
pub(crate) const SNAPSHOT_PART_BYTES: usize = 256 << 10;
/// A machine's state is some hundred bytes a container: a state beyond this is an error in the service.
pub const SNAPSHOT_BYTES_MAX: usize = 64 << 20;
/// What a peer may send in one message: an append of full size, and its header.
pub const MESSAGE_BYTES_MAX: usize = APPEND_BYTES_MAX + COMMAND_BYTES_MAX + (64 << 10);

/// Sessions whose answers are remembered, and the bytes of all those answers together.
pub const SESSIONS_MAX: usize = 4096;
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Answers remembered of one session: as many requests may a client have under way.
pub const ANSWERS_PER_SESSION: usize = 16;

/// Applied entries that a replica remembers for servers that subscribe, and the bytes of their commands together: who has missed
/// more gets the whole state.
pub(crate) const RECENT_ENTRIES_MAX: usize = 1024;
pub(crate) const RECENT_BYTES_MAX: usize = 1 << 20;
/// A whole state is told in parts of this size.
pub(crate) const NEWS_PART_BYTES: usize = 512 << 10;

/// Proposals and reads under way in one replica.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// A log with more in it than this is shortened by a snapshot, however few entries that is.
pub(crate) const LOG_BYTES_MAX: usize = 16 << 20;
/// The file is written anew when it is this much larger than twice what it must hold.
pub(crate) const LOG_SLACK_BYTES: u64 = 4 << 20;
/// Records behind one checksum, in bytes; only a single larger record goes beyond.
pub(crate) const FRAME_BYTES: usize = 1 << 20;

/// How a group behaves in time, and how long its log becomes.
#[derive(Clone, Debug)]
pub struct Config {
    /// All replicas of a server look at their clocks at once, so often; the same for all of them.
    pub tick: Duration,
    /// How often a leader says that it is there: at the first tick after that.
    pub heartbeat: Duration,
    /// A follower that hears nothing waits for the leader's lease (`election_max`) to end, and then for a time drawn
    /// between these two, before it asks for votes.
    pub election_min: Duration,
    pub election_max: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_entries: u64,
    /// Entries that are kept behind a snapshot, for followers that lag a little.
    pub kept_entries: u64,
    /// How long a proposal or a read may take before its outcome counts as unknown.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            tick: Duration::from_millis(200),
            // Every other tick, with something to spare.
            heartbeat: Duration::from_millis(380),
            // One that is late does not matter. A leader that died has a successor after 1.2 to 1.6 seconds.
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(700),
            snapshot_entries: 1024,
            kept_entries: 64,
            patience: Duration::from_secs(5),
        }
    }
}
