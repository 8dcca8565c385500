//! BFD beside the sessions (RFC 5882): which session has one, and what its fall does.

use super::{Action, ConnId, Speaker};
use crate::message::{Notification, cease};
use crate::peer::Origin;
use crate::session::Millis;
use crate::settings::Liveness;

impl Speaker {
    /// Replaces what says who has BFD; sessions stay, their BFD comes, changes or goes.
    pub fn set_liveness(&mut self, liveness: Liveness) {
        self.liveness = liveness;
        for slot in 0..self.conns.len() {
            self.watch(slot);
        }
    }

    /// Asks for the BFD session that an Established session should have, where it has not got it.
    pub(super) fn watch(&mut self, slot: usize) {
        let Some(conn) = self.conn(slot).filter(|c| c.source.is_some()) else { return };
        let Some(peer) = self.peers.get(&conn.peer) else { return };
        let wished = match &peer.origin {
            Origin::Named(n) => self.liveness.neighbors.get(&n.name),
            Origin::Dynamic { group, .. } => self.liveness.dynamic_peers.get(group),
        };
        let (wished, id) = (wished.copied(), ConnId { slot, serial: conn.serial });
        if conn.bfd != wished {
            if let Some(Some(conn)) = self.conns.get_mut(slot) {
                conn.bfd = wished;
            }
            self.actions.push_back(Action::Watch(id, wished));
        }
    }

    /// The BFD session beside this session fell: the peer does not answer, so the session ends at once.
    ///
    /// Its routes are kept as graceful restart and fail static demand (RFC 5882 section 4.3.2.2): our BFD and the
    /// sessions live in one process (C is 0), and a restart must not flush what still forwards. A peer that would
    /// take a NOTIFICATION for the end of graceful restart (no RFC 8538) gets none.
    pub fn bfd_fell(&mut self, id: ConnId, why: &str, now: Millis) {
        if !self.live(id) {
            return;
        }
        let Some(conn) = self.conn(id.slot) else { return };
        let key = conn.peer.clone();
        let restart = conn.session.negotiated().and_then(|n| n.graceful_restart);
        if restart.is_some_and(|gr| !gr.notification) {
            self.closed(id, "BFD down", now);
        } else {
            self.stop(id.slot, Notification::cease(cease::BFD_DOWN), now);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.last_error = Some(format!("BFD down: {why}"));
        }
    }
}
