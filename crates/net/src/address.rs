//! Where a server answers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest path of a unix socket: the kernel's `sun_path` holds 108 bytes with the closing zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// A place to listen at or to connect to.
///
/// As text: `tcp://host:port` or bare `host:port` (`[v6]:port` for an IPv6 address),
/// `unix:///path`, `mem://name`. `Display` prints the first form, and `FromStr` reads it back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// `host:port`; the host is a name or an IP address.
    Tcp(String),
    /// A unix stream socket.
    Unix(PathBuf),
    /// Within this process, or between nodes of one simulation.
    Mem(String),
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no address: {why}; write host:port, unix:///path or mem://name")]
pub struct AddressError {
    pub text: String,
    pub why: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let bad = |why| AddressError { text: text.to_owned(), why };
        match text.split_once("://") {
            Some(("tcp", rest)) => tcp(rest).map_err(bad),
            Some(("unix", rest)) => unix(Path::new(rest)).map_err(bad),
            Some(("mem", "")) => Err(bad("the name is empty")),
            Some(("mem", name)) => Ok(Address::Mem(name.to_owned())),
            Some(_) => Err(bad("the scheme is none of tcp, unix, mem")),
            None => tcp(text).map_err(bad),
        }
    }
}

fn tcp(text: &str) -> Result<Address, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address needs brackets, as in [::1]:10001");
    }
    if host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err("the host has a space or a slash in it");
    }
    port.parse::<u16>().map_err(|_| "the port is not a number from 0 to 65535")?;
    Ok(Address::Tcp(text.to_owned()))
}

fn unix(path: &Path) -> Result<Address, &'static str> {
    let length = path.as_os_str().len();
    if !path.is_absolute() {
        Err("the path is not absolute: three slashes, as in unix:///run/daos/server.sock")
    } else if length > UNIX_PATH_BYTES_MAX {
        Err("the path is longer than the 107 bytes a socket's path may have")
    } else {
        Ok(Address::Unix(path.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host) => write!(f, "tcp://{host}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Mem(name) => write!(f, "mem://{name}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print() {
        for text in ["tcp://localhost:10001", "tcp://[::1]:0", "unix:///run/daos/s.sock", "mem://server 1"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("h:1".parse::<Address>().unwrap(), Address::Tcp("h:1".into()));
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        for (text, why) in [
            ("host", "port is missing"),
            (":1", "host is missing"),
            ("h:70000", "not a number"),
            ("::1:5", "brackets"),
            ("http://h:1", "scheme"),
            ("unix://run/s", "not absolute"),
            ("mem://", "name is empty"),
            ("a b:1", "space"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let long = format!("unix:///{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        assert!(long.parse::<Address>().unwrap_err().why.contains("107"));
    }
}
