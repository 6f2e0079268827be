//! Paths: their pieces, their limits, and how an error prints them.
//!
//! A path is bytes; `/` separates, and no byte but NUL is special otherwise.

use crate::error::Reason;

/// Longest name of one entry, in bytes: what Linux calls `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path, and longest symlink target, in bytes: `PATH_MAX` without its NUL.
pub const PATH_BYTES_MAX: usize = 4095;
/// Most symbolic links followed in one walk, as in Linux.
pub const LINKS_MAX: usize = 40;

/// One step of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `..`
    Up,
    /// `.`
    Stay,
    Name(Box<[u8]>),
}

/// A path taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    pub absolute: bool,
    pub steps: Vec<Step>,
    /// Ends in `/`: what it names must be a directory.
    pub trailing_slash: bool,
}

/// Takes `path` apart.
///
/// # Errors
/// `NotFound` for the empty path (as POSIX has it), `NameTooLong`, `Invalid` for a NUL.
pub(crate) fn parse(path: &[u8]) -> Result<Steps, Reason> {
    if path.is_empty() {
        return Err(Reason::NotFound);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(Reason::NameTooLong);
    }
    if path.contains(&0) {
        return Err(Reason::Invalid("a path has no NUL byte"));
    }
    let pieces = path.split(|&b| b == b'/').filter(|piece| !piece.is_empty());
    let steps = pieces.map(step).collect::<Result<_, _>>()?;
    Ok(Steps { absolute: path[0] == b'/', steps, trailing_slash: path.ends_with(b"/") })
}

fn step(piece: &[u8]) -> Result<Step, Reason> {
    match piece {
        b"." => Ok(Step::Stay),
        b".." => Ok(Step::Up),
        _ if piece.len() > NAME_BYTES_MAX => Err(Reason::NameTooLong),
        _ => Ok(Step::Name(piece.into())),
    }
}

/// Whether `name` may stand in a directory. Names read from the store are checked too, so that a
/// damaged directory cannot lead a copy outside its destination.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}

/// `directory/name`, for messages and for walks.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() && !directory.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The path as text for people: what is not printable text is escaped.
pub(crate) fn readable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => text.extend(c.to_string().bytes().map(|b| format!("\\x{b:02x}"))),
                false => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Step {
        Step::Name(text.as_bytes().into())
    }

    #[test]
    fn a_path_comes_apart_at_its_slashes() {
        let steps = parse(b"//a/./b/..//c/").unwrap();
        assert!(steps.absolute && steps.trailing_slash);
        assert_eq!(steps.steps, [name("a"), Step::Stay, name("b"), Step::Up, name("c")]);
        assert_eq!(parse(b"/").unwrap().steps, []);
        assert!(!parse(b"a").unwrap().absolute);
    }

    #[test]
    fn limits_are_those_of_linux() {
        assert!(parse(&[b'a'; 255]).is_ok());
        assert!(matches!(parse(&[b'a'; 256]), Err(Reason::NameTooLong)));
        assert!(parse("a/".repeat(2047).as_bytes()).is_ok());
        assert!(matches!(parse("a/".repeat(2048).as_bytes()), Err(Reason::NameTooLong)));
        assert!(matches!(parse(b""), Err(Reason::NotFound)));
        assert!(matches!(parse(b"a\0b"), Err(Reason::Invalid(_))));
    }

    #[test]
    fn names_from_the_store_cannot_lead_elsewhere() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"../x", b"a\0", &[b'n'; 256]] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name(b"...") && is_name(b"\xff\n") && is_name(&[b'n'; 255]));
    }

    #[test]
    fn unprintable_bytes_are_escaped_for_people() {
        assert_eq!(readable("né\n\u{1b}".as_bytes()), "né\\x0a\\x1b");
        assert_eq!(readable(b"a\xffb"), "a\\xffb");
    }
}
