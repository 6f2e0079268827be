//! Options and argument forms that commands share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use types::ByteSize;

/// How to print.
#[derive(Args, Clone, Debug, Default)]
pub struct PrintOptions {
    /// Print one JSON object instead of text
    #[arg(short = 'j', long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Log what happens, in detail, to stderr
    #[arg(long, global = true, help_heading = "Global options")]
    pub debug: bool,
}

/// Which system to talk to.
#[derive(Args, Clone, Debug, Default)]
pub struct SystemOptions {
    /// Server to talk to: host:port or unix:///path; several with commas between: the first that answers [default:
    /// $DAOS_SERVER, else 127.0.0.1:10001]
    #[arg(long, global = true, value_name = "ADDR", help_heading = "Global options")]
    pub server: Option<String>,
    /// Name of the system meant: a server of another one is refused
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub sys_name: Option<String>,
    /// Use the embedded system in this directory instead of a server
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub embedded: Option<PathBuf>,
}

/// A size: bytes, or a number with a unit.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|e: types::SizeError| e.to_string())
}

/// A size, absolute or as a share of what is free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Share {
    Bytes(u64),
    Percent(u8),
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        match text.strip_suffix('%') {
            Some(number) => match number.trim().parse::<u8>() {
                Ok(percent @ 1..=100) => Ok(Share::Percent(percent)),
                _ => Err(format!("'{text}' is not a percentage from 1% to 100%")),
            },
            None => size(text).map(|s| Share::Bytes(s.0)).map_err(|e| format!("{e}, or a percentage such as 50%")),
        }
    }
}

/// `key:value[,key:value...]`; `=` does as well as `:`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Pairs, String> {
        let pair = |part: &str| {
            let (name, value) = part
                .split_once([':', '='])
                .ok_or_else(|| format!("'{part}' is not key:value; write key:value[,key:value...]"))?;
            match name.trim() {
                "" => Err(format!("'{part}' has no key before the value")),
                name => Ok((name.to_string(), value.trim().to_string())),
            }
        };
        text.split(',').map(pair).collect::<Result<_, _>>().map(Pairs)
    }
}

/// `key[,key...]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Names, String> {
        let names: Vec<String> = text.split(',').map(|n| n.trim().to_string()).collect();
        if names.iter().any(String::is_empty) {
            return Err(format!("'{text}' has an empty name; write key[,key...]"));
        }
        Ok(Names(names))
    }
}

/// Numbers of ranks or targets: `2,5-7`. Each once, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbers(pub(crate) Vec<u32>);

/// Most numbers that one command names: a slip of the hand (`1-4000000000`) is no list.
const NUMBERS_MAX: u32 = 65_536;

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let wrong = || format!("'{text}' is no list of numbers; write 2,5-7");
        let mut numbers = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) =
                (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
            if last < first || last - first >= NUMBERS_MAX {
                return Err(wrong());
            }
            numbers.extend(first..=last);
        }
        Ok(Numbers(numbers.into_iter().collect()))
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// What a server logs: `LEVEL[,module=LEVEL...]`, kept in `tracing`'s words. Upstream's levels between are taken for the next
/// coarser one here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogMasks(pub(crate) String);

impl FromStr for LogMasks {
    type Err = String;

    fn from_str(text: &str) -> Result<LogMasks, String> {
        let level = |word: &str| {
            Ok(match word.to_ascii_uppercase().as_str() {
                "EMRG" | "EMIT" | "ALRT" | "CRIT" | "ERR" | "ERROR" => "error",
                "WARN" => "warn",
                "NOTE" | "INFO" => "info",
                "DBUG" | "DEBUG" => "debug",
                "TRACE" => "trace",
                "OFF" => "off",
                _ => return Err(format!("'{word}' is no level: ERR, WARN, INFO, DEBUG, TRACE or OFF")),
            })
        };
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        let mask = |part: &str| match part.trim().split_once('=') {
            None => level(part.trim()).map(str::to_string),
            Some((module, word)) if is_name(module) => Ok(format!("{module}={}", level(word)?)),
            Some((module, _)) => Err(format!("'{module}' is no module; write LEVEL[,module=LEVEL...]")),
        };
        Ok(LogMasks(text.split(',').map(mask).collect::<Result<Vec<_>, String>>()?.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_list_with_ranges() {
        let numbers = |text: &str| text.parse::<Numbers>().map(|list| list.0);
        assert_eq!(numbers("5-7, 2,6"), Ok(vec![2, 5, 6, 7]));
        for wrong in ["", "x", "3-", "7-5", "0-4000000000"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_masks_have_upstreams_levels_or_ours() {
        let masks = |text: &str| text.parse::<LogMasks>().map(|masks| masks.0);
        assert_eq!(masks("ERR"), Ok("error".into()));
        assert_eq!(masks("info, engine=DBUG,vos::tree=trace"), Ok("info,engine=debug,vos::tree=trace".into()));
        for wrong in ["", "LOUD", "engine=", "=debug", "engine[x]=debug", "debug,"] {
            assert!(masks(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_take_either_sign_and_keep_the_rest() {
        let pairs: Pairs = "a:1,b=x:y, c : ".parse().unwrap();
        assert_eq!(pairs.0, [("a", "1"), ("b", "x:y"), ("c", "")].map(|(k, v)| (k.to_string(), v.to_string())));
        assert!("a".parse::<Pairs>().unwrap_err().contains("key:value"));
        assert!(":1".parse::<Pairs>().is_err());
    }

    #[test]
    fn a_share_is_bytes_or_a_percentage() {
        assert_eq!("10GB".parse(), Ok(Share::Bytes(10_000_000_000)));
        assert_eq!("50%".parse(), Ok(Share::Percent(50)));
        assert!("0%".parse::<Share>().is_err());
        assert!("lots".parse::<Share>().unwrap_err().contains("50%"));
    }
}
