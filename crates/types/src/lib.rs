//! The nouns of the system: ids, epochs, keys, extents, classes, properties, errors.
//!
//! Everything here is a value: no I/O, no clocks, no randomness. Each type checks itself where it is
//! made (`Key::new`, `Label::parse`), so the rest of the tree may trust it.
//!
//! # Not here
//! Byte layouts: messages live in `wire`, durable formats in `media` and `vos`. Reading the clock
//! lives in `rt`.
#![forbid(unsafe_code)]

mod acl;
mod class;
mod epoch;
mod error;
mod id;
mod io;
mod key;
mod property;
mod size;
mod span;

pub use acl::{
    ACL_BYTES_MAX, ACL_ENTRIES_MAX, Ace, Acl, AclError, AclOf, PRINCIPAL_BYTES_MAX, Permissions, Principal,
    PrincipalName,
};
pub use class::{
    Chosen, ClassError, Hints, ObjectClass, ObjectType, Protection, REDUNDANCY_FACTOR_MAX, Redundancy, Spread,
    SymbolicClass, TooFewDomains, Width,
};
pub use epoch::Epoch;
pub use error::{Code, Error, Result};
pub use id::{ContainerId, ObjectId, PoolId, Rank, ServerId, SessionId, SystemId, TargetIndex};
pub use io::{
    AKEYS_PER_REQUEST_MAX, ARRAY_INDEX_MAX, CHECKSUM_CHUNK_BYTES, Conditions, EXTENTS_PER_AKEY_MAX, Extent,
    UNDER_WAY_MAX, VALUE_BYTES_MAX,
};
pub use key::{KEY_BYTES_MAX, Key, KeyError};
pub use property::{
    Change, ContainerProperty, LABEL_BYTES_MAX, Label, LabelError, Layout, PoolProperty, Property, PropertyError,
    SelfHeal, SystemHeal, SystemProperty, check_property, find_property, nearest,
};
pub use size::{ByteSize, SizeError};
pub use span::{Span, SpanError};
