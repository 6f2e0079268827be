//! What servers log, for whoever looks into one seed.

use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Virtual seconds since the run began, without looking at a clock: a run that is logged would be another.
struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        let elapsed = if rt::sim::is_active() { rt::sim::current().elapsed() } else { Duration::ZERO };
        write!(line, "{:>11.6}", elapsed.as_secs_f64())
    }
}

/// Shows what `SERVICES_LOG` asks for, if it asks.
pub(crate) fn begin() {
    if let Ok(filter) = std::env::var("SERVICES_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_timer(VirtualTime).with_ansi(false);
        let _ = log.with_test_writer().try_init();
    }
}
