//! What a person tells an enrolled leaf to do at the hub: claim or release an address, replace the keys, leave.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use enrollment::invite::Invite;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::{self, NodeKeys};
use enrollment::io::private_file;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::Admission;
use tokio::sync::oneshot;

use crate::enroll::Enroller;
use crate::lines::{self, Keys, LineKeys};
use crate::membership::{Ask, Owner, ask_elsewhere};

/// Where the outcome is told: what was done, in a sentence.
pub type Reply = oneshot::Sender<Result<String, Refusal>>;

/// One thing that a person asked for.
pub enum Word {
    /// Join, or check an enrollment that was made before.
    Enroll(Ask),
    /// Own an address, until it is released.
    Claim(Ipv4Addr, Reply),
    /// Own an address no longer.
    Release(Ipv4Addr, Reply),
    /// Take fresh keys.
    Rotate(Reply),
    /// Leave the fabric.
    Leave(Reply),
}

/// The same without who asked.
#[derive(Clone, Copy)]
enum Deed {
    Claim(Ipv4Addr),
    Release(Ipv4Addr),
    Rotate,
    Leave,
}

/// The file of the addresses that were claimed by hand, beside the keys.
pub const BY_HAND_FILE: &str = "claims.json";

impl Owner {
    /// Does what was asked, and tells the outcome.
    pub async fn hear(&mut self, word: Word, enroller: &mut Enroller) {
        let (deed, reply) = match word {
            Word::Enroll(ask) => return enroller.enroll(self, ask).await,
            Word::Claim(address, reply) => (Deed::Claim(address), reply),
            Word::Release(address, reply) => (Deed::Release(address), reply),
            Word::Rotate(reply) => (Deed::Rotate, reply),
            Word::Leave(reply) => (Deed::Leave, reply),
        };
        let outcome = self.at_any_hub(deed, enroller).await;
        // Who asked may be gone; what was done stays done.
        let _ = reply.send(outcome);
    }

    /// Says it to one hub after the other until one answers; all of it is the same when it is said twice.
    async fn at_any_hub(&mut self, deed: Deed, enroller: &Enroller) -> Result<String, Refusal> {
        let missing = || Refusal::new(ReasonCode::LeafUnknown, "this leaf is not enrolled");
        let hubs = self.hubs(&self.admission().ok_or_else(missing)?);
        let mut outcome = Err(missing());
        for api in hubs {
            outcome = match deed {
                Deed::Claim(address) => self.claim(&api, address).await,
                Deed::Release(address) => self.release(&api, address).await,
                Deed::Rotate => self.rotate(&api, enroller).await,
                Deed::Leave => self.leave(&api, enroller).await,
            };
            if !outcome.as_ref().is_err_and(ask_elsewhere) {
                break;
            }
        }
        outcome
    }

    fn enrolled(&self) -> Result<(Admission, Arc<NodeKeys>), Refusal> {
        let missing = || Refusal::new(ReasonCode::LeafUnknown, "this leaf is not enrolled");
        let admission = self.admission().ok_or_else(missing)?;
        Ok((admission, self.keys.clone().ok_or_else(missing)?))
    }

    async fn claim(&mut self, api: &HubApi, address: Ipv4Addr) -> Result<String, Refusal> {
        let (now, keys) = self.enrolled()?;
        let had = now.claims.contains_key(&address);
        if !had {
            let answer = client::add_claim(api, &keys, &now, address).await?;
            self.accept(answer)?;
        }
        self.by_hand.insert(address);
        self.save_by_hand()?;
        let name = now.leaf;
        Ok(if had { format!("{address} was {name}'s before") } else { format!("{address} is {name}'s") })
    }

    async fn release(&mut self, api: &HubApi, address: Ipv4Addr) -> Result<String, Refusal> {
        let (now, keys) = self.enrolled()?;
        if self.wished.borrow().contains(&address) {
            let message = format!("{address} is a client by the configuration file or by an event");
            return Err(Refusal::new(ReasonCode::ClaimWished, message).about(address));
        }
        let claim = now.claims.get(&address).copied();
        if let Some(claim) = claim {
            let answer = client::release_claim(api, &keys, &now, address, Some(claim.generation)).await?;
            self.accept(answer)?;
        }
        self.by_hand.remove(&address);
        self.save_by_hand()?;
        let was = if claim.is_some() { "is free" } else { "was not this leaf's" };
        Ok(format!("{address} {was}"))
    }

    /// What is claimed by hand outlives a restart.
    pub fn save_by_hand(&self) -> Result<(), Refusal> {
        let failed = |why: String| Refusal::new(ReasonCode::StateFileFailed, why);
        let bytes = serde_json::to_vec(&self.by_hand).map_err(|e| failed(e.to_string()))?;
        private_file::write(&self.folder.join(BY_HAND_FILE), &bytes).map_err(|e| failed(e.to_string()))
    }

    /// Takes in what was moved here by the hub's operator, and lets go what was moved away.
    pub fn follow_moves(&mut self, before: &Admission, now: &Admission) -> Result<(), Refusal> {
        let wished = self.wished.borrow().clone();
        let here = now.claims.keys().filter(|a| !before.claims.contains_key(a) && !wished.contains(a));
        let away =
            self.by_hand.iter().filter(|a| before.claims.contains_key(a) && !now.claims.contains_key(a));
        let (here, away): (Vec<_>, Vec<_>) = (here.copied().collect(), away.copied().collect());
        if here.is_empty() && away.is_empty() {
            return Ok(());
        }
        tracing::info!(?here, ?away, "claims were moved at the hub");
        self.by_hand.extend(here);
        self.by_hand.retain(|address| !away.contains(address));
        self.save_by_hand()
    }

    /// Fresh keys: durable before the hub hears of them, in force when it has agreed.
    async fn rotate(&mut self, api: &HubApi, enroller: &Enroller) -> Result<String, Refusal> {
        if self.waits_in_place() {
            let message =
                "fresh keys of this machine wait for approval at the hub; rotate when it has spoken";
            return Err(Refusal::new(ReasonCode::ApprovalPending, message));
        }
        lines::one(&enroller.keys).await;
        let (now, old) = self.enrolled()?;
        let fresh = Arc::new(NodeKeys::load_or_create(&keys::next_folder(&self.folder))?);
        self.doubt = Some(fresh.clone());
        let answer = client::rotate(api, &old, &fresh, &now).await?;
        self.take_keys(fresh, answer, enroller).await
    }

    /// Puts fresh keys in force that a hub has agreed to: it changes its side of the tunnel when the leaf calls with them.
    pub async fn take_keys(
        &mut self,
        fresh: Arc<NodeKeys>,
        answer: Admission,
        enroller: &Enroller,
    ) -> Result<String, Refusal> {
        let begin = std::time::Instant::now();
        self.keys = Some(fresh.clone());
        self.doubt = None;
        self.change_lines(&fresh, &answer, &enroller.keys);
        keys::promote(&self.folder)?;
        let key = answer.wireguard_key;
        self.accept(answer)?;
        Ok(format!("new keys in force after {} ms; WireGuard {key}", begin.elapsed().as_millis()))
    }

    /// The line to the hub that answered changes now, every other one when its hub has heard of the fresh keys as well.
    fn change_lines(&self, fresh: &Arc<NodeKeys>, answer: &Admission, keys: &Keys) {
        let Some(before) = keys.borrow().clone() else {
            keys.send_replace(Some(LineKeys::of(fresh.clone())));
            return;
        };
        // Who answers names itself first.
        let Some(agreed) = answer.topology.hubs.first().map(|hub| hub.signing_key) else { return };
        let hubs = answer.topology.hubs.iter().map(|hub| hub.signing_key);
        keys.send_replace(Some(before.after(fresh.clone(), &agreed, hubs)));
        for api in HubApi::all_of_admission(answer).into_iter().skip(1) {
            tokio::spawn(lines::follow(keys.clone(), api, fresh.clone(), answer.clone()));
        }
    }

    /// This machine in its own place, by an invite that permits it or by approval: fresh keys, and everything else as
    /// it was. It is asked for through the leaf's own tunnel, which carries packets until the moment of the change.
    pub async fn replace_itself(
        &mut self,
        enroller: &Enroller,
        invite: &Invite,
        claims: &BTreeSet<Ipv4Addr>,
    ) -> Result<String, Refusal> {
        lines::one(&enroller.keys).await;
        let (now, _) = self.enrolled()?;
        let fresh = Arc::new(NodeKeys::load_or_create(&keys::next_folder(&self.folder))?);
        let claims: Vec<_> = claims.iter().copied().collect();
        let mut outcome = Err(Refusal::of(ReasonCode::HubSilent));
        for api in self.hubs(&now) {
            let mut sent = false;
            outcome = client::join_telling(&api, invite, &fresh, &claims, true, || sent = true).await;
            let lost =
                |refusal: &Refusal| matches!(refusal.code, ReasonCode::HubSilent | ReasonCode::AnswerInvalid);
            if sent && outcome.as_ref().is_err_and(lost) {
                // It may have agreed. Where it was not asked, or has said no, it has the old keys.
                self.doubt = Some(fresh.clone());
            }
            if !outcome.as_ref().is_err_and(ask_elsewhere) {
                break;
            }
        }
        match outcome {
            Ok(answer) => self.take_keys(fresh, answer, enroller).await,
            Err(refusal) => Err(refusal),
        }
    }

    /// A rotation whose answer got lost: the hub has the old keys or the new ones. Where one pair is not answered,
    /// the other is tried; the one that works stays.
    pub fn try_other_keys(&mut self, keys: &Keys) {
        if let (Some(other), Some(present)) = (self.doubt.take(), self.keys.clone()) {
            tracing::warn!("the last rotation's answer got lost: trying the other keys");
            self.doubt = Some(present);
            self.keys = Some(other.clone());
            keys.send_replace(Some(LineKeys::of(other)));
        }
    }

    /// The hub answered these keys: they are the ones.
    pub fn keys_work(&mut self, keys: &Keys) -> Result<(), Refusal> {
        let Some(other) = self.doubt.take() else { return Ok(()) };
        if self.admission().is_some_and(|now| now.wireguard_key == other.wireguard_key()) {
            // It took the former ones, which sign for a while, and has the fresh ones.
            self.doubt = Some(other);
            self.try_other_keys(keys);
            self.doubt = None;
        }
        let next = NodeKeys::load(&keys::next_folder(&self.folder))?;
        let present = self.keys.as_ref().map(|k| k.signing_key());
        if next.is_some_and(|next| Some(next.signing_key()) == present) {
            keys::promote(&self.folder)?;
        } else if !self.waits_in_place() {
            // Those that wait for approval are asked for again.
            keys::forget_next(&self.folder)?;
        }
        Ok(())
    }

    /// Claims, session, tunnel and keys end, here and at the hub.
    async fn leave(&mut self, api: &HubApi, enroller: &Enroller) -> Result<String, Refusal> {
        let (now, old) = self.enrolled()?;
        let answered = client::leave(api, &old, &now).await;
        match answered {
            Ok(_) => {}
            // It had left, or was taken out, before: what is here ends all the same.
            Err(refusal) if matches!(refusal.code, ReasonCode::LeafLeft | ReasonCode::LeaseRevoked) => {}
            Err(refusal) => return Err(refusal),
        }
        self.publish.send_modify(|m| *m = Default::default());
        self.wait_for(None)?;
        self.followed = None;
        self.keys = None;
        self.by_hand.clear();
        enroller.gone().await?;
        let failed = |e: std::io::Error| Refusal::new(ReasonCode::StateFileFailed, e.to_string());
        for file in [self.file.clone(), self.folder.join(BY_HAND_FILE)] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        keys::remove(&self.folder)?;
        Ok(format!("{} has left: its claims are free, its keys are gone", now.leaf))
    }
}
