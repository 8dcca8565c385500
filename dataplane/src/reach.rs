//! Which WireGuard peer carries which prefix, for the in-process packet path.

use crate::route::Lookup;
use crate::state::{Line, Peers, PublicKey, State};
use crate::walk::changed;

/// A peer, and the WireGuard that it is one of.
pub type Peer = (Line, PublicKey);

/// Which peer carries which prefixes, kept from one table to the next: only peers that have changed are looked at.
#[derive(Debug, Default)]
pub struct Reach {
    peers: Lookup<Peer>,
    of: [Peers; Line::BOTH.len()],
    /// Whether two peers have the same prefix: what is left when one of them goes only all of them can tell.
    contested: bool,
}

impl Reach {
    /// What `state` says, at the cost of what has changed since the last one.
    pub fn follow(&mut self, state: &State) -> Lookup<Peer> {
        let now = Line::BOTH.map(|line| state.line(line).map(|w| w.peers.clone()).unwrap_or_default());
        if !self.contested {
            self.update(&now);
        }
        if self.contested {
            *self = Reach::default();
            self.update(&now);
        }
        self.peers.clone()
    }

    fn update(&mut self, now: &[Peers; Line::BOTH.len()]) {
        let before = std::mem::replace(&mut self.of, now.clone());
        let lines = || before.iter().zip(now).zip(Line::BOTH);
        // First who goes: a prefix may have another peer now.
        for ((before, now), _) in lines() {
            for peer in changed(before, now).filter_map(|(_, was, _)| was) {
                for net in peer.allowed_ips.iter() {
                    self.peers.remove(*net);
                }
            }
        }
        for ((before, now), line) in lines() {
            for (key, peer) in changed(before, now).filter_map(|(key, _, is)| Some((key, is?))) {
                for net in peer.allowed_ips.iter() {
                    self.contested |= self.peers.insert(*net, (line, *key)).is_some();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use proptest::collection::{btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::state::{PrivateKey, Wireguard, WireguardPeer};

    fn prefix() -> impl Strategy<Value = Ipv4Net> {
        // Few of them, so that peers contend for them now and then.
        (0u8..24, prop_oneof![3 => Just(32u8), 1 => Just(28)])
            .prop_map(|(last, len)| Ipv4Net::new(Ipv4Addr::new(10, 255, 0, last), len).unwrap().trunc())
    }

    fn state(lines: &[BTreeMap<u8, Vec<Ipv4Net>>; 2]) -> State {
        let line = |peers: &BTreeMap<u8, Vec<Ipv4Net>>| Wireguard {
            private_key: PrivateKey::from_bytes([1; 32]),
            listen_port: 0,
            addresses: Default::default(),
            mtu: 1420,
            peers: peers
                .iter()
                .map(|(n, nets)| {
                    let allowed_ips = nets.iter().copied().collect();
                    (PublicKey([*n; 32]), WireguardPeer { allowed_ips, ..Default::default() })
                })
                .collect(),
            former_keys: Default::default(),
        };
        let [first, second] = lines.each_ref().map(line);
        State { wireguard: Some(first), second: Some(second), ..State::default() }
    }

    proptest! {
        /// After any history each address leads where it does when all peers are looked at afresh.
        #[test]
        fn what_is_kept_is_what_all_peers_say(
            steps in vec((0u8..12, 0usize..2, option::of(btree_set(prefix(), 1..3))), 1..24),
        ) {
            let mut lines = [BTreeMap::new(), BTreeMap::new()];
            let mut kept = Reach::default();
            for (n, line, nets) in steps {
                match nets {
                    Some(nets) => drop(lines[line].insert(n, nets.into_iter().collect())),
                    None => drop(lines[line].remove(&n)),
                }
                let state = state(&lines);
                let (kept, afresh) = (kept.follow(&state), Reach::default().follow(&state));
                for last in 0..32 {
                    let address = Ipv4Addr::new(10, 255, 0, last);
                    prop_assert_eq!(kept.find(address), afresh.find(address), "{}", address);
                }
            }
        }
    }
}
