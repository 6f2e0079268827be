//! Access control lists: what an owner, users, groups and everyone else may do with a pool or a container.
//!
//! An entry is written `A:[G]:PRINCIPAL:PERMISSIONS`: `A::OWNER@:rw`, `A::bob@:r`, `A:G:admins@:rwd`. A list is one
//! entry a line; lines that begin with `#` are comments.
//!
//! # Always true
//! 1. A principal has one entry. Entries stand in the order in which they are asked: the owner, users, the owner's
//!    group, groups, everyone; names sorted.
//! 2. The text of a list has at most [`ACL_BYTES_MAX`] bytes.
//! 3. What is printed is read back as the same list.
//!
//! # Not here
//! Who is who, and whether a list is obeyed: nobody proves yet who he is, so lists are kept and not enforced.
//!
//! # Source
//! DAOS `daos_security.h`: letters, bits and reserved names, as facts. Differs: of a name, also control characters,
//! `:`, `,` and white space at its ends are refused, since a line of text could not say them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::{Code, Error};

/// Longest name of a user or a group, in bytes, with its `@`.
pub const PRINCIPAL_BYTES_MAX: usize = 255;
/// Most text of one list, in bytes, with the end of each line.
pub const ACL_BYTES_MAX: usize = 64 << 10;
/// Most entries, which follows: no line is shorter than `A::a@:` and its end.
pub const ACL_ENTRIES_MAX: usize = ACL_BYTES_MAX / "A::a@:\n".len();

/// The name of a user or a group: `bob@`, or `bob@site`. None of the reserved ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalName(String);

impl PrincipalName {
    /// # Errors
    /// [`AclError::Name`].
    pub fn parse(text: &str) -> Result<PrincipalName, AclError> {
        let refused = |why| Err(AclError::Name { text: text.to_string(), why });
        match text.find('@') {
            None => return refused("it has no @"),
            Some(0) => return refused("nothing comes before its @"),
            Some(at) if text[at + 1..].contains('@') => return refused("it has more than one @"),
            Some(_) => {}
        }
        if text.len() > PRINCIPAL_BYTES_MAX {
            return refused("it is longer than 255 bytes");
        }
        if text.trim() != text {
            return refused("it begins or ends with white space");
        }
        if text.contains(|c: char| c.is_control() || c == ':' || c == ',') {
            return refused("it has a colon, a comma or a control character");
        }
        if Principal::reserved(text).is_some() {
            return refused("it is reserved");
        }
        Ok(PrincipalName(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PrincipalName {
    type Err = AclError;
    fn from_str(text: &str) -> Result<PrincipalName, AclError> {
        PrincipalName::parse(text)
    }
}
impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Whom an entry is for. Their order is the one of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    Owner,
    User(PrincipalName),
    OwnerGroup,
    Group(PrincipalName),
    Everyone,
}

impl Principal {
    fn reserved(text: &str) -> Option<Principal> {
        match text {
            "OWNER@" => Some(Principal::Owner),
            "GROUP@" => Some(Principal::OwnerGroup),
            "EVERYONE@" => Some(Principal::Everyone),
            _ => None,
        }
    }

    fn is_group(&self) -> bool {
        matches!(self, Principal::OwnerGroup | Principal::Group(_))
    }

    /// As it stands in an entry, where a flag tells a group from a user.
    fn name(&self) -> &str {
        match self {
            Principal::Owner => "OWNER@",
            Principal::User(name) | Principal::Group(name) => name.as_str(),
            Principal::OwnerGroup => "GROUP@",
            Principal::Everyone => "EVERYONE@",
        }
    }
}

/// `OWNER@`, `u:bob@`, `GROUP@`, `g:admins@`, `EVERYONE@`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::User(name) => write!(f, "u:{name}"),
            Principal::Group(name) => write!(f, "g:{name}"),
            Principal::Owner | Principal::OwnerGroup | Principal::Everyone => f.pad(self.name()),
        }
    }
}

impl FromStr for Principal {
    type Err = AclError;
    fn from_str(text: &str) -> Result<Principal, AclError> {
        match text.split_once(':') {
            Some(("u", name)) => PrincipalName::parse(name).map(Principal::User),
            Some(("g", name)) => PrincipalName::parse(name).map(Principal::Group),
            _ => Principal::reserved(text).ok_or_else(|| AclError::Principal { text: text.to_string() }),
        }
    }
}

/// What may be done: letter, upstream's bit, and the word for it. In the order in which they are written.
const PERMISSIONS: [(char, u16, &str); 9] = [
    ('r', 1, "read"),
    ('w', 2, "write"),
    ('c', 4, "create containers"),
    ('d', 8, "delete"),
    ('t', 16, "get properties"),
    ('T', 32, "set properties"),
    ('a', 64, "get the ACL"),
    ('A', 128, "set the ACL"),
    ('o', 256, "set the owner"),
];

/// A set of permissions; the empty one refuses everything.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Permissions(u16);

impl Permissions {
    /// `None`: a bit that no permission has.
    pub fn from_bits(bits: u16) -> Option<Permissions> {
        let known = PERMISSIONS.iter().fold(0, |all, (_, bit, _)| all | bit);
        (bits & !known == 0).then_some(Permissions(bits))
    }

    pub const fn bits(self) -> u16 {
        self.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The permissions in words: `read, write`; `nothing`.
    pub fn words(self) -> String {
        let words: Vec<&str> = self.rows().map(|(_, _, word)| *word).collect();
        if words.is_empty() { "nothing".to_string() } else { words.join(", ") }
    }

    /// The letters of the set.
    ///
    /// # Errors
    /// The first that is none.
    fn parse(text: &str) -> Result<Permissions, char> {
        text.chars().try_fold(Permissions(0), |Permissions(all), letter| {
            let row = PERMISSIONS.iter().find(|(known, _, _)| *known == letter).ok_or(letter)?;
            Ok(Permissions(all | row.1))
        })
    }

    fn rows(self) -> impl Iterator<Item = &'static (char, u16, &'static str)> {
        PERMISSIONS.iter().filter(move |(_, bit, _)| self.0 & bit != 0)
    }
}

/// `rwdtTaAo`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.rows().map(|(letter, _, _)| *letter).collect::<String>())
    }
}
impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a list belongs to, which says what it can permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclOf {
    Pool,
    Container,
}

impl AclOf {
    /// What can be permitted.
    pub const fn permissions(self) -> Permissions {
        match self {
            // r w c d t
            AclOf::Pool => Permissions(1 | 2 | 4 | 8 | 16),
            // All but c.
            AclOf::Container => Permissions(1 | 2 | 8 | 16 | 32 | 64 | 128 | 256),
        }
    }

    /// The list of one that nobody gave another.
    pub fn default_acl(self) -> Acl {
        let (owner, group) = match self {
            AclOf::Pool => ("rw", "rw"),
            AclOf::Container => ("rwdtTaAo", "rwtT"),
        };
        let entry = |principal, letters| {
            let permissions = Permissions::parse(letters).expect("letters of the table");
            Ace { principal, permissions }
        };
        Acl { entries: vec![entry(Principal::Owner, owner), entry(Principal::OwnerGroup, group)] }
    }
}

impl fmt::Display for AclOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AclOf::Pool => "pool",
            AclOf::Container => "container",
        })
    }
}

/// An access control entry: what one principal may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ace {
    pub principal: Principal,
    pub permissions: Permissions,
}

impl Ace {
    /// The entry in words: `user bob@: read, write`.
    pub fn words(&self) -> String {
        let whom = match &self.principal {
            Principal::Owner => "the owner".to_string(),
            Principal::User(name) => format!("user {name}"),
            Principal::OwnerGroup => "the owner's group".to_string(),
            Principal::Group(name) => format!("group {name}"),
            Principal::Everyone => "everyone else".to_string(),
        };
        format!("{whom}: {}", self.permissions.words())
    }

    /// Bytes of its line, with the end.
    fn line_bytes(&self) -> usize {
        let flag = usize::from(self.principal.is_group());
        "A:::\n".len() + flag + self.principal.name().len() + self.permissions.bits().count_ones() as usize
    }
}

/// `A:G:admins@:rw`.
impl fmt::Display for Ace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = if self.principal.is_group() { "G" } else { "" };
        write!(f, "A:{flag}:{}:{}", self.principal.name(), self.permissions)
    }
}

impl FromStr for Ace {
    type Err = AclError;
    fn from_str(text: &str) -> Result<Ace, AclError> {
        let owned = || text.to_string();
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [kind, flags, name, letters] = parts[..] else { return Err(AclError::Shape { text: owned() }) };
        if kind != "A" {
            return Err(AclError::Kind { text: owned(), kind: kind.to_string() });
        }
        let is_group = match flags {
            "" => false,
            "G" => true,
            _ => return Err(AclError::Flag { text: owned(), flags: flags.to_string() }),
        };
        let principal = match Principal::reserved(name) {
            Some(principal) => principal,
            None if is_group => Principal::Group(PrincipalName::parse(name)?),
            None => Principal::User(PrincipalName::parse(name)?),
        };
        let permissions = Permissions::parse(letters).map_err(|found| AclError::Letter { text: owned(), found })?;
        let ace = Ace { principal, permissions };
        if ace.principal.is_group() != is_group {
            return Err(AclError::Group { text: owned(), meant: ace });
        }
        Ok(ace)
    }
}

/// An access control list.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Acl {
    /// By principal.
    entries: Vec<Ace>,
}

impl Acl {
    /// A list of `entries`, in whatever order they come.
    ///
    /// # Errors
    /// [`AclError::Twice`], [`AclError::TooLong`].
    pub fn new(mut entries: Vec<Ace>) -> Result<Acl, AclError> {
        entries.sort_by(|a, b| a.principal.cmp(&b.principal));
        match entries.windows(2).find(|pair| pair[0].principal == pair[1].principal) {
            Some(pair) => Err(AclError::Twice { principal: pair[0].principal.clone() }),
            None => Acl { entries }.bounded(),
        }
    }

    pub fn entries(&self) -> &[Ace] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(Ace::line_bytes).sum()
    }

    /// Whether a pool or a container can have it.
    ///
    /// # Errors
    /// [`AclError::Permission`].
    pub fn check(&self, of: AclOf) -> Result<(), AclError> {
        let wrong = |ace: &Ace| Permissions(ace.permissions.0 & !of.permissions().0);
        match self.entries.iter().find(|ace| !wrong(ace).is_empty()) {
            Some(ace) => Err(AclError::Permission { principal: ace.principal.clone(), wrong: wrong(ace), of }),
            None => Ok(()),
        }
    }

    /// The list with the entries of another added, in place of those of the same principals.
    ///
    /// # Errors
    /// [`AclError::TooLong`].
    pub fn updated(&self, with: &Acl) -> Result<Acl, AclError> {
        let (mut old, mut new) = (self.entries.iter().peekable(), with.entries.iter().peekable());
        let mut entries = Vec::with_capacity(self.entries.len() + with.entries.len());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => old.principal.cmp(&new.principal),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Acl { entries }.bounded(),
            };
            let before = if order.is_gt() { None } else { old.next() };
            let after = if order.is_lt() { None } else { new.next() };
            entries.extend(after.or(before).cloned());
        }
    }

    /// The list without a principal's entry; `None`: there is none.
    pub fn without(&self, principal: &Principal) -> Option<Acl> {
        let at = self.entries.binary_search_by(|ace| ace.principal.cmp(principal)).ok()?;
        let mut entries = self.entries.clone();
        entries.remove(at);
        Some(Acl { entries })
    }

    fn bounded(self) -> Result<Acl, AclError> {
        match self.bytes() {
            bytes if bytes > ACL_BYTES_MAX => Err(AclError::TooLong { bytes }),
            _ => Ok(self),
        }
    }
}

/// One entry a line.
impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|ace| writeln!(f, "{ace}"))
    }
}
impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(ToString::to_string)).finish()
    }
}

impl FromStr for Acl {
    type Err = AclError;
    /// One entry a line; empty lines, and comments after a `#` at the beginning of a line, say nothing.
    fn from_str(text: &str) -> Result<Acl, AclError> {
        let lines = text.lines().map(str::trim).zip(1..);
        let entries = lines
            .filter(|(text, _)| !text.is_empty() && !text.starts_with('#'))
            .map(|(text, line)| text.parse().map_err(|error| AclError::Line { line, error: Box::new(error) }));
        Acl::new(entries.collect::<Result<_, _>>()?)
    }
}

/// Why something is no access control list, or not one of this pool or container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    #[error("'{text}' is no access control entry")]
    Shape { text: String },
    #[error("entry '{text}' is of type '{kind}', and only A (allow) is kept")]
    Kind { text: String, kind: String },
    #[error("entry '{text}' has the flags '{flags}', and only G (group) is kept")]
    Flag { text: String, flags: String },
    #[error("entry '{text}' {}", if meant.principal.is_group() { "lacks the flag of a group" } else { "has the flag of a group" })]
    Group { text: String, meant: Ace },
    #[error("entry '{text}' has the permission {found:?}, which there is not")]
    Letter { text: String, found: char },
    #[error("'{text}' names no user or group: {why}")]
    Name { text: String, why: &'static str },
    #[error("'{text}' is no principal")]
    Principal { text: String },
    #[error("{principal} has two entries")]
    Twice { principal: Principal },
    #[error("the ACL of a {of} cannot permit '{wrong}' ({}) to {principal}", wrong.words())]
    Permission { principal: Principal, wrong: Permissions, of: AclOf },
    #[error("the ACL has {bytes} bytes of text, and may have {ACL_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("line {line}: {error}")]
    Line { line: usize, error: Box<AclError> },
}

impl AclError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            AclError::Shape { .. } => "write A:[G]:PRINCIPAL:PERMISSIONS, such as A::bob@:rw or A:G:admins@:r".into(),
            AclError::Kind { .. } => "to refuse somebody everything, permit nothing: A::bob@:".into(),
            AclError::Flag { .. } => "write A:G:admins@:rw for a group, and A::bob@:rw for a user".into(),
            AclError::Group { meant, .. } => format!("write {meant}"),
            AclError::Letter { .. } => {
                let letter = |(letter, _, word): &(char, u16, &str)| format!("{letter} ({word})");
                format!("permissions are {}", PERMISSIONS.iter().map(letter).collect::<Vec<_>>().join(", "))
            }
            AclError::Name { .. } => {
                "write a name with an @, such as bob@, or OWNER@, GROUP@ or EVERYONE@ as such".into()
            }
            AclError::Principal { .. } => {
                "write u:bob@ for a user, g:admins@ for a group, or OWNER@, GROUP@ or EVERYONE@".into()
            }
            AclError::Twice { .. } => "say it in one entry".into(),
            AclError::Permission { of, .. } => format!("permissions of a {of} are {}", of.permissions()),
            AclError::TooLong { .. } => "permit it to groups instead of their members".into(),
            AclError::Line { error, .. } => error.remedy(),
        }
    }
}

impl From<AclError> for Error {
    fn from(error: AclError) -> Error {
        Error::new(Code::Invalid, error.to_string()).remedy(error.remedy())
    }
}

#[cfg(test)]
mod tests;
