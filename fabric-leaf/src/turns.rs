//! Which of a hub's endpoints is used: the first one, and while the hub is not heard, each of the others in turn. Pure:
//! who lives and the time come in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use enrollment::endpoint::Endpoint;
use enrollment::topology::HubNode;

/// How long one endpoint is tried: enough for several handshakes and a session.
const EACH: Duration = Duration::from_secs(8);

/// The place of the endpoint in use of each hub.
#[derive(Debug, Default)]
pub struct Turns {
    hubs: BTreeMap<Ipv4Addr, Turn>,
}

#[derive(Debug)]
struct Turn {
    place: usize,
    /// Since when this endpoint is tried in vain.
    since: Option<Instant>,
    /// The endpoints as the admission has them; others begin anew.
    of: Vec<Endpoint>,
}

impl Turns {
    /// Puts the endpoint in use first at each hub. `alive` says whether a hub has a session.
    pub fn take(&mut self, hubs: &mut [HubNode], alive: impl Fn(Ipv4Addr) -> bool, now: Instant) {
        self.hubs.retain(|overlay, _| hubs.iter().any(|hub| hub.overlay == *overlay));
        for hub in hubs.iter_mut().filter(|hub| !hub.endpoints.is_empty()) {
            let fresh = || Turn { place: 0, since: None, of: hub.endpoints.clone() };
            let turn = self.hubs.entry(hub.overlay).or_insert_with(fresh);
            if turn.of != hub.endpoints {
                *turn = Turn { place: 0, since: None, of: hub.endpoints.clone() };
            }
            if alive(hub.overlay) {
                turn.since = None;
            } else {
                let since = *turn.since.get_or_insert(now);
                if now.duration_since(since) >= EACH {
                    turn.place = (turn.place + 1) % hub.endpoints.len();
                    turn.since = Some(now);
                }
            }
            hub.endpoints[..=turn.place].rotate_right(1);
        }
    }

    /// When the next turn is due; none while every hub lives or has one endpoint only.
    pub fn next(&self) -> Option<Instant> {
        let several = self.hubs.values().filter(|turn| turn.of.len() > 1);
        several.filter_map(|turn| Some(turn.since? + EACH)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::tests::admission_of_two;

    /// A silent hub is tried at each of its endpoints in turn, one that lives stays where it is, and new endpoints begin
    /// with the first.
    #[test]
    fn each_endpoint_has_its_turn() {
        let mut hubs = admission_of_two().topology.hubs;
        let [a, b, c] = [1, 2, 3].map(|n| std::net::SocketAddr::from(([198, 51, 100, n], 51820)));
        hubs[0].endpoints = vec![a.into(), b.into(), c.into()];
        let (begin, silent) = (Instant::now(), hubs[0].overlay);
        let mut turns = Turns::default();
        let mut used = |hubs: &[HubNode], secs: u64, lives: bool| {
            let mut hubs = hubs.to_vec();
            turns.take(&mut hubs, |hub| lives || hub != silent, begin + Duration::from_secs(secs));
            (hubs[0].endpoints[0].address().unwrap(), hubs[0].endpoints.len(), turns.next().is_some())
        };
        assert_eq!(used(&hubs, 0, true), (a, 3, false));
        assert_eq!(used(&hubs, 1, false), (a, 3, true));
        assert_eq!(used(&hubs, 8, false), (a, 3, true), "not yet");
        assert_eq!(used(&hubs, 9, false), (b, 3, true));
        assert_eq!(used(&hubs, 17, false), (c, 3, true));
        assert_eq!(used(&hubs, 20, true), (c, 3, false), "it lives there");
        assert_eq!(used(&hubs, 60, false), (c, 3, true));
        assert_eq!(used(&hubs, 68, false), (a, 3, true), "round");
        hubs[0].endpoints = vec![b.into()];
        assert_eq!(used(&hubs, 70, false), (b, 1, false));
    }
}
