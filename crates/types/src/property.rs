//! Labels, container layouts, and the properties of pools and containers.
//!
//! One table each says a property's name, its default, whether it may change after creation, and
//! how its text is checked. Everything that prints, parses or stores a property reads the table.

use std::fmt;
use std::str::FromStr;

use crate::acl::PrincipalName;

/// Longest label, in bytes.
pub const LABEL_BYTES_MAX: usize = 127;

/// A name given to a pool, container or snapshot: 1 to 127 of `A-Z a-z 0-9 . _ : -`, never
/// readable as a UUID, so that labels work wherever UUIDs do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Label(String);

/// Why some text is not a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a label needs at least one character")]
    Empty,
    #[error("label '{0}' is longer than {LABEL_BYTES_MAX} characters")]
    TooLong(String),
    #[error("label '{text}' has the character {found:?}: use letters, digits and . _ : -")]
    Character { text: String, found: char },
    #[error("label '{0}' reads as a UUID: choose a name that does not")]
    LooksLikeUuid(String),
}

impl Label {
    pub fn parse(text: &str) -> Result<Label, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        if text.len() > LABEL_BYTES_MAX {
            return Err(LabelError::TooLong(text.to_string()));
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || ".-_:".contains(*c);
        if let Some(found) = text.chars().find(|c| !allowed(c)) {
            return Err(LabelError::Character { text: text.to_string(), found });
        }
        if uuid::Uuid::parse_str(text).is_ok() {
            return Err(LabelError::LooksLikeUuid(text.to_string()));
        }
        Ok(Label(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Label, LabelError> {
        Label::parse(text)
    }
}
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a container holds: upstream's layout types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u16)]
pub enum Layout {
    #[default]
    Unknown = 0,
    Posix = 1,
    Hdf5 = 2,
    Python = 3,
    Spark = 4,
    Database = 5,
    Root = 6,
    Seismic = 7,
    Meteo = 8,
}

impl Layout {
    pub const ALL: [Layout; 9] = [
        Layout::Unknown,
        Layout::Posix,
        Layout::Hdf5,
        Layout::Python,
        Layout::Spark,
        Layout::Database,
        Layout::Root,
        Layout::Seismic,
        Layout::Meteo,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Layout::Unknown => "UNKNOWN",
            Layout::Posix => "POSIX",
            Layout::Hdf5 => "HDF5",
            Layout::Python => "PYTHON",
            Layout::Spark => "SPARK",
            Layout::Database => "DATABASE",
            Layout::Root => "ROOT",
            Layout::Seismic => "SEISMIC",
            Layout::Meteo => "METEO",
        }
    }

    pub fn from_code(code: u16) -> Option<Layout> {
        Layout::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
impl FromStr for Layout {
    type Err = PropertyError;
    fn from_str(text: &str) -> Result<Layout, PropertyError> {
        Layout::ALL.into_iter().find(|l| l.name().eq_ignore_ascii_case(text)).ok_or_else(|| PropertyError::Value {
            name: "layout_type",
            value: text.to_string(),
            expected: "POSIX, HDF5, PYTHON, SPARK, DATABASE, ROOT, SEISMIC, METEO or UNKNOWN",
        })
    }
}

/// What a pool does by itself when a server dies: upstream's property `self_heal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfHeal {
    /// The pool map says that the dead server's targets are down, and the pool goes on without them.
    pub exclude: bool,
    /// What they held is made anew elsewhere at once, and not only when an administrator wants it.
    pub rebuild: bool,
}

impl FromStr for SelfHeal {
    type Err = PropertyError;
    fn from_str(text: &str) -> Result<SelfHeal, PropertyError> {
        let (mut heal, mut is_delayed) = (SelfHeal { exclude: false, rebuild: false }, false);
        let words: Vec<&str> = text.split(';').map(str::trim).collect();
        for word in &words {
            match *word {
                "exclude" => heal.exclude = true,
                "rebuild" => heal.rebuild = true,
                "delay_rebuild" => is_delayed = true,
                "none" if words.len() == 1 => {}
                _ => {
                    let expected = "exclude, rebuild or delay_rebuild, with ; between them, or none";
                    return Err(PropertyError::Value { name: "self_heal", value: text.to_string(), expected });
                }
            }
        }
        // A delay of what nobody wants is none; of what is wanted at once, it counts.
        heal.rebuild &= !is_delayed;
        Ok(heal)
    }
}

/// What a system does by itself when a server dies: upstream's property `self_heal` of systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemHeal {
    /// Servers that are taken for dead are excluded.
    pub exclude: bool,
    /// Pools exclude the targets of who does not take part, if their own policy says so, too.
    pub pool_exclude: bool,
    /// Pools make anew what failed targets held, if their own policy says so, too.
    pub pool_rebuild: bool,
}

const SYSTEM_HEAL: &str = "exclude, pool_exclude and pool_rebuild, with ; between them, or none";

impl FromStr for SystemHeal {
    type Err = PropertyError;
    fn from_str(text: &str) -> Result<SystemHeal, PropertyError> {
        let mut heal = SystemHeal { exclude: false, pool_exclude: false, pool_rebuild: false };
        let words: Vec<&str> = text.split(';').map(str::trim).collect();
        for word in &words {
            match *word {
                "exclude" => heal.exclude = true,
                "pool_exclude" => heal.pool_exclude = true,
                "pool_rebuild" => heal.pool_rebuild = true,
                "none" if words.len() == 1 => {}
                _ => {
                    let (value, expected) = (text.to_string(), SYSTEM_HEAL);
                    return Err(PropertyError::Value { name: "self_heal", value, expected });
                }
            }
        }
        Ok(heal)
    }
}

/// A property could not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    #[error("unknown property '{name}'{}", suggestion.as_ref().map(|s| format!(": did you mean '{s}'?")).unwrap_or_default())]
    Unknown { name: String, suggestion: Option<&'static str> },
    #[error("property {name} cannot be '{value}': expected {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
    #[error("property {name} is fixed at creation")]
    Fixed { name: &'static str },
    #[error("property {name} is changed with `{command}`, and not as others are")]
    By { name: &'static str, command: &'static str },
    #[error("property {name} is read-only: the system sets it")]
    ReadOnly { name: &'static str },
}

/// When a property may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Always,
    AtCreation,
    /// Later by this command, which is about nothing else.
    By(&'static str),
    /// The system sets it.
    Never,
}

/// One row of a property table.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// The key in commands: `rd_fac`.
    pub name: &'static str,
    /// What a person reads: `Redundancy factor`.
    pub title: &'static str,
    pub default: &'static str,
    pub change: Change,
    /// What a value must look like, for the error.
    pub expected: &'static str,
    check: fn(&str) -> bool,
}

fn any(_: &str) -> bool {
    true
}
fn label(text: &str) -> bool {
    Label::parse(text).is_ok()
}
fn percent(text: &str) -> bool {
    text.parse::<u8>().is_ok_and(|n| n <= 100)
}
fn budget(text: &str) -> bool {
    text.parse::<u8>().is_ok_and(|n| (1..=100).contains(&n))
}
fn factor(text: &str) -> bool {
    text.parse::<u8>().is_ok_and(|n| n <= 4)
}
fn size_4k_1g(text: &str) -> bool {
    text.parse::<crate::ByteSize>().is_ok_and(|s| (1 << 10..=1 << 30).contains(&s.0))
}
fn threshold(text: &str) -> bool {
    text.parse::<crate::ByteSize>().is_ok_and(|s| (512..=8192).contains(&s.0))
}
fn layout(text: &str) -> bool {
    text.parse::<Layout>().is_ok()
}
fn checksum(text: &str) -> bool {
    text == "crc32c"
}
fn on_off(text: &str) -> bool {
    matches!(text, "on" | "off")
}
fn principal(text: &str) -> bool {
    PrincipalName::parse(text).is_ok()
}
fn health(text: &str) -> bool {
    matches!(text, "healthy" | "unclean")
}
fn self_heal(text: &str) -> bool {
    text.parse::<SelfHeal>().is_ok()
}
fn system_heal(text: &str) -> bool {
    text.parse::<SystemHeal>().is_ok()
}
fn span(text: &str) -> bool {
    text.parse::<crate::Span>().is_ok()
}
fn number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

const fn row(
    name: &'static str,
    title: &'static str,
    default: &'static str,
    change: Change,
    expected: &'static str,
    check: fn(&str) -> bool,
) -> Property {
    Property { name, title, default, change, expected, check }
}

const PRINCIPAL: &str = "a name with an @, such as bob@";
const SET_OWNER: Change = Change::By("daos container set-owner");

/// The properties of a system that this release honours.
pub struct SystemProperty;

impl SystemProperty {
    pub const TABLE: &[Property] = &[
        row("daos_system", "System name", "", Change::Never, "a label", label),
        row("daos_version", "Release", "", Change::Never, "a release", any),
        row(
            "self_heal",
            "Self-heal policy",
            "exclude;pool_exclude;pool_rebuild",
            Change::Always,
            SYSTEM_HEAL,
            system_heal,
        ),
    ];
}

/// The properties of a pool that this release honours.
pub struct PoolProperty;

impl PoolProperty {
    pub const TABLE: &[Property] = &[
        row("label", "Name", "", Change::Always, "a label", label),
        row("rd_fac", "Redundancy factor", "0", Change::AtCreation, "a number from 0 to 4", factor),
        row("space_rb", "Rebuild space ratio", "0", Change::Always, "a percentage from 0 to 100", percent),
        row(
            "self_heal",
            "Self-heal policy",
            "exclude;rebuild",
            Change::Always,
            "exclude, rebuild or delay_rebuild, with ; between them, or none",
            self_heal,
        ),
        row(
            "rebuild_budget",
            "Rebuild budget",
            "30",
            Change::Always,
            "a percentage from 1 to 100: of a target's time, while it has requests to serve",
            budget,
        ),
        row("scrub_freq", "Scrub frequency", "7d", Change::Always, "a span such as 7d, or forever for never", span),
        row("ec_cell_sz", "EC cell size", "131072", Change::AtCreation, "a size from 1 KiB to 1 GiB", size_4k_1g),
        row("data_thresh", "Data threshold", "4096", Change::AtCreation, "a size from 512 B to 8 KiB", threshold),
        row("owner", "Owner", "", Change::AtCreation, PRINCIPAL, principal),
        row("group", "Owner group", "", Change::AtCreation, PRINCIPAL, principal),
        row("global_version", "Global version", "1", Change::Never, "a number", number),
    ];
}

/// The properties of a container that this release honours.
pub struct ContainerProperty;

impl ContainerProperty {
    pub const TABLE: &[Property] = &[
        row("label", "Label", "", Change::Always, "a label", label),
        row("layout_type", "Layout type", "UNKNOWN", Change::AtCreation, "a layout such as POSIX", layout),
        row("layout_version", "Layout version", "1", Change::Never, "a number", number),
        row("rd_fac", "Redundancy factor", "0", Change::AtCreation, "a number from 0 to 4", factor),
        row("cksum", "Checksum", "crc32c", Change::AtCreation, "crc32c: checksums are always on", checksum),
        row("cksum_size", "Checksum chunk size", "32768", Change::Never, "a number", number),
        row("srv_cksum", "Server checksumming", "on", Change::Never, "on", on_off),
        row("status", "Health", "healthy", Change::Always, "healthy or unclean", health),
        row("owner", "Owner", "", SET_OWNER, PRINCIPAL, principal),
        row("group", "Owner group", "", SET_OWNER, PRINCIPAL, principal),
        row("chunk_size", "Chunk size", "1048576", Change::AtCreation, "a size from 1 KiB to 1 GiB", size_4k_1g),
        row("retention", "History kept", "0", Change::Always, "a span such as 90s, 30m, 7d or forever", span),
        row("oclass", "Object class", "", Change::AtCreation, "an object class such as SX", any),
        row("global_version", "Global version", "1", Change::Never, "a number", number),
    ];
}

/// Finds `name` in `table` and checks that `value` may be given to it now.
///
/// # Errors
/// [`PropertyError`]; an unknown name comes with the nearest known one.
pub fn check_property(
    table: &'static [Property],
    name: &str,
    value: &str,
    creating: bool,
) -> Result<&'static Property, PropertyError> {
    let property = find_property(table, name)?;
    match property.change {
        Change::Never => return Err(PropertyError::ReadOnly { name: property.name }),
        Change::AtCreation if !creating => return Err(PropertyError::Fixed { name: property.name }),
        Change::By(command) if !creating => return Err(PropertyError::By { name: property.name, command }),
        Change::AtCreation | Change::By(_) | Change::Always => {}
    }
    if (property.check)(value) {
        Ok(property)
    } else {
        Err(PropertyError::Value { name: property.name, value: value.to_string(), expected: property.expected })
    }
}

/// Finds `name` in `table`.
///
/// # Errors
/// [`PropertyError::Unknown`], with the nearest known name.
pub fn find_property(table: &'static [Property], name: &str) -> Result<&'static Property, PropertyError> {
    // Upstream renamed `rf` to `rd_fac`; scripts still say either.
    let wanted = if name == "rf" { "rd_fac" } else { name };
    table.iter().find(|p| p.name == wanted).ok_or_else(|| PropertyError::Unknown {
        name: name.to_string(),
        suggestion: nearest(name, table.iter().map(|p| p.name)),
    })
}

/// The candidate nearest to `text` by edit distance, if it is near enough to be a slip of the hand.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, found) = candidates.into_iter().map(|c| (edit_distance(text, c), c)).min()?;
    (distance <= 1 + text.len().min(found.len()) / 3).then_some(found)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word is one, in any order; a slip is an error that names them.
    #[test]
    fn a_system_heals_as_far_as_its_words_say() {
        let heal = |exclude, pool_exclude, pool_rebuild| Ok(SystemHeal { exclude, pool_exclude, pool_rebuild });
        assert_eq!("exclude;pool_exclude;pool_rebuild".parse(), heal(true, true, true));
        assert_eq!("pool_rebuild; exclude".parse(), heal(true, false, true));
        assert_eq!("none".parse(), heal(false, false, false));
        for wrong in ["", "all", "none;exclude", "exclude,pool_rebuild"] {
            let refused = wrong.parse::<SystemHeal>().unwrap_err();
            assert!(refused.to_string().contains("pool_exclude and pool_rebuild"), "{refused}");
        }
    }

    #[test]
    fn a_label_is_short_plain_and_not_a_uuid() {
        for good in ["a", "tank-1", "my.pool_2:x"] {
            assert_eq!(Label::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Label::parse(""), Err(LabelError::Empty));
        assert!(matches!(Label::parse("a b"), Err(LabelError::Character { found: ' ', .. })));
        assert!(matches!(Label::parse(&"x".repeat(128)), Err(LabelError::TooLong(_))));
        let uuid = "8a5b0a0e-0000-4000-8000-000000000000";
        assert!(matches!(Label::parse(uuid), Err(LabelError::LooksLikeUuid(_))));
    }

    #[test]
    fn defaults_satisfy_their_own_checks() {
        for property in PoolProperty::TABLE.iter().chain(ContainerProperty::TABLE) {
            assert!(property.default.is_empty() || (property.check)(property.default), "{}", property.name);
        }
    }

    #[test]
    fn a_slip_of_the_hand_gets_a_suggestion() {
        let error = find_property(PoolProperty::TABLE, "rd_fax").unwrap_err();
        assert_eq!(error.to_string(), "unknown property 'rd_fax': did you mean 'rd_fac'?");
        assert_eq!(nearest("zzzzz", ["label", "owner"]), None);
    }

    #[test]
    fn the_self_heal_policy_is_words() {
        let heal = |exclude, rebuild| Some(SelfHeal { exclude, rebuild });
        for (text, expected) in [
            ("exclude;rebuild", heal(true, true)),
            ("rebuild; exclude", heal(true, true)),
            ("exclude", heal(true, false)),
            ("exclude;delay_rebuild", heal(true, false)),
            ("exclude;rebuild;delay_rebuild", heal(true, false)),
            ("rebuild", heal(false, true)),
            ("none", heal(false, false)),
            ("none;exclude", None),
            ("", None),
            ("exclude,rebuild", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        let default = PoolProperty::TABLE.iter().find(|row| row.name == "self_heal").unwrap().default;
        assert_eq!(default.parse().ok(), heal(true, true));
    }

    #[test]
    fn fixed_and_read_only_properties_stay() {
        assert!(check_property(PoolProperty::TABLE, "rd_fac", "2", true).is_ok());
        assert!(matches!(check_property(PoolProperty::TABLE, "rd_fac", "2", false), Err(PropertyError::Fixed { .. })));
        let owner =
            |value, creating| check_property(ContainerProperty::TABLE, "owner", value, creating).map(|row| row.name);
        assert_eq!(owner("bob@", true), Ok("owner"));
        assert!(matches!(owner("bob", true), Err(PropertyError::Value { .. })));
        assert!(owner("bob@", false).unwrap_err().to_string().contains("set-owner"));
        assert!(matches!(
            check_property(PoolProperty::TABLE, "global_version", "2", true),
            Err(PropertyError::ReadOnly { .. })
        ));
        assert!(matches!(
            check_property(PoolProperty::TABLE, "space_rb", "101", false),
            Err(PropertyError::Value { .. })
        ));
    }
}
