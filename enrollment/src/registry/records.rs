//! What the registry holds and publishes: leaves, invites, claims, and the changes of them.

use super::HubRecord;
use crate::approval::Pending;
use crate::claim::{Claim, ClaimStep, Move};
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::policy::{HubSettings, LEAVE_SECS};
use crate::signature::MacKey;
use crate::topology::HubNode;
use imbl::OrdMap;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// An enrolled (or revoked) leaf as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its name.
    pub name: LeafName,
    /// The site of its invite; the same as the name, or what stands before its number.
    pub site: LeafName,
    /// Its overlay address; it keeps it for ever, also over revocation and a new machine.
    pub overlay: Ipv4Addr,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The key that signs its requests.
    pub signing_key: SigningKey,
    /// Out of which prefixes it may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses it may own.
    pub max_claims: u32,
    /// The last counter accepted from it.
    pub counter: u64,
    /// The invite it last joined by.
    pub invite: InviteId,
    /// When it joined, seconds since 1970.
    pub enrolled_at: u64,
    /// When its lease ends, seconds since 1970.
    pub valid_until: u64,
    /// When it last asked for something, seconds since 1970.
    pub last_seen: u64,
    /// Set when the operator revoked it, or it left.
    pub revoked: Option<Revoked>,
    /// The keys before the last rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<FormerKeys>,
    /// Since when it has its keys, seconds since 1970; 0 = since it joined.
    #[serde(default)]
    pub keys_since: u64,
    /// The signing key that the machine joined with, which names it for ever; absent in what a judgement makes.
    #[serde(default)]
    pub joined_key: Option<SigningKey>,
    /// The registry's generation of the last decision about it (renewals are none); the higher one holds.
    #[serde(default)]
    pub version: u64,
}

/// Keys that a rotation replaced; they sign for a while longer and are never given to another leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerKeys {
    /// The WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The signing key.
    pub signing_key: SigningKey,
    /// Until when requests signed by it are taken, seconds since 1970.
    pub until: u64,
}

impl Leaf {
    /// Present and former keys of both kinds.
    pub fn all_keys(&self) -> Vec<[u8; 32]> {
        let former = self.former.iter().flat_map(|f| [f.wireguard_key.0, f.signing_key.0]);
        [self.wireguard_key.0, self.signing_key.0].into_iter().chain(former).collect()
    }

    /// Whether it has a tunnel at `now`: while it is admitted, and a moment longer when it leaves.
    pub fn has_tunnel(&self, now: u64) -> bool {
        self.revoked.is_none_or(|r| r.left && now < r.at.saturating_add(LEAVE_SECS))
    }
}

/// When a leaf was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Seconds since 1970.
    pub at: u64,
    /// The registry's generation then; only invites made after it can bring the name back.
    pub generation: u64,
    /// The leaf itself asked for it.
    #[serde(default)]
    pub left: bool,
}

/// An invite as it is stored: what verifies it, never its secret.
#[derive(Clone)]
pub struct InviteRecord {
    /// Its public number.
    pub id: InviteId,
    /// What verifies the first request; derived from the secret.
    pub mac_key: MacKey,
    /// The foyer tunnel's public key; derived from the secret.
    pub wireguard_key: WireguardKey,
    /// The address in the foyer.
    pub foyer: Ipv4Addr,
    /// The site's name.
    pub site: LeafName,
    /// Out of which prefixes its leaves may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses each may own.
    pub max_claims: u32,
    /// How many leaves may join by it.
    pub uses: u32,
    /// How many did.
    pub used: u32,
    /// How many did at the first and at the second hub.
    pub used_at: [u32; 2],
    /// When the last did, seconds since 1970.
    pub last_used_at: Option<u64>,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// The registry's generation when it was made.
    pub created_generation: u64,
    /// When it ends, seconds since 1970.
    pub expires_at: u64,
    /// When its last use was, if it is spent.
    pub spent_at: Option<u64>,
    /// When it was revoked.
    pub revoked_at: Option<u64>,
    /// From which underlay addresses it may be used; empty = any.
    pub sources: Vec<IpNet>,
    /// Whether a person approves each machine.
    pub approve: bool,
    /// Whether its machine takes the place of the one enrolled under the site's name.
    pub replace: bool,
    /// Whether it lets a second hub in, and no leaf.
    pub for_hub: bool,
}

/// What an invite is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InviteStatus {
    /// A leaf can join by it.
    Open,
    /// Used as often as it permits.
    Spent,
    /// Its time is over.
    Expired,
    /// Withdrawn.
    Revoked,
}

impl InviteRecord {
    /// What it is good for at `now`.
    pub fn status(&self, now: u64) -> InviteStatus {
        if self.revoked_at.is_some() {
            InviteStatus::Revoked
        } else if self.used >= self.uses {
            InviteStatus::Spent
        } else if now >= self.expires_at {
            InviteStatus::Expired
        } else {
            InviteStatus::Open
        }
    }

    /// Since when it is closed, if it is.
    pub fn closed_at(&self, now: u64) -> Option<u64> {
        let expired = (now >= self.expires_at).then_some(self.expires_at);
        [self.revoked_at, self.spent_at, expired].into_iter().flatten().min()
    }
}

/// A revoked key: it never comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The leaf that had it.
    pub leaf: LeafName,
    /// Set for a signing key: what its requests are verified with, to tell it the reason.
    pub signing: Option<SigningKey>,
}

/// One step of the truth. A request's changes are stored in one transaction, then applied.
#[derive(Clone)]
pub enum Change {
    /// A leaf is new or different.
    Leaf(Arc<Leaf>),
    /// An invite is new or different.
    Invite(Arc<InviteRecord>),
    /// An invite that nobody needs any more goes.
    InviteForgotten(InviteId),
    /// A leaf owns an address.
    ClaimAdded {
        /// The address.
        address: Ipv4Addr,
        /// Its owner.
        leaf: LeafName,
        /// Generation and time.
        claim: Claim,
    },
    /// Nobody owns an address any more.
    ClaimRemoved {
        /// The address.
        address: Ipv4Addr,
        /// Who owned it.
        leaf: LeafName,
        /// The claim that ended.
        claim: Claim,
        /// Why.
        step: ClaimStep,
    },
    /// A hub is new or different.
    Hub(Arc<HubRecord>),
    /// A leaf's keys never come back.
    KeysRevoked {
        /// The leaf.
        leaf: LeafName,
        /// Its WireGuard key.
        wireguard_key: WireguardKey,
        /// Its signing key.
        signing_key: SigningKey,
    },
    /// A machine waits for approval, or was judged.
    Pending(Arc<Pending>),
    /// A request for approval is over.
    PendingGone(SigningKey),
    /// An address has a new owner; the former one may announce it until the new one does.
    ClaimMoved {
        /// The address.
        address: Ipv4Addr,
        /// From whom, to whom, until when.
        moving: Move,
        /// The new owner's claim.
        claim: Claim,
    },
    /// A move is over: the new owner's route is there, or time is up.
    MoveDone(Ipv4Addr),
    /// A leaf that was gone for long is forgotten; its address in the overlay is free.
    LeafForgotten(LeafName),
}

/// An admitted leaf, as the daemon derives WireGuard peers and import policies from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its name.
    pub name: LeafName,
    /// Its overlay address: the only source of its BGP session, the only next hop of its routes.
    pub overlay: Ipv4Addr,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// What it owns; empty while its lease is expired (the claims stay reserved for it).
    pub claims: BTreeMap<Ipv4Addr, Claim>,
    /// Out of which prefixes it may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses it may own.
    pub max_claims: u32,
    /// When its lease ends, seconds since 1970.
    pub valid_until: u64,
    /// When it last asked for something, seconds since 1970.
    pub last_seen: u64,
    /// Its lease is over: it keeps its tunnel, so that it can renew, but none of its claims.
    pub expired: bool,
    /// Addresses that were moved away from it and that it may announce until their new owner does.
    pub lingering: BTreeMap<Ipv4Addr, Claim>,
    /// It has left: its tunnel stays for a moment, so that it hears the answer.
    pub leaving: bool,
}

/// A WireGuard peer of the foyer: an invite that is open, or closed less than a day ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoyerPeer {
    /// The tunnel's public key.
    pub public_key: WireguardKey,
    /// The one address that it may use.
    pub address: Ipv4Addr,
    /// The invite.
    pub invite: InviteId,
    /// Whether the hub must know the underlay address of who uses it.
    pub underlay_matters: bool,
}

/// All that the hub's daemon derives its state from; published after each durable change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admissions {
    /// Grows with each change.
    pub generation: u64,
    /// The hub itself.
    pub hub: Arc<HubSettings>,
    /// The leaves that are admitted; revoked ones are absent. It shares with those published before and after it what did
    /// not change in between.
    pub leaves: OrdMap<LeafName, Arc<Admitted>>,
    /// The foyer's peers.
    pub foyer: Vec<FoyerPeer>,
    /// Moves under way.
    pub moves: BTreeMap<Ipv4Addr, Move>,
    /// The other hubs.
    pub hubs: Vec<HubNode>,
    /// Machines that lost their name to one that was admitted first: their tunnel stays, so that they can be told.
    pub rivals: Vec<(WireguardKey, Ipv4Addr)>,
}

impl Admissions {
    /// The leaf at an overlay address.
    pub fn at(&self, source: IpAddr) -> Option<&Arc<Admitted>> {
        self.leaves.values().find(|leaf| IpAddr::V4(leaf.overlay) == source)
    }
}

/// A claim of an address, whether it owns it or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// The leaf's name.
    pub leaf: LeafName,
    /// The machine of that name; none if its record cannot be read.
    pub machine: Option<SigningKey>,
    /// Generation and time.
    pub claim: Claim,
}

/// A stored record that cannot be used; it is reported, keeps what it holds reserved, and blocks no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// Which table.
    pub table: String,
    /// Which row, by its key.
    pub key: String,
    /// What is wrong.
    pub why: String,
}
