//! The owner of the leaf's membership: its admission, its lease and its claims at the hub. Every word to the hub
//! is said here, one after the other, so that the request counter only grows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::wire::{EnrollProgress, EnrollRequest};
use enrollment::endpoint::Endpoint;
use enrollment::identity::SigningKey;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::{self, NodeKeys};
use enrollment::io::leaf_state::LeafState;
use enrollment::io::private_file;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::Admission;
use tokio::sync::{Notify, mpsc, watch};

use crate::enroll::{Enroller, Followed};
use crate::waiting::{WAITING_FILE, Waiting};
use crate::words::{BY_HAND_FILE, Word};

/// How often the leaf looks whether the hub's record is still what it knows, seconds.
const REFRESH_SECS: u64 = 60;
/// How soon the leaf asks when a hub hints at news.
const AFTER_HINT: Duration = Duration::from_millis(800);
/// First and longest wait between attempts at a silent hub.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What is known of the membership; published after each change.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    /// The last admission; none before the first enrollment.
    pub state: Option<Arc<LeafState>>,
    /// When the hub last answered in this run of the daemon.
    pub answered: Option<Instant>,
    /// The hub that answered last, by its signing key.
    pub answering: Option<SigningKey>,
    /// Claims that the hub refuses, with the reason.
    pub refused: BTreeMap<Ipv4Addr, Refusal>,
    /// Why the last word to the hub failed; none when it did not.
    pub last_error: Option<Refusal>,
    /// Why this machine has not taken its own place yet, or was not let: it goes on as it was.
    pub replacement: Option<Refusal>,
}

impl Membership {
    /// For how long the hub has not answered, seconds.
    pub fn silent_secs(&self) -> Option<u64> {
        match (self.answered, &self.state) {
            (Some(at), _) => Some(at.elapsed().as_secs()),
            (None, Some(state)) => Some(state.silent_secs(unix_now())),
            (None, None) => None,
        }
    }
}

/// Seconds since 1970 by the leaf's own clock; for elapsed time only.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An enrollment that a person asked for, or that waits for approval.
pub struct Ask {
    /// What is asked.
    pub request: EnrollRequest,
    /// Where its steps are told.
    pub progress: mpsc::Sender<EnrollProgress>,
    /// How long it waits for the operator's word before it goes on in the background.
    pub patience: Duration,
}

/// How soon a claim that another leaf owns is asked for again: its owner may have let it go, or it was moved here.
const CONFLICT_AGAIN: Duration = Duration::from_secs(5);

/// How long after its start a leaf with keys that wait for approval thinks that the hub has still its former ones.
const DOUBT_AFTER: Duration = Duration::from_secs(10);

/// The owner's state.
pub struct Owner {
    /// Where the admission is kept.
    pub file: PathBuf,
    /// The leaf's own keys; made by the first enrollment.
    pub keys: Option<Arc<NodeKeys>>,
    /// What is known; this owner alone writes it.
    pub publish: watch::Sender<Membership>,
    /// The clients that this leaf should own.
    pub wished: watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>,
    /// Where keys and other files of the state are.
    pub folder: PathBuf,
    /// The addresses that were claimed by hand, or moved here.
    pub by_hand: BTreeSet<Ipv4Addr>,
    /// The other pair of keys, while it is not known which of two the hub has.
    pub doubt: Option<Arc<NodeKeys>>,
    /// An enrollment that waits for approval.
    pub waiting: Option<Waiting>,
    /// Who follows it, when this machine waits to take its own place.
    pub followed: Option<Followed>,
    /// When it is asked for again.
    pub ask_at: Instant,
    /// Silence means nothing before: a leaf that has just started has no tunnel yet.
    doubt_from: Instant,
    /// The hub that answered last: the first one to be asked next time.
    answering: Option<SigningKey>,
    refresh_at: Instant,
    retries: u32,
}

impl Owner {
    /// An owner that goes on from the stored admission.
    pub fn new(
        file: PathBuf,
        keys: Option<Arc<NodeKeys>>,
        publish: watch::Sender<Membership>,
        wished: watch::Receiver<Arc<BTreeSet<Ipv4Addr>>>,
    ) -> Result<Owner, Refusal> {
        let folder = file.parent().unwrap_or(std::path::Path::new(".")).to_owned();
        let by_hand = stored(&folder.join(BY_HAND_FILE))?.unwrap_or_default();
        let waiting = stored(&folder.join(WAITING_FILE))?;
        let doubt = NodeKeys::load(&keys::next_folder(&folder))?.map(Arc::new);
        let (refresh_at, ask_at, retries) = (Instant::now(), Instant::now(), 0);
        let (answering, followed) = (None, None);
        let in_place = waiting.as_ref().is_some_and(Waiting::in_place);
        // The keys that wait for approval are most likely not the hub's.
        let doubt_from = Instant::now() + if in_place { DOUBT_AFTER } else { Duration::ZERO };
        Ok(Owner {
            file,
            keys,
            publish,
            wished,
            folder,
            by_hand,
            doubt,
            waiting,
            followed,
            ask_at,
            doubt_from,
            answering,
            refresh_at,
            retries,
        })
    }

    /// Runs until the daemon stops.
    pub async fn run(mut self, mut words: mpsc::Receiver<Word>, mut enroller: Enroller, hint: Arc<Notify>) {
        loop {
            let next_look = self.next_look();
            tokio::select! {
                word = words.recv() => match word {
                    Some(word) => self.hear(word, &mut enroller).await,
                    None => return,
                },
                changed = self.wished.changed() => if changed.is_err() { return },
                () = hint.notified() => {
                    self.refresh_at = self.refresh_at.min(Instant::now() + spread(AFTER_HINT));
                    continue;
                }
                () = tokio::time::sleep_until(next_look.into()) => {}
            }
            if self.waits() && Instant::now() >= self.ask_at {
                self.ask_again(&mut enroller).await;
            }
            self.settle(&enroller).await;
        }
    }

    /// When there is something to do at the hub, whatever else happens.
    fn next_look(&self) -> Instant {
        if self.waits() { self.refresh_at.min(self.ask_at) } else { self.refresh_at }
    }

    /// The present admission, unless it was revoked.
    pub fn admission(&self) -> Option<Admission> {
        self.publish.borrow().state.as_ref().filter(|s| !s.revoked).map(|s| s.admission.clone())
    }

    /// The hubs, the one that answered last first.
    pub fn hubs(&self, admission: &Admission) -> Vec<HubApi> {
        let mut hubs = HubApi::all_of_admission(admission);
        hubs.sort_by_key(|api| Some(api.signing_key) != self.answering);
        hubs
    }

    /// Stores and publishes a hub's answer. The order of the hubs and the endpoint of each that this leaf uses stay for
    /// as long as the fabric has them, wherever they stand in the answer: each hub names itself first, and the
    /// endpoints are those that were proved from here.
    pub fn accept(&mut self, mut admission: Admission) -> Result<(), Refusal> {
        // Who answers names itself first.
        self.answering = admission.topology.hubs.first().map(|hub| hub.signing_key);
        if let Some(before) = &self.publish.borrow().state {
            keep_places(&mut admission, &before.admission);
        }
        let refresh = Duration::from_secs(REFRESH_SECS.min(admission.renew_after_secs.max(1)));
        let state = LeafState { admission, answered_at: unix_now(), revoked: false };
        state.save(&self.file)?;
        self.retries = 0;
        self.refresh_at = Instant::now() + spread(refresh);
        self.publish.send_modify(|m| {
            m.state = Some(Arc::new(state));
            m.answered = Some(Instant::now());
            m.answering = self.answering;
            m.last_error = None;
        });
        Ok(())
    }

    /// Brings the hub's record of this leaf to what it should be; what fails is tried again later.
    async fn settle(&mut self, enroller: &Enroller) {
        let (Some(admission), Some(keys)) = (self.admission(), self.keys.clone()) else {
            self.refresh_at = Instant::now() + Duration::from_secs(REFRESH_SECS);
            return;
        };
        if self.doubt.is_some() {
            // Only an answer says which keys the hub has.
            self.refresh_at = Instant::now();
        }
        let mut outcome = Err(Refusal::of(ReasonCode::HubSilent));
        for api in self.hubs(&admission) {
            outcome = self.settle_at(&api, &keys, admission.clone()).await;
            if !outcome.as_ref().is_err_and(ask_elsewhere) {
                break;
            }
        }
        if let Err(refusal) = outcome.and_then(|()| self.keys_work(&enroller.keys)) {
            let doubtful = [ReasonCode::HubSilent, ReasonCode::SignatureInvalid, ReasonCode::LeaseRevoked];
            let doubted = self.doubt.is_some() && Instant::now() >= self.doubt_from;
            if doubted && doubtful.contains(&refusal.code) {
                self.try_other_keys(&enroller.keys);
                return self.failed(Refusal::new(ReasonCode::HubSilent, refusal.message));
            }
            return self.failed(refusal);
        }
        let conflict = |refusal: &Refusal| refusal.code == ReasonCode::ClaimConflict;
        if self.publish.borrow().refused.values().any(conflict) {
            self.refresh_at = self.refresh_at.min(Instant::now() + spread(CONFLICT_AGAIN));
        }
    }

    async fn settle_at(&mut self, api: &HubApi, keys: &NodeKeys, mut now: Admission) -> Result<(), Refusal> {
        if Instant::now() >= self.refresh_at {
            let left = now.lease_left_secs.saturating_sub(self.publish.borrow().silent_secs().unwrap_or(0));
            let due = left <= now.topology.lease_secs.saturating_sub(now.renew_after_secs);
            let before = now;
            now = match due {
                true => client::renew(api, keys, &before).await?,
                false => client::topology(api, keys, &before).await?,
            };
            self.follow_moves(&before, &now)?;
            // Refused claims are asked for again now and then: their owner may have let them go.
            self.publish.send_modify(|m| m.refused.clear());
            self.accept(now.clone())?;
        }
        let mut wished = BTreeSet::clone(&self.wished.borrow_and_update());
        wished.extend(&self.by_hand);
        self.publish.send_if_modified(|m| {
            let before = m.refused.len();
            m.refused.retain(|address, _| wished.contains(address));
            m.refused.len() != before
        });
        for &address in wished.iter() {
            if now.claims.contains_key(&address) || self.publish.borrow().refused.contains_key(&address) {
                continue;
            }
            match client::add_claim(api, keys, &now, address).await {
                Ok(answer) => {
                    now = answer;
                    self.accept(now.clone())?;
                }
                Err(refusal) if refusal.address.is_some() => self.refuse(address, refusal),
                Err(refusal) => return Err(refusal),
            }
        }
        let unwished: Vec<_> =
            now.claims.iter().filter(|(a, _)| !wished.contains(a)).map(|(&a, c)| (a, c.generation)).collect();
        for (address, generation) in unwished {
            now = client::release_claim(api, keys, &now, address, Some(generation)).await?;
            self.accept(now.clone())?;
        }
        Ok(())
    }

    /// Remembers that the hub refuses a claim.
    pub fn refuse(&mut self, address: Ipv4Addr, refusal: Refusal) {
        tracing::warn!(%address, code = refusal.code.as_str(), "claim refused: {}", refusal.message);
        self.publish.send_modify(|m| {
            m.refused.insert(address, refusal);
        });
    }

    /// A word to the hub failed: revocation is final, anything else is tried again with a growing wait.
    fn failed(&mut self, refusal: Refusal) {
        if refusal.code == ReasonCode::LeaseRevoked {
            tracing::warn!("the hub revoked this leaf's lease: {}", refusal.message);
            self.publish.send_modify(|m| {
                if let Some(state) = &m.state {
                    let revoked = LeafState { revoked: true, ..(**state).clone() };
                    if let Err(error) = revoked.save(&self.file) {
                        tracing::error!("{error}");
                    }
                    m.state = Some(Arc::new(revoked));
                }
            });
        }
        let wait = RETRY.0.saturating_mul(1 << self.retries.min(7)).min(RETRY.1);
        self.retries = self.retries.saturating_add(1);
        self.refresh_at = Instant::now() + spread(wait);
        if self.publish.borrow().last_error.as_ref().is_none_or(|e| e.code != refusal.code) {
            tracing::warn!(code = refusal.code.as_str(), "the hub: {}", refusal.message);
        }
        self.publish.send_modify(|m| m.last_error = Some(refusal));
    }
}

/// What a file of the state holds; `None` where there is none.
fn stored<T: serde::de::DeserializeOwned>(file: &std::path::Path) -> Result<Option<T>, Refusal> {
    let failed =
        |why: String| Refusal::new(ReasonCode::StateFileFailed, format!("{}: {why}", file.display()));
    let bytes = private_file::read(file).map_err(|e| failed(e.to_string()))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))).transpose()
}

/// Whether another hub may answer better: this one is silent, or does not know yet what the other decided.
pub fn ask_elsewhere(refusal: &Refusal) -> bool {
    matches!(refusal.code, ReasonCode::HubSilent | ReasonCode::LeafUnknown | ReasonCode::InviteUnknown)
}

/// Puts hubs, and the endpoint in use of each, into the places that they had before; a new hub comes last.
fn keep_places(admission: &mut Admission, before: &Admission) {
    let known = &before.topology.hubs;
    let place = |key: &SigningKey| known.iter().position(|hub| hub.signing_key == *key);
    admission.topology.hubs.sort_by_key(|hub| place(&hub.signing_key).unwrap_or(usize::MAX));
    for hub in known {
        if let Some(used) = hub.endpoints.first() {
            prefer(admission, used);
        }
    }
}

/// Where the leaf reaches each of its hubs, names being looked up.
pub fn endpoints(admission: &Admission) -> Vec<SocketAddr> {
    admission.topology.hubs.iter().filter_map(|hub| hub.endpoints.first()?.address()).collect()
}

/// Puts an endpoint first at the hub that has it.
pub fn prefer(admission: &mut Admission, used: &Endpoint) {
    for hub in &mut admission.topology.hubs {
        if let Some(place) = hub.endpoints.iter().position(|e| e == used) {
            hub.endpoints[..=place].rotate_right(1);
        }
    }
}

/// A time between three quarters and five quarters of `about`, so that a thousand leaves do not ask as one.
fn spread(about: Duration) -> Duration {
    let random = enrollment::io::keys::random::<1>().map_or(128, |[b]| b);
    about.mul_f64(0.75 + f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::tests::admission_of_two;

    /// Each hub names itself first, and its endpoints as it likes; the leaf's order stays, and a third one comes last.
    #[test]
    fn places_stay() {
        let mut before = admission_of_two();
        before.topology.hubs[1].endpoints.insert(0, "198.51.100.1:51820".parse().unwrap());
        let mut answer = before.clone();
        answer.topology.hubs[1].endpoints.swap(0, 1);
        answer.topology.hubs.swap(0, 1);
        keep_places(&mut answer, &before);
        assert_eq!(answer, before);
        before.topology.hubs.remove(0);
        keep_places(&mut answer, &before);
        assert_eq!(answer.topology.hubs[0].name.as_str(), "hub2");
    }
}
