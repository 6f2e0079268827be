//! Counters, gauges and histograms: relaxed atomics, named once, printed as Prometheus text.
//!
//! # Shape
//! A crate declares its metrics as statics beside each other and lists them in one [`Table`]:
//!
//! ```
//! use rt::metrics::{Counter, Metric, Table};
//! static UPDATES: Counter = Counter::new("engine_updates", "updates applied");
//! static TABLE: Table = Table { metrics: &[Metric::Counter(&UPDATES)] };
//! UPDATES.add(1);
//! assert!(rt::metrics::snapshot(&[&TABLE]).contains("engine_updates 1\n"));
//! ```

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// All the metrics of one crate.
pub struct Table {
    pub metrics: &'static [Metric],
}

/// One row of a [`Table`].
pub enum Metric {
    Counter(&'static Counter),
    Gauge(&'static Gauge),
    Histogram(&'static Histogram),
}

/// Only grows.
pub struct Counter {
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    pub const fn new(name: &'static str, help: &'static str) -> Counter {
        Counter { name, help, value: AtomicU64::new(0) }
    }

    #[inline]
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

/// Goes up and down.
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    value: AtomicI64,
}

impl Gauge {
    pub const fn new(name: &'static str, help: &'static str) -> Gauge {
        Gauge { name, help, value: AtomicI64::new(0) }
    }

    #[inline]
    pub fn add(&self, difference: i64) {
        self.value.fetch_add(difference, Relaxed);
    }

    #[inline]
    pub fn set(&self, value: i64) {
        self.value.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

/// Buckets of a histogram: one a power of two, so that nanoseconds and mebibytes both fit.
const BUCKETS: usize = 64;

/// Counts values by their power of two. Times are recorded in nanoseconds.
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    pub const fn new(name: &'static str, help: &'static str) -> Histogram {
        Histogram { name, help, buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }

    #[inline]
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    #[inline]
    pub fn record_time(&self, time: Duration) {
        self.record(crate::time::nanos(time));
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// An upper bound, within a factor of two, of the value below which `share` (0..=1) of the
    /// records lie. Zero when there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket.load(Relaxed);
            if seen > 0 && seen >= wanted {
                return bucket_end(index);
            }
        }
        0
    }
}

/// Bucket `i` holds `2^i ..= 2^(i+1) - 1`; zero is counted with one.
fn bucket_of(value: u64) -> usize {
    (u64::BITS - 1 - (value | 1).leading_zeros()) as usize
}

fn bucket_end(index: usize) -> u64 {
    u64::MAX >> (BUCKETS - 1 - index)
}

/// The present values of `tables` in the Prometheus text format.
pub fn snapshot(tables: &[&Table]) -> String {
    let mut text = String::new();
    for metric in tables.iter().flat_map(|table| table.metrics) {
        print(metric, &mut text).expect("a String takes all that is written to it");
    }
    text
}

fn print(metric: &Metric, text: &mut String) -> std::fmt::Result {
    let (name, help, kind) = match metric {
        Metric::Counter(counter) => (counter.name, counter.help, "counter"),
        Metric::Gauge(gauge) => (gauge.name, gauge.help, "gauge"),
        Metric::Histogram(histogram) => (histogram.name, histogram.help, "histogram"),
    };
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    match metric {
        Metric::Counter(counter) => writeln!(text, "{name} {}", counter.get()),
        Metric::Gauge(gauge) => writeln!(text, "{name} {}", gauge.get()),
        Metric::Histogram(histogram) => {
            let mut below = 0;
            for (index, bucket) in histogram.buckets.iter().enumerate() {
                let count = bucket.load(Relaxed);
                below += count;
                if count > 0 {
                    writeln!(text, "{name}_bucket{{le=\"{}\"}} {below}", bucket_end(index))?;
                }
            }
            writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {below}\n{name}_sum {}\n{name}_count {below}", histogram.sum())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_a_factor_of_two() {
        static H: Histogram = Histogram::new("h", "");
        assert_eq!(H.quantile(0.5), 0);
        for value in 1..=1000 {
            H.record(value);
        }
        let median = H.quantile(0.5);
        assert!((500..1000).contains(&median), "{median}");
        H.record(u64::MAX);
        assert_eq!(H.quantile(1.0), u64::MAX);
        assert_eq!(bucket_of(0), 0);
    }

    #[test]
    fn the_text_has_every_kind() {
        static C: Counter = Counter::new("c", "a counter");
        static G: Gauge = Gauge::new("g", "a gauge");
        static H: Histogram = Histogram::new("t", "a histogram");
        static TABLE: Table = Table { metrics: &[Metric::Counter(&C), Metric::Gauge(&G), Metric::Histogram(&H)] };
        C.add(3);
        G.set(-2);
        H.record(5);
        let text = snapshot(&[&TABLE]);
        assert!(text.contains("# TYPE c counter\nc 3\n"));
        assert!(text.contains("g -2\n"));
        assert!(text.contains("t_bucket{le=\"7\"} 1\nt_bucket{le=\"+Inf\"} 1\nt_sum 5\nt_count 1\n"));
    }
}
