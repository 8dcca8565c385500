//! The first start of a restored hub: what the backup cannot know is settled before anybody is served.

use super::private_file;
use super::schema;
use super::store::{Registry, failed};
use crate::identity::LeafName;
use crate::life;
use crate::log::Actor;
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Change, InviteRecord, InviteStatus, Leaf, State};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// The file that says that this hub was restored and has not started since.
pub const NOTE_FILE: &str = "restored.json";

/// Generations that the former hub may have used after the backup are left out: a claim made now is newer than any
/// that it made. An even number, because two hubs divide them by parity.
const GENERATIONS: u64 = 1 << 20;

/// What the restored hub does at its first start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Note {
    /// When the backup was made, seconds since 1970.
    pub backup_at: u64,
    /// Leaves to be revoked: they were after the backup, or are to be now.
    pub revoke: Vec<LeafName>,
    /// Open invites stay open: nothing was decided after the backup.
    pub keep_invites: bool,
    /// The other hub is lost too, or there is none: nobody can say what was decided since.
    pub alone: bool,
}

/// What was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Another hub gives back what was decided since: it must be heard before a leaf is served.
    pub ask_the_other_hub: bool,
}

/// Whether this hub was restored, and is to hear from another hub, if there is one, before it writes anything.
pub fn hears_first(state: &Path) -> Result<bool, Refusal> {
    Ok(note(state)?.is_some_and(|note| !note.alone))
}

fn note(state: &Path) -> Result<Option<Note>, Refusal> {
    let path = state.join(NOTE_FILE);
    let unusable = |why: String| file_failed(&path, &why);
    let Some(bytes) = private_file::read(&path).map_err(|e| unusable(e.to_string()))? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| unusable(e.to_string()))
}

/// Does what the note says, if there is one, then removes it; where the other hub must be heard first, the caller
/// does that and then calls [`forget`]. A crash in between does it again, which changes nothing that matters.
pub async fn settle(registry: &Registry, state: &Path) -> Result<Option<Settled>, Refusal> {
    let Some(note) = note(state)? else { return Ok(None) };
    let ask_the_other_hub = !note.alone && !registry.snapshot().hubs.is_empty();
    if !ask_the_other_hub {
        registry.introduce().await?;
        registry.restored(note).await?;
        forget(state)?;
    }
    Ok(Some(Settled { ask_the_other_hub }))
}

/// Removes the note: what it asks for is done.
pub fn forget(state: &Path) -> Result<(), Refusal> {
    let path = state.join(NOTE_FILE);
    std::fs::remove_file(&path).map_err(|e| file_failed(&path, &e.to_string()))?;
    private_file::sync_folder(&path).map_err(|e| file_failed(&path, &e.to_string()))
}

fn file_failed(path: &Path, why: &str) -> Refusal {
    Refusal::new(ReasonCode::StateFileFailed, format!("{}: {why}", path.display()))
}

impl Registry {
    /// Stores what a restored hub that is alone decides, as one entry of its log.
    pub async fn restored(&self, note: Note) -> Result<(), Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let changes = changes(&owner.state, &note, now)?;
            owner.state.leave_generations_out(GENERATIONS);
            schema::put_generations(&owner.db, owner.state.generation, owner.state.claim_generation)
                .map_err(failed)?;
            owner.commit(&Actor::Admin, "restored", &changes, now)?;
            tracing::warn!(backup_at = note.backup_at, changes = changes.len(), "this hub was restored");
            Ok(())
        })
        .await
    }
}

/// Leases that held at the backup hold again, because the leaves renewed them or could not; invites are closed,
/// because they may have been used or withdrawn since.
fn changes(state: &State, note: &Note, now: u64) -> Result<Vec<Change>, Refusal> {
    let mut changes = Vec::new();
    for name in &note.revoke {
        changes.extend(life::revoke(state, name, now)?.changes);
    }
    let held = |leaf: &&Arc<Leaf>| {
        leaf.revoked.is_none() && leaf.valid_until > note.backup_at && !note.revoke.contains(&leaf.name)
    };
    let prolonged = |leaf: &Arc<Leaf>| {
        let valid_until = leaf.valid_until.max(now.saturating_add(state.settings.lease_secs));
        Change::Leaf(Arc::new(Leaf { valid_until, ..Leaf::clone(leaf) }))
    };
    changes.extend(state.leaves.values().filter(held).map(prolonged));
    let open = state.invites.values().filter(|invite| invite.status(now) == InviteStatus::Open);
    let closed = |invite: &Arc<InviteRecord>| {
        Change::Invite(Arc::new(InviteRecord { revoked_at: Some(now), ..InviteRecord::clone(invite) }))
    };
    changes.extend(open.filter(|_| !note.keep_invites).map(closed));
    Ok(changes)
}
