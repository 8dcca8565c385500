//! BFD sessions beside the connections: opened, changed and removed with them; a fall is told to the speaker.

use std::rc::Rc;

use bfd::io::{Bfd, Key, Settings};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::driver::{Inner, Shared};
use crate::speaker::{ConnId, Speaker};
use crate::view::PeerView;

/// Gives a connection its BFD session, other settings for it, or none.
pub(super) fn watch(shared: &Rc<Shared>, inner: &mut Inner, id: ConnId, settings: Option<Settings>) {
    let Some(wire) = inner.wires.get_mut(id.slot()).and_then(Option::as_mut).filter(|w| w.id == id) else {
        return;
    };
    let key = settings.and_then(|s| key(&wire.stream, s.multihop));
    if let (Some(old), Some(bfd)) = (wire.bfd.take_if(|old| Some(old.1) != key), &inner.bfd) {
        bfd.remove(old.0);
    }
    let (Some(settings), Some(key)) = (settings, key) else { return };
    if inner.bfd.is_none() {
        match Bfd::start(inner.session_limit) {
            Ok(bfd) => {
                spawn_local(follow(Rc::clone(shared), bfd.clone()));
                inner.bfd = Some(bfd);
            }
            Err(error) => tracing::error!("BFD cannot start: {error}"),
        }
    }
    if let Some(bfd) = &inner.bfd {
        match bfd.add(key, settings) {
            Ok(session) => wire.bfd = Some((session, key)),
            Err(error) => tracing::warn!(peer = %key.remote, "no BFD: {error}"),
        }
    }
}

fn key(stream: &TcpStream, multihop: bool) -> Option<Key> {
    let (local, remote) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
    Some(Key { local: local.ip().to_canonical(), remote: remote.ip().to_canonical(), multihop })
}

/// Tells the speaker of every fall that is a failure.
async fn follow(shared: Rc<Shared>, bfd: Bfd) {
    loop {
        for news in bfd.news().await {
            tracing::info!(peer = %news.key.remote, state = %news.state, fell = ?news.fell, "BFD");
            // A peer that is held down on purpose has not failed (RFC 5882 section 3.2).
            let Some(fall) = news.fell.filter(|f| !f.administrative) else { continue };
            let of_session = |w: &&super::driver::Wire| w.bfd.is_some_and(|b| b.0 == news.id);
            let conn = shared.inner.borrow().wires.iter().flatten().find(of_session).map(|w| w.id);
            if let Some(id) = conn {
                let why = format!("{} (the peer says: {})", fall.diagnostic, fall.remote_diagnostic);
                shared.tell(|s, now| s.bfd_fell(id, &why, now));
            }
        }
    }
}

/// The neighbours with their BFD sessions.
pub(super) fn peers(speaker: &Speaker, bfd: Option<&Bfd>, now: crate::session::Millis) -> Vec<PeerView> {
    let mut peers = speaker.peers(now);
    if let Some(bfd) = bfd {
        for session in bfd.view().sessions {
            if let Some(peer) = peers.iter_mut().find(|p| p.address == session.peer) {
                peer.bfd = Some(session);
            }
        }
    }
    peers
}
