//! Ends the moves of claims: as soon as the new owner's route is accepted, the former owner's is not needed any more.

use std::net::IpAddr;
use std::time::Duration;

use bgp::io::Speaker;
use bgp::types::Prefix;
use bgp::view::RouteQuery;
use enrollment::io::store::Registry;

/// How often the table is looked at while something moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches the moves under way until the registry is gone.
pub async fn follow(registry: Registry, speaker: Speaker) {
    let mut admissions = registry.watch();
    loop {
        let now = admissions.borrow_and_update().clone();
        for (address, moving) in &now.moves {
            let Some(owner) = now.leaves.get(&moving.to) else { continue };
            let prefix = Some(Prefix::host(IpAddr::V4(*address)));
            let routes = speaker.routes(RouteQuery { prefix, ..RouteQuery::default() }).await;
            if routes.routes.iter().any(|route| route.next_hop == IpAddr::V4(owner.overlay)) {
                tracing::info!(%address, from = %moving.from, to = %moving.to, "moved");
                if let Err(refusal) = registry.move_done(*address).await {
                    tracing::warn!(%address, %refusal, "the end of a move was not stored; it is tried again");
                }
            }
        }
        let changed = match now.moves.is_empty() {
            true => admissions.changed().await,
            false => tokio::time::timeout(LOOK_EVERY, admissions.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}
