//! Asking a neighbour for its routes again (RFC 2918, RFC 7313).

use super::{Conn, Speaker};
use crate::message::Refresh;
use crate::session::State;
use crate::types::Family;
use crate::view::RefreshView;

/// Why a neighbour was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// No neighbour has this name or address.
    #[error("no neighbour of this name or address is known")]
    Unknown,
    /// Its session is not Established, and a new one begins with the whole table.
    #[error("its session is not Established; when it is, it begins with all routes")]
    NotEstablished,
    /// It did not offer route refresh (RFC 2918 section 4).
    #[error("it does not offer route refresh (RFC 2918)")]
    NotOffered,
}

impl Speaker {
    /// Asks a neighbour, by name or address, for all its routes of every family that is spoken. With enhanced refresh
    /// it marks where they begin and end, and what it has not repeated between goes.
    pub fn ask_refresh(&mut self, name: &str) -> Result<RefreshView, RefreshError> {
        let peer = self.peer_called(name).ok_or(RefreshError::Unknown)?;
        let (peer_name, address, slots) = (peer.name(), peer.address, peer.conns.clone());
        let up = |conn: &Conn| conn.session.state() == State::Established;
        let slot = slots.into_iter().find(|slot| self.conn(*slot).is_some_and(up));
        let conn = slot.and_then(|slot| self.conns.get_mut(slot)?.as_mut());
        let conn = conn.ok_or(RefreshError::NotEstablished)?;
        let (families, enhanced) = conn.ask_refresh().ok_or(RefreshError::NotOffered)?;
        Ok(RefreshView { peer: peer_name, address, families, enhanced })
    }
}

impl Conn {
    /// Queues the requests; returns the families' names and whether the answer will be marked. `None`: the neighbour
    /// did not offer to answer.
    pub(super) fn ask_refresh(&mut self) -> Option<(Vec<String>, bool)> {
        let negotiated = self.session.negotiated().filter(|n| n.peer.refresh)?;
        let (families, enhanced) = (negotiated.families, negotiated.enhanced_refresh);
        let mut out = Vec::new();
        let mut names = Vec::new();
        for family in Family::ALL.into_iter().filter(|f| families[f.index()]) {
            Refresh::Request.encode(family, &mut out);
            names.push(if family == Family::Ipv4 { "ipv4-unicast" } else { "ipv6-unicast" }.to_string());
        }
        self.out.control(out);
        Some((names, enhanced))
    }
}
