//! Path attributes: from a peer's octets to what the decision needs and to the octets that are passed on.
//!
//! An attribute set is read once, however many routes share it: the octets are the key under which
//! [`crate::store`] keeps the result. What is passed on is made here too, by editing the octets rather than by
//! encoding again, so that communities and all that we do not know leave as they came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::malformed::{Section, is_host, registered_class};
use crate::message::{EXTENDED_MAX_LEN, HEADER_LEN, Notification};
use crate::policy::{ImportFacts, RejectReason};
use crate::types::{ClusterId, Family, RouterId};

/// Attribute type codes that are handled by name.
pub mod code {
    #![allow(missing_docs, reason = "the names of the IANA registry")]
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const LARGE_COMMUNITIES: u8 = 32;
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
const EXTENDED: u8 = 0x10;

/// One attribute as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// The flags octet.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value.
    pub value: &'a [u8],
}

impl Raw<'_> {
    /// Appends the attribute.
    pub fn put(&self, out: &mut Vec<u8>) {
        match u8::try_from(self.value.len()) {
            Ok(len) if self.flags & EXTENDED == 0 => out.extend_from_slice(&[self.flags, self.code, len]),
            _ => {
                out.extend_from_slice(&[self.flags | EXTENDED, self.code]);
                out.extend_from_slice(&(self.value.len() as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(self.value);
    }
}

/// Walks an attribute section; stops at the first attribute whose length overruns it.
#[derive(Debug, Clone)]
pub struct Walk<'a>(pub &'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = Raw<'a>;

    #[inline]
    fn next(&mut self) -> Option<Raw<'a>> {
        let &[flags, code, ref rest @ ..] = self.0 else { return None };
        let (len, rest) = if flags & EXTENDED != 0 {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        } else {
            let (len, rest) = rest.split_first()?;
            (usize::from(*len), rest)
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(Raw { flags, code, value })
    }
}

/// Our own identity, as far as attributes are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Our AS number.
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// Our cluster id.
    pub cluster_id: ClusterId,
}

/// An attribute set: what the decision needs, and the octets to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The next hop.
    pub next_hop: IpAddr,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC; an absent one counts as 0, the best (RFC 4271 section 9.1.2.2).
    pub med: Option<u32>,
    /// ORIGIN: 0 IGP, 1 EGP, 2 incomplete.
    pub origin: u8,
    /// The length of AS_PATH as the decision counts it.
    pub as_path_len: u32,
    /// The AS that the route was received from, 0 for one of our own AS.
    pub neighbor_as: u32,
    /// The router that brought the route into the AS.
    pub originator: RouterId,
    /// Clusters that the route passed before us.
    pub cluster_count: u32,
    /// Why no route with these attributes can be accepted from anybody: a loop, or no usable next hop.
    pub reject: Option<RejectReason>,
    /// Whether another router's route is passed on.
    pub foreign_originator: bool,
    /// Marked LLGR_STALE: the last choice, and only for neighbours that know the mark (RFC 9494 section 4.3).
    pub long_lived_stale: bool,
    /// All attributes as passed on, without MP_REACH_NLRI, by ascending type.
    pub blob: Box<[u8]>,
    /// For IPv6: the next-hop field of MP_REACH_NLRI, 16 or 32 octets; else empty.
    pub mp_next_hop: Box<[u8]>,
}

/// What came of an attribute section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// It can be used; malformed attributes that do no harm are left out.
    Good(Box<Attributes>),
    /// The routes that it belongs to count as withdrawn (RFC 7606 section 2); the text says why.
    Withdraw(String),
}

impl Attributes {
    /// Reads the attributes of IPv4 or IPv6 routes from an internal peer. `section` holds no MP attribute;
    /// `mp_next_hop` is the next-hop field of MP_REACH_NLRI where the routes came in one.
    pub fn read(
        section: &[u8],
        family: Family,
        mp_next_hop: Option<&[u8]>,
        peer: RouterId,
        own: &Own,
    ) -> Result<Read, Notification> {
        let section = Section::read(section)?;
        Ok(match section.withdraw {
            Some(fault) => Read::Withdraw(fault.to_string()),
            None => Attributes::of(&section.rest, family, mp_next_hop, peer, own),
        })
    }

    /// The same for what [`Section::read`] found usable.
    pub fn of(section: &[u8], family: Family, mp_next_hop: Option<&[u8]>, peer: RouterId, own: &Own) -> Read {
        let mut kept = passed_on(section);
        let find = |c: u8| kept.iter().find(|a| a.code == c).map(|a| a.value);
        // Section 3 d; LOCAL_PREF is mandatory from an internal peer (RFC 4271 section 5.1.5).
        for (c, name) in
            [(code::ORIGIN, "ORIGIN"), (code::AS_PATH, "AS_PATH"), (code::LOCAL_PREF, "LOCAL_PREF")]
        {
            if find(c).is_none() {
                return Read::Withdraw(format!("3/3: {name} is missing"));
            }
        }
        let number = |c: u8| find(c).and_then(|v| v.first_chunk::<4>()).map(|v| u32::from_be_bytes(*v));
        let next_hop = match mp_next_hop {
            Some(octets) => next_hop_field(octets),
            None => number(code::NEXT_HOP).map(|n| IpAddr::V4(n.into())),
        };
        let Some(next_hop) = next_hop else {
            return Read::Withdraw("3/3: NEXT_HOP is missing".into());
        };
        let path = AsPathFacts::of(find(code::AS_PATH).unwrap_or_default(), own.asn);
        let originator = number(code::ORIGINATOR_ID).map(RouterId::from);
        let clusters = find(code::CLUSTER_LIST).unwrap_or_default();
        let own_cluster = own.cluster_id.bits().to_be_bytes();
        let reject = if clusters.chunks_exact(4).any(|c| c == own_cluster) {
            Some(RejectReason::ClusterLoop)
        } else if originator == Some(own.router_id) {
            Some(RejectReason::OriginatorLoop)
        } else if path.own_as {
            Some(RejectReason::AsLoop)
        } else if next_hop.is_ipv4() != (family == Family::Ipv4) || !usable(next_hop) {
            Some(RejectReason::InvalidNextHop)
        } else {
            None
        };
        let originator_octets = originator.unwrap_or(peer).bits().to_be_bytes();
        let new_clusters = [&own_cluster, clusters].concat();
        let next_hop_octets;
        let mut facts = Attributes {
            next_hop,
            local_pref: number(code::LOCAL_PREF).unwrap_or_default(),
            med: number(code::MED),
            origin: find(code::ORIGIN).and_then(|v| v.first().copied()).unwrap_or(2),
            as_path_len: path.len,
            neighbor_as: path.first,
            originator: originator.unwrap_or(peer),
            cluster_count: (clusters.len() / 4) as u32,
            reject,
            long_lived_stale: false,
            foreign_originator: originator.is_some_and(|o| o != peer) || !clusters.is_empty(),
            blob: Box::default(),
            mp_next_hop: Box::default(),
        };
        let ours = |c: u8| c == code::ORIGINATOR_ID || c == code::CLUSTER_LIST;
        kept.retain(|a| !ours(a.code) && (a.code != code::NEXT_HOP || mp_next_hop.is_none()));
        if let (Some(octets), IpAddr::V6(_)) = (mp_next_hop, next_hop) {
            facts.mp_next_hop = octets.into();
        } else if let (Some(_), IpAddr::V4(a)) = (mp_next_hop, next_hop) {
            next_hop_octets = a.octets();
            kept.push(Raw { flags: TRANSITIVE, code: code::NEXT_HOP, value: &next_hop_octets });
        }
        kept.push(Raw { flags: OPTIONAL, code: code::ORIGINATOR_ID, value: &originator_octets });
        kept.push(Raw { flags: OPTIONAL, code: code::CLUSTER_LIST, value: &new_clusters });
        facts.blob = blob(kept);
        // Our own attributes came on top: nobody could be sent it (RFC 8654 section 4).
        if HEADER_LEN + 4 + facts.blob.len() + facts.mp_next_hop.len() + LONGEST_REST > EXTENDED_MAX_LEN {
            return Read::Withdraw("the attributes are too long to be passed on".into());
        }
        Read::Good(Box::new(facts))
    }

    /// The attributes of a route that we originate ourselves.
    pub fn originated(
        family: Family,
        next_hop: Ipv4Addr,
        local_pref: u32,
        communities: &[u32],
        own: &Own,
    ) -> Attributes {
        let next_hop_octets = next_hop.octets();
        let local_pref_octets = local_pref.to_be_bytes();
        let mapped = next_hop.to_ipv6_mapped();
        let communities: Vec<u8> = communities.iter().flat_map(|c| c.to_be_bytes()).collect();
        let mut all = vec![
            Raw { flags: TRANSITIVE, code: code::ORIGIN, value: &[0] },
            Raw { flags: TRANSITIVE, code: code::AS_PATH, value: &[] },
            Raw { flags: TRANSITIVE, code: code::LOCAL_PREF, value: &local_pref_octets },
        ];
        if family == Family::Ipv4 {
            all.push(Raw { flags: TRANSITIVE, code: code::NEXT_HOP, value: &next_hop_octets });
        }
        if !communities.is_empty() {
            let flags = OPTIONAL | TRANSITIVE;
            all.push(Raw { flags, code: code::COMMUNITIES, value: &communities });
        }
        let (next_hop, mp_next_hop): (IpAddr, Box<[u8]>) = match family {
            Family::Ipv4 => (next_hop.into(), Box::default()),
            Family::Ipv6 => (mapped.into(), mapped.octets().into()),
        };
        Attributes {
            next_hop,
            local_pref,
            med: None,
            origin: 0,
            as_path_len: 0,
            neighbor_as: 0,
            originator: own.router_id,
            cluster_count: 0,
            reject: None,
            foreign_originator: false,
            long_lived_stale: false,
            blob: blob(all),
            mp_next_hop,
        }
    }

    /// Takes the mark LLGR_STALE for what it says; for a speaker that offers RFC 9494.
    pub fn heed_mark(&mut self) {
        self.long_lived_stale = self.communities().contains(&LLGR_STALE);
    }

    /// The same, kept beyond the restart time: marked LLGR_STALE. `None`: it must not be kept (NO_LLGR), or there is
    /// no room for the mark (RFC 9494 section 4.2).
    pub fn long_lived(&self) -> Option<Attributes> {
        let mut marks = self.communities();
        if marks.contains(&NO_LLGR) {
            return None;
        }
        let mut marked = Attributes { long_lived_stale: true, ..self.clone() };
        if !marks.contains(&LLGR_STALE) {
            marks.push(LLGR_STALE);
            let value: Vec<u8> = marks.iter().flat_map(|c| c.to_be_bytes()).collect();
            let mut all: Vec<Raw<'_>> = Walk(&self.blob).filter(|a| a.code != code::COMMUNITIES).collect();
            all.push(Raw { flags: OPTIONAL | TRANSITIVE, code: code::COMMUNITIES, value: &value });
            marked.blob = blob(all);
        }
        let whole = HEADER_LEN + 4 + marked.blob.len() + marked.mp_next_hop.len() + LONGEST_REST;
        (whole <= EXTENDED_MAX_LEN).then_some(marked)
    }

    /// What the import policy looks at.
    pub fn import_facts(&self) -> ImportFacts {
        ImportFacts { next_hop: self.next_hop, foreign_originator: self.foreign_originator }
    }

    /// Standard communities.
    pub fn communities(&self) -> Vec<u32> {
        self.values(code::COMMUNITIES)
    }

    /// Extended communities, eight octets each.
    pub fn extended_communities(&self) -> Vec<[u8; 8]> {
        let value =
            Walk(&self.blob).find(|a| a.code == code::EXTENDED_COMMUNITIES).map_or(&[][..], |a| a.value);
        value.as_chunks::<8>().0.to_vec()
    }

    /// Large communities, three numbers each.
    pub fn large_communities(&self) -> Vec<[u32; 3]> {
        self.values(code::LARGE_COMMUNITIES).as_chunks::<3>().0.to_vec()
    }

    /// The clusters that the route passed before us; `own` is what we put in front.
    pub fn cluster_list(&self) -> Vec<Ipv4Addr> {
        self.values(code::CLUSTER_LIST).into_iter().skip(1).map(Ipv4Addr::from).collect()
    }

    /// AS_PATH as text: numbers, sets in braces.
    pub fn as_path(&self) -> String {
        let mut text = String::new();
        let mut rest = Walk(&self.blob).find(|a| a.code == code::AS_PATH).map_or(&[][..], |a| a.value);
        while let Some((kind, asns, after)) = segment(rest) {
            let asns: Vec<String> = asns.map(|a| a.to_string()).collect();
            if !text.is_empty() {
                text.push(' ');
            }
            match kind {
                1 => text.push_str(&format!("{{{}}}", asns.join(","))),
                _ => text.push_str(&asns.join(" ")),
            }
            rest = after;
        }
        text
    }

    fn values(&self, c: u8) -> Vec<u32> {
        let value = Walk(&self.blob).find(|a| a.code == c).map_or(&[][..], |a| a.value);
        value.as_chunks::<4>().0.iter().map(|v| u32::from_be_bytes(*v)).collect()
    }
}

/// The community of a route that is kept beyond its restart time (RFC 9494 section 3.2).
pub const LLGR_STALE: u32 = 0xffff_0006;
/// The community of a route that must not be kept so.
pub const NO_LLGR: u32 = 0xffff_0007;

/// What the longest prefix takes in an UPDATE beside its attributes: with a path id, in MP_REACH_NLRI.
const LONGEST_REST: usize = 9 + 21;

/// What a route may carry on: known attributes as they are, unknown transitive ones marked partial (RFC 4271
/// section 5), unknown non-transitive ones not at all. Bits of the flags that mean nothing go out as zero.
fn passed_on(section: &[u8]) -> Vec<Raw<'_>> {
    fn pass(mut a: Raw<'_>) -> Option<Raw<'_>> {
        a.flags &= OPTIONAL | TRANSITIVE | PARTIAL | EXTENDED;
        match registered_class(a.code) {
            Some(class) if class == OPTIONAL | TRANSITIVE => {}
            Some(_) => a.flags &= !PARTIAL,
            None if a.flags & TRANSITIVE == 0 => return None,
            None => a.flags |= PARTIAL,
        }
        Some(a)
    }
    Walk(section).filter_map(pass).collect()
}

fn blob(mut attributes: Vec<Raw<'_>>) -> Box<[u8]> {
    attributes.sort_by_key(|a| a.code);
    let mut out = Vec::with_capacity(attributes.iter().map(|a| a.value.len() + 4).sum());
    for a in &attributes {
        a.put(&mut out);
    }
    out.into()
}

fn next_hop_field(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 | 32 => octets.first_chunk::<16>().map(|a| IpAddr::V6(Ipv6Addr::from(*a))),
        _ => None,
    }
}

fn usable(next_hop: IpAddr) -> bool {
    match next_hop.to_canonical() {
        IpAddr::V4(a) => is_host(a.octets()),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_loopback() && !a.is_multicast(),
    }
}

struct AsPathFacts {
    len: u32,
    first: u32,
    own_as: bool,
}

impl AsPathFacts {
    fn of(mut value: &[u8], own: u32) -> AsPathFacts {
        let mut facts = AsPathFacts { len: 0, first: 0, own_as: false };
        let mut at_start = true;
        while let Some((kind, asns, rest)) = segment(value) {
            for (i, asn) in asns.enumerate() {
                facts.own_as |= asn == own;
                if at_start && i == 0 && kind == 2 {
                    facts.first = asn;
                }
                if kind == 2 || i == 0 {
                    facts.len += 1;
                }
            }
            at_start = false;
            value = rest;
        }
        facts
    }
}

/// The first segment of an AS_PATH with four-octet numbers: its type, its numbers, and what follows.
fn segment(value: &[u8]) -> Option<(u8, impl Iterator<Item = u32> + '_, &[u8])> {
    let &[kind, count, ref rest @ ..] = value else { return None };
    let (asns, rest) = rest.split_at_checked(usize::from(count) * 4)?;
    Some((kind, asns.as_chunks::<4>().0.iter().map(|a| u32::from_be_bytes(*a)), rest))
}

/// MP_REACH_NLRI: family, next-hop field, routes.
pub type MpReach<'a> = (Family, &'a [u8], &'a [u8]);

/// Splits MP_REACH_NLRI. `Ok(None)`: a family that is not ours.
pub fn mp_reach(value: &[u8]) -> Result<Option<MpReach<'_>>, Notification> {
    let bad = || Notification::new(3, 9, value.to_vec());
    let (&[a, b, safi, len], rest) = value.split_first_chunk::<4>().ok_or_else(bad)?;
    let (next_hop, rest) = rest.split_at_checked(usize::from(len)).ok_or_else(bad)?;
    let (_reserved, nlri) = rest.split_first().ok_or_else(bad)?;
    let Some(family) = Family::from_wire(u16::from_be_bytes([a, b]), safi) else { return Ok(None) };
    match (family, next_hop.len()) {
        (Family::Ipv4, 4 | 16 | 32) | (Family::Ipv6, 16 | 32) => Ok(Some((family, next_hop, nlri))),
        _ => Err(bad()),
    }
}

/// Splits MP_UNREACH_NLRI: family, routes. `Ok(None)`: a family that is not ours.
pub fn mp_unreach(value: &[u8]) -> Result<Option<(Family, &[u8])>, Notification> {
    let (&[a, b, safi], nlri) =
        value.split_first_chunk::<3>().ok_or_else(|| Notification::new(3, 9, value.to_vec()))?;
    Ok(Family::from_wire(u16::from_be_bytes([a, b]), safi).map(|f| (f, nlri)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: u32 = 0x0a00_0002;

    fn own() -> Own {
        Own { asn: 64512, router_id: 0x0a00_0001.into(), cluster_id: 0x0a00_0009.into() }
    }

    fn section(extra: &[Raw<'_>]) -> Vec<u8> {
        let mut all = vec![
            Raw { flags: TRANSITIVE, code: code::ORIGIN, value: &[0] },
            Raw { flags: TRANSITIVE, code: code::AS_PATH, value: &[2, 1, 0, 0, 0, 7] },
            Raw { flags: TRANSITIVE, code: code::NEXT_HOP, value: &[10, 0, 0, 2] },
            Raw { flags: TRANSITIVE, code: code::LOCAL_PREF, value: &[0, 0, 0, 200] },
        ];
        all.extend_from_slice(extra);
        let mut out = Vec::new();
        all.iter().for_each(|a| a.put(&mut out));
        out
    }

    fn read(section: &[u8]) -> Read {
        Attributes::read(section, Family::Ipv4, None, PEER.into(), &own()).unwrap()
    }

    fn good(section: &[u8]) -> Attributes {
        match read(section) {
            Read::Good(a) => *a,
            Read::Withdraw(why) => panic!("{why}"),
        }
    }

    fn codes(a: &Attributes) -> Vec<(u8, u8)> {
        Walk(&a.blob).map(|r| (r.code, r.flags)).collect()
    }

    #[test]
    fn reflection_adds_originator_and_cluster_and_keeps_the_rest() {
        let a = good(&section(&[
            Raw { flags: 0xc0, code: 8, value: &[0, 1, 0, 2] },
            Raw { flags: 0xc0, code: 99, value: &[1] },
            Raw { flags: 0x80, code: 98, value: &[1] },
        ]));
        let want = [(1, 0x40), (2, 0x40), (3, 0x40), (5, 0x40), (8, 0xc0), (9, 0x80), (10, 0x80), (99, 0xe0)];
        assert_eq!(codes(&a), want, "unknown transitive is marked partial, unknown non-transitive dropped");
        assert_eq!(a.originator.bits(), PEER);
        assert_eq!((a.local_pref, a.as_path_len, a.neighbor_as), (200, 1, 7));
        assert_eq!(a.communities(), [0x1_0002]);
        assert!(!a.foreign_originator && a.cluster_list().is_empty());
    }

    #[test]
    fn an_originator_stays_and_the_cluster_list_grows_in_front() {
        let a = good(&section(&[
            Raw { flags: 0x80, code: 9, value: &[10, 0, 0, 7] },
            Raw { flags: 0x80, code: 10, value: &[10, 0, 0, 8] },
        ]));
        assert_eq!(a.originator.0, Ipv4Addr::new(10, 0, 0, 7));
        let list = Walk(&a.blob).find(|r| r.code == 10).unwrap().value.to_vec();
        assert_eq!(list, [10, 0, 0, 9, 10, 0, 0, 8]);
        assert!(a.foreign_originator);
        assert_eq!(a.reject, None);
    }

    #[test]
    fn loops_are_seen() {
        let reject = |extra: &[Raw<'_>]| good(&section(extra)).reject;
        let cluster = Raw { flags: 0x80, code: 10, value: &[10, 0, 0, 8, 10, 0, 0, 9] };
        assert_eq!(reject(&[cluster]), Some(RejectReason::ClusterLoop));
        let originator = Raw { flags: 0x80, code: 9, value: &[10, 0, 0, 1] };
        assert_eq!(reject(&[originator]), Some(RejectReason::OriginatorLoop));
        let mut own_as = section(&[]);
        let at = own_as.windows(4).position(|w| w == [0, 0, 0, 7]).unwrap();
        own_as[at..at + 4].copy_from_slice(&64512u32.to_be_bytes());
        assert_eq!(good(&own_as).reject, Some(RejectReason::AsLoop));
    }

    #[test]
    fn malformed_attributes_do_what_rfc_7606_says() {
        let aggregator = Raw { flags: 0xc0, code: 7, value: &[1] };
        assert!(!codes(&good(&section(&[aggregator]))).iter().any(|c| c.0 == 7), "discarded");
        let community = Raw { flags: 0xc0, code: 8, value: &[1, 2, 3] };
        assert!(matches!(read(&section(&[community])), Read::Withdraw(_)));
        assert!(matches!(read(&section(&[])[4..]), Read::Withdraw(_)), "no ORIGIN");
        let twice = Raw { flags: TRANSITIVE, code: code::LOCAL_PREF, value: &[0, 0, 0, 1] };
        assert_eq!(good(&section(&[twice])).local_pref, 200, "the first of two counts");
        let mut cut = section(&[]);
        cut.pop();
        assert!(matches!(read(&cut), Read::Withdraw(_)), "overrun");
    }

    #[test]
    fn ipv4_in_mp_reach_becomes_a_plain_next_hop() {
        let bare = section(&[]);
        let no_next_hop: Vec<u8> = bare[..13].iter().chain(&bare[20..]).copied().collect();
        let read = Attributes::read(&no_next_hop, Family::Ipv4, Some(&[10, 0, 0, 3]), PEER.into(), &own());
        let Ok(Read::Good(a)) = read else { panic!("{read:?}") };
        assert_eq!(a.next_hop, IpAddr::from([10, 0, 0, 3]));
        assert_eq!(codes(&a)[2], (3, 0x40));
    }

    /// A fuzzer's finding: in MP_REACH_NLRI a reserved address passed for a next hop, and went on as a NEXT_HOP that
    /// every other speaker must take for malformed.
    #[test]
    fn a_reserved_next_hop_is_refused_in_mp_reach_too() {
        let all = section(&[]);
        for (octets, family) in [
            (&[249, 0, 0, 0][..], Family::Ipv4),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 240, 0, 0, 1], Family::Ipv6),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1], Family::Ipv6),
        ] {
            let read = Attributes::read(&all, family, Some(octets), PEER.into(), &own());
            let Ok(Read::Good(a)) = read else { panic!("{read:?}") };
            assert_eq!(a.reject, Some(RejectReason::InvalidNextHop), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn any_section_is_read_without_panic_and_what_is_good_stays_good(
            cut in 0..40usize, at in 0..40usize, octet: u8, extra in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let mut s = section(&[]);
            s.extend_from_slice(&extra);
            let at = at.min(s.len() - 1);
            s[at] = octet;
            s.truncate(s.len() - cut.min(s.len()));
            for family in Family::ALL {
                let mp = (family == Family::Ipv6).then_some(&[0x20u8, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..]);
                if let Ok(Read::Good(a)) = Attributes::read(&s, family, mp, PEER.into(), &own()) {
                    let again = Attributes::read(&a.blob, family, mp, PEER.into(), &own());
                    let good = matches!(again, Ok(Read::Good(ref b)) if b.reject == Some(RejectReason::ClusterLoop));
                    prop_assert!(good, "{:?}", again);
                }
            }
            let _ = mp_reach(&extra);
            let _ = mp_unreach(&extra);
        }
    }
}
