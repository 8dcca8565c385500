//! Every decoder: any octets give a value or a NOTIFICATION, never more memory than they are long, and what is
//! good stays good when it is passed on.

use std::net::Ipv4Addr;

use bgp::attributes::{Attributes, Own, Read, Walk, mp_reach, mp_unreach};
use bgp::malformed::Section;
use bgp::message::{HEADER_LEN, Kind, Notification, Open, Refresh, Update, frame, next_path, next_prefix};
use bgp::policy::RejectReason;
use bgp::types::{Family, RouterId};

use crate::wire::{Offer, announce, body, nlri, nlri_of, open_for, open_of, p, section, usual};

const OWN: u32 = 0x0a00_0001;

/// One input: what came from a peer.
pub fn run(input: &[u8]) {
    let extended = input.first().is_some_and(|b| b & 1 == 1);
    let mut rest = input.get(1..).unwrap_or_default();
    while let Ok(Some((kind, whole))) = frame(rest, extended) {
        assert!(whole >= HEADER_LEN && whole <= rest.len(), "a frame inside the buffer");
        decode(kind, &rest[HEADER_LEN..whole]);
        rest = &rest[whole..];
    }
    // Without the sixteen octets that no mutation keeps.
    let kinds = [Kind::Open, Kind::Update, Kind::Notification, Kind::RouteRefresh];
    decode(
        kinds[usize::from(input.first().copied().unwrap_or(0) >> 1) % 4],
        input.get(1..).unwrap_or_default(),
    );
}

fn decode(kind: Kind, body: &[u8]) {
    match kind {
        Kind::Open => open(body),
        Kind::Update => drop(update(body)),
        Kind::Notification => notification(body),
        Kind::RouteRefresh => refresh(body),
        Kind::Keepalive => {}
    }
}

fn open(body: &[u8]) {
    let Ok(open) = Open::decode(body) else { return };
    let mut out = Vec::new();
    open.encode(&mut out);
    assert!(out.len() <= 4096, "an OPEN fits");
    if !out.is_empty() {
        let again = Open::decode(&out[HEADER_LEN..]).expect("our own OPEN reads back");
        assert_eq!((again.router_id, again.hold_secs), (open.router_id, open.hold_secs));
    }
}

fn notification(body: &[u8]) {
    let n = Notification::decode(body);
    assert!(n.to_string().len() <= 8 * body.len() + 200, "a bounded text");
    let mut out = Vec::new();
    n.encode(&mut out);
    assert!(matches!(frame(&out, false), Ok(Some((Kind::Notification, whole))) if whole == out.len()));
}

fn refresh(body: &[u8]) {
    if let Ok(Some((refresh, family))) = Refresh::decode(body) {
        let mut out = Vec::new();
        refresh.encode(family, &mut out);
        assert_eq!(Refresh::decode(&out[HEADER_LEN..]), Ok(Some((refresh, family))));
    }
}

fn update(body: &[u8]) -> Result<(), Notification> {
    let update = Update::split(body)?;
    let mut field = update.withdrawn;
    while next_prefix::<u32>(&mut field)?.is_some() {}
    let mut field = update.nlri;
    while next_prefix::<u32>(&mut field)?.is_some() {}
    // As with ADD-PATH, where the same octets mean others.
    let mut field = update.nlri;
    while let Ok(Some((_, len, _))) = next_path::<u32>(&mut field) {
        assert!(len <= 32);
    }
    let section = Section::read(update.attributes)?;
    assert!(section.rest.len() <= update.attributes.len(), "nothing is added");
    assert!(section.discarded <= update.attributes.len() as u64 / 3, "at most one for every header");
    let again = Section::read(&section.rest)?;
    if section.withdraw.is_none() {
        assert_eq!((again.withdraw, again.discarded), (None, 0), "what was kept is good");
    }
    read(update.attributes, Family::Ipv4, None)?;
    if let Some(value) = section.unreach
        && let Some((_, mut nlri)) = mp_unreach(value)?
    {
        while next_prefix::<u128>(&mut nlri)?.is_some() {}
    }
    if let Some(value) = section.reach
        && let Some((family, next_hop, mut nlri)) = mp_reach(value)?
    {
        read(update.attributes, family, Some(next_hop))?;
        while next_prefix::<u128>(&mut nlri)?.is_some() {}
    }
    Ok(())
}

fn read(section: &[u8], family: Family, next_hop: Option<&[u8]>) -> Result<(), Notification> {
    let own = Own { asn: 64512, router_id: OWN.into(), cluster_id: OWN.into() };
    let peer = RouterId::from(0x0a00_0002);
    let Read::Good(a) = Attributes::read(section, family, next_hop, peer, &own)? else { return Ok(()) };
    assert!(
        a.blob.len() <= section.len() + 40,
        "ORIGINATOR_ID, CLUSTER_LIST and lengths are all that comes on top"
    );
    assert!(Walk(&a.blob).map(|r| r.code).is_sorted_by(|x, y| x < y), "by type, each once");
    if a.reject.is_some() {
        return Ok(());
    }
    // Passed on, it is as good, but for the loop that our own cluster id now makes.
    let next_hop = if a.mp_next_hop.is_empty() { None } else { Some(&*a.mp_next_hop) };
    match Attributes::read(&a.blob, family, next_hop, peer, &own)? {
        Read::Good(b) => assert_eq!(b.reject, Some(RejectReason::ClusterLoop)),
        Read::Withdraw(why) => assert!(why.contains("too long"), "{why}"),
    }
    let _ = (a.as_path(), a.communities(), a.cluster_list());
    Ok(())
}

/// Seeds: one message of each kind, and UPDATEs of each form.
pub fn seeds() -> Vec<Vec<u8>> {
    let hop = Ipv4Addr::new(10, 255, 0, 2);
    let four = announce(&usual(hop, 100), &[p("10.80.0.1/32"), p("10.80.0.0/24")]);
    let mut all = usual(hop, 100);
    all.extend([
        (0x80, 4, vec![0, 0, 0, 1]),
        (0x40, 6, vec![]),
        (0xc0, 7, vec![0, 0, 0, 7, 10, 0, 0, 1]),
        (0xc0, 8, vec![0, 1, 0, 2]),
        (0x80, 9, vec![10, 0, 0, 7]),
        (0x80, 10, vec![10, 0, 0, 8]),
        (0xc0, 16, vec![0, 2, 0, 1, 0, 0, 0, 1]),
        (0xc0, 32, vec![0; 12]),
        (0xc0, 99, vec![1]),
    ]);
    let rich = announce(&all, &[p("10.80.0.1/32")]);
    let reach =
        [&[0, 2, 1, 16][..], &hop.to_ipv6_mapped().octets(), &[0], &nlri(&[p("2001:db8::1/128")])].concat();
    let mut six = vec![(0x80, 14, reach), (0x80, 15, vec![0, 2, 1])];
    six.extend(usual(hop, 100).into_iter().filter(|a| a.1 != 3));
    let withdrawn = crate::wire::update(&body(&nlri(&[p("10.80.0.1/32")]), &[], &[]));
    let mut last = Vec::new();
    Notification::cease_with_text(2, "maintenance").encode(&mut last);
    let mut again = Vec::new();
    Refresh::Request.encode(Family::Ipv4, &mut again);
    let everything = open_of(hop, &Offer::everything());
    let paths = nlri_of(&[(p("10.80.0.1/32"), Some(1)), (p("10.80.0.1/32"), Some(2))]);
    let paths = crate::wire::update(&body(&[], &section(&usual(hop, 100)), &paths));
    let whole = [
        open_for(hop, true, [true; 2]),
        four,
        rich,
        announce(&six, &[]),
        withdrawn,
        last,
        again,
        everything,
        paths,
    ];
    // As a stream, and the body alone for each kind.
    let mut seeds: Vec<Vec<u8>> = whole.iter().map(|m| [&[1][..], m].concat()).collect();
    for (message, kind) in whole.iter().zip([0u8, 1, 1, 1, 1, 2, 3, 0, 1]) {
        seeds.push([&[kind << 1][..], &message[HEADER_LEN..]].concat());
    }
    seeds
}
