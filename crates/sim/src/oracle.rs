//! What a client may read, given what it was told of its writes (K1).

use std::collections::BTreeMap;

/// A value, or that there is none.
pub type Reading = Option<Vec<u8>>;

/// The keys one client alone writes.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    keys: BTreeMap<String, Belief>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Belief {
    /// The last write was acknowledged.
    Known(Reading),
    /// A write went without an answer. It may have happened, or a late message may still bring it:
    /// each of these is right from now on, and the key is written no more.
    Unknown(Vec<Reading>),
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    Unknown,
}

impl Oracle {
    /// May the client still write this key?
    pub fn is_known(&self, key: &str) -> bool {
        !matches!(self.keys.get(key), Some(Belief::Unknown(_)))
    }

    /// Notes a write of `value` (or a removal) to a known key.
    pub fn wrote(&mut self, key: &str, value: Reading, outcome: Outcome) {
        let before = match self.keys.get(key) {
            None => None,
            Some(Belief::Known(reading)) => reading.clone(),
            Some(Belief::Unknown(_)) => panic!("{key} is written no more"),
        };
        let belief = match outcome {
            Outcome::Acknowledged => Belief::Known(value),
            Outcome::Unknown => Belief::Unknown(vec![before, value]),
        };
        self.keys.insert(key.to_string(), belief);
    }

    /// Is `reading` a right answer?
    ///
    /// # Errors
    /// What was expected.
    pub fn judge(&self, key: &str, reading: &Reading) -> Result<(), String> {
        let right = match self.keys.get(key) {
            None => reading.is_none(),
            Some(Belief::Known(value)) => value == reading,
            Some(Belief::Unknown(possible)) => possible.contains(reading),
        };
        if right {
            return Ok(());
        }
        let expected = match self.keys.get(key) {
            None => "nothing".to_string(),
            Some(Belief::Known(value)) => show(value),
            Some(Belief::Unknown(possible)) => possible.iter().map(show).collect::<Vec<_>>().join(" or "),
        };
        Err(format!("{key} reads as {} where {expected} was promised", show(reading)))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

fn show(reading: &Reading) -> String {
    match reading {
        None => "nothing".to_string(),
        Some(bytes) => {
            let head: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("{} bytes {}", bytes.len(), head.join(""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_write_allows_both_values_and_an_answered_one_only_its_own() {
        let mut oracle = Oracle::default();
        let (a, b) = (Some(vec![1]), Some(vec![2]));
        assert!(oracle.judge("k", &None).is_ok());
        oracle.wrote("k", a.clone(), Outcome::Acknowledged);
        assert!(oracle.judge("k", &a).is_ok() && oracle.judge("k", &None).is_err());
        oracle.wrote("k", b.clone(), Outcome::Unknown);
        assert!(oracle.judge("k", &a).is_ok() && oracle.judge("k", &b).is_ok());
        assert!(oracle.judge("k", &None).is_err() && !oracle.is_known("k"));
    }
}
