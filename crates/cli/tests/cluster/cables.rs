//! Cables that lose packets, for kernels that cannot: what one end is given, a thread of this process carries to the
//! other, or does not.
//!
//! # Shape
//! Each end of a cable is a TAP device: a network interface whose packets a process reads and writes, whole. It may be moved
//! to another namespace; the process goes on holding it. One thread carries for all cables of a network, in both directions,
//! and asks a seeded chance about each packet. Devices and thread go with [`Cables`].
//!
//! # Not here
//! Damage to bytes: checksums below TCP turn that into loss. Limits of bandwidth.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rt::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// More than the packets of an Ethernet have: 14 bytes of header, perhaps 4 of a VLAN, 1500 of content. Segments larger than
/// that come to nobody who does not ask for them, and TAP devices do not.
const PACKET_MAX: usize = 2048;
/// Packets read from one end before the others have their turn.
const TURN: usize = 32;
/// Packets that are late at a time; beyond it, packets are on time.
const LATE_PACKETS_MAX: usize = 128;
/// How late a packet is: some round trips, so that others overtake it, and TCP takes it for lost now and then.
const LATE_LEAST: Duration = Duration::from_millis(1);
const LATE_MOST: Duration = Duration::from_millis(20);
const THOUSAND: u64 = 1000;

/// What befalls packets of a cable, in so many of a thousand, in each direction. If all cables are alike, what goes from one
/// server to another meets it twice, and what goes between a server and a client once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

/// How many packets met what, since the cables were laid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Brought to the other end; a doubled one is counted once.
    pub carried: u64,
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

pub struct Cables {
    state: Arc<State>,
    /// Closed, it ends the thread.
    stop: Option<PipeWriter>,
    carrier: Option<JoinHandle<()>>,
}

struct State {
    /// By cable.
    faults: Vec<Mutex<Faults>>,
    carried: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    late: AtomicU64,
}

/// What a packet meets.
enum Fate {
    OnTime,
    Lost,
    Doubled,
    Late(Duration),
}

impl Cables {
    /// Makes two interfaces a cable, of these names, in the namespace of this process, and begins to carry. Nothing befalls
    /// packets at first. The same seed gives the same fates in the same order.
    ///
    /// # Errors
    /// Why it cannot be: no such device here, not permitted, a name that is taken or too long.
    pub fn lay(ends: &[(String, String)], seed: u64) -> Result<Cables, String> {
        let mut taps = Vec::new();
        for (one, other) in ends {
            taps.extend([tap(one)?, tap(other)?]);
        }
        let (stopped, stop) = std::io::pipe().map_err(|error| format!("a pipe: {error}"))?;
        let count = AtomicU64::default;
        let faults = ends.iter().map(|_| Mutex::default()).collect();
        let state = Arc::new(State { faults, carried: count(), lost: count(), doubled: count(), late: count() });
        let carrier = Carrier { taps, late: BTreeMap::new(), rng: Rng::seeded(seed), state: state.clone() };
        let carrier = std::thread::spawn(move || carrier.run(&stopped));
        Ok(Cables { state, stop: Some(stop), carrier: Some(carrier) })
    }

    /// From now on.
    pub fn set(&self, cable: usize, faults: Faults) {
        *self.state.faults[cable].lock().unwrap() = faults;
    }

    pub fn counts(&self) -> Counts {
        let State { carried, lost, doubled, late, .. } = &*self.state;
        let [carried, lost, doubled, late] = [carried, lost, doubled, late].map(|count| count.load(Ordering::Relaxed));
        Counts { carried, lost, doubled, late }
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.carrier.take().expect("it is ended once").join();
        // A test that has failed has said why.
        if !std::thread::panicking() {
            ended.expect("cables carry until they are taken away");
        }
    }
}

/// The thread, and what it knows.
struct Carrier {
    /// The ends of each cable side by side.
    taps: Vec<File>,
    /// Packets by when they are due, and to which end. The number tells those of one moment apart.
    late: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    rng: Rng,
    state: Arc<State>,
}

impl Carrier {
    fn run(mut self, stop: &impl std::os::fd::AsFd) {
        let mut packet = [0; PACKET_MAX];
        loop {
            let ready = {
                let taps = self.taps.iter().map(|tap| PollFd::new(tap, PollFlags::IN));
                let mut all: Vec<PollFd> = [PollFd::new(stop, PollFlags::IN)].into_iter().chain(taps).collect();
                let due =
                    self.late.first_key_value().map(|((due, _), _)| due.saturating_duration_since(Instant::now()));
                let due = due.map(|due| Timespec::try_from(due).expect("packets are late by milliseconds"));
                match poll(&mut all, due.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => panic!("nobody can wait for packets: {error}"),
                }
                all.iter().map(|each| !each.revents().is_empty()).collect::<Vec<bool>>()
            };
            if ready[0] {
                return;
            }
            for from in (0..self.taps.len()).filter(|from| ready[from + 1]) {
                self.carry(from, &mut packet);
            }
            while let Some(first) = self.late.first_entry().filter(|first| first.key().0 <= Instant::now()) {
                let (to, packet) = first.remove();
                self.give(to, &packet);
            }
        }
    }

    fn carry(&mut self, from: usize, packet: &mut [u8]) {
        // The other end of the same cable.
        let to = from ^ 1;
        for _ in 0..TURN {
            let packet = match self.taps[from].read(packet) {
                Ok(bytes) => &packet[..bytes],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                Err(error) => panic!("an end of a cable is gone: {error}"),
            };
            let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
            match self.fate(from / 2) {
                Fate::Lost => {
                    count(&self.state.lost);
                    continue;
                }
                Fate::Late(by) if self.late.len() < LATE_PACKETS_MAX => {
                    let number = count(&self.state.late);
                    self.late.insert((Instant::now() + by, number), (to, packet.to_vec()));
                }
                Fate::OnTime | Fate::Late(_) => self.give(to, packet),
                Fate::Doubled => {
                    count(&self.state.doubled);
                    self.give(to, packet);
                    self.give(to, packet);
                }
            }
            count(&self.state.carried);
        }
    }

    /// As many draws for each packet, whatever becomes of it: so the fates of others stay the same when the shares change.
    fn fate(&mut self, cable: usize) -> Fate {
        let faults = *self.state.faults[cable].lock().unwrap();
        let (drawn, late) = (self.rng.below(THOUSAND), self.rng.between(micros(LATE_LEAST), micros(LATE_MOST)));
        match drawn {
            _ if drawn < faults.lost => Fate::Lost,
            _ if drawn < faults.lost + faults.doubled => Fate::Doubled,
            _ if drawn < faults.lost + faults.doubled + faults.late => Fate::Late(Duration::from_micros(late)),
            _ => Fate::OnTime,
        }
    }

    fn give(&mut self, to: usize, packet: &[u8]) {
        // An interface that is down takes nothing; a kernel short of memory neither. Networks lose packets.
        let _ = self.taps[to].write(packet);
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// Makes an interface whose packets come from, and go to, the file. It goes when the file is closed.
fn tap(name: &str) -> Result<File, String> {
    /// `struct ifreq` of the kernel, as `TUNSETIFF` has it.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const _: () = assert!(size_of::<Request>() == 40);
    /// `IFF_TAP | IFF_NO_PI`: Ethernet, with nothing before the packets.
    const FLAGS: u16 = 0x0002 | 0x1000;
    /// `TUNSETIFF`. The kernel's macro says that its argument is an `int`.
    const MAKE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<std::ffi::c_int>(b'T', 202);

    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun");
    let file = file.map_err(|error| format!("/dev/net/tun: {error}"))?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    // The last byte stays zero.
    let room = request.name[..15].get_mut(..name.len()).ok_or_else(|| format!("{name}: more than 15 letters"))?;
    room.copy_from_slice(name.as_bytes());
    // SAFETY: for this opcode the kernel reads and writes one `ifreq`, whose size and layout `Request` has.
    let made = unsafe { rustix::ioctl::ioctl(&file, rustix::ioctl::Updater::<MAKE, Request>::new(&mut request)) };
    made.map_err(|error| format!("a TAP device {name}: {error}"))?;
    Ok(file)
}
