//! NOTIFICATIONs (RFC 4271 section 4.5): why a session ends, with the text of RFC 9003 and the hard reset of RFC 8538.

use std::fmt;

use rustbgpd_wire::NotificationCode;
use rustbgpd_wire::notification::{decode_shutdown_communication, description};

use super::{HEADER_LEN, MAX_LEN, begin, finish};

/// A NOTIFICATION (RFC 4271 section 4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The subcode.
    pub subcode: u8,
    /// What the code prescribes.
    pub data: Vec<u8>,
}

/// Cease subcodes that are used here (RFC 4486, RFC 8538).
pub mod cease {
    /// Too many prefixes.
    pub const MAX_PREFIXES: u8 = 1;
    /// The operator stops the session.
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    /// The peer is no longer configured or admitted.
    pub const PEER_DECONFIGURED: u8 = 3;
    /// The operator has the session begin afresh.
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    /// The peer may not connect.
    pub const CONNECTION_REJECTED: u8 = 5;
    /// The configuration changed.
    pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
    /// Another connection of the same peer was kept.
    pub const CONNECTION_COLLISION: u8 = 7;
    /// A limit is reached.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// The session and its routes end, graceful restart notwithstanding.
    pub const HARD_RESET: u8 = 9;
    /// BFD says that the peer does not answer (RFC 9384).
    pub const BFD_DOWN: u8 = 10;
}

impl Notification {
    /// A NOTIFICATION with its data.
    pub fn new(code: u8, subcode: u8, data: Vec<u8>) -> Notification {
        Notification { code, subcode, data }
    }

    /// Cease without data.
    pub fn cease(subcode: u8) -> Notification {
        Notification::new(6, subcode, Vec::new())
    }

    /// Cease with a text (RFC 9003), cut at 255 octets on a character's edge.
    pub fn cease_with_text(subcode: u8, text: &str) -> Notification {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = vec![end as u8];
        data.extend_from_slice(&text.as_bytes()[..end]);
        Notification::new(6, subcode, data)
    }

    /// Reads a NOTIFICATION's body.
    pub fn decode(body: &[u8]) -> Notification {
        let (code, subcode) = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
        Notification::new(code, subcode, body.get(2..).unwrap_or_default().to_vec())
    }

    /// Appends the whole message; data that do not fit are cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = begin(out, 3);
        out.extend_from_slice(&[self.code, self.subcode]);
        out.extend_from_slice(&self.data[..self.data.len().min(MAX_LEN - HEADER_LEN - 2)]);
        finish(out, at);
    }

    /// The shutdown text of RFC 9003, if this or what it wraps carries one.
    pub fn text(&self) -> Option<String> {
        if let Some(wrapped) = self.wrapped() {
            return wrapped.text();
        }
        let may = self.code == 6 && matches!(self.subcode, 2..=4);
        decode_shutdown_communication(&self.data).filter(|t| may && !t.is_empty())
    }

    /// Whether it ends graceful restart too (RFC 8538).
    pub fn is_hard_reset(&self) -> bool {
        self.code == 6 && self.subcode == cease::HARD_RESET
    }

    /// The same as a hard reset, for who keeps routes over any other NOTIFICATION (RFC 8538 section 3.1).
    pub fn into_hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification::new(6, cease::HARD_RESET, data)
    }

    /// What a hard reset says of its cause; `None` for any other, and for a hard reset inside a hard reset.
    pub fn wrapped(&self) -> Option<Notification> {
        let (true, [code, subcode, data @ ..]) = (self.is_hard_reset(), &self.data[..]) else { return None };
        Some(Notification::new(*code, *subcode, data.to_vec())).filter(|n| !n.is_hard_reset())
    }

    /// Code and subcode of the cause: what a hard reset wraps, else its own.
    pub fn cause(&self) -> (u8, u8) {
        self.wrapped().map_or((self.code, self.subcode), |n| (n.code, n.subcode))
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = NotificationCode::from_u8(self.code);
        write!(f, "{}/{} {code}: {}", self.code, self.subcode, description(code, self.subcode))?;
        if let Some(wrapped) = self.wrapped() {
            return write!(f, " ({wrapped})");
        }
        match self.text() {
            Some(text) => write!(f, ": {}", text.escape_debug()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_text_is_cut_on_a_characters_edge() {
        let n = Notification::cease_with_text(2, &"ä".repeat(200));
        assert_eq!(n.data.len(), 255);
        assert_eq!(n.text().unwrap(), "ä".repeat(127));
        assert!(n.to_string().starts_with("6/2 "));
    }

    /// RFC 8538: the cause inside a hard reset is shown with its text, and nothing is read out of a broken one.
    #[test]
    fn a_hard_reset_shows_what_it_wraps() {
        let n = Notification::cease_with_text(2, "disk swap").into_hard_reset();
        assert_eq!(n.data, [&[6, 2, 9][..], b"disk swap"].concat());
        assert_eq!((n.cause(), n.text()), ((6, 2), Some("disk swap".into())));
        let shown = n.to_string();
        assert!(
            shown.starts_with("6/9 ") && shown.contains("(6/2 ") && shown.ends_with(": disk swap)"),
            "{shown}"
        );
        for data in [vec![], vec![6], vec![6, 9, 6, 2]] {
            let broken = Notification::new(6, cease::HARD_RESET, data);
            assert_eq!((broken.wrapped(), broken.cause(), broken.text()), (None, (6, 9), None));
        }
    }
}
