//! Draws: for each slot of a placement group, an endless sequence of targets in which each occurs
//! in proportion to its weight, and which others do not disturb.
//!
//! # Shape
//! All targets that the map ever knew lie on a *line*, each as long as its weight, in the order in
//! which they came. A draw is a point on the line, or beyond its end, where it is drawn again. A line
//! that grows keeps all its points where they were:
//!
//! ```text
//!   level 3 draws from 0..8        |<- below: asks level 2 ->|<- 4..8: is the point ->|
//!   level 2 draws from 0..4        |<- level 1 ->|<- 2..4  ->|
//! ```
//! Each level has a stream of numbers of its own. A longer line adds a level on top; what it passes
//! down is what the level below gave before, in the same order. So a new target is drawn where there
//! was nothing, and between two draws of it everything is as it was.
//!
//! Cost: two hashes a point and at most two points a target, in the mean, however many targets there are.
//!
//! # Source
//! Ishikawa, "ASURA: Scalable and Uniform Data Distribution Algorithm for Storage Clusters" (2013).

use crate::hash::{self, Purpose};

/// Levels of a line: it is shorter than 2^40, a million targets of the greatest weight.
const LEVELS: usize = 40;

/// The targets on their line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Where each target ends.
    ends: Vec<u64>,
    /// The line lies within `0..2^level`.
    level: u32,
    /// First target that reaches into each stretch of `2^shift`.
    stretches: Vec<u32>,
    shift: u32,
}

impl Line {
    /// A line of targets of these weights, in the order of the map.
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Line {
        let mut ends = Vec::new();
        let mut end = 0u64;
        for weight in weights {
            end += u64::from(weight);
            ends.push(end);
        }
        assert!(end > 0 && end < 1 << (LEVELS - 1), "a map has targets, and not too many");
        let level = end.next_power_of_two().trailing_zeros();
        // About as many stretches as targets, so that looking one up is a step or two.
        let shift = level.saturating_sub((ends.len() as u64).next_power_of_two().trailing_zeros());
        let mut stretches = Vec::with_capacity((end >> shift) as usize + 1);
        let mut position = 0usize;
        for stretch in 0..=(end - 1) >> shift {
            while ends[position] <= stretch << shift {
                position += 1;
            }
            stretches.push(u32::try_from(position).expect("a map has at most a million targets"));
        }
        Line { ends, level, stretches, shift }
    }

    /// The target that covers a point; `None` beyond the end.
    fn at(&self, point: u64) -> Option<u32> {
        let mut position = *self.stretches.get((point >> self.shift) as usize)?;
        while *self.ends.get(position as usize)? <= point {
            position += 1;
        }
        Some(position)
    }
}

/// The sequence of one slot of a placement group.
pub(crate) struct Draws<'a> {
    line: &'a Line,
    seed: u64,
    /// How many numbers each level has given.
    given: [u32; LEVELS],
}

impl<'a> Draws<'a> {
    pub(crate) fn new(line: &'a Line, pg: u32, slot: usize) -> Draws<'a> {
        Draws { line, seed: hash::of_words(Purpose::Draw, &[pg.into(), slot as u64]), given: [0; LEVELS] }
    }

    /// The next target of the sequence, a position in the map; `None`: beyond the line, draw again.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let mut level = self.line.level;
        loop {
            let given = &mut self.given[level as usize];
            let number = hash::of_pair(self.seed, (u64::from(level) << 32) | u64::from(*given));
            *given += 1;
            if level == 0 {
                return self.line.at(0);
            }
            // The highest bits are taken: a point in 0..2^level.
            let point = number >> (64 - level);
            if point >> (level - 1) == 1 {
                return self.line.at(point);
            }
            level -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(weights: &[u32], pg: u32, count: usize) -> Vec<u32> {
        let line = Line::new(weights.iter().copied());
        let mut draws = Draws::new(&line, pg, 0);
        std::iter::from_fn(|| Some(draws.next())).flatten().take(count).collect()
    }

    #[test]
    fn points_are_looked_up_on_the_line() {
        let line = Line::new([3, 1, 10, 2].into_iter());
        let found: Vec<u32> = (0..16).map(|point| line.at(point).unwrap()).collect();
        assert_eq!(found, [0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3]);
        assert_eq!(line.at(16), None);
        assert_eq!(line.at(1 << 30), None);
    }

    #[test]
    fn targets_are_drawn_by_weight() {
        let mut counts = [0u32; 3];
        for pg in 0..4000 {
            sequence(&[1, 2, 5], pg, 2).iter().for_each(|&t| counts[t as usize] += 1);
        }
        for (count, expected) in counts.iter().zip([1000u32, 2000, 5000]) {
            assert!(count.abs_diff(expected) < 150, "{counts:?}");
        }
    }

    /// However the line grows, over powers of two as well: without the new one, all is as before.
    #[test]
    fn a_target_more_takes_its_draws_and_leaves_the_others_as_they_were() {
        let mut weights = vec![2];
        for new in 1..40u32 {
            let pg = new * 7;
            let before = sequence(&weights, pg, 30);
            weights.push(1 + new % 5);
            let after = sequence(&weights, pg, 60);
            let others: Vec<u32> = after.into_iter().filter(|&t| t != new).take(30).collect();
            assert_eq!(others[..], before[..others.len()], "{new}");
        }
    }

    /// Golden: if this fails, every stored object has moved.
    #[test]
    fn draws_are_golden() {
        assert_eq!(sequence(&[1; 20], 7, 12), GOLDEN);
    }
    const GOLDEN: [u32; 12] = [17, 6, 3, 1, 1, 18, 2, 1, 15, 6, 2, 11];
}
