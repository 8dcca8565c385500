//! The hubs of the fabric: who they are, and how two of them divide what they give out, so that they never give the
//! same thing while they cannot talk.

use super::{Change, State};
use crate::admit::{check_open, spend};
use crate::exchange::{JoinAnswer, JoinRequest, Signed};
use crate::identity::{LeafName, SigningKey};
use crate::reason::{ReasonCode, Refusal};
use crate::topology::HubNode;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
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

    /// This hub's record where it is absent or no longer right.
    pub(crate) fn own_hub_record(&self, now: u64) -> Option<HubRecord> {
        let node = self.settings.node();
        match self.hubs.get(&self.settings.signing_key) {
            Some(hub) if hub.node == node => None,
            Some(hub) => Some(HubRecord { node, version: hub.version + 1, ..HubRecord::clone(hub) }),
            None => Some(HubRecord { node, index: 0, joined_at: now, version: 1, retired_at: None }),
        }
    }

    /// Judges a hub that asks to join. The same hub again changes nothing and gets the same answer.
    pub(crate) fn join_hub(
        &self,
        signed: &Signed,
        source: IpAddr,
        now: u64,
    ) -> Result<(JoinRequest, Vec<Change>), Refusal> {
        let refuse = |code, why: &str| Err(Refusal::new(code, why));
        let Some(request) = signed.read_join() else {
            return refuse(ReasonCode::RequestMalformed, "this is no request of a hub");
        };
        let Some(invite) = self.invites.get(&request.invite).filter(|invite| invite.for_hub) else {
            return refuse(ReasonCode::InviteUnknown, "there is no such invite for a hub");
        };
        if !signed.joins(&request, &invite.mac_key) {
            return refuse(ReasonCode::SignatureInvalid, "the request was altered, or is not by this invite");
        }
        if request.to != self.settings.signing_key {
            return refuse(ReasonCode::WrongHub, "the request is for another hub");
        }
        if source != IpAddr::V4(invite.foyer) {
            return refuse(ReasonCode::SourceForbidden, "a hub joins from its invite's foyer address");
        }
        if let Some(known) = self.hubs.get(&request.signing_key) {
            let same = known.node.wireguard_key == request.wireguard_key && known.retired_at.is_none();
            return match same {
                true => Ok((request, Vec::new())),
                false => refuse(ReasonCode::KeyTaken, "this key is that of a former hub"),
            };
        }
        check_open(invite, now)?;
        if self.is_divided() {
            return refuse(ReasonCode::SiteTaken, "there are two hubs already: retire the one that is gone");
        }
        let keys = [&request.signing_key.0, &request.wireguard_key.0];
        if keys.iter().any(|key| self.leaf_of_key(key).is_some() || self.key_is_fabric_own(key)) {
            return refuse(ReasonCode::KeyTaken, "a key of this hub belongs to somebody else");
        }
        let overlay = self.free_overlay().ok_or_else(|| Refusal::of(ReasonCode::OverlayFull))?;
        let node = HubNode {
            name: invite.site.clone(),
            overlay,
            wireguard_key: request.wireguard_key,
            signing_key: request.signing_key,
            endpoints: request.endpoints.clone(),
            api_port: self.settings.api_port,
        };
        let index = 1 - u8::from(self.hub_index() == 1);
        let hub = HubRecord { node, index, joined_at: now, version: 1, retired_at: None };
        let invite = invite.clone();
        Ok((request, vec![spend(&invite, now), Change::Hub(Arc::new(hub))]))
    }

    /// What a hub that joined needs to know.
    pub(crate) fn join_answer(&self) -> JoinAnswer {
        JoinAnswer {
            hubs: self.hubs.values().map(|hub| HubRecord::clone(hub)).collect(),
            overlay_prefix: self.settings.overlay_prefix,
            foyer_prefix: self.settings.foyer_prefix,
            foyer_hub: self.settings.foyer_hub,
            asn: self.settings.asn,
        }
    }

    /// Takes another hub out for good.
    pub(crate) fn retire_hub(&self, name: &LeafName, now: u64) -> Result<Vec<Change>, Refusal> {
        let own = self.settings.signing_key;
        let live = self.hubs.values().filter(|hub| hub.retired_at.is_none());
        let mut others = live.filter(|hub| hub.node.signing_key != own);
        let Some(hub) = others.find(|hub| hub.node.name == *name) else {
            let message = format!("there is no other hub {name}; `routerctl status` names the hubs");
            return Err(Refusal::new(ReasonCode::LeafUnknown, message));
        };
        let version = hub.version + 1;
        let retired = HubRecord { retired_at: Some(now), version, ..HubRecord::clone(hub) };
        Ok(vec![Change::Hub(Arc::new(retired))])
    }

    /// Which half of all numbers this hub gives out.
    pub fn hub_index(&self) -> usize {
        self.hubs.get(&self.settings.signing_key).map_or(0, |hub| usize::from(hub.index.min(1)))
    }

    /// Whether there is another hub that gives out numbers too, without asking this one.
    fn is_divided(&self) -> bool {
        !self.settings.one_registry && self.hubs.values().filter(|hub| hub.retired_at.is_none()).count() > 1
    }

    /// Whether this hub may give out a number: all of them while it is alone, else those of its half.
    pub fn owns_number(&self, number: u64) -> bool {
        !self.is_divided() || usize::from(number % 2 == 1) == self.hub_index()
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
