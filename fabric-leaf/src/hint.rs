//! A hub's hint that there is news: one datagram, on which the leaf asks sooner than it would. What it says is in no
//! case believed; the news themselves come in a signed answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};

use crate::membership::Membership;

/// How long hints are not heard after one: nobody makes a leaf ask all the time.
const DEAF: Duration = Duration::from_secs(3);
/// How soon listening is tried again: the address comes with the tunnel.
const RETRY: Duration = Duration::from_secs(1);

/// Hears hints of the leaf's hubs, on its overlay address, until the daemon stops.
pub async fn hear(mut membership: watch::Receiver<Membership>, hint: Arc<Notify>) {
    loop {
        let place = membership.borrow_and_update().state.as_ref().and_then(|state| {
            let hubs = &state.admission.topology.hubs;
            Some(SocketAddr::from((state.admission.overlay, hubs.first()?.api_port)))
        });
        let Some(place) = place else {
            if membership.changed().await.is_err() {
                return;
            }
            continue;
        };
        match UdpSocket::bind(place).await {
            Ok(socket) => listen(&socket, place, &mut membership, &hint).await,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Until the leaf has another address, or the socket fails.
async fn listen(
    socket: &UdpSocket,
    place: SocketAddr,
    membership: &mut watch::Receiver<Membership>,
    hint: &Notify,
) {
    let mut buffer = [0; 64];
    loop {
        let from = tokio::select! {
            changed = membership.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            heard = socket.recv_from(&mut buffer) => match heard {
                Ok((_, from)) => Some(from.ip()),
                Err(error) => {
                    tracing::debug!(%error, "hints are not heard");
                    return tokio::time::sleep(RETRY).await;
                }
            },
        };
        let state = membership.borrow_and_update().state.clone();
        let Some(state) = state.filter(|s| IpAddr::V4(s.admission.overlay) == place.ip()) else { return };
        let hubs = &state.admission.topology.hubs;
        if from.is_some_and(|from| hubs.iter().any(|hub| IpAddr::V4(hub.overlay) == from)) {
            hint.notify_one();
            tokio::time::sleep(DEAF).await;
        }
    }
}
