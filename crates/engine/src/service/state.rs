//! What the states of all services have in common.

use wire::{DecodeError, Reader, Wire};

/// Version of a state's encoding: its first byte.
const FORMAT: u8 = 1;

/// Begins an encoded state: one of another release is refused by name, and not misread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format;

impl Wire for Format {
    fn encode(&self, out: &mut Vec<u8>) {
        FORMAT.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Format, DecodeError> {
        match u8::decode(from)? {
            FORMAT => Ok(Format),
            other => Err(DecodeError::Unknown { what: "the version of the state", value: other.into() }),
        }
    }
}
