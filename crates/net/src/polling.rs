//! Looking a little longer before going to sleep.
//!
//! Waking a thread on another core costs some 20 us here; an answer often comes sooner than that. A
//! link that was busy just now looks at its socket again and again for up to the window before
//! its thread sleeps. Between two looks the thread's other tasks run, so nothing waits for a spin;
//! and an idle process sleeps.
//!
//! Off until [`set_spin`]: with a peer on the *same* core, spinning keeps it from answering, and
//! a round trip takes two windows instead of two switches.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rt::stream::ReadHalf;

/// The window of all links, in microseconds; 0: never spin.
static WINDOW_MICROS: AtomicU32 = AtomicU32::new(0);

/// A window that pays when there is a core to spare: two wake-ups across cores. A shorter one never
/// pays here: both ends have to be awake at once, and while the peer is still being woken (25 us)
/// a spin of 20 us has already given up. Measured at depth 1: asleep 96 us, 20 us 97, 50 us 25.
pub const SPIN_WINDOW: Duration = Duration::from_micros(50);

/// Longest window accepted: beyond it a core would be burnt for a rare gain.
const WINDOW_MAX: Duration = Duration::from_millis(1);

/// Sets how long the links of this process spin before they sleep; zero, the default, is never.
///
/// For a host that knows that its busy threads (targets, clients in the same machine) are fewer than
/// the cores they may run on: `set_spin(SPIN_WINDOW)`.
pub fn set_spin(window: Duration) {
    WINDOW_MICROS.store(window.min(WINDOW_MAX).as_micros() as u32, Ordering::Relaxed);
}

/// Spins in vain, one after another, after which a link stops spinning.
const MISSES_MAX: u8 = 3;

/// Reads without a spin before it is tried once more; doubled by each try in vain. The wasted tries
/// of a link for which spinning is wrong cost it less than a thousandth in the end.
const PAUSE_MIN: u16 = 64;
const PAUSE_MAX: u16 = 1 << 14;

/// One link's experience with spinning.
///
/// Data that comes soon after going to sleep proves nothing: a peer on the same core answers soon
/// *because* this thread sleeps. Only trying tells.
#[derive(Debug, Default)]
pub(crate) struct Spinner {
    /// Spins in vain since the last that paid.
    misses: u8,
    /// Reads still to be done without a spin.
    pause: u16,
    /// What `pause` was set to last.
    paused: u16,
}

impl Spinner {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        WINDOW_MICROS.load(Ordering::Relaxed) > 0
    }

    /// Reads as `half.read` does. Cancel-safe.
    pub(crate) async fn read(&mut self, half: &mut ReadHalf, into: &mut [u8]) -> io::Result<usize> {
        if self.pause > 0 {
            self.pause -= 1;
            return half.read(into).await;
        }
        let window = Duration::from_micros(WINDOW_MICROS.load(Ordering::Relaxed).into());
        let end = rt::now() + window;
        loop {
            match half.read_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if rt::now() >= end {
                        break;
                    }
                    rt::yield_now().await;
                }
                outcome => {
                    *self = Spinner::default();
                    return outcome;
                }
            }
        }
        self.miss();
        half.read(into).await
    }

    fn miss(&mut self) {
        self.misses = self.misses.saturating_add(1);
        if self.misses >= MISSES_MAX {
            self.paused = (self.paused * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.pause = self.paused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_never_wins_hardly_ever_spins() {
        let mut spinner = Spinner::default();
        let (mut reads, mut spins) = (0, 0);
        while reads < 1_000_000 {
            reads += 1;
            if spinner.pause > 0 {
                spinner.pause -= 1;
            } else {
                spins += 1;
                spinner.miss();
            }
        }
        assert!(spins < 100, "{spins}");
    }
}
