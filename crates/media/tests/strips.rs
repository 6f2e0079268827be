//! Large payloads, written strip by strip: every byte arrives, and none that does not agree with its checksum.

mod ledger;

use std::future::Future;

use codec::checksum::{CHECKSUM_CHUNK_BYTES, Mismatch, of_chunks};
use ledger::{Dice, Ledger};
use media::{BulkSource, Error, Reservation, Store};
use rt::disk::IoBuf;
use rt::sim::{Sim, SimConfig};

const DATA_BYTES: u64 = 16 << 20;

fn with_a_store<F: Future<Output = ()> + 'static>(life: impl FnOnce(Ledger) -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(31));
    let node = sim.node("target");
    sim.run(async move {
        let sim = rt::sim::current();
        let on_node = async move {
            let ledger = Ledger::format(ledger::regions(1 << 20, DATA_BYTES), 1 << 20);
            ledger.store.start();
            life(ledger).await;
        };
        sim.spawn_on(node, on_node).await.unwrap();
    });
}

fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    std::iter::repeat_with(|| dice.below(256) as u8).take(bytes).collect()
}

/// The bytes that lie in a reservation's blocks, to the end of the last one.
async fn stored(store: &Store, reservation: &Reservation) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in reservation.extents() {
        bytes.extend_from_slice(&store.bulk_read(*extent, 0, extent.bytes() as usize, store.pin()).await.unwrap());
    }
    bytes
}

/// Free space in many pieces, of which a large payload needs several.
fn fragmented(store: &Store) -> Vec<Reservation> {
    let mut all = Vec::new();
    while let Ok(reservation) = store.reserve(300 << 10) {
        all.push(reservation);
    }
    let mut taken: Vec<_> = all.into_iter().enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, taken)| taken).collect();
    // What lies together for longer is cut, too.
    while let Ok(reservation) = store.reserve(1 << 20)
        && reservation.extents().iter().any(|extent| extent.bytes() > 300 << 10)
    {
        taken.push(reservation);
    }
    taken
}

#[test]
fn payloads_of_all_lengths_arrive_in_one_piece_or_in_many() {
    with_a_store(|ledger| async move {
        let store = &ledger.store;
        for is_fragmented in [false, true] {
            let mut most_pieces = 0;
            let taken = if is_fragmented { fragmented(store) } else { Vec::new() };
            for (n, bytes) in [1, 4096, 100_000, 131_072, 131_073, 300_000, 655_360, 1_000_001].into_iter().enumerate()
            {
                let content = content(bytes, n as u64);
                let shared = bytes::Bytes::from([&[0; 77][..], &content].concat()).slice(77..);
                let sources: [BulkSource; 2] = [IoBuf::from_slice(&content).into(), shared.into()];
                for source in sources {
                    let reservation = store.reserve(bytes as u64).unwrap();
                    most_pieces = most_pieces.max(reservation.extents().len());
                    store.bulk_write(&reservation, 0, source, Some(of_chunks(&content))).await.unwrap();
                    let found = stored(store, &reservation).await;
                    assert!(found[..bytes] == content && found[bytes..].iter().all(|byte| *byte == 0), "{bytes}");
                }
            }
            drop(taken);
            assert_eq!(most_pieces > 1, is_fragmented);
        }
        assert_eq!(store.usage().space.reserved, 0);
        ledger.store.check([]).unwrap();
    });
}

#[test]
fn a_payload_that_was_damaged_on_its_way_is_refused_and_gives_its_blocks_back() {
    with_a_store(|ledger| async move {
        let store = &ledger.store;
        let bytes = content(700_000, 5);
        let checksums = of_chunks(&bytes);
        for chunk in [0, 3, 4, 9, 21] {
            let mut damaged = bytes.clone();
            damaged[chunk * CHECKSUM_CHUNK_BYTES + 17] ^= 4;
            let reservation = store.reserve(bytes.len() as u64).unwrap();
            let source = IoBuf::from_slice(&damaged).into();
            let refused = store.bulk_write(&reservation, 0, source, Some(checksums.clone())).await;
            let Err(Error::Arrived(Mismatch::Chunk { chunk: found, stored, computed })) = refused else {
                panic!("{refused:?}")
            };
            assert!(found == chunk && stored == checksums[chunk] && computed != stored);
            // No strip from the damaged one on was written.
            let strip = chunk * CHECKSUM_CHUNK_BYTES / (128 << 10) * (128 << 10);
            rt::sleep(std::time::Duration::from_millis(100)).await;
            let found = self::stored(store, &reservation).await;
            assert!(found[..strip] == bytes[..strip] && found[strip..] != damaged[strip..]);
        }
        let reservation = store.reserve(bytes.len() as u64).unwrap();
        let source = IoBuf::from_slice(&bytes).into();
        let short = store.bulk_write(&reservation, 0, source, Some(checksums[1..].to_vec())).await;
        assert_eq!(short, Err(Error::Arrived(Mismatch::Count { expected: 22, given: 21 })));
        drop(reservation);
        assert_eq!(store.usage().space.reserved, 0);
        ledger.store.check([]).unwrap();
    });
}
