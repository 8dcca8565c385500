//! Tells the leaves that the fabric has other hubs than before, or that this one was restored: a datagram to each, on
//! which it fetches its topology at once instead of within a minute. The datagram says nothing; a lost one costs that
//! minute. Being a packet for the leaf, it also has WireGuard call the leaf where it was last heard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enrollment::registry::Admissions;
use enrollment::topology::HubNode;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// What is in the datagram, for people who look at packets.
const HINT: &[u8] = b"fabric/1 news";
/// How often it is sent, and how long after one another: any may be lost.
const TIMES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(4);
/// How many leaves are told in one go, and the pause after them.
const AT_ONCE: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs until the registry ends; `at_once`: this hub was restored, and may be at another address.
pub async fn tell(mut admissions: watch::Receiver<Arc<Admissions>>, at_once: bool) {
    let mut known: Vec<HubNode> = admissions.borrow_and_update().hubs.clone();
    if at_once {
        let now = admissions.borrow().clone();
        tracing::info!(leaves = now.leaves.len(), "the leaves are called where they were last heard");
        told(&now).await;
    }
    while admissions.changed().await.is_ok() {
        let now = admissions.borrow_and_update().clone();
        if now.hubs != known {
            known.clone_from(&now.hubs);
            tracing::info!(
                hubs = known.len() + 1,
                leaves = now.leaves.len(),
                "the leaves are told of the hubs"
            );
            told(&now).await;
        }
    }
}

async fn told(now: &Admissions) {
    if let Err(error) = hint(now).await {
        tracing::warn!(%error, "the leaves learn of the hubs within a minute");
    }
}

async fn hint(now: &Admissions) -> std::io::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::from((now.hub.overlay, 0))).await?;
    for round in 0..TIMES {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        for (n, leaf) in now.leaves.values().enumerate() {
            // One that is away has nothing to hear it with.
            let _ = socket.send_to(HINT, SocketAddr::from((leaf.overlay, now.hub.api_port))).await;
            if n % AT_ONCE == AT_ONCE - 1 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}
