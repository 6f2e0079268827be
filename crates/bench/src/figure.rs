//! A figure: what was measured, beside what, against which budget.
//!
//! # Always true
//! A ratio is taken between samples of the same run. Where both sides have the same number of rounds
//! they were taken in turns, and the ratio is the median of the rounds' ratios: a slow second of the
//! machine then hits both sides.

use serde_json::{Value, json};

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    GibPerSecond,
    MibPerSecond,
    Mib,
    Bytes,
    Percent,
    Microseconds,
    /// Times as much.
    Times,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "/s",
            Unit::GibPerSecond => "GiB/s",
            Unit::MibPerSecond => "MiB/s",
            Unit::Mib => "MiB",
            Unit::Bytes => "B",
            Unit::Percent => "%",
            Unit::Microseconds => "us",
            Unit::Times => "x",
        }
    }

    /// More is better.
    fn is_rate(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::GibPerSecond | Unit::MibPerSecond)
    }
}

/// The same measurement, several times.
#[derive(Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }

    pub fn lowest(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn highest(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// This over `other`.
    fn over(&self, other: &Samples) -> f64 {
        if self.0.len() == other.0.len() {
            median(self.0.iter().zip(&other.0).map(|(mine, theirs)| mine / theirs).collect())
        } else {
            self.median() / other.median()
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a figure has a sample");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// What a figure is compared with.
#[derive(Clone)]
pub struct Baseline {
    pub name: String,
    pub samples: Samples,
    /// From a page, not from this run.
    pub published: bool,
}

/// What section 10 of the design asks of a figure.
#[derive(Clone, Copy)]
pub enum Budget {
    Floor(f64),
    Ceiling(f64),
    /// Times the first baseline.
    Times(f64),
}

#[derive(Clone)]
pub struct Figure {
    pub bench: &'static str,
    pub name: String,
    pub unit: Unit,
    pub samples: Samples,
    pub baselines: Vec<Baseline>,
    pub budget: Option<Budget>,
}

impl Figure {
    pub fn new(bench: &'static str, name: impl Into<String>, unit: Unit, samples: Samples) -> Figure {
        Figure { bench, name: name.into(), unit, samples, baselines: Vec::new(), budget: None }
    }

    /// Compared with samples of this run.
    pub fn beside(mut self, name: impl Into<String>, samples: Samples) -> Figure {
        self.baselines.push(Baseline { name: name.into(), samples, published: false });
        self
    }

    /// Compared with the better end of a range that someone published.
    pub fn beside_published(mut self, name: &str, low: f64, high: f64) -> Figure {
        let value = if self.unit.is_rate() { low.max(high) } else { low.min(high) };
        let samples = Samples(vec![value]);
        self.baselines.push(Baseline { name: name.into(), samples, published: true });
        self
    }

    pub fn budget(mut self, budget: Budget) -> Figure {
        self.budget = Some(budget);
        self
    }

    /// Times as large as the baseline.
    pub fn ratio(&self, baseline: &Baseline) -> f64 {
        self.samples.over(&baseline.samples)
    }

    /// Whether the budget is met; `None` without a budget, or without the baseline it is relative to.
    pub fn verdict(&self) -> Option<bool> {
        let ratio = || self.baselines.first().map(|baseline| self.ratio(baseline));
        Some(match self.budget? {
            Budget::Floor(bound) => self.samples.median() >= bound,
            Budget::Ceiling(bound) => self.samples.median() <= bound,
            Budget::Times(bound) => ratio()? >= bound,
        })
    }

    pub fn budget_text(&self) -> String {
        match self.budget {
            None => String::new(),
            Some(Budget::Floor(bound)) => format!(">= {}", number(bound)),
            Some(Budget::Ceiling(bound)) => format!("<= {}", number(bound)),
            Some(Budget::Times(bound)) => format!(">= {bound:.2}x"),
        }
    }

    pub fn to_json(&self) -> Value {
        let baselines = self.baselines.iter().map(|baseline| {
            json!({
                "name": baseline.name,
                "value": baseline.samples.median(),
                "published": baseline.published,
                "ratio": self.ratio(baseline),
            })
        });
        json!({
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit.name(),
            "value": self.samples.median(),
            "lowest": self.samples.lowest(),
            "highest": self.samples.highest(),
            "rounds": self.samples.0.len(),
            "baselines": baselines.collect::<Vec<_>>(),
            "budget": self.budget.map(|_| self.budget_text()),
            "met": self.verdict(),
        })
    }
}

/// Three or four digits that matter, thousands apart.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    if value.abs() < 1000.0 {
        let digits = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
        return format!("{value:.digits$}");
    }
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(samples: &[f64], baseline: &[f64]) -> Figure {
        Figure::new("b", "n", Unit::Bytes, samples.iter().copied().collect())
            .beside("bare", baseline.iter().copied().collect())
    }

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        let samples: Samples = [10.0, 11.0, 900.0].into_iter().collect();
        assert_eq!(samples.median(), 11.0);
        let samples: Samples = [10.0, 20.0].into_iter().collect();
        assert_eq!(samples.median(), 15.0);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let figure = figure(&[10.0, 100.0, 1000.0], &[5.0, 50.0, 400.0]);
        assert_eq!(figure.ratio(&figure.baselines[0]), 2.0);
    }

    #[test]
    fn a_budget_is_met_or_missed_in_its_own_direction() {
        let met = |budget| figure(&[20.0], &[10.0]).budget(budget).verdict();
        assert_eq!(met(Budget::Times(2.0)), Some(true));
        assert_eq!(met(Budget::Times(2.1)), Some(false));
        assert_eq!(met(Budget::Floor(20.0)), Some(true));
        assert_eq!(met(Budget::Ceiling(19.0)), Some(false));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1.234, 12.34, 123.4, 1234.0, 1_234_567.8].map(number),
            ["1.23", "12.3", "123", "1 234", "1 234 568"]
        );
    }
}
