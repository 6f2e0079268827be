//! Rounds, rates and random keys: what every bench needs.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figure::Samples;

/// How a run was asked for.
#[derive(Clone)]
pub struct Plan {
    /// Rounds of each measurement; the median counts.
    pub rounds: usize,
    /// Also what takes minutes and many GiB.
    pub full: bool,
    /// A directory on the disk to measure.
    pub disk: std::path::PathBuf,
    /// A directory in memory.
    pub memory: std::path::PathBuf,
}

impl Plan {
    /// Runs the sides in turns, `rounds` times, and keeps what each returns.
    pub fn in_turns<const N: usize>(&self, mut sides: [&mut dyn FnMut() -> Result<f64>; N]) -> Result<[Samples; N]> {
        let mut samples = std::array::from_fn(|_| Samples::default());
        for _ in 0..self.rounds {
            for (side, samples) in sides.iter_mut().zip(&mut samples) {
                samples.push(side()?);
            }
        }
        Ok(samples)
    }
}

/// Seconds `work` takes, and what it returns.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let value = work();
    (seconds(start.elapsed()), value)
}

fn seconds(duration: Duration) -> f64 {
    // Rates divide by this.
    duration.as_secs_f64().max(1e-9)
}

/// xorshift64*: cheap beside what is measured, and the same run every time.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The `n`th of a sequence of random-looking 16-byte keys, without keeping them.
pub fn key(n: usize) -> [u8; 16] {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(n as u64 + 0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[8..].copy_from_slice(&mix((n as u64) << 20 | 5).to_be_bytes());
    key
}
