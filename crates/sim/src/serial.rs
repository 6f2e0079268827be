//! What clients saw of several keys at once, and whether one order of whole operations can explain it (K4).
//!
//! Operations touch akeys of one dkey, together. Every write has a value of its own, so that a read says whose it saw; and
//! the stores say, when all is over, in which order the values of a key came: by their epochs. From that follows what
//! must have come before what:
//!
//! - a write, before whoever read its value;
//! - who read a value, before the write of the next one, and who found nothing, before the first write;
//! - a write, before those of later epochs.
//!
//! Operations are in an order if and only if these edges, and those of the [`Guarantee`], have no cycle. A read that saw
//! half a write is a cycle of two.

use std::collections::BTreeMap;

use rt::Instant;
use types::Epoch;

/// What happened at once.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub client: u64,
    pub dkey: String,
    pub began: Instant,
    /// `None`: nobody knows whether it happened, or when.
    pub ended: Option<Instant>,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// Akeys, and what was found.
    Read(Vec<(String, Option<String>)>),
    /// Akeys that all got this value.
    Write(Vec<String>, String),
}

/// Values of a dkey and akey, oldest first.
pub type Versions = BTreeMap<(String, String), Vec<(Epoch, String)>>;

/// Which order is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Of one dkey: what ended comes before what began later, whoever asked.
    Strict,
    /// Of all dkeys: what one client did comes before what it did later. What two clients did at different leaders,
    /// without a word between them, may have epochs in another order than time: clocks differ by some milliseconds.
    Session,
}

/// # Errors
/// The operations of a cycle; or a value that was read and is nowhere.
pub fn check(all: &[Transaction], versions: &Versions) -> Result<(), String> {
    let mut dkeys: BTreeMap<&str, Vec<&Transaction>> = BTreeMap::new();
    for transaction in all {
        dkeys.entry(&transaction.dkey).or_default().push(transaction);
    }
    for of_one in dkeys.values() {
        order(of_one, versions, Guarantee::Strict)?;
    }
    order(&all.iter().collect::<Vec<_>>(), versions, Guarantee::Session)
}

fn order(all: &[&Transaction], versions: &Versions, guarantee: Guarantee) -> Result<(), String> {
    let mut graph = Graph { after: vec![Vec::new(); all.len()] };
    let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, transaction) in all.iter().enumerate() {
        if let What::Write(_, value) = &transaction.what {
            assert!(writers.insert(value, at).is_none(), "{value} is written once");
        }
    }
    // Writes by their epochs, whichever keys they are of.
    let mut epochs: BTreeMap<Epoch, usize> = BTreeMap::new();
    for (epoch, value) in versions.values().flatten() {
        if let Some(writer) = writers.get(value.as_str()) {
            epochs.insert(*epoch, *writer);
        }
    }
    for (before, after) in epochs.values().zip(epochs.values().skip(1)) {
        graph.edge(*before, *after);
    }
    for (at, transaction) in all.iter().enumerate() {
        let What::Read(seen) = &transaction.what else { continue };
        for (akey, value) in seen {
            let known = versions.get(&(transaction.dkey.clone(), akey.clone())).map_or(&[][..], Vec::as_slice);
            let next = match value {
                None => 0,
                Some(value) => {
                    let place = known.iter().position(|(_, stored)| stored == value);
                    let place = place.ok_or_else(|| format!("{value} was read and is not stored: {transaction:?}"))?;
                    graph.edge(writers[value.as_str()], at);
                    place + 1
                }
            };
            if let Some(next) = known.get(next).and_then(|(_, value)| writers.get(value.as_str())) {
                graph.edge(at, *next);
            }
        }
    }
    match guarantee {
        Guarantee::Strict => graph.add_time(all),
        Guarantee::Session => graph.add_sessions(all),
    }
    graph.cycle().map_or(Ok(()), |cycle| {
        let cycle: Vec<_> = cycle.iter().filter_map(|at| all.get(*at)).collect();
        Err(format!("no order ({guarantee:?}) explains {cycle:#?}"))
    })
}

/// What comes before what; nodes beyond the operations are moments.
struct Graph {
    after: Vec<Vec<usize>>,
}

impl Graph {
    fn edge(&mut self, before: usize, after: usize) {
        if before != after {
            self.after[before].push(after);
        }
    }

    /// A chain of moments, so that edges are as many as operations and not as pairs of them.
    fn add_time(&mut self, all: &[&Transaction]) {
        let mut ends: Vec<(Instant, usize)> =
            all.iter().enumerate().filter_map(|(at, one)| Some((one.ended?, at))).collect();
        ends.sort();
        let first = self.after.len();
        self.after.resize(first + ends.len(), Vec::new());
        for (place, (_, at)) in ends.iter().enumerate() {
            self.edge(*at, first + place);
            if place > 0 {
                self.edge(first + place - 1, first + place);
            }
        }
        for (at, one) in all.iter().enumerate() {
            let earlier = ends.partition_point(|(end, _)| *end < one.began);
            if earlier > 0 {
                self.edge(first + earlier - 1, at);
            }
        }
    }

    fn add_sessions(&mut self, all: &[&Transaction]) {
        let mut last: BTreeMap<u64, usize> = BTreeMap::new();
        let mut by_time: Vec<usize> = (0..all.len()).collect();
        by_time.sort_by_key(|at| all[*at].began);
        for at in by_time {
            let one = all[at];
            if let Some(before) = last.get(&one.client) {
                self.edge(*before, at);
            }
            // What was never answered may happen later than what came after it.
            if one.ended.is_some() {
                last.insert(one.client, at);
            }
        }
    }

    /// Some cycle, if there is one.
    fn cycle(&self) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.after.len()];
        for root in 0..self.after.len() {
            // The way down to where we are, and the next edge to take at each of it.
            let mut way: Vec<(usize, usize)> = Vec::new();
            if marks[root] == Mark::New {
                marks[root] = Mark::Open;
                way.push((root, 0));
            }
            while let Some((node, edge)) = way.last_mut() {
                match self.after[*node].get(*edge) {
                    None => {
                        marks[*node] = Mark::Done;
                        way.pop();
                    }
                    Some(next) => {
                        *edge += 1;
                        match marks[*next] {
                            Mark::Done => {}
                            Mark::New => {
                                marks[*next] = Mark::Open;
                                way.push((*next, 0));
                            }
                            Mark::Open => {
                                return Some(
                                    way.iter().map(|(node, _)| *node).skip_while(|node| node != next).collect(),
                                );
                            }
                        }
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"1 w a,b=x 0-5 @3"`: client, what, from, to (none: unanswered), epoch of what is stored.
    fn parse(line: &str, versions: &mut Versions) -> Transaction {
        let words: Vec<&str> = line.split(' ').collect();
        let (dkey, what) = words[2].split_once('/').unwrap();
        let (keys, value) = what.split_once('=').unwrap();
        let (from, to) = words[3].split_once('-').unwrap();
        let at = |text: &str| Instant::from_nanos(text.parse().unwrap());
        let what = match words[1] {
            "w" => {
                for akey in keys.split(',').filter(|_| words.len() > 4) {
                    let of_key = versions.entry((dkey.into(), akey.into())).or_default();
                    of_key.push((Epoch(words[4][1..].parse().unwrap()), value.into()));
                    of_key.sort();
                }
                What::Write(keys.split(',').map(Into::into).collect(), value.into())
            }
            _ => {
                let values = value.split(',').map(|value| (value != "-").then(|| value.to_string()));
                What::Read(keys.split(',').map(Into::into).zip(values).collect())
            }
        };
        Transaction {
            client: words[0].parse().unwrap(),
            dkey: dkey.into(),
            began: at(from),
            ended: (!to.is_empty()).then(|| at(to)),
            what,
        }
    }

    fn check(lines: &[&str]) -> Result<(), String> {
        let mut versions = Versions::new();
        let all: Vec<_> = lines.iter().map(|line| parse(line, &mut versions)).collect();
        super::check(&all, &versions)
    }

    #[test]
    fn what_one_order_explains_is_right() {
        check(&["1 w d/a,b=x 0-5 @3", "2 r d/a,b=x,x 6-7"]).unwrap();
        check(&["1 w d/a,b=x 0-5 @3", "2 r d/a,b=-,- 1-9", "2 r d/a,b=x,x 10-11"]).unwrap();
        check(&["1 w d/a=x 0- @3", "2 r d/a=- 6-7", "2 r d/a=x 8-9"]).unwrap();
        check(&["1 w d/a=x 0-", "2 r d/a=- 6-7"]).unwrap();
        // Two leaders whose clocks differ, and nobody who saw both.
        check(&["1 w d/a=x 0-1 @9", "2 w e/a=y 2-3 @5", "3 r e/a=y 4-5"]).unwrap();
    }

    #[test]
    fn what_no_order_explains_is_found() {
        for (lines, why) in [
            (&["1 w d/a,b=x 0-5 @3", "2 r d/a,b=x,- 1-4"][..], "half a write"),
            (&["1 w d/a=x 0-5 @3", "2 r d/a=- 6-7"], "too old"),
            (&["1 w d/a=x 0-5 @3", "2 r d/a=x 1-2", "3 r d/a=- 3-4"], "gone again"),
            (&["1 w d/a=x 0-1 @5", "2 w d/a=y 2-3 @4"], "the later one has the smaller epoch"),
            (&["1 w d/a=x 0-1 @5", "1 w e/a=y 2-3 @4"], "the same, by one client at two leaders"),
            (&["1 w d/a,b=x 0-9 @3", "2 w d/a,b=y 0-9 @4", "3 r d/a,b=x,y 0-9"], "halves of two"),
            (&["1 w d/a=x 0-", "2 r d/a=x 6-7"], "not stored"),
        ] {
            assert!(check(lines).is_err(), "{why}");
        }
    }
}
