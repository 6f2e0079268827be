//! Clocks that agree and do not, and what a server makes of it.

use super::*;

const SECOND: i64 = 1_000_000;
/// When the monotonic clock stands at zero, ours and everybody's calendar stands here.
const LEAD: i64 = 1_700_000_000 * SECOND;

/// What a server hears at a moment of its monotonic clock from ranks 1 and on, whose calendars are so far ahead of what is
/// right, each way taking 1 ms.
fn hear(clocks: &mut Clocks, now: i64, ahead: &[i64]) {
    for (rank, ahead) in (1..).zip(ahead) {
        let there = (LEAD + now - 1000 + ahead) as u64;
        let exchange = Exchange { sent: (now - 2000) as u64, came: now as u64, received: there, answered: there };
        clocks.note(Rank(rank), exchange);
    }
}

fn others(count: u32) -> BTreeSet<Rank> {
    (1..=count).map(Rank).collect()
}

/// How a server stands that was right, or has just started, whose calendar is `mine` ahead, and what it hears of as many
/// others as `ahead` has. `step`: ours was set since it was right.
fn stands(was: Standing, mine: i64, step: i64, ahead: &[i64], servers: u32) -> Standing {
    let now = 100 * SECOND;
    let mut clocks = Clocks { standing: was, ..Clocks::new(now as u64) };
    hear(&mut clocks, now, ahead);
    clocks.judge(now as u64, LEAD + mine, step, &others(servers - 1), false).standing
}

/// A server was outvoted, and then another's calendar was set to the same wrong hour. The two agreed, and were the majority
/// of three: it counted as right, and its epochs were hours ahead from then on. Seed 7031 of `clock_off`.
#[test]
fn who_was_outvoted_is_no_witness_for_itself() {
    let hour = 3600 * SECOND;
    let mut clocks = Clocks { standing: Standing::Right, ..Clocks::new(0) };
    let mut stands = |second: i64, mine: i64, ahead: &[i64]| {
        let now = second * SECOND;
        hear(&mut clocks, now, ahead);
        clocks.judge(now as u64, LEAD + mine, mine, &others(2), false).standing
    };
    assert_eq!(stands(100, hour, &[0, 0]), off(hour));
    assert_eq!(stands(120, hour, &[hour, 0]), off(hour));
    // Set right while the other is still wrong: who is right is open until that one is out.
    assert_eq!(stands(140, 0, &[hour, 0]), off(-hour));
    assert_eq!(stands(160, 0, &[0, 0]), Standing::Right);
    // Three that start together, one of them wrong: nobody is outvoted, and two agree.
    let starting = Standing::Starting { since: 0 };
    assert_eq!(self::stands(starting, 0, 0, &[hour], 3), off(-hour));
    assert_eq!(self::stands(off(-hour), 0, 0, &[hour, 0], 3), Standing::Right);
}

fn off(ahead_micros: i64) -> Standing {
    Standing::Off { ahead_micros }
}

#[test]
fn a_majority_says_who_is_right() {
    let starting = Standing::Starting { since: 100 * SECOND as u64 };
    let far = 3_200_000;
    type Case<'a> = (Standing, i64, i64, &'a [i64], u32, Standing);
    let cases: &[Case] = &[
        // Alone, nobody knows better.
        (starting, far, far, &[], 1, Standing::Right),
        (Standing::Right, far, far, &[], 1, Standing::Right),
        // Three servers.
        (starting, 0, 0, &[0, 0], 3, Standing::Right),
        (starting, 0, 0, &[far, 0], 3, Standing::Right),
        (starting, far, 0, &[0, 0], 3, off(far)),
        (starting, -far, 0, &[0, 0], 3, off(-far)),
        (starting, 3600 * SECOND, 0, &[0, 0], 3, off(3600 * SECOND)),
        (Standing::Right, 49_000, 0, &[0, 0], 3, Standing::Right),
        (Standing::Right, 52_000, 52_000, &[0, 0], 3, off(52_000)),
        // Who was right stays so, as long as no majority agrees on another time, and its calendar was not set.
        (Standing::Right, 0, 0, &[far], 3, Standing::Right),
        (Standing::Right, 0, 0, &[far, -far], 3, Standing::Right),
        (Standing::Right, far, far, &[0], 3, off(far)),
        (Standing::Right, 0, 0, &[], 3, Standing::Right),
        (Standing::Right, far, far, &[], 3, Standing::Right),
        // Who starts believes nobody who is disputed, and not itself either.
        (starting, 0, 0, &[far], 3, off(-far)),
        (starting, 0, 0, &[far], 2, off(-far)),
        (starting, 0, 0, &[], 3, starting),
        (Standing::Starting { since: 1 }, 0, 0, &[], 3, Standing::Starting { since: 1 }),
        (Standing::Starting { since: 1 }, 0, 0, &[far], 3, off(-far)),
        // Two servers: the one that was set.
        (Standing::Right, far, far, &[0], 2, off(far)),
        (Standing::Right, 0, 0, &[far], 2, Standing::Right),
        // Back again, and not while it is on the edge.
        (off(far), 0, 0, &[0, 0], 3, Standing::Right),
        (off(far), 40_000, 0, &[0, 0], 3, off(40_000)),
        (off(far), 20_000, 0, &[0, 0], 3, Standing::Right),
        (off(far), 0, 0, &[], 3, off(far)),
        // Of five, three that agree outweigh two that do.
        (Standing::Right, 0, 0, &[0, far, far, far], 5, off(-far)),
        (Standing::Right, 0, 0, &[0, 0, far, far], 5, Standing::Right),
        (starting, 0, 0, &[far, -far, 2 * far, -2 * far], 5, off(far)),
    ];
    for (number, &(was, mine, step, ahead, servers, expected)) in cases.iter().enumerate() {
        assert_eq!(stands(was, mine, step, ahead, servers), expected, "case {number}");
    }
}

/// A calendar that is set shows at once, by readings from before; and back again, too.
/// A server that is off by eight hours started while nobody answered, served after a while, and was ahead ever after. Seed
/// 12057 of `clock_off`. Only a server without which nobody can decide anything goes on alone.
#[test]
fn who_needs_others_to_decide_needs_them_to_compare() {
    let judge = |second: i64, decides| {
        let mut clocks = Clocks::new(0);
        clocks.judge((second * SECOND) as u64, LEAD, 0, &others(2), decides).standing
    };
    assert_eq!(judge(4, true), Standing::Starting { since: 0 });
    assert_eq!(judge(6, true), Standing::Right);
    assert_eq!(judge(600, false), Standing::Starting { since: 0 });
}

#[test]
fn a_jump_is_seen_without_asking_anybody() {
    let mut clocks = Clocks::new(0);
    hear(&mut clocks, 10 * SECOND, &[0, 0]);
    let mut judge = |at: i64, lead, step| clocks.judge(at as u64, lead, step, &others(2), false);
    assert_eq!(judge(11 * SECOND, LEAD, 0).standing, Standing::Right);
    assert_eq!(judge(12 * SECOND, LEAD - 60 * SECOND, -60 * SECOND).standing, off(-60 * SECOND));
    assert_eq!(judge(13 * SECOND, LEAD + 1000, 0).standing, Standing::Right);
    // What is old says nothing: nobody agrees, and epochs do not follow.
    let alone = judge(90 * SECOND, LEAD + 60 * SECOND, 60 * SECOND);
    assert_eq!(alone, Judgement { standing: Standing::Right, follows: false });
}

/// An answer that was long under way holds the truth, and is too wide to say which.
#[test]
fn a_slow_answer_fences_nobody_and_hides_nothing() {
    let now = 10 * SECOND;
    let mut clocks = Clocks::new(0);
    let slow = |ahead: i64| {
        let there = (LEAD + now - 10_000 + ahead) as u64;
        Exchange { sent: (now - 400_000) as u64, came: now as u64, received: there, answered: there }
    };
    // It was there 390 ms after it was sent, and the way back took 10 ms: the truth is at the edge of the interval.
    clocks.note(Rank(1), slow(0));
    clocks.note(Rank(2), slow(0));
    assert_eq!(clocks.judge(now as u64, LEAD, 0, &others(2), false).standing, Standing::Right);
    // A narrow one that says otherwise counts, and a wide one after it does not hide it.
    hear(&mut clocks, now, &[SECOND / 5, SECOND / 5]);
    clocks.note(Rank(1), slow(0));
    clocks.note(Rank(2), slow(0));
    assert_eq!(clocks.judge(now as u64, LEAD, 0, &others(2), false).standing, off(-SECOND / 5));
}

#[test]
fn nonsense_from_others_is_ignored() {
    let mut clocks = Clocks::new(0);
    for (received, answered) in [(0, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (5, 4), (0, i64::MAX as u64)] {
        clocks.note(Rank(1), Exchange { sent: 1, came: 2, received, answered });
    }
    let far = i64::MAX as u64;
    clocks.note(Rank(2), Exchange { sent: 0, came: far, received: 0, answered: 0 });
    clocks.note(Rank(3), Exchange { sent: 0, came: 0, received: far, answered: far });
    // An answer before the question, so far that its width has no number: it would pass for the narrowest of all.
    clocks.note(Rank(1), Exchange { sent: 1, came: 2 * SECOND as u64, received: far, answered: 0 });
    // The last is a time, if a strange one; it is one against two.
    hear(&mut clocks, 10 * SECOND, &[0]);
    assert_eq!(clocks.judge(10 * SECOND as u64, LEAD, 0, &others(2), false).standing, Standing::Right);
}

#[test]
fn an_operator_reads_how_far_it_is_off_and_what_to_do() {
    let text = |ahead| clock_off(ahead).to_string();
    let expected = "the server's clock is off by 3.2 s: it is ahead of the others': set the clock (chrony or ntpd); the server \
                    goes on by itself [DER_HLC_SYNC(-1037)]";
    assert_eq!(text(3_240_000), expected);
    assert!(text(-72_000).contains("off by 72 ms: it is behind the others'"), "{}", text(-72_000));
}
