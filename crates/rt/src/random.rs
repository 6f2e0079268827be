//! Randomness: from the kernel on `os`, from the seed in the simulator.

use std::cell::RefCell;
use std::sync::OnceLock;

use crate::sim;

/// A small, fast, seedable generator (xoshiro256++). Not for secrets.
///
/// Public because tests and workloads want one whose seed they hold.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    pub fn seeded(seed: u64) -> Rng {
        // splitmix64, as the authors of xoshiro recommend: a plain small seed would start poorly.
        let mut z = seed;
        let state = std::array::from_fn(|_| {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(z)
        });
        Rng { state }
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0..bound` (bias below 2^-64 times `bound`).
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no member");
        match (high - low).checked_add(1) {
            Some(count) => low + self.below(count),
            None => self.next_u64(),
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        // Draws even when the answer is certain, so that turning a fault off does not shift the rest.
        let draw = (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        draw < p
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// The finaliser of splitmix64: spreads every input bit over all output bits.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

thread_local! {
    /// Seeded once a thread from the kernel: jitter and sampling need no system call each.
    static GENERATOR: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// A random number for jitter, sampling and spreading. Not for secrets.
pub fn random_u64() -> u64 {
    if sim::is_active() {
        return sim::here().0.world().random();
    }
    GENERATOR.with_borrow_mut(|slot| {
        slot.get_or_insert_with(|| {
            let mut seed = [0; 8];
            kernel_random(&mut seed);
            Rng::seeded(u64::from_le_bytes(seed))
        })
        .next_u64()
    })
}

/// A number drawn once for the machine that asks (a process, or a node of the simulator), the same as long as it lives: to
/// spread over time what all machines do alike.
pub fn machine_u64() -> u64 {
    static OF_PROCESS: OnceLock<u64> = OnceLock::new();
    match sim::is_active() {
        true => mix(u64::from(sim::here().1.node.0) + 1),
        false => *OF_PROCESS.get_or_init(random_u64),
    }
}

/// Random bytes fit for identifiers and keys. Cost on `os`: a system call.
pub fn random_bytes(bytes: &mut [u8]) {
    if sim::is_active() {
        let mut words = std::iter::repeat_with(random_u64);
        for chunk in bytes.chunks_mut(8) {
            let word = words.next().expect("an endless iterator").to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        return;
    }
    kernel_random(bytes);
}

/// A random (version 4) UUID.
pub fn random_uuid() -> uuid::Uuid {
    let mut bytes = [0; 16];
    random_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn kernel_random(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length describe one live, writable slice.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(count) => bytes = &mut std::mem::take(&mut bytes)[count..],
            Err(_) => {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "getrandom: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_matches_its_published_stream() {
        // xoshiro256++ with state 1, 2, 3, 4, as in the reference implementation's first outputs.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], [41943041, 58720359, 3588806011781223]);
    }

    #[test]
    fn draws_stay_in_their_range() {
        let mut rng = Rng::seeded(7);
        for _ in 0..1000 {
            assert!(rng.below(10) < 10);
            assert!((5..=6).contains(&rng.between(5, 6)));
            assert!(!rng.chance(0.0) && rng.chance(1.0));
        }
        assert_eq!(rng.between(3, 3), 3);
        rng.between(0, u64::MAX);
    }

    #[test]
    fn uuids_differ_and_say_version_four() {
        let (a, b) = (random_uuid(), random_uuid());
        assert_ne!(a, b);
        assert_eq!(a.get_version_num(), 4);
    }
}
