//! A network of a test's own: a namespace a server, joined by a bridge that this process is on, too. It is gone when the
//! test ends, and what a test that was killed left behind goes when the next begins.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::servers::Ground;

const PORT: u16 = 10001;
/// A network for measurements of networks (RFC 2544): nobody's.
const SUBNET: &str = "198.18";
/// What is lost where the kernel can lose packets one by one.
const LOSS_PERCENT: u32 = 8;
/// Where it cannot, links are down for so long, one after the other; 8 % of the time.
const LOST: Duration = Duration::from_millis(24);
const KEPT: Duration = Duration::from_millis(76);

/// A bridge and namespaces.
pub struct Network {
    name: String,
    subnet: String,
    servers: usize,
}

/// The network as the ground that servers stand on.
pub struct OnNetwork(pub Arc<Network>);

fn ip(words: &str) -> Result<String, String> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    let output = command.args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
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
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_remains();
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Network {
            name: format!("{process}-{number}"),
            subnet: format!("{SUBNET}.{}", (process * 8 + number) % 250 + 1),
            servers,
        };
        match network.build() {
            Ok(()) => Some(Arc::new(network)),
            Err(why) => {
                left_out(what, &format!("no network namespaces of its own ({why})"));
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let (bridge, subnet) = (self.bridge(), &self.subnet);
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("address add {subnet}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for number in 0..self.servers {
            let (space, outer, inner) = (self.space(number), self.link(number), format!("di{}{number}", self.name));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {outer} type veth peer name {inner}"))?;
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

    /// Every link loses some of what goes over it, until the answer is dropped.
    pub fn lose_some(self: &Arc<Network>) -> Loss {
        let by_kernel = || {
            (0..self.servers).try_for_each(|number| {
                run("tc", &format!("qdisc add dev {} root netem loss {LOSS_PERCENT}%", self.link(number))).map(drop)
            })
        };
        let over = Arc::new(AtomicBool::new(false));
        let links = match by_kernel() {
            Ok(()) => None,
            Err(why) => {
                left_out("losing packets one by one; links are down for moments instead", &why);
                let (network, over) = (self.clone(), over.clone());
                Some(std::thread::spawn(move || {
                    for number in (0..network.servers).cycle() {
                        if over.load(Ordering::Acquire) {
                            return;
                        }
                        network.cut(number);
                        std::thread::sleep(LOST);
                        network.mend(number);
                        std::thread::sleep(KEPT / network.servers as u32);
                    }
                }))
            }
        };
        Loss { network: self.clone(), over, links }
    }
}

/// While it lives, packets are lost.
pub struct Loss {
    network: Arc<Network>,
    over: Arc<AtomicBool>,
    links: Option<JoinHandle<()>>,
}

impl Drop for Loss {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        match self.links.take() {
            Some(links) => links.join().expect("links go up and down"),
            None => (0..self.network.servers).for_each(|number| {
                let _ = run("tc", &format!("qdisc del dev {} root", self.network.link(number)));
            }),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
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
