//! The names of hubs: where each leads, when it is looked up again, and which of its addresses is used. Pure; the time
//! and the answers come in from `resolving`.
//!
//! A name's last addresses stay in use when it does not resolve (fail static). While its hub is alive an answer takes
//! nothing away that is in use; when the hub is silent the answer comes first. What a hostile answer names holds no
//! pinned key, and so can delay but not take over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use enrollment::endpoint::Endpoint;
use enrollment::reason::{ReasonCode, Refusal};
use serde::{Deserialize, Serialize};

/// How long the answer for a hub that is alive is good.
const LONG: Duration = Duration::from_secs(900);
/// First and longest wait while the hub is silent.
const SILENT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// First and longest wait after a look that failed.
const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Addresses that are kept of one name at most.
const MOST: usize = 8;

/// A name as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameView {
    /// The name with its port, as it was written.
    pub name: String,
    /// Where it leads, the one to be tried first at the front.
    pub addresses: Vec<SocketAddr>,
    /// Why it could not be looked up the last time.
    pub error: Option<String>,
    /// For how long looking it up has failed, seconds; 0 where it has not.
    pub failing_secs: u64,
}

impl NameView {
    /// What a person is told of a name that does not resolve: the reason code, what stays in use, and the fix.
    pub fn told(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        let kept = match self.addresses.as_slice() {
            [] => "no address of it is known".into(),
            known => {
                let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                format!("still used: {}", known.join(", "))
            }
        };
        let message = format!("{} for {} s: {error}; {kept}", self.name, self.failing_secs);
        let refusal = Refusal::new(ReasonCode::NameUnresolved, message);
        Some(format!("{refusal}; {}", refusal.fix()))
    }
}

/// How the hub behind a name stands while its answer is taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether there is a session with it.
    pub alive: bool,
    /// Where WireGuard has it now.
    pub present: Option<SocketAddr>,
}

/// What is known of one name.
#[derive(Debug, Clone, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// When it was looked up last.
    asked: Option<Instant>,
    /// How often in a row that did not help.
    tries: u32,
    /// Why it failed, and since when it does.
    failed: Option<(String, Instant)>,
}

impl Known {
    fn due(&self, alive: bool) -> Option<Instant> {
        let at = self.asked?;
        let growing = |(first, most): (Duration, Duration)| {
            first.saturating_mul(1 << self.tries.saturating_sub(1).min(6)).min(most)
        };
        Some(match (&self.failed, alive) {
            (Some(_), _) => at + growing(FAILED),
            (None, false) => at + growing(SILENT),
            (None, true) => at + LONG,
        })
    }
}

/// The names that a node follows.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<Endpoint, Known>,
}

impl Names {
    /// Names with the addresses that they had before a restart.
    pub fn remembered(stored: BTreeMap<Endpoint, Vec<SocketAddr>>) -> Names {
        let known = |addresses| Known { addresses, ..Known::default() };
        Names { known: stored.into_iter().map(|(name, addresses)| (name, known(addresses))).collect() }
    }

    /// What outlives a restart.
    pub fn to_remember(&self) -> BTreeMap<Endpoint, Vec<SocketAddr>> {
        let known = self.known.iter().filter(|(_, known)| !known.addresses.is_empty());
        known.map(|(name, known)| (name.clone(), known.addresses.clone())).collect()
    }

    /// Follows the names among these endpoints, and no others.
    pub fn follow<'a>(&mut self, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let mut before = std::mem::take(&mut self.known);
        for endpoint in endpoints.filter(|endpoint| endpoint.name().is_some()) {
            let known = before.remove(endpoint);
            self.known.entry(endpoint.clone()).or_insert_with(|| known.unwrap_or_default());
        }
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The names to be looked up now; `alive` says whether the hub behind one has a session.
    pub fn due(&mut self, now: Instant, alive: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
        let mut all = Vec::new();
        for (name, known) in &mut self.known {
            let alive = alive(name);
            if alive && known.failed.is_none() {
                // Its next silence begins anew.
                known.tries = 1;
            }
            if known.due(alive).is_none_or(|at| at <= now) {
                all.push(name.clone());
            }
        }
        all
    }

    /// Takes in what looking a name up came to, and says whether its addresses are others now.
    pub fn answered(
        &mut self,
        name: &Endpoint,
        answer: Result<Vec<SocketAddr>, String>,
        stands: Standing,
        now: Instant,
    ) -> bool {
        let Some(known) = self.known.get_mut(name) else { return false };
        known.asked = Some(now);
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                let first = known.failed.is_none();
                known.tries = if first { 1 } else { known.tries.saturating_add(1) };
                let since = known.failed.as_ref().map_or(now, |(_, since)| *since);
                known.failed = Some((why, since));
                return false;
            }
        };
        let was_failing = known.failed.take().is_some();
        known.tries = if stands.alive || was_failing { 1 } else { known.tries.saturating_add(1) };
        let after = chosen(&known.addresses, answer, stands);
        let changed = after != known.addresses;
        known.addresses = after;
        changed
    }

    /// The same endpoints with addresses in the place of names; a name that led nowhere yet is left out.
    pub fn resolved(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let mut found: Vec<Endpoint> = Vec::new();
        for endpoint in endpoints {
            let addresses = match self.known.get(endpoint) {
                Some(known) => known.addresses.iter().copied().map(Endpoint::from).collect(),
                None if endpoint.name().is_some() => Vec::new(),
                None => vec![endpoint.clone()],
            };
            found.extend(addresses);
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|endpoint| seen.insert(endpoint.clone()));
        found
    }

    /// The names for the status.
    pub fn views(&self, now: Instant) -> Vec<NameView> {
        let view = |(name, known): (&Endpoint, &Known)| NameView {
            name: name.to_string(),
            addresses: known.addresses.clone(),
            error: known.failed.as_ref().map(|(why, _)| why.clone()),
            failing_secs: known.failed.as_ref().map_or(0, |(_, since)| now.duration_since(*since).as_secs()),
        };
        self.known.iter().map(view).collect()
    }
}

/// The addresses to use after an answer.
fn chosen(before: &[SocketAddr], answer: Vec<SocketAddr>, stands: Standing) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    if stands.alive {
        // What works stays in its place: where the hub is heard now, or else what was first.
        let present = stands.present.filter(|at| before.contains(at) || answer.contains(at));
        let first = present.or(before.first().copied());
        all.extend(first);
        all.extend(before.iter().filter(|at| answer.contains(at)));
        all.extend(answer);
    } else {
        all.extend(answer);
        all.extend(before);
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|at| seen.insert(*at));
    all.truncate(MOST);
    all
}

/// Of what a resolver answered, the addresses that a hub can have, IPv4 first and each once; `own` are prefixes of the
/// fabric itself, through which no tunnel can go.
pub fn usable(found: impl Iterator<Item = SocketAddr>, own: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    let right = |at: &SocketAddr| {
        let broadcast = matches!(at.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        !(at.ip().is_unspecified() || at.ip().is_multicast() || broadcast || own(at.ip()))
    };
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let mut all: Vec<SocketAddr> = found.map(canonical).filter(right).collect();
    all.sort_by_key(|at| (at.is_ipv6(), *at));
    all.dedup();
    all.truncate(MOST);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_HUB: Standing = Standing { alive: false, present: None };

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, n], 51820))
    }

    fn name() -> Endpoint {
        "hub.example.net:51820".parse().unwrap()
    }

    fn names() -> Names {
        let mut names = Names::default();
        names.follow([name(), at(200).into()].iter());
        names
    }

    fn alive(present: Option<SocketAddr>) -> Standing {
        Standing { alive: true, present }
    }

    /// A name is looked up at once; then seldom while its hub lives, within seconds while it is silent, and after a
    /// failure soon and then more and more seldom.
    #[test]
    fn when_a_name_is_looked_up_again() {
        let (mut names, begin) = (names(), Instant::now());
        let after = |secs: u64| begin + Duration::from_secs(secs);
        let due = |names: &mut Names, secs: u64, lives: bool| !names.due(after(secs), |_| lives).is_empty();
        assert!(due(&mut names, 0, true));
        names.answered(&name(), Ok(vec![at(1)]), alive(None), after(0));
        assert!(!due(&mut names, 899, true) && due(&mut names, 900, true));
        assert!(!due(&mut names, 4, false) && due(&mut names, 5, false), "its hub fell silent");
        for (at_secs, next) in [(5, 15), (15, 35), (35, 75), (75, 135), (135, 195)] {
            names.answered(&name(), Ok(vec![at(1)]), SILENT_HUB, after(at_secs));
            assert!(!due(&mut names, next - 1, false) && due(&mut names, next, false), "{at_secs}");
        }
        for (at_secs, next) in [(200, 201), (201, 203), (203, 207), (207, 215)] {
            names.answered(&name(), Err("no such name".into()), alive(None), after(at_secs));
            assert!(!due(&mut names, next - 1, true) && due(&mut names, next, true), "{at_secs}");
        }
        names.answered(&name(), Ok(vec![at(1)]), alive(None), after(215));
        assert!(!due(&mut names, 300, true));
        assert!(due(&mut names, 220, false), "it begins anew");
    }

    /// A name that does not resolve leads where it led, over a restart too, and is told with code and fix.
    #[test]
    fn a_failure_changes_nothing() {
        let (mut names, now) = (names(), Instant::now());
        assert_eq!(names.resolved(&[name(), at(200).into()]), [at(200).into()]);
        assert!(names.answered(&name(), Ok(vec![at(1)]), SILENT_HUB, now));
        assert!(!names.answered(&name(), Err("timed out".into()), SILENT_HUB, now));
        assert_eq!(names.resolved(&[name()]), [at(1).into()]);
        let told = names.views(now + Duration::from_secs(7))[0].told().unwrap();
        for word in ["name-unresolved", "hub.example.net:51820 for 7 s", "timed out", "203.0.113.1", "getent"]
        {
            assert!(told.contains(word), "{word}: {told}");
        }
        let mut again = Names::remembered(names.to_remember());
        again.follow([name()].iter());
        assert_eq!(again.resolved(&[name(), at(1).into()]), [at(1).into()], "each once");
        assert!(again.views(now)[0].told().is_none());
        again.follow([].iter());
        assert!(again.is_empty() && again.to_remember().is_empty());
    }

    /// A living hub stays where it is heard, whatever the answer; a silent one is tried where the answer says first.
    #[test]
    fn an_answer_moves_a_silent_hub_only() {
        let chosen = |before: &[u8], answer: &[u8], stands| {
            let list = |all: &[u8]| all.iter().copied().map(at).collect::<Vec<_>>();
            let after = chosen(&list(before), list(answer), stands);
            after
                .into_iter()
                .map(|at| match at.ip() {
                    IpAddr::V4(ip) => ip.octets()[3],
                    IpAddr::V6(_) => 0,
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[], &[1, 2], SILENT_HUB), [1, 2]);
        assert_eq!(chosen(&[1], &[2], SILENT_HUB), [2, 1]);
        assert_eq!(chosen(&[1], &[2], alive(Some(at(1)))), [1, 2], "a hostile or early answer");
        assert_eq!(chosen(&[1, 2], &[2, 1], alive(Some(at(2)))), [2, 1], "it is heard there");
        assert_eq!(chosen(&[1], &[2], alive(Some(at(2)))), [2], "it called from there");
        assert_eq!(chosen(&[1, 3], &[2], alive(Some(at(9)))), [1, 2], "behind another NAT");
        assert_eq!(chosen(&[1, 2, 3], &[4, 5, 6, 7, 8, 9], SILENT_HUB).len(), MOST);
    }

    /// Only what a hub can have is used, IPv4 first.
    #[test]
    fn what_is_usable() {
        let found = [
            "[2001:db8::1]:1",
            "203.0.113.9:1",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "10.255.0.1:1",
            "[::]:1",
            "[ff02::1]:1",
            "203.0.113.9:1",
            "[::ffff:203.0.113.8]:1",
        ];
        let own = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [10, 255]);
        let all = usable(found.iter().map(|text| text.parse().unwrap()), own);
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["203.0.113.8:1", "203.0.113.9:1", "[2001:db8::1]:1"]);
    }
}
