//! Fault points: named places where a test may make the impossible happen.
//!
//! `if rt::fault!("media.log.append") { return Err(..) }` costs one relaxed load when nothing is
//! armed anywhere in the process. Armed points belong to the context that armed them: the process
//! on `os`, the one simulation in the simulator.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::sim;

/// True if the fault of this name shall happen now.
#[macro_export]
macro_rules! fault {
    ($name:expr) => {
        $crate::fault::happens($name)
    };
}

/// When an armed fault happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// Each time with this probability.
    Chance(f64),
    /// After `skip` quiet passes, the next `times` times.
    Count { skip: u64, times: u64 },
}

impl When {
    /// The next time, once.
    pub const ONCE: When = When::Count { skip: 0, times: 1 };

    /// Asks once, and counts it.
    pub(crate) fn strikes(&mut self, random: impl FnOnce() -> u64) -> bool {
        match self {
            When::Chance(p) => ((random() >> 11) as f64 / (1u64 << 53) as f64) < *p,
            When::Count { skip, .. } if *skip > 0 => {
                *skip -= 1;
                false
            }
            When::Count { times, .. } => {
                let strikes = *times > 0;
                *times = times.saturating_sub(1);
                strikes
            }
        }
    }
}

/// How many points are armed in this process, over all contexts.
static ARMED: AtomicUsize = AtomicUsize::new(0);

static OF_PROCESS: Mutex<Points> = Mutex::new(Points { armed: BTreeMap::new() });

/// The armed points of one context.
pub(crate) struct Points {
    armed: BTreeMap<String, When>,
}

impl Points {
    pub(crate) const fn new() -> Points {
        Points { armed: BTreeMap::new() }
    }

    pub(crate) fn arm(&mut self, name: &str, when: When) {
        if self.armed.insert(name.to_owned(), when).is_none() {
            ARMED.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn disarm(&mut self, name: &str) {
        if self.armed.remove(name).is_some() {
            ARMED.fetch_sub(1, Relaxed);
        }
    }

    fn is_chance(&self, name: &str) -> bool {
        matches!(self.armed.get(name), Some(When::Chance(_)))
    }

    pub(crate) fn happens(&mut self, name: &str, random: impl FnOnce() -> u64) -> bool {
        self.armed.get_mut(name).is_some_and(|when| when.strikes(random))
    }
}

impl Drop for Points {
    fn drop(&mut self) {
        ARMED.fetch_sub(self.armed.len(), Relaxed);
    }
}

/// Arms the point `name` in this context, replacing how it was armed before.
pub fn arm(name: &str, when: When) {
    with_points(|points| points.arm(name, when));
}

/// Disarms the point `name` in this context.
pub fn disarm(name: &str) {
    with_points(|points| points.disarm(name));
}

/// What [`crate::fault!`] asks.
#[inline]
pub fn happens(name: &str) -> bool {
    ARMED.load(Relaxed) > 0 && is_struck(name)
}

#[cold]
fn is_struck(name: &str) -> bool {
    // Drawn only for a point that is armed here: what is armed elsewhere must not move this context's chances.
    let random = with_points(|points| points.is_chance(name)).then(crate::random_u64);
    with_points(|points| points.happens(name, || random.unwrap_or(0)))
}

fn with_points<R>(act: impl FnOnce(&mut Points) -> R) -> R {
    if sim::is_active() {
        return act(&mut sim::here().0.world().faults);
    }
    act(&mut OF_PROCESS.lock().expect("no code panics while it holds the fault points"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two simulations in one process: a point armed in one once cost the other a random number at every point it
    /// passed, so that its seed gave another trace.
    #[test]
    fn a_point_armed_in_one_simulation_leaves_the_chances_of_another_as_they_are() {
        let draw = || {
            let sim = sim::Sim::new(sim::SimConfig::seeded(1));
            sim.run(async { (crate::fault!("rt.elsewhere"), crate::random_u64()) })
        };
        let before = draw();
        let other = sim::Sim::new(sim::SimConfig::seeded(2));
        other.arm("rt.elsewhere", When::Chance(1.0));
        assert_eq!(draw(), before);
    }

    #[test]
    fn an_unarmed_point_is_quiet_and_an_armed_one_counts() {
        assert!(!crate::fault!("rt.test"));
        arm("rt.test", When::Count { skip: 1, times: 2 });
        let seen: Vec<bool> = (0..5).map(|_| crate::fault!("rt.test")).collect();
        assert_eq!(seen, [false, true, true, false, false]);
        arm("rt.test", When::Chance(1.0));
        assert!(crate::fault!("rt.test") && !crate::fault!("rt.other"));
        disarm("rt.test");
        assert!(!crate::fault!("rt.test"));
    }
}
