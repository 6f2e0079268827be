//! The hash that placement is built on. A format: a change of it moves every object.
//!
//! Ours, small and fixed, because a library's hash may change under us. Words are little-endian and
//! the last one is padded with zeros; the length goes in first, so that padding cannot collide.
//!
//! ```text
//!   h = mix(seed + length);  for each word: h = mix(h ^ word)
//! ```
//! `mix` is the finaliser of splitmix64 with its increment, a bijection in which every input bit
//! reaches every output bit. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators" (2014).

/// What a hash is for, so that equal inputs with different purposes do not give equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Object to its first placement group.
    Object = 1,
    /// Placement group and slot to a sequence of draws.
    Draw = 2,
    /// Dkey to a group of its object.
    Dkey = 3,
    /// The digest of a layout.
    Digest = 4,
    /// Placement group, slot and domain to a claim, where draws found nothing.
    Claim = 5,
}

/// Hashes bytes.
pub fn of_bytes(purpose: Purpose, bytes: &[u8]) -> u64 {
    let mut h = start(purpose, bytes.len());
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        h = mix(h ^ u64::from_le_bytes(word.try_into().expect("chunks of exactly eight")));
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        h = mix(h ^ u64::from_le_bytes(last));
    }
    h
}

/// Hashes words; the same as [`of_bytes`] of their little-endian bytes.
pub fn of_words(purpose: Purpose, words: &[u64]) -> u64 {
    words.iter().fold(start(purpose, words.len() * 8), |h, word| mix(h ^ word))
}

/// The number at `index` of the stream that `seed`, a hash itself, stands for.
pub fn of_pair(seed: u64, index: u64) -> u64 {
    mix(seed ^ mix(index))
}

/// Maps a hash to `0..bound` without the bias of a remainder towards small numbers of low entropy.
pub fn scale(hash: u64, bound: u32) -> u32 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u32
}

fn start(purpose: Purpose, bytes: usize) -> u64 {
    mix(((purpose as u64) << 56).wrapping_add(bytes as u64))
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// splitmix64 with seed 0 gives 0xe220a8397b1dcdaf first: the published stream.
    #[test]
    fn mix_is_splitmix64() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn words_and_their_bytes_hash_alike() {
        let words = [3u64, u64::MAX, 0x0123_4567_89ab_cdef];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(of_words(Purpose::Draw, &words), of_bytes(Purpose::Draw, &bytes));
    }

    #[test]
    fn length_and_purpose_matter() {
        assert_ne!(of_bytes(Purpose::Dkey, b"a"), of_bytes(Purpose::Dkey, b"a\0"));
        assert_ne!(of_bytes(Purpose::Dkey, b"a"), of_bytes(Purpose::Object, b"a"));
    }

    /// Golden values: if this fails, every stored object has moved.
    #[test]
    fn hashes_are_golden() {
        let golden = [
            (Purpose::Dkey, &b""[..], GOLDEN[0]),
            (Purpose::Dkey, b"a", GOLDEN[1]),
            (Purpose::Dkey, b"12345678", GOLDEN[2]),
            (Purpose::Object, b"a longer name than one word", GOLDEN[3]),
        ];
        for (purpose, bytes, expected) in golden {
            assert_eq!(of_bytes(purpose, bytes), expected, "{:#018x}", of_bytes(purpose, bytes));
        }
    }
    const GOLDEN: [u64; 4] =
        [0x0f95_1287_9584_7418, 0x7224_6856_c8b8_3532, 0x3505_6cb6_3e84_c7f6, 0x64b3_0f57_8a5c_a2b7];

    #[test]
    fn scaling_covers_the_range_evenly() {
        let mut counts = [0u32; 7];
        for i in 0..70_000u64 {
            counts[scale(of_words(Purpose::Dkey, &[i]), 7) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (9_500..10_500).contains(&n)), "{counts:?}");
    }
}
