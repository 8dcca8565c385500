//! The whole speaker: connections, octets, time, admissions, configuration and own routes in any order.
//!
//! Whatever happened, at the end every peer that is up holds exactly the routes that reflection owes it, nothing
//! that an admission does not cover was accepted, all that was ever sent is well formed, and what is held is
//! bounded by what was sent.

use std::collections::{BTreeSet, HashMap};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp::egress::SLICES;
use bgp::message::{KEEPALIVE, put};
use bgp::policy::{Admission, ImportPolicy};
use bgp::session::Millis;
use bgp::settings::{DynamicPeers, Neighbor, Originated, Restarting, SpeakerConfig};
use bgp::speaker::{Action, ConnId, Direction, Speaker};
use bgp::types::Prefix;
use bgp::view::{PeerView, RouteQuery};

use super::Input;
use crate::wire::{ASN, Attr, Heard, body, nlri, open_for, section, update, usual};

struct Conn {
    id: ConnId,
    address: IpAddr,
    heard: Heard,
}

struct World {
    speaker: Speaker,
    now: Millis,
    conns: Vec<Conn>,
    /// What the enrolled may send, as set last.
    admitted: HashMap<IpAddr, Arc<ImportPolicy>>,
    received: usize,
}

/// One input: a list of happenings.
pub fn run(input: &[u8]) {
    play(input);
}

/// The same; returns how many routes were held and compared at the end.
pub fn play(input: &[u8]) -> usize {
    let mut input = Input(input);
    let mut world = World::new(input.octet());
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        world.happening(&mut input);
        world.actions(input.0.first().is_some_and(|b| b & 1 == 1));
    }
    world.judge()
}

fn address(n: u8) -> IpAddr {
    // Clients, others, and two that nobody admits.
    match n % 10 {
        n @ 0..=4 => IpAddr::from([10, 255, 0, 2 + n]),
        n @ 5..=7 => IpAddr::from([10, 255, 1, 2 + n]),
        n => IpAddr::from([192, 0, 2, n]),
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// Sixteen IPv4 host routes and sixteen IPv6 ones.
fn route(n: u8) -> Prefix {
    match n % 32 {
        n @ 0..=15 => Prefix::host(IpAddr::from([10, 80, 0, n])),
        n => Prefix::host(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])),
    }
}

fn group(name: &str, net: &str, client: bool, limit: usize, admission: Admission) -> DynamicPeers {
    DynamicPeers {
        options: Default::default(),
        name: name.into(),
        source_prefixes: vec![net.parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: client,
        limit,
        admission,
    }
}

impl World {
    fn new(flavour: u8) -> World {
        let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1));
        config.publish_best_paths = flavour & 1 == 1;
        config.session_limit = 12;
        config.log_limit_bytes = if flavour & 2 == 2 { 256 } else { 1 << 16 };
        config.graceful_restart_secs = if flavour & 4 == 4 { 0 } else { 30 };
        config.hold_time_secs = if flavour & 8 == 8 { 0 } else { 9 };
        config.restarting = (flavour & 16 == 16)
            .then(|| Restarting { expected: (0..3).map(address).collect(), deferral_secs: 20 });
        let speaker = Speaker::new(config, u64::from(flavour), 0);
        let mut world = World { speaker, now: 0, conns: Vec::new(), admitted: HashMap::new(), received: 0 };
        world.admit(0xffff, flavour & 32 == 32);
        world
    }

    /// Admits clients with the routes whose bits are set, or everybody.
    fn admit(&mut self, mask: u16, open: bool) {
        self.admitted.clear();
        let one = |n: u8| {
            let owned: BTreeSet<Prefix> =
                (0..16).filter(|r| mask >> ((r + n) % 16) & 1 == 1).map(route).collect();
            let next_hop = v4(address(n));
            let max_prefixes = u32::from(mask >> 12);
            (
                address(n),
                Arc::new(ImportPolicy {
                    owner: format!("leaf{n}"),
                    owned,
                    next_hop,
                    max_prefixes,
                    passes_on: Default::default(),
                }),
            )
        };
        let admission = if open {
            Admission::Open
        } else {
            self.admitted = (0..5).filter(|n| mask >> n & 1 == 1).map(one).collect();
            Admission::Enrolled(Arc::new(self.admitted.clone()))
        };
        let groups = vec![
            group("clients", "10.255.0.0/24", true, 1 + usize::from(mask & 7), admission),
            group("others", "10.255.1.0/24", false, 3, Admission::Open),
        ];
        self.speaker.set_dynamic_peers(groups, self.now);
    }

    fn happening(&mut self, input: &mut Input<'_>) {
        let (what, who) = (input.octet(), input.octet());
        match what % 16 {
            0 => self.connect(address(who), Direction::In),
            1 => {
                let open = open_for(v4(address(who % 8)), who & 16 == 0, [who & 32 == 0, who & 64 == 0]);
                self.send(who, &open);
                self.send(who, &KEEPALIVE);
            }
            2 => {
                let octets = input.octets(usize::from(what));
                self.send(who, octets);
            }
            3 | 4 => self.announce(who, input),
            5 => {
                let withdrawn: Vec<Prefix> = input
                    .octets(4)
                    .iter()
                    .map(|n| route(*n))
                    .filter(|p| matches!(p, Prefix::V4(_)))
                    .collect();
                self.send(who, &update(&body(&nlri(&withdrawn), &[], &[])));
            }
            6 => {
                let kind = input.octet() % 7;
                let mut message = Vec::new();
                let len = usize::from(input.octet());
                put(&mut message, kind, input.octets(len));
                self.send(who, &message);
            }
            7 => self.refresh(who, input),
            8 | 9 => {
                self.now += u64::from(input.short()) * if what & 16 == 0 { 1 } else { 100 };
                self.tick();
            }
            10 => self.lose(who),
            11 => self.admit(input.short(), who & 15 == 0),
            12 => self.neighbors(who),
            13 => {
                let own = (0..4).filter(|n| who >> n & 1 == 1).map(|n| route(n * 9));
                let hop = Ipv4Addr::new(10, 255, 0, 1 + (who >> 6));
                self.speaker.originate(own.map(|p| Originated::new(p, hop)).collect());
            }
            14 => self.take(who, usize::from(input.octet())),
            _ => self.look(),
        }
        self.bounded();
    }

    fn connect(&mut self, address: IpAddr, direction: Direction) {
        match self.speaker.connected(address, direction, self.now) {
            Ok(id) => self.conns.push(Conn { id, address, heard: Heard::default() }),
            Err(refusal) => {
                let mut heard = Heard::default();
                heard.hear(&refusal);
                assert!(heard.notification.is_some(), "a refusal says why");
            }
        }
    }

    fn pick(&self, who: u8) -> Option<usize> {
        (!self.conns.is_empty()).then(|| usize::from(who) % self.conns.len())
    }

    fn send(&mut self, who: u8, octets: &[u8]) {
        if let Some(i) = self.pick(who) {
            self.received += octets.len();
            self.speaker.received(self.conns[i].id, octets, self.now);
        }
    }

    fn announce(&mut self, who: u8, input: &mut Input<'_>) {
        let Some(i) = self.pick(who) else { return };
        let (pref, extra, hop) = (input.octet(), input.octet(), input.octet());
        let next_hop = if hop & 7 == 0 { address(hop >> 3) } else { self.conns[i].address };
        let mut all = usual(v4(next_hop), u32::from(pref));
        if extra & 1 == 1 {
            all.push((0x80, 10, [[10, 0, 0, extra], [10, 255, 0, extra % 4]].concat()));
        }
        if extra & 2 == 2 {
            all.push((0x80, 9, vec![10, 255, 0, extra >> 4]));
        }
        if extra & 4 == 4 {
            let (flags, code, len) = (input.octet(), input.octet(), usize::from(input.octet()));
            all.push((flags & 0xef, code, input.octets(len).to_vec()));
        }
        let count = usize::from(extra >> 5) + 1;
        let prefixes: Vec<Prefix> = input.octets(count).iter().map(|n| route(*n)).collect();
        let (four, six): (Vec<Prefix>, Vec<Prefix>) =
            prefixes.into_iter().partition(|p| matches!(p, Prefix::V4(_)));
        if !six.is_empty() {
            let hop = v4(next_hop).to_ipv6_mapped().octets();
            let reach: Attr = (0x80, 14, [&[0, 2, 1, 16][..], &hop, &[0], &nlri(&six)].concat());
            all.insert(0, reach);
        }
        self.send(who, &update(&body(&[], &section(&all), &nlri(&four))));
    }

    fn refresh(&mut self, who: u8, input: &mut Input<'_>) {
        let mut message = Vec::new();
        put(&mut message, 5, &[0, 1 + (input.octet() & 1), input.octet() % 4, 1]);
        self.send(who, &message);
    }

    fn tick(&mut self) {
        // A tick that leaves its deadline behind would make the driver spin.
        for _ in 0..8 {
            self.speaker.tick(self.now);
            if self.speaker.deadline() > self.now {
                return;
            }
        }
        panic!("the deadline {} stays behind {}", self.speaker.deadline(), self.now);
    }

    fn lose(&mut self, who: u8) {
        if let Some(i) = self.pick(who) {
            let conn = self.conns.remove(i);
            self.speaker.closed(conn.id, "lost", self.now);
        }
    }

    fn neighbors(&mut self, who: u8) {
        let one = |n: u8| {
            let mut neighbor = Neighbor::new(format!("n{n}"), IpAddr::from([10, 255, 9, n]), ASN);
            neighbor.route_reflector_client = who & 16 == 16;
            neighbor.fail_static_secs = if who & 8 == 8 { 100 } else { 0 };
            neighbor
        };
        self.speaker.set_neighbors((0..3).filter(|n| who >> n & 1 == 1).map(one).collect(), self.now);
    }

    /// Does what the speaker asks for; dialled neighbours answer or not.
    fn actions(&mut self, answer: bool) {
        while let Some(action) = self.speaker.next_action() {
            match action {
                Action::Close(id, last) => {
                    if let Some(i) = self.conns.iter().position(|c| c.id == id) {
                        self.conns.remove(i).heard.hear(&last);
                    }
                }
                Action::Dial { peer, to, .. } if answer => self.connect(to.ip(), Direction::Out(peer)),
                Action::Dial { peer, .. } => self.speaker.dial_failed(&peer, "refused", self.now),
                #[allow(unreachable_patterns, reason = "an action that is added later concerns no peer")]
                _ => {}
            }
        }
    }

    /// Has a peer take up to `most` octets.
    fn take(&mut self, who: u8, most: usize) {
        self.speaker.flush();
        if let Some(i) = self.pick(who) {
            self.read(i, most);
        }
        self.speaker.trim_log();
    }

    fn read(&mut self, i: usize, most: usize) -> usize {
        let conn = &mut self.conns[i];
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = self.speaker.gather(conn.id, &mut slices);
        let mut octets: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        octets.truncate(most);
        conn.heard.hear(&octets);
        self.speaker.wrote(conn.id, octets.len(), self.now);
        octets.len()
    }

    fn look(&mut self) {
        let peers = self.speaker.peers(self.now);
        assert!(peers.len() <= 32);
        let _ = (self.speaker.rejected(), self.speaker.take_best_paths());
    }

    /// What is held has a bound that follows from what was sent.
    fn bounded(&self) {
        let summary = self.speaker.summary(self.now);
        assert!(summary.paths <= 4 + self.received, "{} paths of {}", summary.paths, self.received);
        assert!(summary.attribute_sets <= summary.paths + 1100, "{}", summary.attribute_sets);
        assert!(summary.refused.len() < 16);
    }

    /// Everybody reads everything; then each must hold what it is owed.
    fn judge(&mut self) -> usize {
        let mut compared = 0;
        self.speaker.flush();
        self.actions(false);
        for i in 0..self.conns.len() {
            let mut rounds = 0;
            while self.read(i, usize::MAX) > 0 {
                rounds += 1;
                assert!(rounds < 10_000, "there is an end to it");
            }
        }
        self.speaker.trim_log();
        assert_eq!(self.speaker.summary(self.now).log_bytes, 0, "all has been sent");
        let peers = self.speaker.peers(self.now);
        let best = self.speaker.routes(&RouteQuery { best_only: true, ..RouteQuery::default() });
        for conn in &self.conns {
            let of_peer = self.conns.iter().filter(|c| c.address == conn.address).count();
            let Some(view) = peers.iter().find(|v| v.address == conn.address) else { continue };
            if of_peer > 1 || view.state != "Established" {
                continue;
            }
            let speaks = |p: &Prefix| {
                let name = if matches!(p, Prefix::V4(_)) { "ipv4-unicast" } else { "ipv6-unicast" };
                view.capabilities.iter().any(|c| c == name)
            };
            let owed: BTreeSet<Prefix> = best
                .iter()
                .filter(|r| owes(&peers, view, r.peer_address) && speaks(&r.prefix))
                .map(|r| r.prefix)
                .collect();
            let told: BTreeSet<Prefix> = conn.heard.told.keys().copied().collect();
            assert_eq!(told, owed, "what {} holds and what it is owed", conn.address);
            compared += told.len();
        }
        self.only_what_is_admitted();
        compared
    }

    fn only_what_is_admitted(&self) {
        for route in self.speaker.routes(&RouteQuery::default()).iter().filter(|r| r.accepted) {
            let policy = route.peer_address.and_then(|a| self.admitted.get(&a));
            if let Some(policy) = policy {
                assert!(policy.owned.contains(&route.prefix), "{} is not owned", route.prefix);
                assert_eq!(route.next_hop, IpAddr::V4(policy.next_hop));
            }
        }
    }
}

/// Whether a peer gets the routes of the source with this address (RFC 4456 section 6).
fn owes(peers: &[PeerView], to: &PeerView, from: Option<IpAddr>) -> bool {
    let Some(from) = from else { return true };
    let client = peers.iter().find(|v| v.address == from).is_some_and(|v| v.client);
    from != to.address && (client || to.client)
}

/// Seeds: some happenings, spelled out.
pub fn seeds() -> Vec<Vec<u8>> {
    let up = [0u8, 0, 0, 1, 1, 0, 1, 1];
    let routes = [3u8, 0, 100, 0, 1, 0, 3, 0, 100, 0x40, 1, 1, 2, 20];
    let times = [8u8, 0, 0x10, 0, 24, 0, 0x40, 0];
    [
        [&[0x20][..], &up, &routes].concat(),
        [&[0x00][..], &up, &routes, &[11, 1, 0xf0, 0x0f]].concat(),
        [&[0x22][..], &up, &routes, &[14, 1, 9], &routes, &times].concat(),
        [&[0x31][..], &up, &[12, 7, 8, 0, 0, 1], &routes, &[10, 0], &times].concat(),
        [&[0x20][..], &up, &[7, 1, 0, 0], &routes, &[5, 0, 1, 2, 3, 4], &[13, 15]].concat(),
        [&[0x20][..], &up, &[3, 0, 1, 7, 1, 0x80, 7, 3, 1, 2, 3, 0, 1], &[6, 1, 2, 4, 0, 0, 0, 0]].concat(),
    ]
    .into()
}
