//! How soon a server that falls silent is taken for dead, and with it all that waits for silent servers.
//!
//! One figure, for who sets it: the rounds of membership, the elections of the services and the leases of the placement
//! groups' leaders keep their proportions. Servers of one system need not agree: each asks for the leases that it
//! counts on, a suspicion is the suspecting server's, and who stands for election is the first that is tired of waiting.

use std::time::Duration;

use net::membership::Settings;

use crate::replication::LEASE;

/// About how long after a server falls silent the others know that it is dead, in a system of few servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection(Duration);

impl Detection {
    /// By which everything else was chosen.
    const USUAL: Duration = Duration::from_millis(1700);
    /// Below, a pause of a busy machine would count as a death; above, nobody would wait for it.
    pub const MIN: Duration = Duration::from_millis(300);
    pub const MAX: Duration = Duration::from_secs(60);

    /// `None`: out of bounds.
    pub fn new(silence: Duration) -> Option<Detection> {
        (Detection::MIN..=Detection::MAX).contains(&silence).then_some(Detection(silence))
    }

    /// The figure itself.
    pub fn silence(self) -> Duration {
        self.0
    }

    fn scaled(self, usual: Duration) -> Duration {
        usual.mul_f64(self.0.as_secs_f64() / Detection::USUAL.as_secs_f64())
    }

    pub fn membership(self) -> Settings {
        let Settings { period, round_trip, suspicion, indirect } = Settings::default();
        let (period, round_trip) = (self.scaled(period), self.scaled(round_trip));
        Settings { period, round_trip, suspicion: self.scaled(suspicion), indirect }
    }

    pub fn replicas(self) -> raft::Config {
        let usual = raft::Config::default();
        raft::Config {
            tick: self.scaled(usual.tick).min(usual.tick),
            heartbeat: self.scaled(usual.heartbeat),
            election_min: self.scaled(usual.election_min),
            election_max: self.scaled(usual.election_max),
            ..usual
        }
    }

    /// What the leader of a placement group asks its members for.
    pub fn lease(self) -> Duration {
        self.scaled(LEASE).min(LEASE)
    }
}

impl Default for Detection {
    fn default() -> Detection {
        Detection(Detection::USUAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::Lease;

    #[test]
    fn unless_told_otherwise_all_is_as_usual() {
        let usual = Detection::default();
        let (settings, config) = (Settings::default(), raft::Config::default());
        assert_eq!(usual.lease(), LEASE);
        assert_eq!((usual.membership().period, usual.membership().suspicion), (settings.period, settings.suspicion));
        assert_eq!(
            (usual.replicas().heartbeat, usual.replicas().election_max),
            (config.heartbeat, config.election_max)
        );
    }

    /// A lease that is longer than a member grants would hold nothing; a round trip is under half of a period.
    #[test]
    fn proportions_are_kept_from_end_to_end() {
        for silence in [Detection::MIN, Duration::from_millis(500), Duration::from_secs(7), Detection::MAX] {
            let detection = Detection::new(silence).unwrap();
            let (settings, config) = (detection.membership(), detection.replicas());
            assert!(settings.round_trip * 2 < settings.period, "{settings:?}");
            assert!(settings.period + settings.suspicion < silence, "{settings:?}");
            assert!(config.heartbeat < config.election_min && config.election_min < config.election_max);
            assert!(detection.lease() <= LEASE && detection.lease() < silence);
            // There is something to count on.
            assert!(Lease::of(detection.lease()).trusted() > Duration::from_millis(70));
        }
        assert_eq!(Detection::new(Duration::from_millis(100)), None);
        assert_eq!(Detection::new(Duration::from_secs(61)), None);
    }
}
