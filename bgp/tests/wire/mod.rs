//! A peer made of octets: what it says, and what it has heard. For tests that need what no honest speaker sends.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bgp::attributes::{Walk, code, mp_reach, mp_unreach};
use bgp::message::{
    Address, HEADER_LEN, KEEPALIVE, Kind, Notification, Update, frame, next_prefix, put, put_prefix,
};
use bgp::types::Prefix;

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

/// An OPEN for some families, made of octets: no field of ours can keep it from being wrong.
pub fn open_for(router_id: Ipv4Addr, extended: bool, families: [bool; 2]) -> Vec<u8> {
    let mut capabilities: Vec<u8> = vec![2, 0, 70, 0];
    for (_, afi) in families.iter().zip([1, 2]).filter(|(on, _)| **on) {
        capabilities.extend_from_slice(&[1, 4, 0, afi, 0, 1]);
    }
    if extended {
        capabilities.extend_from_slice(&[6, 0]);
    }
    capabilities.extend_from_slice(&[65, 4]);
    capabilities.extend_from_slice(&ASN.to_be_bytes());
    let mut body = vec![4];
    body.extend_from_slice(&(ASN as u16).to_be_bytes());
    body.extend_from_slice(&90u16.to_be_bytes());
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
    let mut out = Vec::new();
    for prefix in prefixes {
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
    /// LOCAL_PREF.
    pub fn local_pref(&self) -> u32 {
        let value = self.attributes.get(&code::LOCAL_PREF).map(|a| a.1.as_slice());
        value.and_then(|v| v.try_into().ok()).map_or(0, u32::from_be_bytes)
    }
}

/// What a peer has heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// The routes that it holds.
    pub told: BTreeMap<Prefix, Route>,
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

    fn learn<A: Address>(&mut self, mut nlri: &[u8], route: &Route) {
        while let Some((addr, len)) = next_prefix::<A>(&mut nlri).expect("NLRI") {
            self.told.insert(addr.prefix(len), route.clone());
        }
    }

    fn forget<A: Address>(&mut self, mut nlri: &[u8]) {
        while let Some((addr, len)) = next_prefix::<A>(&mut nlri).expect("NLRI") {
            self.told.remove(&addr.prefix(len));
        }
    }
}

/// A prefix from text.
pub fn p(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
