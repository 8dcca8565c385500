//! Events: what they are and what they must be.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reason::{ReasonCode, Refusal};

/// The largest payload in bytes of JSON: 64 KiB.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// The longest id, group, source node, subject and dedupe key in bytes.
pub const MAX_TEXT_BYTES: usize = 255;
/// The longest life of an event in milliseconds: a year.
pub const MAX_LIFE_MS: u64 = 365 * 24 * 3600 * 1000;

/// Every type of event. Facts only: no command crosses the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// A client is at the source node's site.
    #[serde(rename = "routerd.client.ipv4.observed")]
    ClientObserved,
    /// A client is no longer at the source node's site.
    #[serde(rename = "routerd.client.ipv4.expired")]
    ClientExpired,
    /// A generated part of configuration was accepted.
    #[serde(rename = "routerd.dynamic.part.accepted")]
    PartAccepted,
    /// A generated part of configuration was rejected.
    #[serde(rename = "routerd.dynamic.part.rejected")]
    PartRejected,
    /// An action at a provider was planned.
    #[serde(rename = "routerd.provider.action.planned")]
    ActionPlanned,
    /// An action at a provider succeeded.
    #[serde(rename = "routerd.provider.action.succeeded")]
    ActionSucceeded,
    /// An action at a provider failed.
    #[serde(rename = "routerd.provider.action.failed")]
    ActionFailed,
}

impl EventType {
    /// Every type, in the order of the reference.
    pub const ALL: [EventType; 7] = [
        EventType::ClientObserved,
        EventType::ClientExpired,
        EventType::PartAccepted,
        EventType::PartRejected,
        EventType::ActionPlanned,
        EventType::ActionSucceeded,
        EventType::ActionFailed,
    ];

    /// The type as written.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::ClientObserved => "routerd.client.ipv4.observed",
            EventType::ClientExpired => "routerd.client.ipv4.expired",
            EventType::PartAccepted => "routerd.dynamic.part.accepted",
            EventType::PartRejected => "routerd.dynamic.part.rejected",
            EventType::ActionPlanned => "routerd.provider.action.planned",
            EventType::ActionSucceeded => "routerd.provider.action.succeeded",
            EventType::ActionFailed => "routerd.provider.action.failed",
        }
    }

    /// Whether the subject is a client's address.
    pub fn is_client(self) -> bool {
        matches!(self, EventType::ClientObserved | EventType::ClientExpired)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventType {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        EventType::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = EventType::ALL.iter().map(|known| known.as_str()).collect();
            let detail = format!("`{}` is no type of event; there are: {}", shown(text), known.join(", "));
            Refusal::new(ReasonCode::TypeUnknown, detail)
        })
    }
}

/// An observed fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Unique; the same id twice is one event.
    pub id: String,
    /// The group whose nodes share it.
    pub group: String,
    /// The node that observed it.
    pub source_node: String,
    /// What was observed.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// What it was observed of; for client events the client's IPv4 address.
    pub subject: String,
    /// The same for repeated observations of one thing.
    pub dedupe_key: String,
    /// More about it, any JSON of at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Value,
    /// When it was observed, in milliseconds since 1970 by the source node's clock.
    pub observed_at: u64,
    /// When it ceases to hold, in milliseconds since 1970 by the source node's clock.
    pub expires_at: u64,
}

impl Event {
    /// The client of a client event.
    pub fn client(&self) -> Option<Ipv4Addr> {
        self.event_type.is_client().then(|| self.subject.parse().ok()).flatten()
    }

    /// Whether every field is what it must be.
    pub fn check(&self) -> Result<(), Refusal> {
        let texts = [
            ("id", &self.id, ReasonCode::IdInvalid),
            ("sourceNode", &self.source_node, ReasonCode::SourceInvalid),
            ("subject", &self.subject, ReasonCode::SubjectInvalid),
            ("dedupeKey", &self.dedupe_key, ReasonCode::SubjectInvalid),
        ];
        for (name, text, code) in texts {
            if !word(text) {
                let detail =
                    format!("`{name}` must be 1 to {MAX_TEXT_BYTES} bytes without control characters");
                return Err(Refusal::new(code, detail));
            }
        }
        if self.event_type.is_client() && !self.client().is_some_and(usable) {
            let detail = format!("`{}` is not the unicast IPv4 address of a client", shown(&self.subject));
            return Err(Refusal::new(ReasonCode::SubjectInvalid, detail));
        }
        let bytes = serde_json::to_vec(&self.payload).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_PAYLOAD_BYTES {
            let detail = format!("the payload has more than {MAX_PAYLOAD_BYTES} bytes");
            return Err(Refusal::new(ReasonCode::PayloadTooLarge, detail));
        }
        if self.expires_at.saturating_sub(self.observed_at) > MAX_LIFE_MS {
            return Err(Refusal::new(ReasonCode::LifeTooLong, "an event holds for a year at most"));
        }
        Ok(())
    }
}

fn word(text: &str) -> bool {
    (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn usable(address: Ipv4Addr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_link_local();
    !(special || address.is_multicast() || address.octets()[0] >= 240)
}

/// The beginning of a text, fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "1".into(),
            group: "fabric".into(),
            source_node: "aws".into(),
            event_type: EventType::ClientObserved,
            subject: "10.81.10.20".into(),
            dedupe_key: "client/10.81.10.20".into(),
            payload: Value::Null,
            observed_at: 1_000,
            expires_at: 301_000,
        }
    }

    fn code(event: &Event) -> Option<ReasonCode> {
        event.check().err().map(|refusal| refusal.code)
    }

    /// The words on the wire are those of the type list, and camel case.
    #[test]
    fn words_on_the_wire() {
        for known in EventType::ALL {
            assert_eq!(serde_json::to_value(known).unwrap(), known.as_str());
            assert_eq!(known.as_str().parse::<EventType>(), Ok(known));
        }
        let json = serde_json::to_value(event()).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "dedupeKey",
            "expiresAt",
            "group",
            "id",
            "observedAt",
            "payload",
            "sourceNode",
            "subject",
            "type",
        ];
        assert_eq!(keys, expected);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event());
    }

    /// Each wrong field has its own code.
    #[test]
    fn each_field_is_checked() {
        assert_eq!(code(&event()), None);
        assert_eq!(code(&Event { id: String::new(), ..event() }), Some(ReasonCode::IdInvalid));
        assert_eq!(code(&Event { source_node: "a\nb".into(), ..event() }), Some(ReasonCode::SourceInvalid));
        for subject in
            ["", "host", "10.0.0.0/8", "224.0.0.1", "127.0.0.1", "0.0.0.0", "255.255.255.255", "::1"]
        {
            let event = Event { subject: subject.into(), ..event() };
            assert_eq!(code(&event), Some(ReasonCode::SubjectInvalid), "{subject}");
        }
        let action = Event { event_type: EventType::ActionPlanned, subject: "nic-1".into(), ..event() };
        assert_eq!(code(&action), None);
        let payload = Value::String("x".repeat(MAX_PAYLOAD_BYTES));
        assert_eq!(code(&Event { payload, ..event() }), Some(ReasonCode::PayloadTooLarge));
        assert_eq!(code(&Event { expires_at: u64::MAX, ..event() }), Some(ReasonCode::LifeTooLong));
        assert_eq!("routerd.client.ipv4".parse::<EventType>().unwrap_err().code, ReasonCode::TypeUnknown);
    }
}
