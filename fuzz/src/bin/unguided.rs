//! The target named by `FUZZ_TARGET` under seeded mutations of the files and directories given, for
//! some seconds: for machines without a C++ compiler. Guided by nothing, it finds shallow bugs only.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{Duration, Instant};

/// Inputs mutated from one another grow no longer than this.
const INPUT_BYTES_MAX: usize = 1 << 16;

fn main() {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let target = fuzz::target(&name).unwrap_or_else(|| panic!("no fuzz target `{name}`"));
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().and_then(|text| text.parse().ok()).expect("unguided SECONDS [PATH]...");
    let mut seeds = vec![Vec::new(), vec![0; 64]];
    for path in arguments {
        read(Path::new(&path), &mut seeds);
    }
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0u64;
    while Instant::now() < end {
        for _ in 0..256 {
            let mut input = seeds[chance.below(seeds.len())].clone();
            for _ in 0..=chance.below(8) {
                chance.mutate(&mut input);
            }
            let outcome = std::panic::catch_unwind(|| target(&input));
            if outcome.is_err() {
                let file = format!("{name}-failure-{runs}");
                std::fs::write(&file, &input).expect("the failing input is written beside the corpus");
                eprintln!("{name} failed on {} bytes, kept in fuzz/{file}", input.len());
                std::process::exit(1);
            }
            runs += 1;
        }
    }
    println!("{runs} unguided");
}

/// Adds the file, or every file of the directory, to the seeds.
fn read(path: &Path, seeds: &mut Vec<Vec<u8>>) {
    if let Ok(entries) = std::fs::read_dir(path) {
        entries.flatten().for_each(|entry| read(&entry.path(), seeds));
    } else if let Ok(bytes) = std::fs::read(path) {
        seeds.push(bytes);
    }
}

/// xorshift64*: the same run every time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// One change: a bit, a byte at an edge of its range, a length, a run doubled or removed.
    fn mutate(&mut self, input: &mut Vec<u8>) {
        if input.is_empty() {
            input.push(self.next() as u8);
            return;
        }
        let at = self.below(input.len());
        let run = 1 + self.below((input.len() - at).min(32));
        match self.below(6) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            2 => input[at] = self.next() as u8,
            3 => input.truncate(at),
            4 if input.len() + run <= INPUT_BYTES_MAX => {
                let copy = input[at..at + run].to_vec();
                input.splice(at..at, copy);
            }
            _ => drop(input.drain(at..at + run)),
        }
    }
}
