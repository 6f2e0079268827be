//! Large values in `vos` alone: arrays of 1 MiB through the bulk path, a few under way, beside the same bytes
//! written and read without a store.
//!
//! History is kept, so each round lands where nothing was ever written. The first baseline does the same; the
//! second writes over what it wrote before.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use codec::crc32c;
use rt::disk::IoBuf;
use types::{CHECKSUM_CHUNK_BYTES, Conditions, Epoch, Extent, Key};
use vos::{AkeyRead, AkeyWrite, Origin, Payload, ReadWhat, Source, Update, ValueWrite};

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Plan, key};
use crate::peers::disk::BareDisk;
use crate::peers::memory;
use crate::place::Place;
use crate::store::{CONTAINER, Sizes, Vos};

const MIB: usize = 1 << 20;
const GIB: f64 = (1u32 << 30) as f64;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = large(plan, Place::Memory)?;
    figures.extend(large(plan, Place::Disk)?);
    Ok(figures)
}
/// Requests for large values under way.
const DEPTH: usize = 4;
/// What large values consist of.
const FILL: u8 = 0x5a;
/// Large values of one round.
const LARGE: usize = 512;

/// Arrays of 1 MiB by the bulk path.
fn large(plan: &Plan, place: Place) -> Result<Vec<Figure>> {
    let directory = place.directory(plan)?;
    let sizes = Sizes { log: 64 << 20, data: 4 << 30, pages: 64 << 20 };
    let mut bare = BareDisk::create(directory.path(), LARGE)?;
    let [mut writes, mut reads, mut fresh_writes, mut raw_writes, mut raw_reads, mut copies] =
        std::array::from_fn(|_| Samples::default());
    let vos = Rc::new(RefCell::new(Vos::create(directory.path(), sizes)?));
    rt::block_on(async {
        let media = vos.borrow().store.media().clone();
        media.start();
        for round in 0..plan.rounds {
            // Two sets of keys in turn: a new version of one waits for no room that the last one holds.
            let first = (round % 2) * LARGE;
            let shared = vos.clone();
            writes.push(in_tasks(first, move |n| write_large(shared.clone(), n)).await?);
            fresh_writes.push(BareDisk::fresh_write_rate(directory.path(), LARGE, DEPTH)?);
            raw_writes.push(bare.write_rate(DEPTH)?);
            let shared = vos.clone();
            reads.push(in_tasks(first, move |n| read_large(shared.clone(), n)).await?);
            raw_reads.push(bare.read_rate()?);
            copies.push(memory::copy_rate(MIB));
        }
        media.stop().await?;
        anyhow::Ok(())
    })?;
    let figure = |what: &str, samples: Samples| {
        let name = format!("{what} 1 MiB, {DEPTH} under way, {}", place.name());
        Figure::new("bulk", name, Unit::GibPerSecond, samples).budget(Budget::Times(0.9))
    };
    let mut write = figure("update", writes)
        .beside("raw, where nothing was written", fresh_writes)
        .beside("raw, written before", raw_writes);
    let mut read = figure("fetch", reads).beside("raw", raw_reads);
    if place == Place::Memory {
        (write, read) = (write.beside("copy in memory", copies.clone()), read.beside("copy in memory", copies));
        write = write.beside_published("DAOS", 2.9, 3.5);
        read = read.beside_published("DAOS", 10.0, 10.8);
    }
    Ok(vec![write, read])
}

/// GiB/s of [`LARGE`] operations, [`DEPTH`] at a time.
async fn in_tasks<F: Future<Output = Result<()>> + 'static>(
    first: usize,
    each: impl Fn(usize) -> F + Clone + 'static,
) -> Result<f64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..DEPTH)
        .map(|task| {
            let each = each.clone();
            rt::spawn_local(async move {
                for n in (task..LARGE).step_by(DEPTH) {
                    each(first + n).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.context("a task ended early")??;
    }
    Ok((LARGE * MIB) as f64 / GIB / start.elapsed().as_secs_f64())
}

async fn write_large(vos: Rc<RefCell<Vos>>, n: usize) -> Result<()> {
    // A request's buffer comes filled from the network. Here all have the same bytes, so that one the thread used
    // before has them already.
    let mut buffer = IoBuf::for_read(MIB);
    if buffer[..64] != [FILL; 64] {
        buffer.fill(FILL);
    }
    let checksums = vec![crc32c(&[FILL; CHECKSUM_CHUNK_BYTES]); MIB / CHECKSUM_CHUNK_BYTES];
    let dkey = Key::new(key(n).to_vec())?;
    let media = vos.borrow().store.media().clone();
    let reservation = vos.borrow_mut().store.reserve_bulk(CONTAINER, MIB as u64)?;
    let live = reservation.media().context("a reservation that was just made")?;
    media.bulk_write(live, 0, buffer.into(), Some(checksums.clone())).await?;
    let lsn = {
        let mut vos = vos.borrow_mut();
        vos.epoch += 1;
        let payload = Payload::Bulk { at: &reservation, bytes: MIB as u64, checksums: &checksums };
        let extents = [(Extent { start: 0, count: MIB as u64 }, payload)];
        let Vos { store, object, akey, epoch, .. } = &mut *vos;
        let akeys = [AkeyWrite { akey, value: ValueWrite::Array { record_bytes: 1, extents: &extents } }];
        let update = Update { group: 0, oid: *object, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        store.update(CONTAINER, Epoch(*epoch), Origin::default(), &update)?
    };
    Ok(media.durable(lsn).await?)
}

async fn read_large(vos: Rc<RefCell<Vos>>, n: usize) -> Result<()> {
    let dkey = Key::new(key(n).to_vec())?;
    let media = vos.borrow().store.media().clone();
    let plan = {
        let mut vos = vos.borrow_mut();
        let Vos { store, object, akey, .. } = &mut *vos;
        let extents = [Extent { start: 0, count: MIB as u64 }];
        let reads = [AkeyRead { akey, what: ReadWhat::Array(&extents) }];
        store.fetch(CONTAINER, Epoch::MAX, 0, *object, &dkey, &reads, Conditions::None)?
    };
    let mut bytes = 0;
    for piece in plan.akeys.iter().flat_map(|akey| &akey.pieces) {
        let Source::Bulk { extents, .. } = &piece.source else { bail!("a large value that is not bulk data") };
        for extent in extents {
            let length = (extent.blocks as usize) * media::BLOCK_BYTES;
            bytes += media.bulk_read(*extent, 0, length, media.pin()).await?.len();
        }
    }
    anyhow::ensure!(bytes == MIB, "{bytes} bytes came back");
    Ok(())
}
