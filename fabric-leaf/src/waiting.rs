//! An enrollment that waits for a person's word at the hub: remembered over a restart, asked for again by itself, and
//! told to whoever follows it. The machine that waits to take its own place does everything else as before meanwhile.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::wire::EnrollRequest;
use enrollment::io::{keys, private_file};
use enrollment::reason::{ReasonCode, Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::enroll::Enroller;
use crate::membership::{Ask, Owner};

/// The file of an enrollment that waits for approval, beside the keys. It holds the invite, and is 0600 as they are.
pub const WAITING_FILE: &str = "waiting.json";
/// How often it is asked for in the background.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How often while somebody follows it.
pub const ASK_FOLLOWED: Duration = Duration::from_secs(1);

/// What waits, as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub struct Waiting {
    /// What was asked.
    #[serde(flatten)]
    pub request: EnrollRequest,
    /// The claims that a person at the hub was shown, where the machine replaces itself: clients that come later are
    /// claimed as ever, and do not make another question of it.
    #[serde(default)]
    claims: Option<BTreeSet<Ipv4Addr>>,
}

impl Waiting {
    /// An enrollment by this request; with `claims` it is a replacement in place.
    pub fn new(request: EnrollRequest, claims: Option<BTreeSet<Ipv4Addr>>) -> Waiting {
        Waiting { request, claims }
    }

    /// Whether an enrolled machine waits to take its own place.
    pub fn in_place(&self) -> bool {
        self.claims.is_some()
    }

    /// Of the claims that a replacement by this invite should ask for, those that its first question had.
    pub fn asked_before(
        &self,
        invite: Option<&str>,
        claims: &BTreeSet<Ipv4Addr>,
    ) -> Option<BTreeSet<Ipv4Addr>> {
        let same = self.request.invite.as_deref().map(str::trim) == invite.map(str::trim);
        let asked = self.claims.as_ref().filter(|_| same)?;
        Some(claims.intersection(asked).copied().collect())
    }
}

impl Owner {
    /// Asks once more for an enrollment that waits for approval.
    pub async fn ask_again(&mut self, enroller: &mut Enroller) {
        match (self.followed.take(), self.waiting.clone()) {
            (Some(followed), _) => enroller.go_on(self, followed).await,
            (None, Some(waiting)) => {
                // Nobody follows the steps; the status tells how it stands.
                let (progress, _) = mpsc::channel(1);
                let ask = Ask { request: waiting.request, progress, patience: Duration::ZERO };
                enroller.enroll(self, ask).await;
            }
            (None, None) => {}
        }
        let wait = if self.followed.is_some() { ASK_FOLLOWED } else { ASK_AGAIN };
        self.ask_at = Instant::now() + wait;
    }

    /// Remembers an enrollment that waits, or that it waits no more, over a restart too.
    pub fn wait_for(&mut self, waiting: Option<Waiting>) -> Result<(), Refusal> {
        let failed = |why: String| Refusal::new(ReasonCode::StateFileFailed, why);
        let file = self.folder.join(WAITING_FILE);
        match &waiting {
            Some(waiting) => {
                let bytes = serde_json::to_vec(waiting).map_err(|e| failed(e.to_string()))?;
                private_file::write(&file, &bytes).map_err(|e| failed(e.to_string()))?;
                self.ask_at = Instant::now() + ASK_FOLLOWED;
            }
            None if self.waiting.is_some() => match std::fs::remove_file(&file) {
                // Somebody took it away already: that must not leave the machine waiting.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(format!("{}: {error}", file.display())));
                }
                _ => {}
            },
            None => {}
        }
        self.waiting = waiting;
        Ok(())
    }

    /// This machine waits no more to take its own place. Where it was refused it goes on as it was, and nothing is left
    /// of the attempt.
    pub fn replaces_no_more(&mut self, refused: Option<&Refusal>) -> Result<(), Refusal> {
        self.wait_for(None)?;
        if let Some(refusal) = refused {
            tracing::warn!(code = refusal.code.as_str(), "not replaced: {}", refusal.message);
        }
        if refused.is_some() && self.doubt.is_none() {
            keys::forget_next(&self.folder)?;
        }
        // What a later attempt may bring is no news of the machine's.
        let lasting = refused.filter(|refusal| !refusal.code.is_transient()).cloned();
        self.publish.send_modify(|m| m.replacement = lasting);
        Ok(())
    }

    /// Whether there is something to ask for again.
    pub fn waits(&self) -> bool {
        self.waiting.is_some() || self.followed.is_some()
    }

    /// Whether what waits is a replacement in place by this invite.
    pub fn waits_by(&self, invite: Option<&str>) -> bool {
        let nothing = BTreeSet::new();
        self.waiting.as_ref().is_some_and(|waiting| waiting.asked_before(invite, &nothing).is_some())
    }

    /// Whether this machine waits to take its own place.
    pub fn waits_in_place(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::in_place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(invite: &str) -> EnrollRequest {
        let (capture_interface, capture) = (None, None);
        EnrollRequest {
            invite: Some(invite.into()),
            clients: Vec::new(),
            capture_interface,
            capture,
            replace: true,
        }
    }

    /// The same question is asked again, less what was let go meanwhile; another invite is another question.
    #[test]
    fn the_question_does_not_grow() {
        let of = |n: &[u8]| n.iter().map(|&n| Ipv4Addr::new(10, 81, 10, n)).collect::<BTreeSet<_>>();
        let waiting = Waiting::new(request("one"), Some(of(&[20, 21])));
        assert_eq!(waiting.asked_before(Some("one\n"), &of(&[21, 22])), Some(of(&[21])));
        assert_eq!(waiting.asked_before(Some("other"), &of(&[21])), None);
        let first = Waiting::new(request("one"), None);
        assert!(!first.in_place() && first.asked_before(Some("one"), &of(&[20])).is_none());
    }

    /// What an earlier version stored is a machine's first enrollment.
    #[test]
    fn an_earlier_file_is_read() {
        let earlier = serde_json::to_vec(&request("one")).unwrap();
        let read: Waiting = serde_json::from_slice(&earlier).unwrap();
        assert!(!read.in_place() && read.request.replace);
        let kept = serde_json::to_vec(&Waiting::new(request("one"), Some(BTreeSet::new()))).unwrap();
        assert!(serde_json::from_slice::<Waiting>(&kept).unwrap().in_place());
    }
}
