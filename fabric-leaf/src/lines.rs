//! The keys of a leaf's lines. Fresh keys are agreed with one hub; the line to another keeps the former ones until that
//! hub knows the fresh ones too, so that each line changes on both its sides at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enrollment::identity::SigningKey;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::NodeKeys;
use enrollment::reason::ReasonCode;
use enrollment::topology::Admission;
use tokio::sync::watch;

/// First and longest wait between two questions whether a hub knows the fresh keys.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a connection to such a hub, and its answer, may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// After so long without a word from a hub its line gets the fresh keys: it has them already (it was restarted), or it is
/// dead, and will have heard of them when it is back.
const SILENCE: Duration = Duration::from_secs(2);

/// The keys that are in force, and the lines that are behind.
#[derive(Clone)]
pub struct LineKeys {
    /// What the leaf signs with; the keys of every line that is not behind.
    pub own: Arc<NodeKeys>,
    /// Hubs that have not heard of these keys yet, by signing key, with those that their lines have.
    behind: BTreeMap<SigningKey, Arc<NodeKeys>>,
}

impl LineKeys {
    /// The same keys for every line.
    pub fn of(own: Arc<NodeKeys>) -> LineKeys {
        LineKeys { own, behind: BTreeMap::new() }
    }

    /// The keys of the line to a hub.
    pub fn toward(&self, hub: &SigningKey) -> &NodeKeys {
        self.behind.get(hub).unwrap_or(&self.own)
    }

    /// Whether every line has the keys that are in force.
    pub fn are_one(&self) -> bool {
        self.behind.is_empty()
    }

    /// Fresh keys, to which the hub of `agreed` has agreed: its line has them, the line to every other hub goes on with
    /// what it has.
    pub fn after(
        &self,
        fresh: Arc<NodeKeys>,
        agreed: &SigningKey,
        hubs: impl Iterator<Item = SigningKey>,
    ) -> LineKeys {
        let others = hubs.filter(|hub| hub != agreed);
        let behind = others.map(|hub| (hub, self.behind.get(&hub).unwrap_or(&self.own).clone()));
        LineKeys { behind: behind.collect(), own: fresh }
    }

    /// A hub has heard of the keys in force.
    fn caught_up(&mut self, hub: &SigningKey) {
        self.behind.remove(hub);
    }

    /// Whether the line to this hub waits for these keys; other ones may have come in the meantime.
    fn waits(&self, hub: &SigningKey, fresh: &NodeKeys) -> bool {
        self.behind.contains_key(hub) && self.own.signing_key() == fresh.signing_key()
    }
}

/// Where the keys in force are told; there are none before the first enrollment.
pub type Keys = watch::Sender<Option<LineKeys>>;

/// Asks the hub, through the line that is behind, until it answers the fresh keys; then the leaf calls it with these.
pub async fn follow(keys: Keys, mut api: HubApi, fresh: Arc<NodeKeys>, last: Admission) {
    let hub = api.signing_key;
    (api.connect_timeout, api.answer_timeout) = (PATIENCE, PATIENCE);
    let mut heard = Instant::now();
    let mut wait = ASK_AGAIN.0;
    while keys.borrow().as_ref().is_some_and(|keys| keys.waits(&hub, &fresh)) {
        // It changes nothing at the hub, and so needs no turn among the leaf's other words.
        match client::topology(&api, &fresh, &last).await {
            Ok(_) => {
                tracing::info!(hub = %api.address, "knows the fresh keys: so does its line now");
                return change(&keys, &hub, &fresh);
            }
            Err(refusal) if refusal.code != ReasonCode::HubSilent => heard = Instant::now(),
            Err(_) if heard.elapsed() >= SILENCE => {
                tracing::warn!(hub = %api.address, "silent: its line gets the fresh keys all the same");
                return change(&keys, &hub, &fresh);
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_AGAIN.1);
    }
}

fn change(keys: &Keys, hub: &SigningKey, fresh: &NodeKeys) {
    keys.send_if_modified(|keys| match keys {
        Some(keys) if keys.waits(hub, fresh) => {
            keys.caught_up(hub);
            true
        }
        _ => false,
    });
}

/// Waits, for a moment, until no line is behind: keys that follow each other too fast would leave a hub two steps back.
pub async fn one(keys: &Keys) {
    let mut keys = keys.subscribe();
    let all = keys.wait_for(|keys| keys.as_ref().is_none_or(LineKeys::are_one));
    // A hub that only says no does not keep a person from taking fresh keys.
    let _ = tokio::time::timeout(SILENCE + PATIENCE, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Arc<NodeKeys> {
        Arc::new(NodeKeys::generate().unwrap())
    }

    /// The line of the hub that agreed changes, the other one when its hub has heard too; keys that come before that leave
    /// it where it is.
    #[test]
    fn each_line_changes_by_itself() {
        let [old, new, newer] = [fresh(), fresh(), fresh()];
        let hubs = [SigningKey([1; 32]), SigningKey([2; 32])];
        let at = |keys: &LineKeys| hubs.map(|hub| keys.toward(&hub).signing_key());
        let before = LineKeys::of(old.clone());
        assert!(before.are_one() && at(&before) == [old.signing_key(); 2]);
        let mut keys = before.after(new.clone(), &hubs[0], hubs.into_iter());
        assert_eq!(at(&keys), [new.signing_key(), old.signing_key()]);
        assert!(keys.waits(&hubs[1], &new) && !keys.waits(&hubs[0], &new) && !keys.waits(&hubs[1], &old));
        let later = keys.after(newer.clone(), &hubs[0], hubs.into_iter());
        assert_eq!(at(&later), [newer.signing_key(), old.signing_key()]);
        assert!(later.waits(&hubs[1], &newer) && !later.waits(&hubs[1], &new));
        let crossed = keys.after(newer.clone(), &hubs[1], hubs.into_iter());
        assert_eq!(at(&crossed), [new.signing_key(), newer.signing_key()]);
        keys.caught_up(&hubs[1]);
        assert!(keys.are_one() && at(&keys) == [new.signing_key(); 2]);
    }

    /// Only the task of the keys in force changes a line.
    #[test]
    fn an_overtaken_word_changes_nothing() {
        let [old, new, newer] = [fresh(), fresh(), fresh()];
        let hubs = [SigningKey([1; 32]), SigningKey([2; 32])];
        let first = LineKeys::of(old).after(new.clone(), &hubs[0], hubs.into_iter());
        let (keys, _) = watch::channel(Some(first.after(newer.clone(), &hubs[0], hubs.into_iter())));
        change(&keys, &hubs[1], &new);
        assert!(!keys.borrow().as_ref().unwrap().are_one());
        change(&keys, &hubs[1], &newer);
        assert!(keys.borrow().as_ref().unwrap().are_one());
        keys.send_replace(None);
        change(&keys, &hubs[1], &newer);
        assert!(keys.borrow().is_none(), "it has left");
    }
}
