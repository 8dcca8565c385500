//! Why an event is refused: one closed list, the same on the command line, in answers and in logs.

use std::fmt;

macro_rules! reasons {
    ($($name:ident $code:literal $meaning:literal $fix:literal;)*) => {
        /// Why an event, or a question about events, is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonCode {
            $(#[doc = $meaning] $name,)*
        }

        impl ReasonCode {
            /// Every code, in the order of the reference.
            pub const ALL: &[ReasonCode] = &[$(ReasonCode::$name,)*];

            /// The code as written.
            pub const fn as_str(self) -> &'static str {
                match self { $(ReasonCode::$name => $code,)* }
            }

            /// One sentence that says what happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(ReasonCode::$name => $meaning,)* }
            }

            /// What a person does about it.
            pub const fn fix(self) -> &'static str {
                match self { $(ReasonCode::$name => $fix,)* }
            }
        }
    };
}

reasons! {
    TypeUnknown "event-type-unknown"
        "There is no such type of event."
        "Use a type that the message lists, for example `routerd.client.ipv4.observed`.";
    SubjectInvalid "event-subject-invalid"
        "The subject is not what the event's type needs."
        "Give the client's unicast IPv4 address as `--subject`.";
    IdInvalid "event-id-invalid"
        "The id is empty, too long or not printable."
        "Leave `--id` out for a fresh one, or use a short printable word.";
    SourceInvalid "event-source-invalid"
        "The source node's name is empty, too long or not printable."
        "Enroll this leaf first: `routerctl enroll STRING`; its name is the source.";
    PayloadTooLarge "event-payload-too-large"
        "The payload is larger than 64 KiB."
        "Send less: a payload holds at most 64 KiB.";
    LifeTooLong "event-life-too-long"
        "The event would hold for more than a year."
        "Use a shorter `--expires`, for example `5m`; repeat the event while it is true.";
    AddressCaptured "event-address-captured"
        "The node captures the address for another site, so what it sees is its own echo."
        "Emit it on the leaf of the site where the client really is.";
    Busy "event-store-busy"
        "Too many requests wait for the store of events."
        "Try again in a moment; if it lasts, look for a loop that emits events.";
    StoreFailed "event-store-failed"
        "The store of events could not be read or written; nothing was changed."
        "Check free space and permissions of the state directory, then try again.";
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

    /// What a person does about it.
    pub fn fix(&self) -> &'static str {
        self.code.fix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every code has its own word, a sentence that says what happened, and one that says what to do.
    #[test]
    fn every_code_is_told() {
        let words: BTreeSet<_> = ReasonCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ReasonCode::ALL.len());
        for code in ReasonCode::ALL {
            assert!(code.as_str().starts_with("event-"), "{code}");
            for sentence in [code.meaning(), code.fix()] {
                let begins = sentence.starts_with(|c: char| c.is_uppercase());
                assert!(begins && sentence.ends_with('.') && sentence.len() > 20, "{code}: {sentence}");
            }
        }
    }
}
