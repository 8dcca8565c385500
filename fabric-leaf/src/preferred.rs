//! Which hub carries the overlay: the first one in the leaf's order that lives. Pure: who lives and the time come in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long a hub that came back must have lived before the overlay goes back to it: other leaves need their time to
/// reach it too, and a hub that falls again and again is left alone.
const RETURN_AFTER: Duration = Duration::from_secs(10);

/// The hub in use, and since when each lives.
#[derive(Debug, Default)]
pub struct Preferred {
    current: Option<Ipv4Addr>,
    alive_since: BTreeMap<Ipv4Addr, Instant>,
}

impl Preferred {
    /// The place of the hub to use. `hubs` are the leaf's hubs in its order, each with whether it lives. A hub that
    /// died is left at once; while none lives, the last one in use stays.
    pub fn choose(&mut self, hubs: &[(Ipv4Addr, bool)], now: Instant) -> usize {
        self.alive_since.retain(|hub, _| hubs.contains(&(*hub, true)));
        for (hub, _) in hubs.iter().filter(|(_, alive)| *alive) {
            self.alive_since.entry(*hub).or_insert(now);
        }
        let present = self.present(hubs);
        let settled = |hub: &Ipv4Addr| {
            self.alive_since.get(hub).is_some_and(|since| now.duration_since(*since) >= RETURN_AFTER)
        };
        let chosen = match hubs.get(present) {
            Some((_, true)) => hubs[..present].iter().position(|(hub, _)| settled(hub)),
            _ => hubs.iter().position(|(_, alive)| *alive),
        };
        let chosen = chosen.unwrap_or(present);
        self.current = hubs.get(chosen).map(|(hub, _)| *hub);
        chosen
    }

    /// When to choose again although nothing changed: a better hub has then lived long enough.
    pub fn next_look(&self, hubs: &[(Ipv4Addr, bool)]) -> Option<Instant> {
        let better = hubs.iter().take(self.present(hubs));
        better.filter_map(|(hub, _)| Some(*self.alive_since.get(hub)? + RETURN_AFTER)).min()
    }

    fn present(&self, hubs: &[(Ipv4Addr, bool)]) -> usize {
        hubs.iter().position(|(hub, _)| Some(*hub) == self.current).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);

    /// Away at once, back after a while, nowhere while none lives; and a single hub is always the one.
    #[test]
    fn away_at_once_and_back_after_a_while() {
        let begin = Instant::now();
        let at = |secs: u64| begin + Duration::from_secs(secs);
        let mut preferred = Preferred::default();
        let hubs = |a: bool, b: bool| [(A, a), (B, b)];
        assert_eq!(preferred.choose(&hubs(false, false), at(0)), 0);
        assert_eq!(preferred.choose(&hubs(true, true), at(1)), 0);
        assert_eq!(preferred.next_look(&hubs(true, true)), None);
        assert_eq!(preferred.choose(&hubs(false, true), at(20)), 1, "at once");
        assert_eq!(preferred.choose(&hubs(true, true), at(30)), 1);
        assert_eq!(preferred.next_look(&hubs(true, true)), Some(at(40)));
        assert_eq!(preferred.choose(&hubs(false, true), at(35)), 1, "it fell again");
        assert_eq!(preferred.choose(&hubs(true, true), at(36)), 1);
        assert_eq!(preferred.choose(&hubs(true, true), at(45)), 1);
        assert_eq!(preferred.choose(&hubs(true, true), at(46)), 0, "back");
        assert_eq!(preferred.choose(&hubs(false, true), at(50)), 1);
        assert_eq!(preferred.choose(&hubs(false, false), at(51)), 1, "none lives: no move");
        assert_eq!(preferred.choose(&hubs(true, false), at(52)), 0, "the only living one");
        assert_eq!(preferred.choose(&[(A, false)], at(53)), 0);
        assert_eq!(preferred.choose(&[], at(54)), 0);
    }
}
