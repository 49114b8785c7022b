//! Why bytes are no record of a coordinator's topic.

use std::fmt;

use crate::codec::reader::DecodeError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// Every record there has a key.
    NoKey,
    Malformed(DecodeError),
    /// A value that a later coordinator wrote under a key we know: guessing would lose what it says.
    UnknownValueVersion(i16),
    /// A number that stands for no state of a transaction that is ever written.
    UnknownState(i8),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::NoKey => write!(f, "the record has no key"),
            RecordError::Malformed(error) => write!(f, "the record is malformed: {error}"),
            RecordError::UnknownValueVersion(version) => write!(f, "the value has the unknown version {version}"),
            RecordError::UnknownState(id) => write!(f, "the value has the state {id}, in which nothing is written"),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> RecordError {
        RecordError::Malformed(error)
    }
}
