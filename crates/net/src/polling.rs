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

/// A window that pays when there is a core to spare: about the cost of one wake-up across cores.
pub const SPIN_WINDOW: Duration = Duration::from_micros(20);

/// Longest window accepted: beyond it a core would be burnt for a rare gain.
const WINDOW_MAX: Duration = Duration::from_millis(1);

/// Sets how long the links of this process spin before they sleep; zero, the default, is never.
///
/// For a host that knows that its busy threads (targets, clients in the same machine) are fewer than
/// the cores they may run on: `set_spin(SPIN_WINDOW)`.
pub fn set_spin(window: Duration) {
    WINDOW_MICROS.store(window.min(WINDOW_MAX).as_micros() as u32, Ordering::Relaxed);
}

/// Wins in hand at most: how many spins in vain it takes to stop.
const WINS_MAX: u8 = 8;

/// One link's experience with spinning.
#[derive(Debug, Default)]
pub(crate) struct Spinner {
    /// Rises when data came within the window, falls when a spin was in vain. At zero the link only
    /// measures.
    wins: u8,
}

impl Spinner {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        WINDOW_MICROS.load(Ordering::Relaxed) > 0
    }

    /// Reads as `half.read` does. Cancel-safe.
    pub(crate) async fn read(&mut self, half: &mut ReadHalf, into: &mut [u8]) -> io::Result<usize> {
        let window = Duration::from_micros(WINDOW_MICROS.load(Ordering::Relaxed).into());
        let began = rt::now();
        while self.wins > 0 {
            match half.read_now(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if began.elapsed() >= window {
                        self.wins -= 1;
                        break;
                    }
                    rt::yield_now().await;
                }
                outcome => {
                    self.wins = WINS_MAX;
                    return outcome;
                }
            }
        }
        let outcome = half.read(into).await;
        if began.elapsed() < window {
            self.wins = (self.wins + 2).min(WINS_MAX);
        }
        outcome
    }
}
