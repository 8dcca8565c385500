//! Why an event is refused: one closed list, the same on the command line, in answers and in logs.

use std::fmt;

/// Why an event, or a question about events, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonCode {
    /// No such type of event.
    TypeUnknown,
    /// The subject is not what its type needs.
    SubjectInvalid,
    /// The id is empty, too long or not printable.
    IdInvalid,
    /// The source node's name is empty, too long or not printable.
    SourceInvalid,
    /// The payload is larger than 64 KiB.
    PayloadTooLarge,
    /// The event would hold for more than a year.
    LifeTooLong,
    /// The node captures the address for another site, so what it sees is its own echo.
    AddressCaptured,
    /// Too many requests wait for the store.
    Busy,
    /// The store could not be read or written; nothing was changed.
    StoreFailed,
}

impl ReasonCode {
    /// Every code, in the order of the reference.
    pub const ALL: [ReasonCode; 9] = [
        ReasonCode::TypeUnknown,
        ReasonCode::SubjectInvalid,
        ReasonCode::IdInvalid,
        ReasonCode::SourceInvalid,
        ReasonCode::PayloadTooLarge,
        ReasonCode::LifeTooLong,
        ReasonCode::AddressCaptured,
        ReasonCode::Busy,
        ReasonCode::StoreFailed,
    ];

    /// The code as written.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasonCode::TypeUnknown => "event-type-unknown",
            ReasonCode::SubjectInvalid => "event-subject-invalid",
            ReasonCode::IdInvalid => "event-id-invalid",
            ReasonCode::SourceInvalid => "event-source-invalid",
            ReasonCode::PayloadTooLarge => "event-payload-too-large",
            ReasonCode::LifeTooLong => "event-life-too-long",
            ReasonCode::AddressCaptured => "event-address-captured",
            ReasonCode::Busy => "event-store-busy",
            ReasonCode::StoreFailed => "event-store-failed",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: its code, and what was wrong this time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The code.
    pub code: ReasonCode,
    /// What was wrong, for a person.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Refusal { code, detail: detail.into() }
    }

    /// The code as written.
    pub fn code(&self) -> &'static str {
        self.code.as_str()
    }
}
