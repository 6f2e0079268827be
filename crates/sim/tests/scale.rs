//! The short form of the tables that `cargo xtask sim scale` prints: placement, detection, changes of the map, healing.

use std::time::Duration;

use net::membership::Settings;
use placement::Layout;
use sim::scale::detection::{self, Question};
use sim::scale::rebuild::{self, Assumed};
use sim::scale::{Shape, fan_out};

#[test]
fn a_pool_of_sixty_servers_is_even_and_moves_little() {
    let shape = Shape { racks: 12, servers_per_rack: 5, targets_per_server: 4 };
    let layout = Layout::new(shape.map().unwrap());
    let balance = shape.balance(&layout);
    assert!(balance.slots < 1.35 && balance.led < 1.6 && balance.server_slots < 1.2, "{balance:?}");
    // Every server outside its rack helps to rebuild one.
    assert_eq!(balance.partners, 55);
    let failed = shape.failure(&layout, u32::MAX).unwrap();
    assert_eq!(failed.slots as f64, failed.optimum, "a failure moves what the failed held, and nothing else");
    let server = shape.growth(&layout, 1, false, u32::MAX).unwrap();
    let rack = shape.growth(&layout, 5, true, u32::MAX).unwrap();
    assert!(server.ratio() < 1.25 && rack.ratio() < 1.25, "{server:?} {rack:?}");
    assert!(server.ratio() > 0.8 && rack.ratio() > 0.8, "{server:?} {rack:?}");
}

/// Of a hundred servers some die: all others know within seconds, for a dozen messages a second each, and nobody who lives is
/// taken for dead, though messages are lost and some servers get no processor for a second.
#[test]
fn a_hundred_servers_know_of_a_death_in_seconds_and_wrong_nobody() {
    let calm = Duration::from_secs(8);
    let quiet = Question {
        servers: 100,
        loss: 0.0,
        starved: 0.0,
        starved_for: Duration::from_millis(1),
        calm,
        deaths: 4,
        seed: 1,
    };
    for question in [
        quiet,
        Question { loss: 0.05, ..quiet },
        // Three probes of ten fail, and so do many ways over others: the suspects' own answers decide. Before they were asked,
        // one or two of a hundred were taken for dead in half a minute.
        Question { loss: 0.15, calm: Duration::from_secs(20), ..quiet },
        Question { starved: 0.05, starved_for: Duration::from_secs(1), ..quiet },
    ] {
        let answer = detection::ask(question);
        assert!(
            answer.p99 < Duration::from_secs(4) && answer.first > Duration::from_secs(1),
            "{question:?}: {answer:?}"
        );
        assert_eq!((answer.missed, answer.wronged), (0, 0), "{question:?}: {answer:?}");
        assert!(answer.messages > 3.0 && answer.messages < 35.0, "{question:?}: {answer:?}");
    }
}

/// Four times as many servers hear of a death later by what they are more patient, two fifths of a second, and by less than a
/// period of gossip more; each sends as many messages as before. That is why ten thousand can be asked at all.
#[test]
fn four_times_as_many_servers_know_hardly_later_and_send_no_more() {
    for loss in [0.0, 0.01] {
        let asked = |servers| {
            // A round of announcements, which are 9 s apart.
            let calm = Duration::from_millis(9_100);
            let starved_for = Duration::from_millis(1);
            let answer =
                detection::ask(Question { servers, loss, starved: 0.0, starved_for, calm, deaths: 4, seed: 7 });
            assert_eq!((answer.missed, answer.wronged), (0, 0), "{servers} servers: {answer:?}");
            answer
        };
        let (few, many) = (asked(80), asked(320));
        let settings = Settings::default();
        let patience = settings.suspicion_of(320) - settings.suspicion_of(80);
        assert_eq!(patience, Duration::from_millis(400));
        assert!(many.p50 < few.p50 + patience + settings.period, "{few:?} {many:?}");
        assert!(many.messages < few.messages * 1.1 && many.bytes < few.bytes * 1.5, "{few:?} {many:?}");
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    let starved_for = Duration::from_secs(2);
    let (calm, deaths) = (Duration::from_secs(3), 2);
    let question = Question { servers: 30, loss: 0.1, starved: 0.3, starved_for, calm, deaths, seed: 5 };
    assert_eq!(format!("{:?}", detection::ask(question)), format!("{:?}", detection::ask(question)));
}

/// What one server's failure makes is a few hundred bytes, whatever the size of the pool; all others take part in healing it.
#[test]
fn a_change_is_small_and_healing_is_shared() {
    let shape = Shape { racks: 12, servers_per_rack: 5, targets_per_server: 4 };
    let told = fan_out::exclusion(shape).unwrap();
    let wider = fan_out::exclusion(Shape { racks: 48, ..shape }).unwrap();
    assert!(told.change_bytes == wider.change_bytes && told.change_bytes < 200, "{told:?} {wider:?}");
    assert!(wider.map_bytes > 3 * told.map_bytes && (told.tree_rounds, wider.tree_rounds) == (2, 2));
    let layout = Layout::new(shape.map().unwrap());
    let assumed = Assumed { target_bytes: 1 << 40, bytes_per_second: 1 << 28 };
    let healing = rebuild::heal(shape, &layout, 4, assumed, std::time::Instant::now).unwrap();
    assert!(healing.lost == 0 && healing.moves > 4 * 100, "{healing:?}");
    assert!(healing.sources > 200 && healing.destinations > 200, "nearly all of 236 targets: {healing:?}");
    let alone = Duration::from_secs(assumed.target_bytes / assumed.bytes_per_second);
    assert!(healing.copying < alone / 10, "{healing:?}");
}
