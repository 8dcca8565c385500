//! The hubs of the fabric: who they are, and how two of them divide what they give out, so that they never give the
//! same thing while they cannot talk.

use super::State;
use crate::identity::SigningKey;
use crate::topology::HubNode;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A hub as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRecord {
    /// Where it is and what its keys are.
    pub node: HubNode,
    /// 0 for the first hub, 1 for the second: which half of all numbers it gives out.
    pub index: u8,
    /// When it joined, seconds since 1970.
    pub joined_at: u64,
    /// Grows with each change of the record.
    pub version: u64,
    /// When it was taken out for good; sticky.
    pub retired_at: Option<u64>,
}

impl HubRecord {
    /// What both records of one hub know.
    pub(super) fn join(&self, other: &HubRecord) -> HubRecord {
        let newer = if self.version >= other.version { self } else { other };
        let retired_at = [self.retired_at, other.retired_at].into_iter().flatten().min();
        HubRecord { retired_at, ..newer.clone() }
    }
}

impl State {
    /// The hubs that are not retired, this one first.
    pub fn live_hubs(&self) -> Vec<Arc<HubRecord>> {
        let live = self.hubs.values().filter(|hub| hub.retired_at.is_none());
        let mut hubs: Vec<Arc<HubRecord>> = live.cloned().collect();
        hubs.sort_by_key(|hub| (hub.node.signing_key != self.settings.signing_key, hub.index));
        hubs
    }

    /// A hub by its signing key, retired or not.
    pub fn hub(&self, key: &SigningKey) -> Option<&Arc<HubRecord>> {
        self.hubs.get(key)
    }

    /// Every key that may have signed an entry of the log, this hub's first.
    pub fn log_keys(&self) -> Vec<SigningKey> {
        let own = self.settings.signing_key;
        std::iter::once(own).chain(self.hubs.keys().copied().filter(|key| *key != own)).collect()
    }

    /// Which half of all numbers this hub gives out.
    pub fn hub_index(&self) -> usize {
        self.hubs.get(&self.settings.signing_key).map_or(0, |hub| usize::from(hub.index.min(1)))
    }

    /// Whether there is another hub that gives out numbers too.
    fn is_shared(&self) -> bool {
        self.hubs.values().filter(|hub| hub.retired_at.is_none()).count() > 1
    }

    /// Whether this hub may give out a number: all of them while it is alone, else those of its half.
    pub fn owns_number(&self, number: u64) -> bool {
        !self.is_shared() || usize::from(number % 2 == 1) == self.hub_index()
    }

    /// The same for an address, by its last bit.
    pub fn owns_address(&self, address: &Ipv4Addr) -> bool {
        self.owns_number(u64::from(address.to_bits()))
    }

    /// The hubs as leaves see them, this one first.
    pub fn hub_nodes(&self) -> Vec<HubNode> {
        let own = self.settings.signing_key;
        let live = self.live_hubs().into_iter().filter(|hub| hub.node.signing_key != own);
        std::iter::once(self.settings.node()).chain(live.map(|hub| hub.node.clone())).collect()
    }
}
