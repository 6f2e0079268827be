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

impl Belief {
    fn possible(&self) -> Vec<Reading> {
        match self {
            Belief::Known(reading) => vec![reading.clone()],
            Belief::Unknown(possible) => possible.clone(),
        }
    }
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

    /// Notes that the container went back to where `then` was known.
    ///
    /// A write that was never answered may still arrive after it.
    pub fn went_back(&mut self, then: &Oracle, outcome: Outcome) {
        let names: Vec<String> = self.keys.keys().chain(then.keys.keys()).cloned().collect();
        for name in names {
            let nothing = Belief::Known(None);
            let (now, then) = (self.keys.get(&name).unwrap_or(&nothing), then.keys.get(&name).unwrap_or(&nothing));
            let belief = match (now, outcome) {
                (Belief::Known(_), Outcome::Acknowledged) => then.clone(),
                (now, _) if now == then => now.clone(),
                (now, _) => {
                    let mut possible = now.possible();
                    possible.extend(then.possible());
                    Belief::Unknown(possible)
                }
            };
            self.keys.insert(name, belief);
        }
    }

    /// Whether the key surely reads otherwise here than in `other`.
    pub fn differs(&self, other: &Oracle, key: &str) -> bool {
        match (self.keys.get(key), other.keys.get(key)) {
            (Some(Belief::Known(one)), Some(Belief::Known(two))) => one != two,
            (Some(Belief::Known(one)), None) | (None, Some(Belief::Known(one))) => one.is_some(),
            _ => false,
        }
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

    #[test]
    fn going_back_brings_back_what_was_known_but_no_certainty_about_lost_writes() {
        let (a, b) = (Some(vec![1]), Some(vec![2]));
        let mut then = Oracle::default();
        then.wrote("k", a.clone(), Outcome::Acknowledged);
        let mut now = then.clone();
        now.wrote("k", b.clone(), Outcome::Acknowledged);
        now.wrote("new", b.clone(), Outcome::Acknowledged);
        now.wrote("lost", b.clone(), Outcome::Unknown);
        assert!(now.differs(&then, "k") && now.differs(&then, "new") && !now.differs(&then, "lost"));
        let mut doubtful = now.clone();
        now.went_back(&then, Outcome::Acknowledged);
        assert!(now.judge("k", &a).is_ok() && now.judge("k", &b).is_err() && now.judge("new", &None).is_ok());
        assert!(now.judge("lost", &None).is_ok() && now.judge("lost", &b).is_ok() && !now.is_known("lost"));
        doubtful.went_back(&then, Outcome::Unknown);
        assert!(doubtful.judge("k", &a).is_ok() && doubtful.judge("k", &b).is_ok());
    }
}
