//! A network of a test's own: a namespace a server, joined by a bridge that this process is on, too. It is gone when the
//! test ends, and what a test that was killed left behind goes when the next begins.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cables::{Cables, Counts, Faults};
use crate::servers::Ground;

const PORT: u16 = 10001;
/// A network for measurements of networks (RFC 2544): nobody's.
const SUBNET: &str = "198.18";

/// A bridge and namespaces.
pub struct Network {
    name: String,
    subnet: String,
    servers: usize,
    ways: Ways,
}

/// What joins servers and bridge.
enum Ways {
    /// The kernel's own.
    Pairs,
    /// Ours, laid with a seed.
    Cables { seed: u64, laid: Option<Cables> },
}

/// The network as the ground that servers stand on.
pub struct OnNetwork(pub Arc<Network>);

fn ip(words: &str) -> Result<String, String> {
    let mut command = Command::new("ip");
    let output = command.args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Says that a test does less than it could, where nobody can overlook it.
pub fn left_out(what: &str, why: &str) {
    use std::io::Write;
    // Around the test harness, which shows nothing of tests that pass.
    let _ = writeln!(std::io::stderr(), "\n*** LEFT OUT: {what}: {why}\n");
}

impl Network {
    /// A network for so many servers; `None`, and it says so, where that is not permitted.
    pub fn make(servers: usize, what: &str) -> Option<Arc<Network>> {
        Network::make_of(Ways::Pairs, servers, what)
    }

    /// The same, of cables on which packets may meet [`Faults`], which the seed decides.
    pub fn make_of_cables(seed: u64, servers: usize, what: &str) -> Option<Arc<Network>> {
        Network::make_of(Ways::Cables { seed, laid: None }, servers, what)
    }

    fn make_of(ways: Ways, servers: usize, what: &str) -> Option<Arc<Network>> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_remains();
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut network = Network {
            name: format!("{process}-{number}"),
            subnet: format!("{SUBNET}.{}", (process * 8 + number) % 250 + 1),
            servers,
            ways,
        };
        match network.build() {
            Ok(()) => Some(Arc::new(network)),
            Err(why) => {
                left_out(what, &format!("no network of its own ({why})"));
                None
            }
        }
    }

    fn build(&mut self) -> Result<(), String> {
        let (bridge, subnet) = (self.bridge(), self.subnet.clone());
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("address add {subnet}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        let ends: Vec<_> = (0..self.servers).map(|number| (self.link(number), self.inner(number))).collect();
        self.ways.lay(&ends)?;
        for (number, (outer, inner)) in ends.iter().enumerate() {
            let space = self.space(number);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link set {inner} netns {space} name eth0"))?;
            ip(&format!("link set {outer} master {bridge} up"))?;
            ip(&format!("-n {space} address add {}/24 dev eth0", self.host(number)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("db{}", self.name)
    }

    fn space(&self, number: usize) -> String {
        format!("daos-{}-{number}", self.name)
    }

    fn link(&self, number: usize) -> String {
        format!("dv{}{number}", self.name)
    }

    /// What becomes a server's `eth0`, before it is moved to its namespace.
    fn inner(&self, number: usize) -> String {
        format!("di{}{number}", self.name)
    }

    fn host(&self, number: usize) -> String {
        format!("{}.{}", self.subnet, 10 + number)
    }

    /// Nothing goes to a server or comes from it any more.
    pub fn cut(&self, number: usize) {
        ip(&format!("link set {} down", self.link(number))).unwrap();
    }

    pub fn mend(&self, number: usize) {
        ip(&format!("link set {} up", self.link(number))).unwrap();
    }

    /// Nothing goes from one server to another any more; what comes from there still does.
    pub fn silence(&self, from: usize, to: usize) {
        ip(&format!("-n {} route add blackhole {}/32", self.space(from), self.host(to))).unwrap();
    }

    pub fn let_speak(&self, from: usize, to: usize) {
        ip(&format!("-n {} route del blackhole {}/32", self.space(from), self.host(to))).unwrap();
    }

    /// From now on packets meet these on the way to and from each server.
    ///
    /// # Panics
    /// If the network is not of cables.
    pub fn set_faults(&self, faults: Faults) {
        (0..self.servers).for_each(|number| self.set_faults_of(number, faults));
    }

    /// The same, for one server.
    pub fn set_faults_of(&self, number: usize, faults: Faults) {
        self.cables().set(number, faults);
    }

    /// What packets met so far. Panics as [`Network::set_faults`].
    pub fn counts(&self) -> Counts {
        self.cables().counts()
    }

    fn cables(&self) -> &Cables {
        match &self.ways {
            Ways::Cables { laid, .. } => laid.as_ref().expect("a network that was made has its cables"),
            Ways::Pairs => panic!("the kernel's own ways lose nothing: make the network of cables"),
        }
    }
}

impl Ways {
    /// Makes a way for each two names; both ends are still here.
    fn lay(&mut self, ends: &[(String, String)]) -> Result<(), String> {
        match self {
            Ways::Pairs => ends
                .iter()
                .try_for_each(|(outer, inner)| ip(&format!("link add {outer} type veth peer name {inner}")).map(drop)),
            Ways::Cables { seed, laid } => {
                *laid = Some(Cables::lay(ends, *seed)?);
                Ok(())
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Cables first: whoever carries must not find an end gone.
        self.ways = Ways::Pairs;
        // What was never made is not there to be removed.
        for number in 0..self.servers {
            let _ = ip(&format!("link del {}", self.link(number)));
            let _ = ip(&format!("netns del {}", self.space(number)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

impl Ground for OnNetwork {
    fn command(&self, number: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        // It becomes the program, under the same process id.
        command.args(["netns", "exec", &self.0.space(number), program]);
        command
    }

    fn listen(&self, number: usize) -> String {
        format!("{}:{PORT}", self.0.host(number))
    }
}

/// Removes what processes left behind that are no more.
fn remove_remains() {
    let is_gone = |name: &str, prefix: &str| {
        let process = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        process.is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists())
    };
    for space in ip("netns list").unwrap_or_default().lines().filter_map(|line| line.split_whitespace().next()) {
        if is_gone(space, "daos-") {
            let _ = ip(&format!("netns del {space}"));
        }
    }
    for line in ip("-o link show type bridge").unwrap_or_default().lines() {
        let bridge = line.split(':').nth(1).unwrap_or_default().trim();
        if is_gone(bridge, "db") {
            let _ = ip(&format!("link del {bridge}"));
        }
    }
}
