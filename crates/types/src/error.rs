//! The error that crosses the wire and reaches a user: a number, a cause, a remedy.
//!
//! Inside a crate errors are enums with a variant per reaction; they become this one at the edge of
//! a service. The numbers are upstream's `DER_*`.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $number:literal, $symbol:literal, $text:literal;)*) => {
        /// What kind of failure: upstream's `DER_` numbers, those this release can return.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Code { $(#[doc = $text] $name = $number,)* }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            pub fn from_number(number: u32) -> Option<Code> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }
            /// `DER_NONEXIST` and the like.
            pub const fn symbol(self) -> &'static str {
                match self { $(Code::$name => concat!("DER_", $symbol),)* }
            }
            /// The kind in words.
            pub const fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    NoPermission = 1001, "NO_PERM", "operation not permitted";
    NoHandle = 1002, "NO_HDL", "invalid handle";
    Invalid = 1003, "INVAL", "invalid parameters";
    Exists = 1004, "EXIST", "entity already exists";
    NotFound = 1005, "NONEXIST", "the specified entity does not exist";
    Unreachable = 1006, "UNREACH", "unreachable node";
    NoSpace = 1007, "NOSPACE", "no space on storage target";
    Already = 1008, "ALREADY", "operation already performed";
    NoMemory = 1009, "NOMEM", "out of memory";
    TimedOut = 1011, "TIMEDOUT", "time out";
    Busy = 1012, "BUSY", "device or resource busy";
    Again = 1013, "AGAIN", "try again";
    Protocol = 1014, "PROTO", "incompatible protocol";
    Truncated = 1016, "TRUNC", "data truncated";
    Overflow = 1017, "OVERFLOW", "data too long for the buffer";
    Canceled = 1018, "CANCELED", "operation canceled";
    Misc = 1025, "MISC", "miscellaneous error";
    Mismatch = 1031, "MISMATCH", "mismatch";
    ClockOffset = 1037, "HLC_SYNC", "hybrid logical clocks too far apart";
    Quota = 1046, "QUOTA_LIMIT", "quota limit reached";
    Io = 2001, "IO", "generic I/O error";
    Stale = 2007, "STALE", "stale pool map version";
    KeyTooBig = 2012, "KEY2BIG", "key is too large";
    ValueTooBig = 2013, "REC2BIG", "record is too large";
    ShuttingDown = 2017, "SHUTDOWN", "service should shut down";
    InProgress = 2018, "INPROGRESS", "operation now in progress";
    Checksum = 2021, "CSUM", "checksum error";
    BadFormat = 2022, "DF_INVAL", "invalid durable format";
    IncompatibleFormat = 2023, "DF_INCOMPT", "incompatible durable format version";
    RecordSize = 2024, "REC_SIZE", "record size error";
    Restart = 2025, "TX_RESTART", "transaction should restart";
    DataLoss = 2026, "DATA_LOSS", "data lost or not recoverable";
    Uncertain = 2033, "TX_UNCERTAIN", "whether it took effect is uncertain";
    NotSupported = 2037, "NOTSUPPORTED", "operation not supported";
    NoService = 2039, "NO_SERVICE", "service not available";
    Overload = 2048, "OVERLOAD_RETRY", "retry later because of overloaded service";
}

/// A failure as its user sees it: what happened to what, and what to do.
///
/// `message` names the thing (a label, a path, a size). `remedy` is an imperative sentence, where
/// there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: Code,
    pub message: String,
    pub remedy: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), remedy: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Error {
        self.remedy = Some(text.into());
        self
    }

    /// Upstream's status: the negative number.
    pub fn status(&self) -> i32 {
        -(self.code as u32 as i32)
    }

    /// Worth sending the same request again after a pause: nothing took effect, or nobody knows.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Code::Again
                | Code::Busy
                | Code::TimedOut
                | Code::Unreachable
                | Code::Overload
                | Code::NoService
                | Code::ShuttingDown
        )
    }
}

/// `message (remedy) [DER_SYMBOL -1005]`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, ": {remedy}")?;
        }
        write!(f, " [{}({})]", self.code.symbol(), self.status())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_symbols_round_trip() {
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code as u32), Some(code));
            assert!(code.symbol().starts_with("DER_"));
        }
        assert_eq!(Code::from_number(7), None);
    }

    #[test]
    fn an_error_says_cause_remedy_and_number() {
        let error = Error::new(Code::NotFound, "no pool 'tank'").remedy("list pools with `dmg pool list`");
        assert_eq!(error.to_string(), "no pool 'tank': list pools with `dmg pool list` [DER_NONEXIST(-1005)]");
        assert_eq!(error.status(), -1005);
    }
}
