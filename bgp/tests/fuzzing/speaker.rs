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
use bgp::message::{HEADER_LEN, KEEPALIVE, Kind, Open, frame, put, put_end_of_rib};
use bgp::policy::{Admission, ImportPolicy};
use bgp::session::Millis;
use bgp::settings::{
    AddPathOptions, DynamicPeers, Neighbor, Originated, PeerOptions, Restarting, SpeakerConfig,
};
use bgp::speaker::{Action, ConnId, Cursor, Direction, Listing, Speaker};
use bgp::types::{Family, Prefix};
use bgp::view::{PeerView, RouteQuery, RouteView};

use super::Input;
use crate::wire::{ASN, Attr, Heard, Offer, body, nlri_of, open_of, section, update, usual};

struct Conn {
    id: ConnId,
    address: IpAddr,
    heard: Heard,
    /// What it has sent until its first message was whole: that alone can be its OPEN.
    first: Vec<u8>,
}

impl Conn {
    fn new(id: ConnId, address: IpAddr) -> Conn {
        Conn { id, address, heard: Heard::default(), first: Vec::new() }
    }

    /// Takes note of the OPEN among what it sends, if that is what it begins with.
    fn sends(&mut self, octets: &[u8]) {
        if self.heard.said.is_some() || matches!(frame(&self.first, false), Ok(Some(_)) | Err(_)) {
            return;
        }
        self.first.extend_from_slice(octets);
        if let Ok(Some((Kind::Open, whole))) = frame(&self.first, false) {
            self.heard.said = Open::decode(&self.first[HEADER_LEN..whole]).ok();
        }
    }
}

struct World {
    speaker: Speaker,
    now: Millis,
    conns: Vec<Conn>,
    /// What the enrolled may send, as set last.
    admitted: HashMap<IpAddr, Arc<ImportPolicy>>,
    received: usize,
    /// What of ADD-PATH clients, and what all others, are offered.
    add_path: [AddPathOptions; 2],
}

/// One input: a list of happenings.
pub fn run(input: &[u8]) {
    play(input);
}

/// The same; returns how many routes were held and compared at the end, and what there was besides.
pub fn play(input: &[u8]) -> (usize, BTreeSet<String>) {
    let mut input = Input(input);
    let mut world = World::new(input.octet());
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        world.happening(&mut input);
        world.actions(input.0.first().is_some_and(|b| b & 1 == 1));
    }
    (world.judge(), world.seen())
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

fn group(
    (name, net, client): (&str, &str, bool),
    limit: usize,
    admission: Admission,
    add_path: AddPathOptions,
) -> DynamicPeers {
    DynamicPeers {
        options: PeerOptions { add_path, ..PeerOptions::default() },
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
        config.long_lived_stale_secs = if flavour & 64 == 64 { 40 } else { 0 };
        let receive = flavour & 128 == 128;
        let add_path =
            [AddPathOptions::ALL, 2].map(|n| AddPathOptions { receive, send: if receive { n } else { 0 } });
        let speaker = Speaker::new(config, u64::from(flavour), 0);
        let (conns, admitted) = (Vec::new(), HashMap::new());
        let mut world = World { speaker, now: 0, conns, admitted, received: 0, add_path };
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
            group(("clients", "10.255.0.0/24", true), 1 + usize::from(mask & 7), admission, self.add_path[0]),
            group(("others", "10.255.1.0/24", false), 3, Admission::Open, self.add_path[1]),
        ];
        self.speaker.set_dynamic_peers(groups, self.now);
    }

    fn happening(&mut self, input: &mut Input<'_>) {
        let (what, who) = (input.octet(), input.octet());
        // Half of all have a second form, so that what is kept of old runs still means the same.
        let second = what & 16 == 16;
        match what % 16 {
            0 => self.connect(address(who), Direction::In),
            1 => {
                let (extended, families) = (who & 16 == 0, [who & 32 == 0, who & 64 == 0]);
                let offer =
                    if second { input.offer() } else { Offer { extended, families, ..Offer::default() } };
                self.send(who, &open_of(v4(address(who % 8)), &offer));
                self.send(who, &KEEPALIVE);
            }
            2 => {
                let octets = input.octets(usize::from(what));
                self.send(who, octets);
            }
            3 | 4 => self.announce(who, input, second),
            5 if second => {
                let mut end = Vec::new();
                put_end_of_rib(Family::ALL[usize::from(input.octet() & 1)], &mut end);
                self.send(who, &end);
            }
            5 => self.withdraw(who, input),
            6 => {
                let kind = input.octet() % 7;
                let mut message = Vec::new();
                let len = usize::from(input.octet());
                put(&mut message, kind, input.octets(len));
                self.send(who, &message);
            }
            7 => self.refresh(who, input),
            8 | 9 => {
                self.now += u64::from(input.short()) * if second { 100 } else { 1 };
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
            Ok(id) => self.conns.push(Conn::new(id, address)),
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
            self.conns[i].sends(octets);
            self.speaker.received(self.conns[i].id, octets, self.now);
        }
    }

    /// Routes by number, with a path identifier where the session has them that way.
    fn routes_of(&self, i: usize, numbers: &[u8]) -> [Vec<(Prefix, Option<u32>)>; 2] {
        let sends = |f: usize| {
            let said = self.conns[i].heard.said.as_ref();
            said.is_some_and(|o| o.families[f] && o.add_path[f].send) && self.add_path[0].receive
        };
        let ids = [sends(0), sends(1)];
        let mut all = [Vec::new(), Vec::new()];
        for n in numbers {
            let prefix = route(*n);
            let f = prefix.family().index();
            all[f].push((prefix, ids[f].then_some(u32::from(n >> 5))));
        }
        all
    }

    fn withdraw(&mut self, who: u8, input: &mut Input<'_>) {
        let Some(i) = self.pick(who) else { return };
        let [four, six] = self.routes_of(i, input.octets(4));
        let gone = if six.is_empty() {
            Vec::new()
        } else {
            section(&[(0x80, 15, [&[0, 2, 1][..], &nlri_of(&six)].concat())])
        };
        self.send(who, &update(&body(&nlri_of(&four), &gone, &[])));
    }

    fn announce(&mut self, who: u8, input: &mut Input<'_>, marked: bool) {
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
        if marked {
            // LLGR_STALE, NO_LLGR (RFC 9494), or both.
            let which: &[[u8; 4]] = &[[0xff, 0xff, 0, 6], [0xff, 0xff, 0, 7]];
            let which = [&which[..1], &which[1..], which][usize::from(input.octet() % 3)];
            all.push((0xc0, 8, which.concat()));
        }
        let count = usize::from(extra >> 5) + 1;
        let [four, six] = self.routes_of(i, input.octets(count));
        if !six.is_empty() {
            let hop = v4(next_hop).to_ipv6_mapped().octets();
            let reach: Attr = (0x80, 14, [&[0, 2, 1, 16][..], &hop, &[0], &nlri_of(&six)].concat());
            all.insert(0, reach);
        }
        self.send(who, &update(&body(&[], &section(&all), &nlri_of(&four))));
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
        let add_path = self.add_path[1];
        let one = |n: u8| {
            let mut neighbor = Neighbor::new(format!("n{n}"), IpAddr::from([10, 255, 9, n]), ASN);
            neighbor.route_reflector_client = who & 16 == 16;
            neighbor.fail_static_secs = if who & 8 == 8 { 100 } else { 0 };
            neighbor.options.add_path = add_path;
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
        let routes = self.speaker.routes(&RouteQuery::default());
        for i in 0..self.conns.len() {
            let address = self.conns[i].address;
            let of_peer = self.conns.iter().filter(|c| c.address == address).count();
            let Some(view) = peers.iter().find(|v| v.address == address) else { continue };
            if of_peer > 1 || view.state != "Established" {
                continue;
            }
            compared += self.told_what_is_owed(&self.conns[i], view, &peers, &routes);
            self.told_what_is_listed(i, view);
        }
        self.only_what_is_admitted();
        compared
    }

    /// Each family by itself: the best path of each prefix, or with path identifiers as many as are sent.
    fn told_what_is_owed(
        &self,
        conn: &Conn,
        view: &PeerView,
        peers: &[PeerView],
        routes: &[RouteView],
    ) -> usize {
        let can = |what: &str| view.capabilities.iter().any(|c| c == what);
        let knows = can("long-lived-graceful-restart");
        let mut compared = 0;
        for family in Family::ALL {
            let name = if family == Family::Ipv4 { "ipv4-unicast" } else { "ipv6-unicast" };
            let owed = || {
                routes.iter().filter(|r| {
                    r.prefix.family() == family
                        && can(name)
                        && owes(peers, view, r.peer_address)
                        && (knows || !r.long_lived_stale)
                })
            };
            let told: BTreeSet<Prefix> =
                conn.heard.told.keys().copied().filter(|p| p.family() == family).collect();
            let mut paths: Vec<(Prefix, IpAddr)> = conn
                .heard
                .paths
                .iter()
                .filter(|((p, _), _)| p.family() == family)
                .map(|((p, _), route)| (*p, route.next_hop()))
                .collect();
            compared += told.len() + paths.len();
            if !conn.heard.ids(family) {
                let owed: BTreeSet<Prefix> = owed().filter(|r| r.best).map(|r| r.prefix).collect();
                assert_eq!(told, owed, "what {} holds and what it is owed", conn.address);
                assert!(paths.is_empty());
                continue;
            }
            assert!(told.is_empty());
            let mut all: Vec<(Prefix, IpAddr)> =
                owed().map(|r| (r.prefix, r.next_hop.to_canonical())).collect();
            all.sort();
            paths.sort();
            if view.dynamic.as_deref() == Some("clients") {
                assert_eq!(paths, all, "all paths that {} is owed", conn.address);
            } else {
                // Which two of more, `told_what_is_listed` says.
                let two = |p: &Prefix| paths.iter().filter(|(q, _)| p == q).count();
                assert!(paths.iter().all(|(p, _)| two(p) <= 2));
                assert!(paths.iter().all(|path| all.contains(path)), "{paths:?} of {all:?}");
            }
        }
        compared
    }

    /// The listing that people ask for goes over the tables; it and the count agree with what was sent.
    fn told_what_is_listed(&mut self, i: usize, view: &PeerView) {
        let what = Listing::Advertised(view.address.to_string());
        let (mut rows, mut next) = (Vec::new(), Some(Cursor::START));
        while let Some(from) = next {
            let (piece, then) = self.speaker.list(&what, from);
            rows.extend(piece);
            next = then;
        }
        let heard = &self.conns[i].heard;
        let without = heard.told.keys().map(|p| (*p, 0));
        let told: BTreeSet<(Prefix, u32)> = without.chain(heard.paths.keys().copied()).collect();
        let listed: BTreeSet<(Prefix, u32)> = rows
            .iter()
            .map(|r| (r.prefix, if heard.ids(r.prefix.family()) { r.path_id } else { 0 }))
            .collect();
        assert_eq!(told, listed, "what {} holds and what is listed", view.address);
        assert_eq!(view.prefixes_sent, told.len() as u64, "{}", view.address);
    }

    /// The capabilities that hold, and what of them came into play.
    fn seen(&self) -> BTreeSet<String> {
        let peers = self.speaker.peers(self.now);
        let mut seen: BTreeSet<String> = peers.iter().flat_map(|v| v.capabilities.clone()).collect();
        let any = |of: fn(&PeerView) -> u64| peers.iter().any(|v| of(v) > 0);
        let heard = || self.conns.iter().map(|c| &c.heard);
        let more = [
            ("stale", any(|v| v.prefixes_stale)),
            ("long-lived-stale", any(|v| v.prefixes_long_lived_stale)),
            ("identifiers", heard().any(|h| !h.paths.is_empty())),
            ("marks", heard().any(|h| h.messages[Kind::RouteRefresh as usize] >= 2)),
        ];
        seen.extend(more.iter().filter(|(_, is)| *is).map(|(what, _)| what.to_string()));
        seen
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
    // Both with graceful restart (28 s, both families), long-lived (60 s), and ADD-PATH as wanted.
    let full = |paths: u8| [0u8, 0, 17, 0, 0x40, paths, 0xff, 0xff, 0, 1, 17, 1, 0x40, paths, 0xff, 0xff];
    let routes = [3u8, 0, 100, 0, 1, 0, 3, 0, 100, 0x40, 1, 1, 2, 20];
    let times = [8u8, 0, 0x10, 0, 24, 0, 0x40, 0];
    [
        [&[0x20][..], &up, &routes].concat(),
        [&[0x00][..], &up, &routes, &[11, 1, 0xf0, 0x0f]].concat(),
        [&[0x22][..], &up, &routes, &[14, 1, 9], &routes, &times].concat(),
        [&[0x31][..], &up, &[12, 7, 8, 0, 0, 1], &routes, &[10, 0], &times].concat(),
        [&[0x20][..], &up, &[7, 1, 0, 0], &routes, &[5, 0, 1, 2, 3, 4], &[13, 15]].concat(),
        // ADD-PATH both ways: two paths of a prefix from one client, one goes.
        [
            &[0xa0][..],
            &full(0x33),
            &[3, 0, 100, 0x20, 1, 1, 0x21, 3, 1, 100, 0x20, 1, 0x51, 0x31],
            &[5, 0, 1, 1, 1, 1],
        ]
        .concat(),
        // Graceful restart and then long-lived: one is lost, returns, and sends less.
        [
            &[0x68][..],
            &full(0),
            &routes,
            &[10, 0],
            &[24, 0, 0, 250],
            &[0, 0, 17, 1, 0xc0, 0, 0x5f, 0xff],
            &[21, 1, 0, 21, 1, 1],
        ]
        .concat(),
        [&[0xe8][..], &full(0x33), &routes, &[19, 0, 100, 0x20, 1, 0, 2, 3], &[10, 0], &[24, 0, 1, 0x90]]
            .concat(),
        // Enhanced refresh between its marks, with less than before.
        [
            &[0xa0][..],
            &full(0x33),
            &routes,
            &[14, 1, 255, 14, 1, 255, 14, 1, 255],
            &[7, 0, 0, 1, 3, 0, 100, 0, 1, 1, 7, 0, 0, 2, 7, 1, 0, 0],
        ]
        .concat(),
        [&[0x20][..], &up, &[3, 0, 1, 7, 1, 0x80, 7, 3, 1, 2, 3, 0, 1], &[6, 1, 2, 4, 0, 0, 0, 0]].concat(),
    ]
    .into()
}
