//! Mending a store that nobody runs: what can be made right is, what is lost is said.
//!
//! ```text
//!   open leniently -> make heads anew -> cut pages that cannot be read out of their trees, put back what only they
//!                     led to
//!                  -> count anew -> replay the log -> remove records that are none, count anew
//!                  -> make the block space agree with what refers to it -> superblocks, checkpoint
//! ```
//!
//! # Always true
//! 1. All of it happens in memory until the end; the device changes by one recovery and one checkpoint. A
//!    repair that is cut off leaves the store as it was.
//! 2. Nothing acknowledged that can still be read is given up, unless the operator says so.
//! 3. Blocks are given back only when everything that could refer to them was read.
//!
//! # Not here
//! Containers whose entry in the catalog cannot be read, and nodes that contradict one another: they stay as they
//! are, and are found again.

use media::{Corrupt, Leaks, Place, Recovery};
use types::ContainerId;

use crate::catalog::Catalog;
use crate::check::{self, BadRecord, CheckOptions, Report, Survey};
use crate::error::Result;
use crate::finding::FindingKind;
use crate::inspect::{Known, Opened};
use crate::key::{LIFE, OBJECT_BYTES, OBJECT_FLAG};
use crate::naming::place_of;
use crate::node::Value;
use crate::salvage;
use crate::shard::Shard;
use crate::store::Store;

/// Passes over the store before records that should go are taken to be a bug of ours.
const PASSES_MAX: usize = 1000;
/// Steps listed one by one.
const MENDED_MAX: usize = 4096;

/// How far a repair may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairOptions {
    /// Look at the bytes of every value, and list so many findings at the end.
    pub check: CheckOptions,
    /// Give up what is damaged but could still be of use: values whose checksums do not hold, and log records
    /// behind a damaged place or that cannot be applied.
    pub drop_corrupt: bool,
    /// Rewrite the superblocks even if nothing else is wrong: a copy is damaged.
    pub rewrite: bool,
}

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    pub kind: FindingKind,
    pub container: Option<ContainerId>,
    pub place: String,
    /// What was done about it; begins with `lost:` when data is gone.
    pub deed: String,
}

/// What a repair did, and what is left.
#[derive(Debug)]
pub struct Repaired {
    /// The first steps, and how many there were.
    pub mended: Vec<Mended>,
    pub mended_total: u64,
    /// Why nothing was written, when something would have to be.
    pub refused: Option<String>,
    /// Something was written.
    pub is_written: bool,
    /// The store as it is now; `None` when nothing was written.
    pub left: Option<Report>,
}

/// The steps so far.
#[derive(Default)]
struct Diary {
    steps: Vec<Mended>,
    total: u64,
}

impl Diary {
    fn note(
        &mut self,
        kind: FindingKind,
        container: Option<ContainerId>,
        place: impl Into<String>,
        deed: impl Into<String>,
    ) {
        self.total += 1;
        if self.steps.len() < MENDED_MAX {
            self.steps.push(Mended { kind, container, place: place.into(), deed: deed.into() });
        }
    }
}

impl Store {
    /// Mends a store and writes a checkpoint, if there is anything to mend. `damaged` is what
    /// [`media::Store::open_damaged`] could not read.
    ///
    /// # Errors
    /// `Corrupt`: the catalog itself cannot be read; `Media`, with nothing written: of memory (raise it), or of
    /// the device.
    pub fn repair(
        media: media::Store,
        mut recovery: Recovery,
        damaged: &[Corrupt],
        options: RepairOptions,
    ) -> Result<Repaired> {
        let mut diary = Diary::default();
        let no_header = damaged.iter().any(|corrupt| corrupt.place.is_header());
        let no_bitmap = damaged.iter().any(|corrupt| !corrupt.place.is_header());
        for corrupt in damaged {
            let (kind, deed) = match corrupt.place {
                Place::LogHeader | Place::DataHeader => (FindingKind::Superblock, "written anew"),
                _ => (FindingKind::Bitmap, "derived anew"),
            };
            diary.note(kind, None, corrupt.place.to_string(), deed);
        }
        if options.rewrite {
            diary.note(FindingKind::Superblock, None, "superblocks", "both copies rewritten");
        }
        let mut rebuilt = Vec::new();
        let mut mend = |store: &mut Store, known: Known| {
            rebuilt = known.rebuilt;
            mend_trees(store, known.is_blind, &rebuilt, &mut diary)?;
            tell_rebuilt(store, &rebuilt, &mut diary);
            Ok(())
        };
        let (opened, cut) = Store::open_leniently(media, &mut recovery, Some(&mut mend))?;
        let refused = refuse(&opened, cut.is_some(), no_bitmap, options);
        let Opened { mut store, failed, end, is_blind, .. } = opened;
        if let Some(refused) = refused {
            return Ok(store.left_alone(recovery, Some(refused)));
        }
        if cut.is_some() {
            diary.note(FindingKind::Log, None, format!("log position {end}"), "lost: the records from here on");
        }
        if failed > 0 {
            diary.note(FindingKind::Replay, None, "the log", format!("lost: {failed} records that cannot be applied"));
        }
        let (media, catalog) = store.parts_ref();
        if check::survey(media, catalog, CheckOptions::default()).report.is_partial {
            // What the log did may have taken pages from under references that were wrong.
            mend_trees(&mut store, is_blind, &rebuilt, &mut diary)?;
        }
        let survey = remove_records(&mut store, options, &mut diary)?;
        let (media, catalog) = store.parts_mut();
        count_anew(media, catalog, &survey, &mut diary)?;
        let leaks = if is_blind || survey.report.is_partial { Leaks::Keep } else { Leaks::Free };
        let (given, taken) = media.mend_space(survey.bulk.iter().copied(), leaks)?;
        if taken > 0 {
            diary.note(FindingKind::Block, None, "the block space", format!("{taken} blocks in use marked as such"));
        }
        if given > 0 {
            diary.note(FindingKind::Leak, None, "the block space", format!("{given} blocks given back"));
        }
        if diary.total == 0 {
            return Ok(store.left_alone(recovery, None));
        }
        if no_header {
            media.write_headers()?;
        }
        media.finish_recovery(recovery)?;
        media.checkpoint_blocking()?;
        let left = store.check_with(options.check);
        let (mended, mended_total) = (diary.steps, diary.total);
        Ok(Repaired { mended, mended_total, refused: None, is_written: true, left: Some(left) })
    }

    /// Ends a repair that writes nothing.
    fn left_alone(self, recovery: Recovery, refused: Option<String>) -> Repaired {
        self.media().rest(recovery);
        Repaired { mended: Vec::new(), mended_total: 0, refused, is_written: false, left: None }
    }
}

/// Why a repair must not go on.
fn refuse(opened: &Opened, is_cut: bool, no_bitmap: bool, options: RepairOptions) -> Option<String> {
    if opened.is_blind && no_bitmap {
        let text = "the block bitmap can only be derived when every container can be read, and one cannot";
        return Some(text.into());
    }
    if options.drop_corrupt {
        return None;
    }
    if is_cut {
        let text = "acknowledged records of the log cannot be read, and a repair would give up all behind them";
        return Some(format!("{text} (from position {})", opened.end));
    }
    (opened.failed > 0)
        .then(|| format!("{} records of the log cannot be applied, and a repair would give them up", opened.failed))
}

/// Before the log is replayed: it must find trees that can be walked, and counters that can be trusted.
fn mend_trees(store: &mut Store, is_blind: bool, rebuilt: &[u32], diary: &mut Diary) -> Result<()> {
    let (media, catalog) = store.parts_mut();
    for cut in salvage::cut_unreadable(catalog, &mut media.pages())? {
        let deed = format!("lost: records {} (unless put back below)", cut.range);
        diary.note(FindingKind::Page, cut.container, cut.place, format!("{deed}; {}", cut.fault));
    }
    for name in catalog.sessions.forget_unread(&mut catalog.own, &mut media.pages())? {
        diary.note(FindingKind::Session, None, name, "lost: which of its requests took effect");
    }
    let survey = check::survey(media, catalog, CheckOptions::default());
    if !survey.report.is_partial {
        let done = salvage::put_back(catalog, &mut media.pages(), &survey.owned, !is_blind)?;
        for (owner, records) in done.records {
            let container = catalog.shard_of_tree(owner).map(|shard| shard.id);
            let place = format!("tree {owner}");
            diary.note(FindingKind::OrphanPage, container, place, format!("{records} records put back"));
        }
        if done.pages > 0 {
            let deed = format!("{} pages that were nobody's given up", done.pages);
            diary.note(FindingKind::OrphanPage, None, "the page map", deed);
        }
    }
    let survey = check::survey(media, catalog, CheckOptions::default());
    end_histories(media, catalog, &survey, rebuilt)?;
    count_anew(media, catalog, &survey, diary)
}

/// How far back a container could be read, only its lost head knew: no further back than what it holds now.
fn end_histories(media: &media::Store, catalog: &mut Catalog, survey: &Survey, rebuilt: &[u32]) -> Result<()> {
    let mut pages = media.pages();
    for &owner in rebuilt {
        pages.begin_op();
        let prepared = catalog.intents.of(owner).map(|(_, intent)| intent.last().epoch).max();
        let Some(shard) = catalog.shard_of_tree(owner) else { continue };
        let newest = survey.truths.get(&owner).map(|truth| truth.newest.epoch).max(prepared).unwrap_or_default();
        shard.end_history(newest.max(shard.max_epoch()));
        shard.save_all(&mut pages)?;
    }
    Ok(())
}

fn tell_rebuilt(store: &mut Store, rebuilt: &[u32], diary: &mut Diary) {
    let (_, catalog) = store.parts_mut();
    for owner in rebuilt {
        let is_remains = catalog.garbage.contains_key(owner);
        let Some(shard) = catalog.shard_of_tree(*owner) else { continue };
        let (container, deed) = match is_remains {
            true => (None, "made anew: what a deleted container left is found again".into()),
            false => {
                let lost = format!("what was seen before epoch {}, but at snapshots", shard.horizon);
                (Some(shard.id), format!("lost: {lost}; made anew, with what its tree holds"))
            }
        };
        diary.note(FindingKind::Catalog, container, "its head", deed);
    }
}

/// Removes records that are none, and those whose bytes are not what was written if `options` say so.
fn remove_records(store: &mut Store, options: RepairOptions, diary: &mut Diary) -> Result<Survey> {
    let (media, catalog) = store.parts_mut();
    for _ in 0..PASSES_MAX {
        let survey = check::survey(media, catalog, options.check);
        let mut pages = media.pages();
        let mut removed = 0;
        for BadRecord { owner, key, kind } in &survey.bad {
            pages.begin_op();
            let Some(shard) = catalog.shard_of_tree(*owner) else { continue };
            let (container, place) = (Some(shard.id), place_of(key));
            let deed = match kind {
                FindingKind::Value if !options.drop_corrupt => continue,
                FindingKind::Structure => {
                    flag_object(shard, &mut pages, key)?;
                    "the object is flagged as punched"
                }
                // In a leaf where its key does not belong, it is not found: the fault of the tree stays, and is told.
                _ if !shard.tree.remove(&mut pages, key)? => continue,
                _ => "lost: removed",
            };
            removed += 1;
            diary.note(*kind, container, place, deed);
            shard.save_all(&mut pages)?;
        }
        if removed == 0 {
            return Ok(survey);
        }
    }
    Err(crate::Error::Invalid("records that should go come back: a bug of this program"))
}

/// A punch is only looked for in objects that have the flag: without it, what it hides would come back.
fn flag_object(shard: &mut Shard, pages: &mut media::Pages, key: &[u8]) -> Result<()> {
    let flag = [&key[..OBJECT_BYTES], &[LIFE, OBJECT_FLAG]].concat();
    shard.tree.insert(pages, &flag, Value { head: &[], tail: &[] }, 0)?;
    shard.forget_flag(&flag);
    Ok(())
}

/// Writes into every head what its tree really holds.
fn count_anew(media: &media::Store, catalog: &mut Catalog, survey: &Survey, diary: &mut Diary) -> Result<()> {
    let mut pages = media.pages();
    for (&owner, truth) in survey.truths.iter().filter(|(_, truth)| truth.is_whole) {
        pages.begin_op();
        let Some(shard) = catalog.shard_of_tree(owner) else { continue };
        let container = (owner != 0).then_some(shard.id);
        let mut changed = false;
        for (what, counted, there) in [
            ("tree pages", &mut shard.tree.pages, truth.pages),
            ("blocks", &mut shard.blocks, truth.blocks),
            ("punches", &mut shard.punches, truth.punches),
        ] {
            if owner == 0 && what != "tree pages" || *counted == there {
                continue;
            }
            diary.note(FindingKind::Counter, container, "its head", format!("{counted} {what} counted: now {there}"));
            *counted = there;
            changed = true;
        }
        if owner != 0 && truth.newest.epoch > shard.max_epoch() {
            let deed = format!("highest epoch raised to {}", truth.newest.epoch);
            diary.note(FindingKind::Counter, container, "its head", deed);
            shard.applied(&mut pages, truth.newest)?;
            shard.raise_max_epoch(truth.newest.epoch);
            changed = true;
        }
        if changed {
            shard.save_all(&mut pages)?;
        }
    }
    drop(pages);
    catalog.recount();
    Ok(())
}
