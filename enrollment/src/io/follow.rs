//! Follows the other hubs: one task for each asks for what is lacking, takes it in, and waits for more.

use super::hub_http;
use super::keys::NodeKeys;
use super::store::Registry;
use crate::exchange::{Batch, ReplicaView};
use crate::identity::SigningKey;
use crate::reason::Refusal;
use crate::registry::Admissions;
use crate::topology::HubNode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait after failures: a hub that returns is in step again soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

struct Seen {
    view: ReplicaView,
    answered: Option<Instant>,
}

type Views = Arc<Mutex<BTreeMap<SigningKey, Seen>>>;

/// The replication of this hub; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Replication {
    views: Views,
    _task: Arc<Aborted>,
}

struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Replication {
    /// Follows every hub that the registry knows, from now on and whenever one joins.
    pub fn start(registry: Registry, keys: Arc<NodeKeys>) -> Self {
        let views = Views::default();
        let task = tokio::spawn(supervise(registry, keys, views.clone()));
        Self { views, _task: Arc::new(Aborted(task)) }
    }

    /// How this hub stands with each other one.
    pub fn views(&self) -> Vec<ReplicaView> {
        let seen = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |seen: &Seen| {
            let answered_secs_ago = seen.answered.map(|at| at.elapsed().as_secs());
            ReplicaView { answered_secs_ago, ..seen.view.clone() }
        };
        seen.values().map(view).collect()
    }
}

async fn supervise(registry: Registry, keys: Arc<NodeKeys>, views: Views) {
    let mut admissions = registry.watch();
    let mut tasks: BTreeMap<SigningKey, (HubNode, Aborted)> = BTreeMap::new();
    loop {
        let now: Arc<Admissions> = admissions.borrow_and_update().clone();
        tasks.retain(|_, (node, _)| now.hubs.contains(node));
        views
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| now.hubs.iter().any(|hub| hub.signing_key == *key));
        for hub in &now.hubs {
            tasks.entry(hub.signing_key).or_insert_with(|| {
                let follow = follow(registry.clone(), keys.clone(), hub.clone(), views.clone());
                (hub.clone(), Aborted(tokio::spawn(follow)))
            });
        }
        if admissions.changed().await.is_err() {
            return;
        }
    }
}

async fn follow(registry: Registry, keys: Arc<NodeKeys>, hub: HubNode, views: Views) {
    let mut wait = FIRST_WAIT;
    let mut hold = false;
    let mut view = ReplicaView {
        hub: hub.clone(),
        state: "starting".into(),
        lag_entries: 0,
        answered_secs_ago: None,
        clock_ahead_secs: 0,
        digest: None,
        error: None,
    };
    let mut answered = None;
    loop {
        match once(&registry, &keys, &hub, hold, &mut view).await {
            Ok(new) => {
                answered = Some(Instant::now());
                view.error = None;
                // Only a hub that is in step waits at the other one; else what is shown would be as old as the wait.
                hold = !new && view.state == "in-step";
                wait = FIRST_WAIT;
                if !new && !hold {
                    tokio::time::sleep(FIRST_WAIT / 2).await;
                }
            }
            Err(refusal) => {
                if view.error.is_none() {
                    tracing::warn!(hub = %hub.name, %refusal, "the other hub cannot be followed");
                }
                view.error = Some(refusal.to_string());
                if view.state != "forked" {
                    view.state = "silent".into();
                }
                hold = false;
            }
        }
        let failed = view.error.is_some();
        let seen = Seen { view: view.clone(), answered };
        views.lock().unwrap_or_else(PoisonError::into_inner).insert(hub.signing_key, seen);
        if failed {
            tokio::time::sleep(spread(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// Between half of a wait and all of it, so that two hubs do not try in step.
fn spread(wait: Duration) -> Duration {
    let random = super::keys::random::<1>().map_or(128, |[byte]| byte);
    wait / 2 + wait.mul_f64(f64::from(random) / 510.0)
}

/// One request. Says whether something was new.
async fn once(
    registry: &Registry,
    keys: &NodeKeys,
    hub: &HubNode,
    hold: bool,
    view: &mut ReplicaView,
) -> Result<bool, Refusal> {
    let have = registry.heads().await?;
    let own = registry.snapshot().hub.overlay;
    let batch = hub_http::pull(keys, own, hub, have, hold).await?;
    let Batch { heads, digest, now, forked, .. } = &batch;
    let (heads, digest, forked) = (heads.clone(), digest.clone(), *forked);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    view.clock_ahead_secs = i64::try_from(*now).unwrap_or(0) - i64::try_from(clock).unwrap_or(0);
    if let Some(origin) = forked {
        view.state = "forked".into();
        let why = format!("hub {origin} went on from an old copy: two entries have one number");
        return Err(Refusal::new(crate::reason::ReasonCode::AnswerInvalid, why));
    }
    let taken = registry.take(batch).await?;
    let have = registry.heads().await?;
    let lag = |(origin, head): (&SigningKey, &crate::log::Head)| {
        head.seq.saturating_sub(have.get(origin).map_or(0, |own| own.seq))
    };
    view.lag_entries = heads.iter().map(lag).sum();
    let equal = digest.is_some() && digest.as_ref() == Some(&registry.digest().await?);
    view.state = if equal { "in-step" } else { "behind" }.into();
    view.digest = digest.or_else(|| view.digest.take());
    Ok(taken.entries > 0 || taken.replaced)
}
