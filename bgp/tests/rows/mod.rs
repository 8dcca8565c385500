//! The rows of RFC 7606: what is sent, and what it must come to.

use std::net::Ipv4Addr;

use bgp::attributes::code;
use bgp::types::Prefix;

use crate::Outcome::{self, Discarded, Ignored, Rejected, Reset, Taken, Withdrawn};
use crate::wire::{ASN, Attr, body, nlri, p, section, usual};

/// The route that rows are about.
pub const ROUTE: &str = "10.80.0.1/32";
/// The same for IPv6.
pub const ROUTE6: &str = "2001:db8::1/128";
/// A route of the same sender that no row may touch.
pub const OTHER: &str = "10.80.0.9/32";
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

/// A type code, and the flags and value that the attribute must have; `None`: it must not be there.
pub type Passed = (u8, Option<(u8, Vec<u8>)>);

/// Section, name, type code, flags, wrong lengths, and what they cost.
type Lengths = (&'static str, &'static str, u8, u8, &'static [usize], Outcome);

/// One row.
pub struct Row {
    /// Where it stands; of RFC 7606 unless another is named.
    pub section: &'static str,
    /// The attribute or field.
    pub attribute: &'static str,
    /// What is wrong with it.
    pub what: String,
    /// The UPDATE, without header.
    pub body: Vec<u8>,
    /// The families that the sender negotiated.
    pub families: [bool; 2],
    /// The route that it is about.
    pub route: &'static str,
    /// What must come of it.
    pub outcome: Outcome,
    /// Attributes that the route must have, or must not have, when it is passed on.
    pub passed_on: Vec<Passed>,
}

/// The known attributes: name, code, flags, a good value.
fn known() -> Vec<(&'static str, u8, u8, Vec<u8>)> {
    vec![
        ("ORIGIN", code::ORIGIN, 0x40, vec![0]),
        ("AS_PATH", code::AS_PATH, 0x40, vec![2, 1, 0, 0, 0, 7]),
        ("NEXT_HOP", code::NEXT_HOP, 0x40, NEXT_HOP.octets().into()),
        ("MULTI_EXIT_DISC", code::MED, 0x80, vec![0, 0, 0, 5]),
        ("LOCAL_PREF", code::LOCAL_PREF, 0x40, vec![0, 0, 0, 200]),
        ("ATOMIC_AGGREGATE", code::ATOMIC_AGGREGATE, 0x40, vec![]),
        ("AGGREGATOR", code::AGGREGATOR, 0xc0, vec![0, 0, 0, 7, 10, 0, 0, 1]),
        ("COMMUNITIES", code::COMMUNITIES, 0xc0, vec![0, 1, 0, 2]),
        ("ORIGINATOR_ID", code::ORIGINATOR_ID, 0x80, vec![10, 0, 0, 7]),
        ("CLUSTER_LIST", code::CLUSTER_LIST, 0x80, vec![10, 0, 0, 8]),
        ("EXTENDED COMMUNITIES", code::EXTENDED_COMMUNITIES, 0xc0, vec![0, 2, 0, 1, 0, 0, 0, 1]),
        ("IPv6 EXTENDED COMMUNITIES", code::IPV6_EXTENDED_COMMUNITIES, 0xc0, vec![0; 20]),
        ("LARGE_COMMUNITY", code::LARGE_COMMUNITIES, 0xc0, vec![0; 12]),
    ]
}

/// MP_REACH_NLRI for IPv6 with a good next hop.
pub fn mp_reach(prefixes: &[Prefix]) -> Attr {
    let next_hop = NEXT_HOP.to_ipv6_mapped().octets();
    (0x80, code::MP_REACH, [&[0, 2, 1, 16][..], &next_hop, &[0], &nlri(prefixes)].concat())
}

fn mp_unreach(prefixes: &[Prefix]) -> Attr {
    (0x80, code::MP_UNREACH, [&[0, 2, 1][..], &nlri(prefixes)].concat())
}

/// The usual attributes with this one in the place of its type.
fn with(a: Attr) -> Vec<Attr> {
    let mut all: Vec<Attr> = usual(NEXT_HOP, 200).into_iter().filter(|b| b.1 != a.1).collect();
    all.push(a);
    all.sort_by_key(|a| a.1);
    all
}

fn and(mut all: Vec<Attr>, more: &[Attr]) -> Vec<Attr> {
    all.extend_from_slice(more);
    all
}

fn without(c: u8) -> Vec<Attr> {
    usual(NEXT_HOP, 200).into_iter().filter(|a| a.1 != c).collect()
}

fn routes() -> Vec<u8> {
    nlri(&[p(ROUTE)])
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn raw(
        &mut self,
        section: &'static str,
        attribute: &'static str,
        what: impl Into<String>,
        body: Vec<u8>,
        outcome: Outcome,
    ) {
        self.0.push(Row {
            section,
            attribute,
            what: what.into(),
            body,
            families: [true; 2],
            route: ROUTE,
            outcome,
            passed_on: Vec::new(),
        });
    }

    /// An IPv4 route with these attributes.
    fn add(
        &mut self,
        section: &'static str,
        attribute: &'static str,
        what: impl Into<String>,
        all: &[Attr],
        outcome: Outcome,
    ) {
        self.raw(section, attribute, what, body(&[], &crate::wire::section(all), &routes()), outcome);
    }

    /// An UPDATE about the IPv6 route.
    fn six(
        &mut self,
        section: &'static str,
        attribute: &'static str,
        what: impl Into<String>,
        all: &[Attr],
        outcome: Outcome,
    ) {
        self.raw(section, attribute, what, body(&[], &crate::wire::section(all), &[]), outcome);
        self.last().route = ROUTE6;
    }

    fn last(&mut self) -> &mut Row {
        self.0.last_mut().expect("a row")
    }

    /// What the last row's route must have, or not, when it is passed on.
    fn passes(&mut self, c: u8, want: Option<(u8, Vec<u8>)>) {
        self.last().passed_on.push((c, want));
    }
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Rows::default();
    lengths_of_the_message(&mut rows);
    flags(&mut rows);
    missing(&mut rows);
    duplicates(&mut rows);
    values(&mut rows);
    lengths(&mut rows);
    section_overruns(&mut rows);
    nlri_syntax(&mut rows);
    multiprotocol(&mut rows);
    without_routes(&mut rows);
    unknown(&mut rows);
    several(&mut rows);
    rows.0
}

fn lengths_of_the_message(rows: &mut Rows) {
    let good = body(&[], &section(&usual(NEXT_HOP, 200)), &routes());
    rows.raw("-", "UPDATE", "nothing", good.clone(), Taken);
    let mut long = good.clone();
    (long[0], long[1]) = (0x01, 0x00);
    rows.raw("3 b", "Withdrawn Routes Length", "longer than the message", long, Reset(3, 1));
    let mut long = good.clone();
    (long[2], long[3]) = (0x01, 0x00);
    rows.raw("3 b", "Total Path Attribute Length", "longer than the message", long, Reset(3, 1));
    let mut hides = good;
    hides.truncate(4);
    hides[0..2].copy_from_slice(&2u16.to_be_bytes());
    rows.raw(
        "3 b",
        "Withdrawn Routes Length",
        "leaves no room for the attributes' length",
        hides,
        Reset(3, 1),
    );
}

fn flags(rows: &mut Rows) {
    for (name, c, flags, value) in known() {
        let wrong = [(0x80, "Optional"), (0x40, "Transitive")];
        for (bit, which) in wrong {
            let has = if flags & bit == 0 { "set" } else { "not set" };
            let what = format!("{which} bit {has}");
            rows.add("3 c", name, what, &with((flags ^ bit, c, value.clone())), Withdrawn);
        }
    }
    for (bit, which) in [(0x80, "Optional bit not set"), (0x40, "Transitive bit set")] {
        let (flags, c, value) = mp_reach(&[p(ROUTE6)]);
        let all = and(vec![(flags ^ bit, c, value)], &without(code::NEXT_HOP));
        rows.six("3 c", "MP_REACH_NLRI", which, &all, Withdrawn);
        let (flags, c, value) = mp_unreach(&[p(ROUTE6)]);
        rows.six("3 c", "MP_UNREACH_NLRI", which, &[(flags ^ bit, c, value)], Withdrawn);
    }
    let partial = with((0x60, code::ORIGIN, vec![0]));
    rows.add("3 c", "ORIGIN", "Partial bit set: no conflict of the two bits", &partial, Taken);
    rows.passes(code::ORIGIN, Some((0x40, vec![0])));
    let low = with((0x4f & !0x10, code::ORIGIN, vec![0]));
    rows.add("3 c", "ORIGIN", "unused bits set, which RFC 4271 section 4.3 ignores", &low, Taken);
    rows.passes(code::ORIGIN, Some((0x40, vec![0])));
    let long = with((0x50, code::ORIGIN, vec![0]));
    rows.add("3 c", "ORIGIN", "a short value with the extended length", &long, Taken);
}

fn missing(rows: &mut Rows) {
    for (name, c) in [
        ("ORIGIN", code::ORIGIN),
        ("AS_PATH", code::AS_PATH),
        ("NEXT_HOP", code::NEXT_HOP),
        ("LOCAL_PREF", code::LOCAL_PREF),
    ] {
        rows.add("3 d", name, "missing", &without(c), Withdrawn);
    }
    rows.add("3 d", "all attributes", "missing", &[], Withdrawn);
    for (name, c) in [("ORIGIN", code::ORIGIN), ("AS_PATH", code::AS_PATH), ("LOCAL_PREF", code::LOCAL_PREF)]
    {
        let rest: Vec<Attr> = without(c).into_iter().filter(|a| a.1 != code::NEXT_HOP).collect();
        let all = and(vec![mp_reach(&[p(ROUTE6)])], &rest);
        rows.six("3 d", name, "missing beside MP_REACH_NLRI", &all, Withdrawn);
    }
    let all = and(vec![mp_reach(&[p(ROUTE6)])], &without(code::NEXT_HOP));
    rows.six("3 d", "NEXT_HOP", "missing beside MP_REACH_NLRI, which has its own (RFC 4760)", &all, Taken);
}

fn duplicates(rows: &mut Rows) {
    for (name, c, flags, value) in known() {
        let first = with((flags, c, value.clone()));
        let mut second = value.clone();
        second.iter_mut().for_each(|octet| *octet = 1);
        rows.add("3 g", name, "twice: the first counts", &and(first, &[(flags, c, second)]), Discarded(1));
        if !matches!(c, code::ORIGINATOR_ID | code::CLUSTER_LIST) {
            rows.passes(c, Some((flags, value)));
        }
    }
    let twice = and(with((0xc0, 99, vec![1])), &[(0xc0, 99, vec![2])]);
    rows.add("3 g", "unknown", "twice: the first counts", &twice, Discarded(1));
    rows.passes(99, Some((0xe0, vec![1])));
    let bad_second = and(usual(NEXT_HOP, 200), &[(0x40, code::ORIGIN, vec![9])]);
    rows.add(
        "3 g",
        "ORIGIN",
        "twice, the second malformed: only the first counts",
        &bad_second,
        Discarded(1),
    );
    let bad_first = and(vec![(0x40, code::ORIGIN, vec![9])], &usual(NEXT_HOP, 200));
    rows.add("3 g", "ORIGIN", "twice, the first malformed", &bad_first, Withdrawn);
    let reach = mp_reach(&[p(ROUTE6)]);
    let all = and(vec![reach.clone(), reach], &without(code::NEXT_HOP));
    rows.six("3 g", "MP_REACH_NLRI", "twice", &all, Reset(3, 1));
    let unreach = mp_unreach(&[p(ROUTE6)]);
    rows.six("3 g", "MP_UNREACH_NLRI", "twice", &[unreach.clone(), unreach], Reset(3, 1));
}

fn values(rows: &mut Rows) {
    for value in [3, 255] {
        let what = format!("value {value}");
        rows.add("7.1", "ORIGIN", what, &with((0x40, code::ORIGIN, vec![value])), Withdrawn);
    }
    let own = ASN.to_be_bytes();
    let as_path = |value: Vec<u8>| with((0x40, code::AS_PATH, value));
    let long: Vec<u8> = [2, 255].into_iter().chain([0, 0, 0, 7].into_iter().cycle().take(255 * 4)).collect();
    for (rfc, what, value, outcome) in [
        ("7.2", "segment of type 0", vec![0, 1, 0, 0, 0, 7], Withdrawn),
        ("7.2", "segment of type 5", vec![5, 1, 0, 0, 0, 7], Withdrawn),
        ("7.2", "a segment that overruns it", vec![2, 2, 0, 0, 0, 7], Withdrawn),
        ("7.2", "one octet left over", vec![2, 1, 0, 0, 0, 7, 2], Withdrawn),
        ("7.2", "an empty segment", vec![2, 0], Withdrawn),
        ("7.2", "AS numbers of two octets", vec![2, 1, 0, 7], Withdrawn),
        ("RFC 5065 5", "AS_CONFED_SEQUENCE", vec![3, 1, 0, 0, 0, 7], Withdrawn),
        ("RFC 5065 5", "AS_CONFED_SET", vec![4, 1, 0, 0, 0, 7], Withdrawn),
        ("RFC 9774 3", "AS_SET", vec![1, 1, 0, 0, 0, 7], Withdrawn),
        ("RFC 7607 2", "AS 0", vec![2, 2, 0, 0, 0, 7, 0, 0, 0, 0], Withdrawn),
        ("RFC 4271 9.1.2", "our own AS", [&[2, 1][..], &own].concat(), Rejected),
        ("7.2", "empty: allowed", vec![], Taken),
        ("7.2", "a segment of 255", long.clone(), Taken),
        ("7.2", "two segments of 255", long.repeat(2), Taken),
    ] {
        rows.add(rfc, "AS_PATH", what, &as_path(value), outcome);
    }
    for address in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4]] {
        let what = format!("{} is no host's address", Ipv4Addr::from(address));
        rows.add(
            "3 e, RFC 4271 6.3",
            "NEXT_HOP",
            what,
            &with((0x40, code::NEXT_HOP, address.into())),
            Withdrawn,
        );
    }
    let zero = with((0xc0, code::AGGREGATOR, vec![0, 0, 0, 0, 10, 0, 0, 1]));
    rows.add("RFC 7607 2", "AGGREGATOR", "AS 0", &zero, Discarded(1));
    rows.passes(code::AGGREGATOR, None);
    let own_cluster = with((0x80, code::CLUSTER_LIST, vec![10, 0, 0, 8, 10, 255, 0, 1]));
    rows.add("RFC 4456 8", "CLUSTER_LIST", "our own cluster id", &own_cluster, Rejected);
    let own_id = with((0x80, code::ORIGINATOR_ID, vec![10, 255, 0, 1]));
    rows.add("RFC 4456 8", "ORIGINATOR_ID", "our own router id", &own_id, Rejected);
}

fn lengths(rows: &mut Rows) {
    let wrong: [Lengths; 12] = [
        ("7.1", "ORIGIN", code::ORIGIN, 0x40, &[0, 2], Withdrawn),
        ("7.3", "NEXT_HOP", code::NEXT_HOP, 0x40, &[0, 3, 5, 16], Withdrawn),
        ("7.4", "MULTI_EXIT_DISC", code::MED, 0x80, &[0, 3, 5], Withdrawn),
        ("7.5", "LOCAL_PREF", code::LOCAL_PREF, 0x40, &[0, 3, 5], Withdrawn),
        ("7.6", "ATOMIC_AGGREGATE", code::ATOMIC_AGGREGATE, 0x40, &[1, 4], Discarded(1)),
        ("7.7", "AGGREGATOR", code::AGGREGATOR, 0xc0, &[0, 6, 7, 9], Discarded(1)),
        ("7.8", "COMMUNITIES", code::COMMUNITIES, 0xc0, &[0, 3, 5], Withdrawn),
        ("7.9", "ORIGINATOR_ID", code::ORIGINATOR_ID, 0x80, &[0, 3, 5], Withdrawn),
        ("7.10", "CLUSTER_LIST", code::CLUSTER_LIST, 0x80, &[0, 3, 5], Withdrawn),
        ("7.14", "EXTENDED COMMUNITIES", code::EXTENDED_COMMUNITIES, 0xc0, &[0, 7, 9], Withdrawn),
        ("7.15", "IPv6 EXTENDED COMMUNITIES", code::IPV6_EXTENDED_COMMUNITIES, 0xc0, &[0, 19, 21], Withdrawn),
        ("RFC 8092 5", "LARGE_COMMUNITY", code::LARGE_COMMUNITIES, 0xc0, &[0, 11, 13], Withdrawn),
    ];
    for (rfc, name, c, flags, lengths, outcome) in wrong {
        for len in lengths {
            rows.add(rfc, name, format!("length {len}"), &with((flags, c, vec![1; *len])), outcome);
            if outcome == Discarded(1) {
                rows.passes(c, None);
            }
        }
    }
    for (name, c, flags) in
        [("AS4_PATH", code::AS4_PATH, 0xc0), ("AS4_AGGREGATOR", code::AS4_AGGREGATOR, 0xc0)]
    {
        for (what, flags, len) in
            [("there at all", flags, 8), ("length 1", flags, 1), ("Optional bit not set", 0x40, 8)]
        {
            rows.add("RFC 6793 6", name, what, &with((flags, c, vec![1; len])), Discarded(1));
            rows.passes(c, None);
        }
    }
}

fn section_overruns(rows: &mut Rows) {
    let good = section(&usual(NEXT_HOP, 200));
    let mut add = |what: &str, tail: &[u8]| {
        rows.raw("4", "attribute length", what, body(&[], &[&good, tail].concat(), &routes()), Withdrawn);
    };
    add("one octet beyond the section", &[0x80, code::MED, 5, 0, 0, 0, 5]);
    add("far beyond the section", &[0x80, code::MED, 255, 0, 0, 0, 5]);
    add("extended, beyond the section", &[0x90, code::MED, 0xff, 0xff, 0, 0, 0, 5]);
    add("one octet left for a header", &[0x80]);
    add("two octets left for a header", &[0x80, code::MED]);
    add("three octets left for an extended header", &[0x90, code::MED, 0]);
    let short = [&good[..], &[0x80, code::MED, 3, 0, 0, 0, 5]].concat();
    rows.raw(
        "4",
        "attribute length",
        "too short, so that the next header is cut",
        body(&[], &short, &routes()),
        Withdrawn,
    );
}

fn nlri_syntax(rows: &mut Rows) {
    let good = section(&usual(NEXT_HOP, 200));
    let bad: [(&str, &[u8]); 3] = [
        ("a prefix length of 33", &[33, 10, 80, 0, 1, 0]),
        ("a prefix length of 255", &[255, 10, 80, 0, 1]),
        ("a prefix that is cut", &[32, 10, 80, 0]),
    ];
    for (what, nlri) in bad {
        rows.raw("5.3, 3 j", "NLRI", what, body(&[], &good, nlri), Reset(3, 10));
        rows.raw("3 i", "Withdrawn Routes", what, body(nlri, &[], &[]), Reset(3, 10));
    }
    let attributes = section(&with((0x40, code::ORIGIN, vec![9])));
    rows.raw(
        "3 j, 3 h",
        "NLRI",
        "a prefix that is cut, beside a malformed ORIGIN",
        body(&[], &attributes, bad[2].1),
        Reset(3, 10),
    );
    let bits = body(&[], &good, &[&routes()[..], &[8, 10]].concat());
    rows.raw("5.3", "NLRI", "prefixes that contain each other: allowed", bits, Taken);
    for (what, field) in
        [("a prefix length of 129", vec![129; 18]), ("a prefix that is cut", vec![128, 0x20, 1])]
    {
        let (flags, c, mut value) = mp_reach(&[]);
        value.extend_from_slice(&field);
        let all = and(vec![(flags, c, value)], &without(code::NEXT_HOP));
        rows.six("5.3, 3 j", "MP_REACH_NLRI", what, &all, Reset(3, 9));
        let (flags, c, mut value) = mp_unreach(&[]);
        value.extend_from_slice(&field);
        rows.six("5.3, 3 j", "MP_UNREACH_NLRI", what, &[(flags, c, value)], Reset(3, 9));
    }
}

fn multiprotocol(rows: &mut Rows) {
    let rest = without(code::NEXT_HOP);
    let reach = |value: Vec<u8>| and(vec![(0x80, code::MP_REACH, value)], &rest);
    let field = nlri(&[p(ROUTE6)]);
    for len in [0, 4, 15, 17, 255] {
        let value = [&[0, 2, 1, len][..], &vec![1; usize::from(len.min(32))], &[0], &field].concat();
        let what = format!("a next hop of {len} octets");
        rows.six("7.11", "MP_REACH_NLRI", what, &reach(value), Reset(3, 9));
    }
    for len in 0..5 {
        let value = [0, 2, 1, 0, 0][..len].to_vec();
        rows.six("7.11, 5.3", "MP_REACH_NLRI", format!("length {len}"), &reach(value), Reset(3, 9));
    }
    for len in 0..3 {
        let value = [0, 2, 1][..len].to_vec();
        let all = [(0x80, code::MP_UNREACH, value)];
        rows.six("7.12, 5.3", "MP_UNREACH_NLRI", format!("length {len}"), &all, Reset(3, 9));
    }
    for (what, next_hop) in [
        ("::", [0; 16]),
        ("ff02::1", {
            let mut m = [0; 16];
            (m[0], m[1], m[15]) = (0xff, 2, 1);
            m
        }),
    ] {
        let value = [&[0, 2, 1, 16][..], &next_hop, &[0], &field].concat();
        let what = format!("next hop {what} is no host's address");
        rows.six("RFC 4271 6.3", "MP_REACH_NLRI", what, &reach(value), Rejected);
    }
    let last = and(rest.clone(), &[mp_reach(&[p(ROUTE6)])]);
    rows.six("5.1", "MP_REACH_NLRI", "not the first attribute: allowed", &last, Taken);
    let both = and(vec![mp_unreach(&[p("2001:db8::9/128")]), mp_reach(&[p(ROUTE6)])], &rest);
    rows.six("5.1", "MP_UNREACH_NLRI", "beside MP_REACH_NLRI: allowed", &both, Taken);
    let all = and(vec![mp_reach(&[p("2001:db8::9/128")])], &usual(NEXT_HOP, 200));
    rows.add("5.1", "MP_REACH_NLRI", "beside NLRI: allowed", &all, Taken);
    let value = [&[0, 1, 1, 4][..], &NEXT_HOP.octets(), &[0], &routes()].concat();
    rows.six("5.1", "MP_REACH_NLRI", "IPv4 unicast in it: allowed", &reach(value), Taken);
    rows.last().route = ROUTE;
    let value = [&[0, 1, 1, 4][..], &[240, 0, 0, 1], &[0], &routes()].concat();
    let what = "IPv4 unicast with next hop 240.0.0.1, which is no host's address";
    rows.six("RFC 4271 6.3", "MP_REACH_NLRI", what, &reach(value), Rejected);
    rows.last().route = ROUTE;
    let value = [&[0, 1, 1, 3][..], &[1, 1, 1], &[0], &routes()].concat();
    rows.six("7.11", "MP_REACH_NLRI", "IPv4 unicast with a next hop of 3 octets", &reach(value), Reset(3, 9));
    rows.last().route = ROUTE;
    let value = [&[0, 1, 128, 4][..], &NEXT_HOP.octets(), &[0], &routes()].concat();
    rows.six("RFC 4760 6", "MP_REACH_NLRI", "a family that we do not have", &reach(value), Ignored);
    let bad = and(reach_of(&field), &with((0x40, code::ORIGIN, vec![9])));
    rows.six("3 h", "ORIGIN", "value 9 beside MP_REACH_NLRI", &bad, Withdrawn);
    let body6 = body(&[], &section(&and(vec![mp_reach(&[p(ROUTE6)])], &rest)), &[]);
    rows.raw("RFC 4760 6", "MP_REACH_NLRI", "IPv6 where only IPv4 was negotiated", body6, Ignored);
    rows.last().families = [true, false];
}

fn reach_of(field: &[u8]) -> Vec<Attr> {
    let (flags, c, mut value) = mp_reach(&[]);
    value.extend_from_slice(field);
    vec![(flags, c, value)]
}

fn without_routes(rows: &mut Rows) {
    let alone = |all: &[Attr]| body(&[], &section(all), &[]);
    let bad = [(0x40, code::ORIGIN, vec![9])];
    rows.raw("5.2", "ORIGIN", "value 9, and no route is there", alone(&bad), Reset(3, 6));
    let bad = [mp_unreach(&[p(ROUTE6)]), (0x40, code::ORIGIN, vec![9])];
    rows.raw("5.2", "ORIGIN", "value 9 beside MP_UNREACH_NLRI only", alone(&bad), Reset(3, 6));
    let bad = body(&routes(), &section(&[(0xc0, code::COMMUNITIES, vec![1])]), &[]);
    rows.raw("5.2", "COMMUNITIES", "length 1 beside withdrawn routes only", bad, Reset(3, 9));
    let cut = [section(&[mp_unreach(&[])]), vec![0x80]].concat();
    rows.raw(
        "5.2",
        "attribute length",
        "overrun behind MP_UNREACH_NLRI only",
        body(&[], &cut, &[]),
        Reset(3, 1),
    );
    let discard = [(0xc0, code::AGGREGATOR, vec![1])];
    rows.raw("5.2", "AGGREGATOR", "length 1, and no route is there: nothing to do", alone(&discard), Ignored);
    rows.raw("5.2", "ORIGIN", "good, and no route is there", alone(&usual(NEXT_HOP, 200)), Ignored);
    rows.raw(
        "5.2",
        "MP_UNREACH_NLRI",
        "empty and alone: End-of-RIB (RFC 4724)",
        alone(&[mp_unreach(&[])]),
        Ignored,
    );
}

fn unknown(rows: &mut Rows) {
    for (what, flags, value) in
        [("", 0xc0, vec![1, 2, 3]), (", empty", 0xc0, vec![]), (", Partial", 0xe0, vec![1])]
    {
        let what = format!("optional transitive{what}: passed on as partial");
        rows.add("RFC 4271 5", "unknown", what, &with((flags, 99, value.clone())), Taken);
        rows.passes(99, Some((0xe0, value)));
    }
    rows.add(
        "RFC 4271 5",
        "unknown",
        "optional non-transitive: not passed on",
        &with((0x80, 99, vec![1])),
        Taken,
    );
    rows.passes(99, None);
    for (what, c) in [("AIGP without a TLV", 26), ("tunnel encapsulation, cut", 23), ("OTC of 1 octet", 35)] {
        let flags = if c == 26 { 0x80 } else { 0xc0 };
        let what = format!("{what}: not ours to judge");
        rows.add("RFC 4271 5", "unknown", what, &with((flags, c, vec![1])), Taken);
    }
    for flags in [0x40, 0x00] {
        let what = format!("well-known, flags {flags:#04x}");
        rows.add("RFC 4271 6.3", "unknown", what, &with((flags, 99, vec![1])), Reset(3, 2));
    }
}

fn several(rows: &mut Rows) {
    let discards = and(with((0xc0, code::AGGREGATOR, vec![1])), &[(0x40, code::ATOMIC_AGGREGATE, vec![1])]);
    rows.add("3 h", "AGGREGATOR and ATOMIC_AGGREGATE", "both malformed", &discards, Discarded(2));
    let mixed = and(with((0xc0, code::AGGREGATOR, vec![1])), &[(0xc0, code::COMMUNITIES, vec![1])]);
    rows.add("3 h", "AGGREGATOR and COMMUNITIES", "both malformed: the stronger wins", &mixed, Withdrawn);
    let reach = mp_reach(&[p(ROUTE6)]);
    let worst = and(with((0x40, code::ORIGIN, vec![9])), &[reach.clone(), reach]);
    rows.add(
        "3 h",
        "ORIGIN and MP_REACH_NLRI",
        "malformed, and twice: the strongest wins",
        &worst,
        Reset(3, 1),
    );
    let also = and(with((0x40, code::ORIGIN, vec![9])), &[(0x40, 99, vec![])]);
    rows.add(
        "3 h",
        "ORIGIN and unknown",
        "malformed, and well-known: the strongest wins",
        &also,
        Reset(3, 2),
    );
    let flags_first = with((0x00, code::AGGREGATOR, vec![1]));
    rows.add("3 c", "AGGREGATOR", "flags and length: the flags weigh more", &flags_first, Withdrawn);
}
