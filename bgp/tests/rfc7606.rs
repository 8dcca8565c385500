//! RFC 7606, row by row, through the whole speaker: octets in, and what a second peer hears of it out.
//!
//! Each row sends one UPDATE for a route that is there already. What came of it is read off four things: whether
//! the witness still has the route and with which attributes, whether the sender got a NOTIFICATION, whether its
//! other route and its session are untouched, and the counters. The rows are also the page
//! docs/reference/rfc7606.md; `UPDATE_SNAPSHOTS=1` writes it.

mod rows;
mod wire;

use std::fmt;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};

use bgp::egress::SLICES;
use bgp::policy::Admission;
use bgp::settings::{DynamicPeers, SpeakerConfig};
use bgp::speaker::{Action, ConnId, Direction, Speaker};
use bgp::view::PeerView;

use rows::{OTHER, ROUTE, ROUTE6, Row, mp_reach, rows};
use wire::{ASN, Heard, announce, body, greeting, open_for, p, section, update, usual};

/// What an UPDATE did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The route is there with the attributes of this UPDATE.
    Taken,
    /// The same, less so many attributes that were discarded.
    Discarded(u64),
    /// Only the routes of this UPDATE are gone.
    Withdrawn,
    /// The route stands in the Adj-RIB-In as rejected; the others have it no more.
    Rejected,
    /// Nothing changed.
    Ignored,
    /// The session ended with this code and subcode.
    Reset(u8, u8),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Taken => f.write_str("none needed: taken"),
            Outcome::Discarded(1) => f.write_str("attribute discard"),
            Outcome::Discarded(n) => write!(f, "attribute discard ({n})"),
            Outcome::Withdrawn => f.write_str("treat-as-withdraw"),
            Outcome::Rejected => f.write_str("route rejected"),
            Outcome::Ignored => f.write_str("ignored"),
            Outcome::Reset(code, subcode) => write!(f, "session reset {code}/{subcode}"),
        }
    }
}

struct Peer {
    id: ConnId,
    heard: Heard,
}

/// A speaker with a sender and a witness, both clients.
struct Bench {
    speaker: Speaker,
    sender: Peer,
    witness: Peer,
}

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
const WITNESS: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);

impl Bench {
    fn new(families: [bool; 2]) -> Bench {
        let mut speaker = Speaker::new(SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1)), 7, 0);
        let all = DynamicPeers {
            name: "all".into(),
            source_prefixes: vec!["10.255.0.0/24".parse().unwrap()],
            remote_asn: ASN,
            route_reflector_client: true,
            limit: 10,
            admission: Admission::Open,
            options: Default::default(),
        };
        speaker.set_dynamic_peers(vec![all], 0);
        let mut greet = |address: Ipv4Addr, hello: Vec<u8>| {
            let id = speaker.connected(IpAddr::V4(address), Direction::In, 0).expect("admitted");
            speaker.received(id, &hello, 0);
            speaker.received(id, &bgp::message::KEEPALIVE, 0);
            Peer { id, heard: Heard::default() }
        };
        let sender = greet(SENDER, open_for(SENDER, true, families));
        let mut hello = greeting(WITNESS, true);
        hello.truncate(hello.len() - bgp::message::KEEPALIVE.len());
        let witness = greet(WITNESS, hello);
        let mut bench = Bench { speaker, sender, witness };
        let before = usual(SENDER, 100);
        bench.send(&announce(&before, &[p(ROUTE), p(OTHER)]));
        if families[1] {
            let mut six = vec![mp_reach(&[p(ROUTE6)])];
            six.extend(before.into_iter().filter(|a| a.1 != 3));
            bench.send(&announce(&six, &[]));
        }
        let held = bench.witness.heard.told.len();
        assert_eq!(held, if families[1] { 3 } else { 2 }, "the routes before the row");
        bench
    }

    fn send(&mut self, octets: &[u8]) {
        self.speaker.received(self.sender.id, octets, 0);
        self.speaker.flush();
        for peer in [&mut self.sender, &mut self.witness] {
            loop {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let n = self.speaker.gather(peer.id, &mut slices);
                let octets: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                if octets.is_empty() {
                    break;
                }
                peer.heard.hear(&octets);
                self.speaker.wrote(peer.id, octets.len(), 0);
            }
        }
        while let Some(action) = self.speaker.next_action() {
            if let Action::Close(id, last) = action {
                assert_eq!(id, self.sender.id, "nobody else's connection closes");
                self.sender.heard.hear(&last);
            }
        }
    }

    fn view(&self, address: Ipv4Addr) -> PeerView {
        self.speaker.peers(0).into_iter().find(|v| v.address == address).expect("a peer")
    }

    /// What the row did, and what of it does not fit together.
    fn play(&mut self, row: &Row) -> Outcome {
        let route = p(row.route);
        self.send(&update(&row.body));
        let (sender, witness) = (self.view(SENDER), self.view(WITNESS));
        assert_eq!(witness.state, "Established", "{row}: the witness");
        if let Some(n) = &self.sender.heard.notification {
            assert_eq!((sender.state.as_str(), sender.notifications_sent), ("Idle", 1), "{row}: counted");
            assert!(self.witness.heard.told.is_empty(), "{row}: a reset takes all routes along");
            return Outcome::Reset(n.code, n.subcode);
        }
        assert_eq!(sender.state, "Established", "{row}");
        assert!(self.witness.heard.told.contains_key(&p(OTHER)), "{row}: the other route is touched");
        let told = self.witness.heard.told.get(&route);
        let counters = (sender.treated_as_withdraw, sender.attributes_discarded, sender.rejections_total);
        match (told.map(|r| r.local_pref()), counters) {
            (Some(200), (0, 0, 0)) => Outcome::Taken,
            (Some(200), (0, n, 0)) => Outcome::Discarded(n),
            (Some(100), (0, _, 0)) => Outcome::Ignored,
            (None, (0, 0, 0)) if row.route == ROUTE6 && !row.families[1] => Outcome::Ignored,
            (None, (1, _, 0)) => Outcome::Withdrawn,
            (None, (0, 0, 1)) => Outcome::Rejected,
            other => panic!("{row}: {other:?} fits no outcome"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.section, self.attribute, self.what)
    }
}

/// Every row does what its section prescribes, and what is passed on holds nothing that was discarded.
#[test]
fn every_malformed_update_has_the_prescribed_outcome() {
    let mut wrong = Vec::new();
    for row in rows() {
        let mut bench = Bench::new(row.families);
        let outcome = bench.play(&row);
        if outcome != row.outcome {
            wrong.push(format!("{row}: {outcome}, prescribed: {}", row.outcome));
        }
        if let Some(route) = bench.witness.heard.told.get(&p(row.route)) {
            for (c, want) in &row.passed_on {
                let got = route.attributes.get(c);
                if got != want.as_ref() {
                    wrong.push(format!("{row}: attribute {c} is passed on as {got:?}, wanted {want:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows: {wrong:#?}", wrong.len());
}

/// After each row that keeps the session, a good UPDATE brings the route back: nothing is left disabled.
#[test]
fn a_good_update_heals_every_row() {
    for row in rows().into_iter().filter(|r| !matches!(r.outcome, Outcome::Reset(..))) {
        let mut bench = Bench::new(row.families);
        bench.play(&row);
        let mut good = usual(SENDER, 300);
        let route = p(row.route);
        if row.route == ROUTE6 {
            good.retain(|a| a.1 != 3);
            good.insert(0, mp_reach(&[route]));
            bench.send(&update(&body(&[], &section(&good), &[])));
        } else {
            bench.send(&announce(&good, &[route]));
        }
        let told = bench.witness.heard.told.get(&route).map(|r| r.local_pref());
        // Where the family was not negotiated there is nothing to heal.
        assert_eq!(told, row.families[1].then_some(300).or((row.route == ROUTE).then_some(300)), "{row}");
    }
}

/// docs/reference/rfc7606.md is these rows.
#[test]
fn the_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/rfc7606.md");
    let mut page = String::from(PAGE_HEAD);
    for row in rows() {
        page.push_str(&format!("| {} | {} | {} | {} |\n", row.section, row.attribute, row.what, row.outcome));
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, &page).expect("written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == page, "docs/reference/rfc7606.md is not current: run with UPDATE_SNAPSHOTS=1");
}

const PAGE_HEAD: &str = "# Malformed UPDATEs

What an UPDATE that breaks a rule costs its sender. Generated from `bgp/tests/rfc7606.rs`, which sends each row's octets to the whole speaker and looks at what another peer hears; do not edit.

*Attribute discard*: the attribute is left out, the route stays (`attributesDiscarded` counts). *Treat-as-withdraw*: the routes of this UPDATE are gone, the session and all other routes stay (`treatedAsWithdraw` counts, `lastError` says why). *Session reset*: a NOTIFICATION with this code and subcode ends the session (`notificationsSent` counts). *Route rejected*: the route is kept out of every table but the one that shows why. The strongest action wins. AFI/SAFI disable is never used. All of it is for internal peers with four-octet AS numbers, the only ones served; sections are of RFC 7606 unless another RFC is named.

| section | attribute | what is wrong | action |
| --- | --- | --- | --- |
";
