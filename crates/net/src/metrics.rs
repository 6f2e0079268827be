//! What this crate counts.

use rt::metrics::{Counter, Gauge, Metric, Table};

pub(crate) static LINKS: Gauge = Gauge::new("net_links", "links being served");
pub(crate) static REQUESTS: Counter = Counter::new("net_requests", "requests received");
pub(crate) static REFUSED: Counter = Counter::new("net_hellos_refused", "callers refused before any request");
pub(crate) static BAD_PEERS: Counter =
    Counter::new("net_links_violated", "links closed because the peer broke the rules");
pub(crate) static CALLS_LOST: Counter = Counter::new("net_calls_lost", "calls whose link broke before the answer");
pub(crate) static CALLS_TIMED_OUT: Counter =
    Counter::new("net_calls_timed_out", "calls that waited past their deadline");

pub(crate) static POSTPONED: Counter =
    Counter::new("membership_timers_postponed", "times that timers waited longer because this server was slow itself");

pub(crate) static ASKED: Counter =
    Counter::new("membership_suspects_asked", "times that a server that is suspected was asked whether it is there");

pub static METRICS: Table = Table {
    metrics: &[
        Metric::Gauge(&LINKS),
        Metric::Counter(&REQUESTS),
        Metric::Counter(&REFUSED),
        Metric::Counter(&BAD_PEERS),
        Metric::Counter(&CALLS_LOST),
        Metric::Counter(&CALLS_TIMED_OUT),
        Metric::Counter(&POSTPONED),
        Metric::Counter(&ASKED),
    ],
};
