//! What an operator does to one neighbour: keeps it down with a text that it is told (RFC 9003), lets it back, or has
//! its session begin afresh.

use super::Speaker;
use crate::message::{Notification, cease};
use crate::peer::{Dial, Origin, Peer};
use crate::session::Millis;
use crate::types::PeerKey;
use crate::view::OperatedView;

/// The longest text for a neighbour, in octets: what RFC 9003 section 2 has room for.
pub const TEXT_MAX: usize = 255;

/// Why nothing was done to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// No neighbour has this name or address.
    #[error("no neighbour of this name or address is known")]
    Unknown,
    /// There is no session to begin afresh.
    #[error("it has no session")]
    NoSession,
}

impl Speaker {
    /// Ends what a neighbour has, by name or address, with Cease/2 and this text, as a hard reset where both keep routes
    /// over other NOTIFICATIONs (RFC 8538), and keeps it down: it is not dialled, and refused with the same text, until
    /// [`Speaker::enable`] or the end of this process. Done again it changes the text.
    pub fn keep_down(&mut self, name: &str, text: &str, now: Millis) -> Result<OperatedView, OperateError> {
        self.now = now;
        let key = self.key_called(name, now).ok_or(OperateError::Unknown)?;
        let peer = self.peers.get_mut(&key).ok_or(OperateError::Unknown)?;
        let before = peer.kept_down.replace(text.to_string());
        peer.dial = Dial::Rest;
        let (view, conns) = (view(peer, before.as_deref() != Some(text)), peer.conns.clone());
        // After our restart its End-of-RIB is not waited for: it will not come.
        self.no_longer_expected(view.address);
        for slot in conns {
            let n = self.hard_where_agreed(slot, kept_down(text));
            self.stop(slot, n, now);
        }
        Ok(view)
    }

    /// Lets a neighbour back that was kept down; one that we dial is dialled at once.
    pub fn enable(&mut self, name: &str, now: Millis) -> Result<OperatedView, OperateError> {
        self.now = now;
        let key = self.key_called(name, now).ok_or(OperateError::Unknown)?;
        let peer = self.peers.get_mut(&key).ok_or(OperateError::Unknown)?;
        let changed = peer.kept_down.take().is_some();
        if changed {
            peer.since = now;
            if matches!(peer.origin, Origin::Named(_)) && peer.conns.is_empty() {
                peer.dial = Dial::At(now);
            }
        }
        let view = view(peer, changed);
        self.wake(now);
        Ok(view)
    }

    /// Has a neighbour's session begin afresh: Cease/4 with this text. Where both keep routes over NOTIFICATIONs
    /// (RFC 8538) none goes meanwhile.
    pub fn reset(&mut self, name: &str, text: &str, now: Millis) -> Result<OperatedView, OperateError> {
        self.now = now;
        let peer = self.peer_called(name).ok_or(OperateError::Unknown)?;
        let (view, conns) = (view(peer, true), peer.conns.clone());
        if conns.is_empty() {
            return Err(OperateError::NoSession);
        }
        for slot in conns {
            self.stop(slot, Notification::cease_with_text(cease::ADMINISTRATIVE_RESET, text), now);
        }
        Ok(view)
    }

    /// The neighbour of this name or address; one that is admitted and has not connected yet gets its place now.
    fn key_called(&mut self, name: &str, now: Millis) -> Option<PeerKey> {
        if let Some(peer) = self.peer_called(name) {
            return Some(peer.key.clone());
        }
        let called = |address: std::net::IpAddr, owner: &str| address.to_string() == name || owner == name;
        let (_, address, _) = self.awaited().find(|(_, address, policy)| called(*address, &policy.owner))?;
        let (key, origin) = (PeerKey::Dynamic(address), self.dynamic_origin(address)?);
        self.peers.insert(key.clone(), Peer::new(key.clone(), address, origin, now));
        Some(key)
    }

    /// Wraps a NOTIFICATION that shall end the peer's retention of our routes too, where it would keep them otherwise
    /// (RFC 8538 section 3).
    pub(super) fn hard_where_agreed(&self, slot: usize, n: Notification) -> Notification {
        let negotiated = self.conn(slot).and_then(|c| c.session.negotiated());
        match negotiated.and_then(|n| n.graceful_restart).is_some_and(|gr| gr.notification) {
            true => n.into_hard_reset(),
            false => n,
        }
    }
}

/// What a neighbour hears that is kept down with this text.
pub(super) fn kept_down(text: &str) -> Notification {
    match text.is_empty() {
        true => Notification::cease(cease::ADMINISTRATIVE_SHUTDOWN),
        false => Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, text),
    }
}

fn view(peer: &Peer, changed: bool) -> OperatedView {
    OperatedView { peer: peer.name(), address: peer.address, changed }
}
