//! What every admission looks up, kept at hand: it costs the same with ten leaves and with thousands. All of it follows
//! from the records beside it.

use super::State;
use crate::identity::LeafName;
use crate::policy::LEAVE_SECS;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// Derived from machines, contenders, leaves and hubs.
#[derive(Default)]
pub(super) struct Index {
    /// The names that have a machine which does not hold them.
    contested: BTreeSet<LeafName>,
    /// The addresses that a name contends for.
    claimed: HashMap<LeafName, BTreeSet<Ipv4Addr>>,
    /// When time changes what is published of a leaf, seconds since 1970.
    due: BTreeSet<(u64, LeafName)>,
    /// The same by leaf.
    due_of: HashMap<LeafName, u64>,
    /// The leaves whose lease is published as over, until when it was.
    expired: BTreeMap<LeafName, u64>,
    /// No overlay address below this one is free for this hub to give.
    overlay_from: Option<Ipv4Addr>,
    /// No number of a site below this one is free for this hub to give.
    number_from: HashMap<LeafName, u32>,
}

impl State {
    /// The names under which more machines were admitted than the one that holds it.
    pub(super) fn contested(&self) -> impl Iterator<Item = &LeafName> {
        self.index.contested.iter()
    }

    /// Machines or holder of a name changed.
    pub(super) fn index_machines(&mut self, name: &LeafName) {
        let contested = self.rivals(name).next().is_some();
        match contested {
            true => drop(self.index.contested.insert(name.clone())),
            false => drop(self.index.contested.remove(name)),
        }
    }

    /// A name contends for an address.
    pub(super) fn index_claim(&mut self, name: &LeafName, address: Ipv4Addr) {
        self.index.claimed.entry(name.clone()).or_default().insert(address);
    }

    /// A claim of a name ended; it may have another one for the same address.
    pub(super) fn index_claim_end(&mut self, name: &LeafName, address: Ipv4Addr) {
        let claims = self.contenders.get(&address).into_iter().flat_map(BTreeMap::values);
        if claims.into_iter().any(|claim| claim.leaf == *name) {
            return;
        }
        if let Some(claimed) = self.index.claimed.get_mut(name) {
            claimed.remove(&address);
            if claimed.is_empty() {
                self.index.claimed.remove(name);
            }
        }
    }

    /// The addresses that a name contends for.
    pub(super) fn claimed_by(&self, name: &LeafName) -> BTreeSet<Ipv4Addr> {
        self.index.claimed.get(name).cloned().unwrap_or_default()
    }

    /// What is published of a leaf is this now.
    pub(super) fn index_admitted(&mut self, name: &LeafName) {
        let index = &mut self.index;
        if let Some(at) = index.due_of.remove(name) {
            index.due.remove(&(at, name.clone()));
        }
        index.expired.remove(name);
        let Some(admitted) = self.admitted.get(name) else { return };
        let left = self.leaves.get(name).and_then(|leaf| leaf.revoked).filter(|_| admitted.leaving);
        let over = (!admitted.expired).then_some(admitted.valid_until);
        if admitted.expired {
            index.expired.insert(name.clone(), admitted.valid_until);
        }
        if let Some(at) =
            left.map(|revoked| revoked.at.saturating_add(LEAVE_SECS)).into_iter().chain(over).min()
        {
            index.due.insert((at, name.clone()));
            index.due_of.insert(name.clone(), at);
        }
    }

    /// The leaves of which other things hold at `now` than are published: their lease ran out, or the clock was set
    /// back to before that; their leaving is over.
    pub(super) fn turned(&self, now: u64) -> Vec<LeafName> {
        let due = self.index.due.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name);
        let back = self.index.expired.iter().filter(|(_, until)| now < **until).map(|(name, _)| name);
        due.chain(back).cloned().collect()
    }

    /// When time changes something next of what is published of the leaves.
    pub(super) fn next_turn(&self) -> Option<u64> {
        self.index.due.first().map(|(at, _)| *at)
    }

    /// A leaf took its place.
    pub(super) fn index_place(&mut self, name: &LeafName, site: &LeafName) {
        self.index.overlay_from = Some(self.free_overlay().unwrap_or(Ipv4Addr::BROADCAST));
        if name != site {
            let from = self.free_number(site);
            self.index.number_from.insert(site.clone(), from.unwrap_or(u32::MAX));
        }
    }

    /// A place is free again, or this hub gives out others than before.
    pub(super) fn index_places_anew(&mut self) {
        self.index.overlay_from = None;
        self.index.number_from.clear();
    }

    /// The lowest overlay address that no leaf has or had, out of this hub's half.
    pub fn free_overlay(&self) -> Option<Ipv4Addr> {
        let from = self.index.overlay_from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let hub = |address: &Ipv4Addr| self.hubs.values().any(|hub| hub.node.overlay == *address);
        let free = |address: &Ipv4Addr| !self.overlays.contains_key(address) && !hub(address);
        self.settings.leaf_addresses(from).find(|address| free(address) && self.owns_address(address))
    }

    /// The lowest number, out of this hub's half, that no leaf of a site has.
    pub(crate) fn free_number(&self, site: &LeafName) -> Option<u32> {
        let from = self.index.number_from.get(site).copied().unwrap_or(1);
        let own = (from..=1_000_000).filter(|n| self.owns_number(u64::from(*n)));
        let free = |name: LeafName| self.leaf(&name).is_none() && !self.name_is_reserved(&name);
        own.into_iter().find(|n| numbered(site, *n).is_some_and(free))
    }
}

/// The name of a site's machine of this number; none where it would be too long.
pub(crate) fn numbered(site: &LeafName, number: u32) -> Option<LeafName> {
    format!("{site}-{number}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{Claim, ClaimStep};
    use crate::identity::{InviteId, SigningKey, WireguardKey};
    use crate::policy::HubSettings;
    use crate::registry::{Change, Leaf, Revoked};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn state() -> State {
        let (wireguard, signing) = (WireguardKey([1; 32]), SigningKey([2; 32]));
        let overlay = "10.255.0.0/20".parse().unwrap();
        let settings = HubSettings::derive("hub".parse().unwrap(), overlay, Vec::new(), wireguard, signing);
        State::new(Arc::new(settings.unwrap()))
    }

    fn leaf(state: &State, name: LeafName, machine: u8, now: u64) -> Leaf {
        let overlay = state.leaf(&name).map(|leaf| leaf.overlay).or(state.free_overlay()).unwrap();
        Leaf {
            site: "s".parse().unwrap(),
            overlay,
            wireguard_key: WireguardKey([machine; 32]),
            signing_key: SigningKey([machine.wrapping_add(100); 32]),
            permitted: Vec::new(),
            max_claims: 8,
            counter: 0,
            invite: InviteId([0; 8]),
            enrolled_at: now,
            valid_until: now + 5,
            last_seen: now,
            revoked: None,
            former: None,
            keys_since: now,
            joined_key: None,
            version: 0,
            name,
        }
    }

    /// One step: a machine joins, renews, is revoked or forgotten; a claim comes or goes.
    fn step(state: &mut State, (what, number, now): (u8, u8, u64)) {
        let name = numbered(&"s".parse().unwrap(), u32::from(number)).unwrap();
        let address = Ipv4Addr::new(10, 81, 0, number % 4);
        let held = state.leaf(&name).cloned();
        let change = match (what, held) {
            (0, _) => {
                let free = numbered(&"s".parse().unwrap(), state.free_number(&"s".parse().unwrap()).unwrap());
                Change::Leaf(Arc::new(leaf(state, free.unwrap(), number + 10, now)))
            }
            (1, Some(_)) => Change::LeafForgotten(name),
            (2, Some(held)) => {
                let revoked = Some(Revoked { at: now, generation: state.generation, left: number % 2 == 0 });
                Change::Leaf(Arc::new(Leaf { revoked, ..Leaf::clone(&held) }))
            }
            (3, Some(held)) => Change::Leaf(Arc::new(Leaf { valid_until: now + 7, ..Leaf::clone(&held) })),
            (4, Some(_)) => {
                let claim = Claim { generation: state.claim_generation + 1, since: now };
                Change::ClaimAdded { address, leaf: name, claim }
            }
            (5, _) => match state.owner(&address).cloned() {
                Some((leaf, claim)) => {
                    Change::ClaimRemoved { address, leaf, claim, step: ClaimStep::Released }
                }
                None => return,
            },
            _ => return,
        };
        state.apply(&[change], now);
    }

    /// What the index says, looked up in all records.
    fn wrong(state: &State, now: u64) -> Option<String> {
        let free = |a: &Ipv4Addr| !state.overlays.contains_key(a) && state.owns_address(a);
        let overlay = state.settings.leaf_addresses(Ipv4Addr::UNSPECIFIED).find(free);
        let site = "s".parse().unwrap();
        let number = (1..).find(|n| numbered(&site, *n).is_some_and(|name| state.leaf(&name).is_none()));
        let contested: Vec<_> = state.machines.keys().filter(|n| state.rivals(n).next().is_some()).collect();
        let turned = |a: &&Arc<crate::registry::Admitted>| {
            let gone = state.leaves.get(&a.name).is_none_or(|leaf| !leaf.has_tunnel(now));
            a.expired != (now >= a.valid_until) || (a.leaving && gone)
        };
        let mut due: Vec<_> = state.admitted.values().filter(turned).map(|a| a.name.clone()).collect();
        let mut told = state.turned(now);
        told.sort();
        told.dedup();
        due.sort();
        let names = state.contenders.values().flat_map(BTreeMap::values).map(|claim| &claim.leaf);
        let claimed: BTreeSet<_> = names.collect();
        let of = |name: &LeafName| {
            let own = state.contenders.iter().filter(|(_, c)| c.values().any(|c| c.leaf == *name));
            own.map(|(address, _)| *address).collect::<BTreeSet<_>>()
        };
        let checks = [
            ("overlay", overlay == state.free_overlay()),
            ("number", number == state.free_number(&site)),
            ("contested", contested == state.contested().collect::<Vec<_>>()),
            ("turned", due == told),
            ("claimed", claimed.iter().all(|name| of(name) == state.claimed_by(name))),
            ("none", state.index.claimed.keys().all(|name| claimed.contains(name))),
        ];
        checks.iter().find(|(_, right)| !right).map(|(what, _)| (*what).to_string())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// After any history, what is kept at hand is what the records say.
        #[test]
        fn index_is_what_the_records_say(steps in prop::collection::vec((0u8..6, 1u8..8, 0u64..30), 1..40)) {
            let mut state = state();
            for one in steps {
                step(&mut state, one);
                prop_assert_eq!(wrong(&state, one.2), None, "after {:?}", one);
                prop_assert_eq!(wrong(&state, one.2 + 3).filter(|what| what != "turned"), None);
                state.settle(one.2 + 3);
                prop_assert_eq!(wrong(&state, one.2 + 3), None, "settled after {:?}", one);
            }
        }
    }
}
