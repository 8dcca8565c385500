//! From events to claims: up at once, down slowly.
//!
//! A client is claimed from its first `observed` event. It is let go at once by an `expired` event, and
//! by silence only after the last observation's expiry plus grace plus debounce. The event that was
//! observed last decides; one that comes late changes nothing. An address that the node captures for
//! another site is never claimed, whatever was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::event::{Event, EventType};
use crate::view::ClaimedView;

/// The clients' addresses that a node claims by its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimedClients(BTreeSet<Ipv4Addr>);

impl ClaimedClients {
    /// In ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.0.iter().copied()
    }

    /// Whether an address is claimed.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What decides about an address: its event that was observed last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    observed_at: u64,
    id: String,
    /// When the observation ceases to hold; `None` after an `expired` event.
    expires_at: Option<u64>,
}

impl Last {
    /// At the same instant `expired` decides, then the id: the order of arrival never matters.
    fn rank(&self) -> (u64, bool, &str) {
        (self.observed_at, self.expires_at.is_none(), &self.id)
    }
}

/// The rule from events to claims. Times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub struct ClaimTable {
    /// Grace plus debounce.
    linger_ms: u64,
    captured: BTreeSet<Ipv4Addr>,
    last: BTreeMap<Ipv4Addr, Last>,
}

impl ClaimTable {
    /// An empty table; `grace` and `debounce` follow upon an observation's expiry before its claim ends.
    pub fn new(grace: Duration, debounce: Duration) -> Self {
        let linger = grace.saturating_add(debounce).as_millis();
        let linger_ms = u64::try_from(linger).unwrap_or(u64::MAX);
        ClaimTable { linger_ms, captured: BTreeSet::new(), last: BTreeMap::new() }
    }

    /// Takes a stored event in; events of other types are none of its business.
    pub fn apply(&mut self, event: &Event) {
        let Some(address) = event.client() else { return };
        let expires_at = (event.event_type == EventType::ClientObserved).then_some(event.expires_at);
        let new = Last { observed_at: event.observed_at, id: event.id.clone(), expires_at };
        match self.last.get(&address) {
            Some(last) if last.rank() >= new.rank() => {}
            _ => drop(self.last.insert(address, new)),
        }
    }

    /// Replaces the set of addresses that the node captures for other sites.
    pub fn set_captured(&mut self, captured: BTreeSet<Ipv4Addr>) {
        self.captured = captured;
    }

    /// Whether the node captures an address.
    pub fn captures(&self, address: Ipv4Addr) -> bool {
        self.captured.contains(&address)
    }

    /// What is claimed now.
    pub fn claimed(&self, now: u64) -> ClaimedClients {
        let standing = self.standing(now).map(|(address, ..)| address);
        ClaimedClients(standing.filter(|address| !self.captures(*address)).collect())
    }

    /// When the claims change next by time alone.
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        self.standing(now).map(|(_, _, withdraw_at)| withdraw_at).min()
    }

    /// When an address's last event was observed.
    pub fn last_observed_at(&self, address: Ipv4Addr) -> Option<u64> {
        self.last.get(&address).map(|last| last.observed_at)
    }

    /// Whether a claim rests on this event, so that it must not be pruned.
    pub fn rests_on(&self, event: &str, address: Ipv4Addr, now: u64) -> bool {
        self.last
            .get(&address)
            .is_some_and(|last| last.id == event && self.withdraw_at(last).is_some_and(|at| at > now))
    }

    /// Forgets addresses whose last event was observed before that time and no longer claims anything.
    pub fn forget(&mut self, before: u64, now: u64) {
        let linger_ms = self.linger_ms;
        self.last.retain(|_, last| {
            let stands = last.expires_at.is_some_and(|at| at.saturating_add(linger_ms) > now);
            stands || last.observed_at >= before
        });
    }

    /// The claims with their times, captured ones too, for people to see.
    pub fn view(&self, now: u64) -> Vec<ClaimedView> {
        let view = |(address, last, withdraw_at): (Ipv4Addr, &Last, u64)| ClaimedView {
            address,
            observed_at: last.observed_at,
            expires_at: last.expires_at.unwrap_or(last.observed_at),
            withdraw_at,
            captured: self.captures(address),
        };
        self.standing(now).map(view).collect()
    }

    fn withdraw_at(&self, last: &Last) -> Option<u64> {
        Some(last.expires_at?.saturating_add(self.linger_ms))
    }

    fn standing(&self, now: u64) -> impl Iterator<Item = (Ipv4Addr, &Last, u64)> {
        let standing = move |(address, last): (&Ipv4Addr, &'_ Last)| (*address, self.withdraw_at(last));
        self.last.iter().filter_map(move |entry| {
            let (address, withdraw_at) = standing(entry);
            withdraw_at.filter(|at| *at > now).map(|at| (address, entry.1, at))
        })
    }
}
