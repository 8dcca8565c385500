//! A peer made of octets: what it says, and what it has heard. For tests that need what no honest speaker sends.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bgp::attributes::{Walk, code, mp_reach, mp_unreach};
use bgp::message::{
    Address, HEADER_LEN, KEEPALIVE, Kind, Notification, Open, Update, frame, next_route, put, put_prefix,
};
use bgp::types::{Family, Prefix};

/// The AS of every test.
pub const ASN: u32 = 64512;

/// One attribute: flags, type code, value.
pub type Attr = (u8, u8, Vec<u8>);

/// An OPEN with every capability, followed by the KEEPALIVE that confirms ours.
pub fn greeting(router_id: Ipv4Addr, extended: bool) -> Vec<u8> {
    let mut out = open(router_id, extended);
    out.extend_from_slice(&KEEPALIVE);
    out
}

/// An OPEN with every capability.
pub fn open(router_id: Ipv4Addr, extended: bool) -> Vec<u8> {
    open_for(router_id, extended, [true; 2])
}

/// An OPEN for some families.
pub fn open_for(router_id: Ipv4Addr, extended: bool, families: [bool; 2]) -> Vec<u8> {
    open_of(router_id, &Offer { families, extended, ..Offer::default() })
}

/// What an OPEN says; made of octets, so that no field of ours can keep it from being wrong.
#[derive(Debug, Clone)]
pub struct Offer {
    /// IPv4 and IPv6 unicast.
    pub families: [bool; 2],
    /// In seconds.
    pub hold_secs: u16,
    /// Route refresh.
    pub refresh: bool,
    /// Enhanced route refresh.
    pub enhanced_refresh: bool,
    /// Extended messages.
    pub extended: bool,
    /// Graceful restart: the flags and the time as on the wire, and of each family named its F bit.
    pub graceful_restart: Option<(u16, [Option<bool>; 2])>,
    /// Long-lived graceful restart: of each family its F bit and its time in seconds; nothing without any.
    pub long_lived: [Option<(bool, u32)>; 2],
    /// ADD-PATH: of each family 1 to receive, 2 to send, 3 for both, 0 for nothing; others are wrong.
    pub add_path: [u8; 2],
}

impl Default for Offer {
    fn default() -> Offer {
        Offer {
            families: [true; 2],
            hold_secs: 90,
            refresh: true,
            enhanced_refresh: true,
            extended: true,
            graceful_restart: None,
            long_lived: [None; 2],
            add_path: [0; 2],
        }
    }
}

impl Offer {
    /// Everything that there is.
    pub fn everything() -> Offer {
        let (graceful_restart, long_lived) = (Some((0x4000 | 10, [Some(true); 2])), [Some((true, 20)); 2]);
        Offer { graceful_restart, long_lived, add_path: [3; 2], ..Offer::default() }
    }

    fn capabilities(&self) -> Vec<u8> {
        let mut all: Vec<u8> = Vec::new();
        for (_, code) in [(self.refresh, 2), (self.enhanced_refresh, 70)].iter().filter(|(on, _)| *on) {
            all.extend_from_slice(&[*code, 0]);
        }
        for (_, afi) in self.families.iter().zip([1, 2]).filter(|(on, _)| **on) {
            all.extend_from_slice(&[1, 4, 0, afi, 0, 1]);
        }
        if self.extended {
            all.extend_from_slice(&[6, 0]);
        }
        let f = |on: bool| u8::from(on) << 7;
        if let Some((flags_and_time, families)) = self.graceful_restart {
            let mut value = flags_and_time.to_be_bytes().to_vec();
            for (forwarding, afi) in families.iter().zip([1, 2]).filter_map(|(on, afi)| Some(((*on)?, afi))) {
                value.extend_from_slice(&[0, afi, 1, f(forwarding)]);
            }
            all.extend_from_slice(&[64, value.len() as u8]);
            all.extend_from_slice(&value);
        }
        let mut value = Vec::new();
        for ((forwarding, secs), afi) in
            self.long_lived.iter().zip([1, 2]).filter_map(|(l, afi)| Some(((*l)?, afi)))
        {
            value.extend_from_slice(&[0, afi, 1, f(forwarding)]);
            value.extend_from_slice(&secs.to_be_bytes()[1..]);
        }
        if !value.is_empty() {
            all.extend_from_slice(&[71, value.len() as u8]);
            all.extend_from_slice(&value);
        }
        let add_path = self.add_path.iter().zip([1, 2]).filter(|(mode, _)| **mode > 0);
        let value: Vec<u8> = add_path.flat_map(|(mode, afi)| [0, afi, 1, *mode]).collect();
        if !value.is_empty() {
            all.extend_from_slice(&[69, value.len() as u8]);
            all.extend_from_slice(&value);
        }
        all.extend_from_slice(&[65, 4]);
        all.extend_from_slice(&ASN.to_be_bytes());
        all
    }
}

/// An OPEN with an offer.
pub fn open_of(router_id: Ipv4Addr, offer: &Offer) -> Vec<u8> {
    let capabilities = offer.capabilities();
    let mut body = vec![4];
    body.extend_from_slice(&(ASN as u16).to_be_bytes());
    body.extend_from_slice(&offer.hold_secs.to_be_bytes());
    body.extend_from_slice(&router_id.octets());
    body.extend_from_slice(&[capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend_from_slice(&capabilities);
    let mut out = Vec::new();
    put(&mut out, 1, &body);
    out
}

/// Attributes that a client's host route has.
pub fn usual(next_hop: Ipv4Addr, local_pref: u32) -> Vec<Attr> {
    vec![
        (0x40, code::ORIGIN, vec![0]),
        (0x40, code::AS_PATH, vec![]),
        (0x40, code::NEXT_HOP, next_hop.octets().into()),
        (0x40, code::LOCAL_PREF, local_pref.to_be_bytes().into()),
    ]
}

/// Attributes on the wire; a long value gets the extended length.
pub fn section(attributes: &[Attr]) -> Vec<u8> {
    let mut out = Vec::new();
    for (flags, code, value) in attributes {
        match u8::try_from(value.len()) {
            Ok(len) if flags & 0x10 == 0 => out.extend_from_slice(&[*flags, *code, len]),
            _ => {
                out.extend_from_slice(&[*flags | 0x10, *code]);
                out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(value);
    }
    out
}

/// Prefixes as NLRI.
pub fn nlri(prefixes: &[Prefix]) -> Vec<u8> {
    nlri_of(&prefixes.iter().map(|p| (*p, None)).collect::<Vec<_>>())
}

/// Prefixes as NLRI, those with path identifiers that have one.
pub fn nlri_of(paths: &[(Prefix, Option<u32>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (prefix, id) in paths {
        out.extend(id.map(u32::to_be_bytes).into_iter().flatten());
        match prefix {
            Prefix::V4(p) => put_prefix(p.bits(), p.prefix_len(), &mut out),
            Prefix::V6(p) => put_prefix(p.bits(), p.prefix_len(), &mut out),
        }
    }
    out
}

/// The body of an UPDATE from its three fields.
pub fn body(withdrawn: &[u8], section: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut out = (withdrawn.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(withdrawn);
    out.extend_from_slice(&(section.len() as u16).to_be_bytes());
    out.extend_from_slice(section);
    out.extend_from_slice(nlri);
    out
}

/// A whole UPDATE.
pub fn update(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 2, body);
    out
}

/// An UPDATE that announces prefixes.
pub fn announce(attributes: &[Attr], prefixes: &[Prefix]) -> Vec<u8> {
    update(&body(&[], &section(attributes), &nlri(prefixes)))
}

/// What a peer has been told of one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The attributes, by type.
    pub attributes: BTreeMap<u8, (u8, Vec<u8>)>,
}

impl Route {
    /// The next hop, of whichever attribute; an IPv4-mapped one as IPv4.
    pub fn next_hop(&self) -> IpAddr {
        if let Some((_, value)) = self.attributes.get(&code::MP_REACH)
            && let Ok(Some((_, hop, _))) = mp_reach(value)
            && let Some(octets) = hop.first_chunk::<16>()
        {
            return IpAddr::from(*octets).to_canonical();
        }
        let value = self.attributes.get(&code::NEXT_HOP).and_then(|a| <[u8; 4]>::try_from(&a.1[..]).ok());
        IpAddr::from(value.unwrap_or_default())
    }

    /// LOCAL_PREF.
    pub fn local_pref(&self) -> u32 {
        let value = self.attributes.get(&code::LOCAL_PREF).map(|a| a.1.as_slice());
        value.and_then(|v| v.try_into().ok()).map_or(0, u32::from_be_bytes)
    }
}

/// What a peer has heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// The routes that it holds, where they have no path identifiers.
    pub told: BTreeMap<Prefix, Route>,
    /// Those that have: the families for which it asked for them.
    pub paths: BTreeMap<(Prefix, u32), Route>,
    /// The OPEN that it has sent; set from outside where ADD-PATH may be in it.
    pub said: Option<Open>,
    /// The OPEN that it got.
    pub opened: Option<Open>,
    /// The NOTIFICATION that ended its session.
    pub notification: Option<Notification>,
    /// Messages of each kind: OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE-REFRESH.
    pub messages: [usize; 5],
    inbox: Vec<u8>,
}

impl Heard {
    /// Takes in octets; panics where they are no BGP.
    pub fn hear(&mut self, octets: &[u8]) {
        self.inbox.extend_from_slice(octets);
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        while let Some((kind, whole)) = frame(rest, true).expect("only what is well formed is sent") {
            let body = &rest[HEADER_LEN..whole];
            self.messages[kind as usize] += 1;
            match kind {
                Kind::Open => self.opened = Some(Open::decode(body).expect("an OPEN")),
                Kind::Update => self.update(Update::split(body).expect("an UPDATE")),
                Kind::Notification => self.notification = Some(Notification::decode(body)),
                _ => {}
            }
            rest = &rest[whole..];
        }
        self.inbox = rest.to_vec();
    }

    fn update(&mut self, u: Update<'_>) {
        let all: BTreeMap<u8, (u8, Vec<u8>)> =
            Walk(u.attributes).map(|a| (a.code, (a.flags & !0x10, a.value.to_vec()))).collect();
        let route = Route { attributes: all };
        self.forget::<u32>(u.withdrawn);
        if let Some((_, value)) = route.attributes.get(&code::MP_UNREACH) {
            let (_, nlri) = mp_unreach(value).expect("MP_UNREACH_NLRI").expect("a family that is ours");
            self.forget::<u128>(nlri);
        }
        self.learn::<u32>(u.nlri, &route);
        if let Some((_, value)) = route.attributes.get(&code::MP_REACH) {
            let (_, _, nlri) = mp_reach(value).expect("MP_REACH_NLRI").expect("a family that is ours");
            self.learn::<u128>(nlri, &route);
        }
    }

    /// Whether the routes of a family come with path identifiers (RFC 7911 section 4).
    pub fn ids(&self, family: Family) -> bool {
        let (Some(said), Some(opened)) = (&self.said, &self.opened) else { return false };
        let i = family.index();
        said.families[i] && opened.families[i] && said.add_path[i].receive && opened.add_path[i].send
    }

    fn learn<A: Address>(&mut self, mut nlri: &[u8], route: &Route) {
        let ids = self.ids(A::FAMILY);
        while let Some((addr, len, id)) = next_route::<A>(&mut nlri, ids).expect("NLRI") {
            if ids {
                self.paths.insert((addr.prefix(len), id), route.clone());
            } else {
                self.told.insert(addr.prefix(len), route.clone());
            }
        }
    }

    fn forget<A: Address>(&mut self, mut nlri: &[u8]) {
        let ids = self.ids(A::FAMILY);
        while let Some((addr, len, id)) = next_route::<A>(&mut nlri, ids).expect("NLRI") {
            if ids {
                self.paths.remove(&(addr.prefix(len), id));
            } else {
                self.told.remove(&addr.prefix(len));
            }
        }
    }
}

/// A prefix from text.
pub fn p(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
