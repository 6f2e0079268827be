//! Resizing: the data region of a target gets the size that was asked for, while it serves requests.
//!
//! # Shape
//! A part of upkeep, with its budget. The size that is wanted is the layout's to remember; a target that starts with
//! another one goes on from there.
//!
//! ```text
//!   Rest --smaller--> Fence --it stands--> Values --none left--> Pages --> Settle --cut--> Done
//!    |  \                                   ^                               |
//!    |   +--larger: grow--> Done            +---- somebody holds blocks ----+
//!    +--- no room, or a writer needed it: Rest, and tried again ---+--- damage: Done, until asked again
//! ```
//!
//! A fence comes down in small steps, and once lifted it is taken up in such, whatever the phase: upkeep does what
//! writers in need have left of that.
//!
//! # Always true
//! Giving up, a crash, and being asked for another size leave everything readable: values move one at a time, and
//! the region is cut only where nobody has a block.
//!
//! # Not here
//! How a region is cut or grown (`media`), how a value moves (`vos`), which sizes there may be (`control`).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use media::{Backing, PageId, ResizeError};
use types::{ByteSize, Code, Error};
use vos::{Scrub, Scrubbing};

use super::{Target, is_pressure};

/// Pause before what was refused is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Pause between two looks at blocks that somebody holds: a reader, a write under way, a transaction.
const PASS_PAUSE: Duration = Duration::from_millis(100);
/// Pause before a swap that found the store under pressure is tried again.
const SWAP_PAUSE: Duration = Duration::from_millis(5);

/// How the size of a target's data region stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeReport {
    /// Its size, and that to be.
    pub bytes: u64,
    pub wanted: u64,
    /// Of values, moved since the size was asked for or the target was started.
    pub moved: u64,
    /// Behind the size to be, and still somebody's: as far as the fence has come.
    pub held: u64,
    /// Why it does not come to it, for now or until it is asked for again.
    pub trouble: Option<String>,
}

/// Resizing of one target.
pub(super) struct Resizer {
    backing: Backing,
    state: RefCell<State>,
    is_turn: Cell<bool>,
}

struct State {
    wanted: u64,
    /// Counts what was asked for: a step that was overtaken leaves nothing behind.
    asked: u64,
    phase: Phase,
    /// Not before this.
    paused: rt::Instant,
    moved: u64,
    trouble: Option<String>,
}

#[derive(Clone)]
enum Phase {
    /// Looks whether there is something to do.
    Rest,
    /// The fence is on its way.
    Fence,
    Values(Scrub),
    Pages(PageId),
    Settle,
    /// The region has its size, or cannot have it: until another is asked for.
    Done,
}

impl Resizer {
    pub(super) fn new(wanted: u64, backing: Backing) -> Resizer {
        let (phase, paused) = (Phase::Rest, rt::now());
        let state = State { wanted, asked: 0, phase, paused, moved: 0, trouble: None };
        Resizer { backing, state: RefCell::new(state), is_turn: Cell::new(false) }
    }

    pub(super) fn wanted(&self) -> u64 {
        self.state.borrow().wanted
    }

    pub(super) fn report(&self, media: &media::Store) -> ResizeReport {
        let state = self.state.borrow();
        ResizeReport {
            bytes: media.data_bytes(),
            wanted: state.wanted,
            moved: state.moved,
            held: media.fenced().map_or(0, |fenced| fenced.held),
            trouble: state.trouble.clone(),
        }
    }

    /// How long until the next step; `None`: there is nothing to do.
    fn due(&self) -> Option<Duration> {
        let state = self.state.borrow();
        if let Phase::Done = state.phase {
            return None;
        }
        let now = rt::now();
        Some(if state.paused > now { state.paused - now } else { Duration::ZERO })
    }
}

impl State {
    fn pause(&mut self, pause: Duration) {
        self.paused = rt::now() + pause;
    }
}

impl Target {
    /// The data region is to have `bytes` bytes.
    pub(super) fn resize(&self, bytes: u64) -> Result<(), Error> {
        let mut state = self.resizer.state.borrow_mut();
        // The same again begins no anew, but for what was given up.
        if state.wanted != bytes || state.trouble.is_some() {
            self.media.lift_fence();
            state.asked += 1;
            (state.wanted, state.moved, state.trouble) = (bytes, 0, None);
            (state.phase, state.paused) = (Phase::Rest, rt::now());
        }
        drop(state);
        self.upkeep.wake();
        Ok(())
    }

    /// Whether the data region could have `bytes` bytes.
    ///
    /// # Errors
    /// `NoSpace`, `Invalid`, with figures and the way out.
    pub(super) async fn may_resize(&self, bytes: u64) -> Result<(), Error> {
        let reserved: u64 = {
            let store = self.store.borrow();
            store.pools().into_iter().filter_map(|pool| store.pool_space(pool).ok()).map(|pool| pool.quota).sum()
        };
        let usable = self.usable_with(bytes);
        if bytes < self.media.data_bytes() && usable < reserved {
            let text = format!(
                "target {} with {} of data would leave pools {}, and they have reserved {}",
                self.index,
                ByteSize(bytes),
                ByteSize(usable),
                ByteSize(reserved)
            );
            return Err(Error::new(Code::NoSpace, text).remedy("make pools smaller first (`dmg pool resize`)"));
        }
        self.with_room(async || self.media.may_resize(bytes).await).await.map_err(|error| match error {
            media::Error::Resize(cause) => {
                let text =
                    format!("the data of target {} cannot have {}: {}", self.index, ByteSize(bytes), told(&cause));
                refusal(&cause, text)
            }
            other => self.device_error(other),
        })
    }

    /// How long until the next step of resizing; `None`: there is nothing to do.
    pub(super) fn resize_due(&self) -> Option<Duration> {
        if self.media.is_lifting() { Some(Duration::ZERO) } else { self.resizer.due() }
    }

    /// Whether it is resizing's turn: every other time.
    pub(super) fn resize_takes_turn(&self) -> bool {
        let is_turn = &self.resizer.is_turn;
        is_turn.replace(!is_turn.get()) && self.resize_due() == Some(Duration::ZERO)
    }

    /// One step towards the size that is wanted; false when there is nothing to do now.
    pub(super) async fn resize_some(&self) -> vos::Result<bool> {
        if self.resizer.due() != Some(Duration::ZERO) {
            // What a writer, or giving up, has left of a fence.
            let is_lifting = self.media.is_lifting();
            if is_lifting {
                self.media.move_fence()?;
            }
            return Ok(is_lifting);
        }
        let (phase, asked) = {
            let state = self.resizer.state.borrow();
            (state.phase.clone(), state.asked)
        };
        let step = self.resize_step(phase).await;
        let state = &mut *self.resizer.state.borrow_mut();
        if state.asked != asked {
            return Ok(true);
        }
        let trouble = match step {
            Ok(None) => {
                state.phase = Phase::Done;
                return Ok(false);
            }
            Ok(Some(next)) => {
                state.phase = next;
                return Ok(true);
            }
            Err(error) if is_pressure(&error) => return Err(error),
            Err(error) => error,
        };
        self.media.lift_fence();
        (state.phase, state.trouble) = match trouble {
            vos::Error::Media(media::Error::Resize(cause)) => (Phase::Rest, Some(told(&cause))),
            vos::Error::NoSpace { .. }
            | vos::Error::DeviceFull { .. }
            | vos::Error::Media(media::Error::NoSpace { .. }) => {
                (Phase::Rest, Some("there is no room for what must move".into()))
            }
            vos::Error::Corrupt { .. } | vos::Error::Media(media::Error::Corrupt(_) | media::Error::Read { .. }) => {
                (Phase::Done, Some(format!("what cannot be read cannot be moved: {trouble}")))
            }
            other => return Err(other),
        };
        state.pause(RETRY);
        let trouble = state.trouble.as_deref().unwrap_or_default();
        tracing::warn!(target_index = %self.index, wanted = state.wanted, trouble, "the data is not resized");
        Ok(true)
    }

    /// The phase that follows; `None`: nothing is to be done.
    async fn resize_step(&self, phase: Phase) -> vos::Result<Option<Phase>> {
        let (media, backing, wanted) = (&self.media, self.resizer.backing, self.resizer.wanted());
        if !matches!(phase, Phase::Rest) && media.fenced().is_none() {
            return Err(media::Error::Resize(ResizeError::Yielded).into());
        }
        match phase {
            Phase::Rest if wanted == media.data_bytes() => {
                media.trim(backing);
                Ok(None)
            }
            Phase::Rest if wanted > media.data_bytes() => {
                media.grow(wanted, backing).await?;
                tracing::info!(target_index = %self.index, bytes = media.data_bytes(), "the data has grown");
                self.resizer.state.borrow_mut().trouble = None;
                Ok(None)
            }
            Phase::Rest => {
                self.with_room(async || media.fence(wanted)).await?;
                Ok(Some(Phase::Fence))
            }
            Phase::Fence => {
                let is_moving = self.with_room(async || media.move_fence()).await?;
                Ok(Some(if is_moving { Phase::Fence } else { Phase::Values(Scrub::default()) }))
            }
            Phase::Values(mut walk) => {
                let found = self.store.borrow_mut().find_fenced(&mut walk)?;
                match found {
                    Scrubbing::End => return Ok(Some(Phase::Pages(PageId(0)))),
                    Scrubbing::Value(found) => {
                        let mend = self.store.borrow_mut().plan_move(found)?;
                        mend.write(media).await?;
                        self.swap(&mend).await?;
                    }
                    // Values in memory do not lie in blocks.
                    Scrubbing::Look | Scrubbing::Damaged(_) => {}
                }
                Ok(Some(Phase::Values(walk)))
            }
            Phase::Pages(from) => Ok(Some(media.move_pages(from)?.map_or(Phase::Settle, Phase::Pages))),
            Phase::Settle => {
                media.move_maps();
                media.checkpoint_now().await?;
                if media.cut(backing).await? {
                    tracing::info!(target_index = %self.index, bytes = media.data_bytes(), "the data has shrunk");
                    self.resizer.state.borrow_mut().trouble = None;
                    return Ok(None);
                }
                self.resizer.state.borrow_mut().pause(PASS_PAUSE);
                Ok(Some(Phase::Values(Scrub::default())))
            }
            Phase::Done => Ok(None),
        }
    }

    /// Does `work`, and once more when it finds no room: what was given up lately is free behind a checkpoint.
    async fn with_room<T>(&self, work: impl AsyncFn() -> media::Result<T>) -> media::Result<T> {
        match work().await {
            Err(media::Error::Resize(ResizeError::TooFull { .. })) => {
                self.media.checkpoint_now().await?;
                work().await
            }
            done => done,
        }
    }

    async fn swap(&self, mend: &vos::Mend) -> vos::Result<()> {
        loop {
            let swapped = self.store.borrow_mut().mend(mend);
            match swapped {
                Err(error) if is_pressure(&error) => rt::sleep(SWAP_PAUSE).await,
                swapped => {
                    if swapped?.is_some() {
                        self.resizer.state.borrow_mut().moved += mend.bytes();
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// A refusal of `media`, in an operator's words.
fn told(cause: &ResizeError) -> String {
    let size = |bytes: &u64| ByteSize(*bytes);
    match cause {
        ResizeError::TooSmall { bytes_min, .. } => format!("it needs at least {}", size(bytes_min)),
        ResizeError::TooLarge { bytes_max, .. } => format!("it was laid out to grow to {} at most", size(bytes_max)),
        ResizeError::TooFull { held, room } => {
            format!("it holds {}, and with that size there is room for {}", size(held), size(room))
        }
        ResizeError::Device { region, bytes, needed } => {
            format!("{region} has {} where {} are needed", size(bytes), size(needed))
        }
        other => other.to_string(),
    }
}

fn refusal(cause: &ResizeError, text: String) -> Error {
    match cause {
        ResizeError::TooFull { .. } => Error::new(Code::NoSpace, text).remedy("delete something, or ask for more"),
        ResizeError::TooLarge { .. } => {
            Error::new(Code::Invalid, text).remedy("ask for less; for more, new storage must be laid out")
        }
        ResizeError::UnderWay => Error::new(Code::Busy, text).remedy("try again in a moment"),
        _ => Error::new(Code::Invalid, text),
    }
}
