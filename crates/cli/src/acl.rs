//! Access control lists as commands read and print them. `dmg` and `daos` do it alike.
//!
//! What is printed is a file that is read again: what is not an entry is a comment.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use client::OwnedAcl;
use serde::Serialize;
use types::{ACL_BYTES_MAX, Ace, Acl, AclError, AclOf, Code, Error, Principal, PrincipalName};

use crate::failure::{Failure, Result, local};
use crate::output::Outcome;

/// Most of a file that is read: a list, and comments.
const FILE_BYTES_MAX: usize = 16 * ACL_BYTES_MAX;

/// What people and programs should know who look at a list.
const KEPT: &str = "Kept, and not enforced yet: nobody proves who he is";

/// Field names are upstream's.
#[derive(Serialize)]
struct AclView {
    entries: Vec<String>,
    owner_user: String,
    owner_group: String,
}

/// An entry of the command line.
pub(crate) fn entry(text: &str) -> Result<Ace, String> {
    text.parse().map_err(|error| with_remedy(&error))
}

/// A principal of the command line.
pub(crate) fn principal(text: &str) -> Result<Principal, String> {
    text.parse().map_err(|error| with_remedy(&error))
}

/// A user or a group of the command line; the `@` may be left out.
pub(crate) fn name(text: &str) -> Result<PrincipalName, String> {
    let whole = if text.contains('@') { text.to_string() } else { format!("{text}@") };
    whole.parse().map_err(|error| with_remedy(&error))
}

fn with_remedy(error: &AclError) -> String {
    format!("{error}: {}", error.remedy())
}

/// The list in a file.
pub(crate) fn read(path: &Path, of: AclOf) -> Result<Acl> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| local("open", path, &error))?;
    match file.take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text) {
        Ok(bytes) if bytes > FILE_BYTES_MAX => {
            let text = format!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
            return Err(Error::new(Code::Invalid, text).remedy("name a file of access control entries").into());
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            let text = format!("{} is no text", path.display());
            return Err(Error::new(Code::Invalid, text).remedy("name a file of access control entries").into());
        }
        Err(error) => return Err(local("read", path, &error)),
    }
    checked(text.parse(), of).map_err(|error| {
        let Error { code, message, remedy } = error;
        Failure::Failed(Error { code, message: format!("{}: {message}", path.display()), remedy })
    })
}

/// The entries of an update: of a file, or of the command line.
pub(crate) fn entries(file: Option<&Path>, entries: &[Ace], of: AclOf) -> Result<Acl> {
    match file {
        Some(path) => read(path, of),
        None => Ok(checked(Acl::new(entries.to_vec()), of)?),
    }
}

/// So that a slip is told before anything is sent.
fn checked(acl: Result<Acl, AclError>, of: AclOf) -> Result<Acl, Error> {
    let acl = acl?;
    acl.check(of)?;
    Ok(acl)
}

/// A list as a change has left it.
pub(crate) fn outcome(owned: &OwnedAcl) -> Outcome {
    Outcome::new(view(owned), text(owned, false))
}

/// `get-acl`: to the terminal, or to a file.
pub(crate) fn shown(owned: &OwnedAcl, file: Option<&Path>, force: bool, verbose: bool) -> Result<Outcome> {
    let text = text(owned, verbose);
    let Some(path) = file else { return Ok(Outcome::new(view(owned), text)) };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match local("write", path, &error) {
        Failure::Failed(error) if error.code == Code::Exists => {
            error.remedy("name another file, or use --force").into()
        }
        other => other,
    })?;
    Ok(Outcome::new(view(owned), format!("ACL written to {}", path.display())))
}

fn view(owned: &OwnedAcl) -> AclView {
    let OwnedAcl { owner, group, acl } = owned;
    let entries = acl.entries().iter().map(ToString::to_string).collect();
    AclView { entries, owner_user: owner.clone(), owner_group: group.clone() }
}

fn text(owned: &OwnedAcl, verbose: bool) -> String {
    let or_none = |name: &str| if name.is_empty() { "none".to_string() } else { name.to_string() };
    let (owner, group) = (or_none(&owned.owner), or_none(&owned.group));
    let mut text = format!("# Owner: {owner}\n# Owner Group: {group}\n# {KEPT}\n# Entries:\n");
    if owned.acl.is_empty() {
        text.push_str("#   None\n");
    }
    for ace in owned.acl.entries() {
        if verbose {
            text.push_str(&format!("# {}\n", ace.words()));
        }
        text.push_str(&format!("{ace}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(acl: &str) -> OwnedAcl {
        OwnedAcl { owner: "ann@".into(), group: String::new(), acl: acl.parse().unwrap() }
    }

    #[test]
    fn what_is_printed_is_a_file_that_is_read_again() {
        let list = owned("A::OWNER@:rw\nA::mallory@:\nA:G:staff@:rwd");
        for verbose in [false, true] {
            assert_eq!(text(&list, verbose).parse(), Ok(list.acl.clone()));
        }
        let verbose = "# Owner: ann@\n# Owner Group: none\n# Kept, and not enforced yet: nobody proves who he is\n\
            # Entries:\n# the owner: read, write\nA::OWNER@:rw\n# user mallory@: nothing\nA::mallory@:\n\
            # group staff@: read, write, delete\nA:G:staff@:rwd\n";
        assert_eq!(text(&list, true), verbose);
        assert!(text(&owned(""), true).ends_with("# Entries:\n#   None\n"));
    }

    #[test]
    fn a_file_is_written_once_unless_forced_and_names_what_is_wrong_in_it() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("acl");
        let list = owned("A::OWNER@:rw");
        shown(&list, Some(&path), false, false).unwrap();
        assert_eq!(read(&path, AclOf::Pool).unwrap(), list.acl);
        let Err(Failure::Failed(error)) = shown(&list, Some(&path), false, false) else { panic!("it is there") };
        assert_eq!((error.code, error.remedy.unwrap().contains("--force")), (Code::Exists, true));
        shown(&owned(""), Some(&path), true, false).unwrap();
        assert!(read(&path, AclOf::Pool).unwrap().is_empty());
        std::fs::write(&path, "# mine\nA::bob@:rT\n").unwrap();
        let Err(Failure::Failed(error)) = read(&path, AclOf::Pool) else { panic!("a pool has no T") };
        assert!(error.message.contains("acl: the ACL of a pool cannot permit 'T'"), "{error}");
        std::fs::write(&path, "A::bob@:rT\nA::bob:r\n").unwrap();
        let Err(Failure::Failed(error)) = read(&path, AclOf::Container) else { panic!("a name has an @") };
        assert!(error.message.contains("line 2") && error.remedy.is_some(), "{error}");
    }

    #[test]
    fn names_of_the_command_line_may_leave_out_the_sign() {
        assert_eq!(name("ann"), name("ann@"));
        assert!(name("OWNER").unwrap_err().contains("reserved"));
        assert!(principal("ann@").unwrap_err().contains("u:bob@"));
        assert!(entry("A::ann:r").unwrap_err().contains("no @"));
    }
}
