//! What is an entry and a list, and what is none, as tables; that text comes back as it was, at random.

use proptest::prelude::*;

use super::*;

#[test]
fn an_entry_says_whom_and_what() {
    let user = |name: &str| Principal::User(PrincipalName::parse(name).unwrap());
    let group = |name: &str| Principal::Group(PrincipalName::parse(name).unwrap());
    for (text, principal, bits, canonical) in [
        ("A::OWNER@:rw", Principal::Owner, 3, "A::OWNER@:rw"),
        ("A:G:GROUP@:wr", Principal::OwnerGroup, 3, "A:G:GROUP@:rw"),
        ("A::EVERYONE@:r", Principal::Everyone, 1, "A::EVERYONE@:r"),
        ("A::bob@:oAaTtdcwr", user("bob@"), 511, "A::bob@:rwcdtTaAo"),
        (" A::bob@site:rr ", user("bob@site"), 1, "A::bob@site:r"),
        ("A:G:domain users@:d", group("domain users@"), 8, "A:G:domain users@:d"),
        ("A::owner@:t", user("owner@"), 16, "A::owner@:t"),
        // Nothing at all, for somebody whom his groups permit something.
        ("A::mallory@:", user("mallory@"), 0, "A::mallory@:"),
    ] {
        let ace: Ace = text.parse().unwrap();
        assert_eq!((&ace.principal, ace.permissions.bits()), (&principal, bits), "{text}");
        assert_eq!(ace.to_string(), canonical);
    }
}

#[test]
fn what_is_no_entry_is_told_with_the_way_to_write_one() {
    let long = format!("A::{}@:r", "x".repeat(255));
    for (text, cause, remedy) in [
        ("", "no access control entry", "A::bob@:rw"),
        ("A::bob@", "no access control entry", "A::bob@:rw"),
        ("A::bob@:r:w", "no access control entry", "A::bob@:rw"),
        ("U:S:bob@:r", "type 'U'", "permit nothing"),
        ("D::bob@:r", "type 'D'", "permit nothing"),
        ("A:P:bob@:r", "flags 'P'", "A:G:"),
        ("A:GF:bob@:r", "flags 'GF'", "A:G:"),
        ("A::GROUP@:rw", "lacks the flag", "write A:G:GROUP@:rw"),
        ("A:G:OWNER@:rw", "has the flag", "write A::OWNER@:rw"),
        ("A:G:EVERYONE@:r", "has the flag", "write A::EVERYONE@:r"),
        ("A::bob@:rx", "the permission 'x'", "o (set the owner)"),
        ("A::bob:r", "no @", "bob@"),
        ("A::@:r", "before its @", "bob@"),
        ("A:::r", "no @", "bob@"),
        ("A::bob@x@:r", "more than one @", "bob@"),
        ("A:: bob@:r", "white space", "bob@"),
        ("A::b,b@:r", "a comma", "bob@"),
        (&long, "longer than 255", "bob@"),
    ] {
        let error: Error = text.parse::<Ace>().unwrap_err().into();
        assert_eq!(error.code, Code::Invalid);
        assert!(error.message.contains(cause), "{text}: {error}");
        assert!(error.remedy.as_ref().unwrap().contains(remedy), "{text}: {error}");
    }
    assert!(format!("A::{}@:r", "x".repeat(254)).parse::<Ace>().is_ok());
}

#[test]
fn a_principal_of_its_own_says_whether_it_is_a_user_or_a_group() {
    for text in ["OWNER@", "GROUP@", "EVERYONE@", "u:bob@", "g:admins@", "g:bob@site"] {
        assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
    }
    for text in ["bob@", "u:bob", "g:", "x:bob@", "", "u:OWNER@", "owner"] {
        assert!(text.parse::<Principal>().is_err(), "{text}");
    }
    assert!("bob@".parse::<Principal>().unwrap_err().remedy().contains("u:bob@"));
}

/// The text of a file, with what people write beside the entries.
#[test]
fn a_file_is_one_entry_a_line() {
    let text = "# Owner: ann@\n\n  # Entries:\nA::EVERYONE@:r\nA:G:readers@:r\n\tA::zoe@:rw\r\nA::bob@:r\nA:G:GROUP@:rw\nA::OWNER@:rw";
    let acl: Acl = text.parse().unwrap();
    let lines = "A::OWNER@:rw\nA::bob@:r\nA::zoe@:rw\nA:G:GROUP@:rw\nA:G:readers@:r\nA::EVERYONE@:r\n";
    assert_eq!(acl.to_string(), lines);
    assert_eq!(acl.bytes(), lines.len());
    assert_eq!("# Entries:\n#   None\n".parse::<Acl>().unwrap(), Acl::default());
    let error = "A::bob@:r\n\nA::bob@:x".parse::<Acl>().unwrap_err();
    assert!(error.to_string().starts_with("line 3: entry"), "{error}");
    let twice: Error = "A::bob@:r\nA:G:bob@:r\nA::bob@:w".parse::<Acl>().unwrap_err().into();
    assert!(twice.message.contains("u:bob@ has two"), "{twice}");
}

#[test]
fn a_pool_and_a_container_permit_what_they_can() {
    for (of, letters) in [(AclOf::Pool, "rwcdt"), (AclOf::Container, "rwdtTaAo")] {
        assert_eq!(of.permissions().to_string(), letters);
        assert_eq!(of.default_acl().check(of), Ok(()));
        for (letter, _, word) in PERMISSIONS {
            let acl: Acl = format!("A::bob@:{letter}").parse().unwrap();
            let checked = acl.check(of);
            assert_eq!(checked.is_ok(), letters.contains(letter), "{of}: {letter}");
            if let Err(error) = checked {
                assert!(error.to_string().contains(word) && error.remedy().contains(letters), "{error}");
            }
        }
    }
    assert_eq!(AclOf::Pool.default_acl().to_string(), "A::OWNER@:rw\nA:G:GROUP@:rw\n");
    assert_eq!(AclOf::Container.default_acl().to_string(), "A::OWNER@:rwdtTaAo\nA:G:GROUP@:rwtT\n");
}

#[test]
fn an_update_replaces_and_adds_and_nothing_else() {
    let acl = |text: &str| text.replace(' ', "\n").parse::<Acl>().unwrap();
    let before = acl("A::OWNER@:rw A::bob@:r A:G:GROUP@:rw");
    let after = before.updated(&acl("A::EVERYONE@:r A::bob@:rw A::ann@:")).unwrap();
    assert_eq!(after, acl("A::OWNER@:rw A::ann@: A::bob@:rw A:G:GROUP@:rw A::EVERYONE@:r"));
    assert_eq!(before.updated(&Acl::default()), Ok(before.clone()));
    assert_eq!(before.without(&"u:bob@".parse().unwrap()), Some(acl("A::OWNER@:rw A:G:GROUP@:rw")));
    assert_eq!(before.without(&"g:bob@".parse().unwrap()), None);
}

#[test]
fn a_list_has_a_bound_in_bytes() {
    let ace = |n: usize| format!("A::{n:0>250}@:rw").parse::<Ace>().unwrap();
    let line = ace(0).line_bytes();
    let full = Acl::new((0..ACL_BYTES_MAX / line).map(ace).collect()).unwrap();
    assert!(full.bytes() + line > ACL_BYTES_MAX);
    let one_more = Acl::new(vec![ace(ACL_BYTES_MAX)]).unwrap();
    assert!(matches!(full.updated(&one_more), Err(AclError::TooLong { .. })));
    let short =
        |n: usize| Ace { principal: Principal::User(PrincipalName(format!("{n}@"))), permissions: Permissions(0) };
    assert!(matches!(Acl::new((0..=ACL_ENTRIES_MAX).map(short).collect()), Err(AclError::TooLong { .. })));
}

prop_compose! {
    fn any_ace()(kind in 0..5, name in "[a-z][a-z .A-Z0-9é_-]{0,20}[a-z0-9]@[a-z]{0,5}", bits in 0u16..512) -> Ace {
        let name = PrincipalName::parse(&name).unwrap();
        let principal = match kind {
            0 => Principal::Owner,
            1 => Principal::User(name),
            2 => Principal::OwnerGroup,
            3 => Principal::Group(name),
            _ => Principal::Everyone,
        };
        Ace { principal, permissions: Permissions::from_bits(bits).unwrap() }
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(entries in prop::collection::vec(any_ace(), 0..12)) {
        let Ok(acl) = Acl::new(entries) else { return Ok(()) };
        prop_assert_eq!(acl.to_string().parse::<Acl>(), Ok(acl.clone()));
        prop_assert_eq!(acl.to_string().len(), acl.bytes());
        for ace in acl.entries() {
            prop_assert_eq!(ace.principal.to_string().parse::<Principal>(), Ok(ace.principal.clone()));
        }
    }

    /// No text panics; what is taken for a list prints as one.
    #[test]
    fn any_text_is_a_list_or_none(text in "[AGP#: @\\n,a-zrwo]{0,60}") {
        if let Ok(acl) = text.parse::<Acl>() {
            prop_assert_eq!(acl.to_string().parse::<Acl>(), Ok(acl));
        }
    }
}
