//! Several paths of one prefix (RFC 7911), in and out, beside sessions that know the best path alone.

use super::*;
use crate::message::{Address, next_route};
use crate::settings::AddPathOptions;
use crate::speaker::{Cursor, Listing};

/// A client with or without ADD-PATH: what it was told, by prefix and identifier, with the next hop.
struct Reader {
    id: ConnId,
    n: u8,
    ids: bool,
    told: BTreeMap<(Prefix, u32), IpAddr>,
    inbox: Vec<u8>,
}

/// What a source announces: by prefix and its own identifier, the next hop.
type Model = BTreeMap<(u8, u32), u8>;

fn speaker(log_limit_bytes: usize) -> Speaker {
    let mut config = config();
    config.log_limit_bytes = log_limit_bytes;
    let mut s = Speaker::new(config, 7, 0);
    let with = |net: &str, send: u8| {
        let mut g = group(true, net, Admission::Open);
        g.options.add_path = AddPathOptions { receive: true, send };
        g
    };
    s.set_dynamic_peers(vec![with("10.255.0.0/28", AddPathOptions::ALL), with("10.255.0.16/28", 2)], 0);
    s
}

impl Reader {
    fn connect(s: &mut Speaker, n: u8, offer: AddPath) -> Reader {
        let id = s.connected(address(n), Direction::In, 0).expect("admitted");
        let mut open = Open::decode(&open_of(v4(address(n)), helper(120))[HEADER_LEN..]).unwrap();
        (open.add_path, open.graceful_restart) = ([offer; 2], None);
        let mut out = Vec::new();
        open.encode(&mut out);
        s.received(id, &out, 0);
        s.received(id, &KEEPALIVE, 0);
        let mut reader = Reader { id, n, ids: offer.receive, told: BTreeMap::new(), inbox: Vec::new() };
        reader.read(s);
        reader
    }

    fn read(&mut self, s: &mut Speaker) {
        s.flush();
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let k = s.gather(self.id, &mut slices);
            let all: Vec<u8> = slices[..k].iter().flat_map(|s| s.to_vec()).collect();
            s.wrote(self.id, all.len(), 0);
            self.inbox.extend_from_slice(&all);
            if all.is_empty() {
                break;
            }
        }
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        while let Some((kind, whole)) = frame(rest, false).expect("well formed") {
            if kind == Kind::Update {
                self.update(Update::split(&rest[HEADER_LEN..whole]).unwrap());
            }
            rest = &rest[whole..];
        }
        assert!(rest.is_empty());
    }

    fn update(&mut self, u: Update<'_>) {
        let mut gone = u.withdrawn;
        while let Some((addr, len, id)) = next_route::<u32>(&mut gone, self.ids).unwrap() {
            self.told.remove(&(addr.prefix(len), id));
        }
        let hop = Walk(u.attributes).find(|a| a.code == code::NEXT_HOP).map(|a| a.value.to_vec());
        let mut nlri = u.nlri;
        while let Some((addr, len, id)) = next_route::<u32>(&mut nlri, self.ids).unwrap() {
            let hop = <[u8; 4]>::try_from(hop.as_deref().expect("a next hop")).unwrap();
            self.told.insert((addr.prefix(len), id), hop.into());
        }
    }

    /// The next hops of each prefix, sorted.
    fn hops(&self) -> BTreeMap<Prefix, Vec<IpAddr>> {
        let mut all: BTreeMap<Prefix, Vec<IpAddr>> = BTreeMap::new();
        self.told.iter().for_each(|((p, _), hop)| all.entry(*p).or_default().push(*hop));
        all.values_mut().for_each(|hops| hops.sort());
        all
    }

    fn announce(&self, s: &mut Speaker, prefix: u8, path: u32, hop: Option<u8>) {
        let mut nlri = if path > 0 { path.to_be_bytes().to_vec() } else { Vec::new() };
        put_v4(host(prefix), &mut nlri);
        let octets = match hop {
            Some(hop) => {
                let mut octets = super::announce(Ipv4Addr::new(10, 9, 9, hop), &[], &[]);
                octets.extend_from_slice(&nlri);
                octets
            }
            None => {
                let mut body = (nlri.len() as u16).to_be_bytes().to_vec();
                body.extend_from_slice(&nlri);
                body.extend_from_slice(&[0, 0]);
                let mut octets = Vec::new();
                put(&mut octets, 2, &body);
                octets
            }
        };
        let mut octets = octets;
        let len = octets.len();
        octets[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        s.received(self.id, &octets, 0);
    }
}

/// Every source's paths of a prefix, best first: with all else equal the lowest router id wins, then the lowest
/// identifier.
fn ranked(sources: &[(u8, Model)], prefix: u8) -> Vec<(u8, IpAddr)> {
    let mut all: Vec<(u8, u32, u8)> = sources
        .iter()
        .flat_map(|(n, m)| m.iter().filter(|((p, _), _)| *p == prefix).map(|((_, id), hop)| (*n, *id, *hop)))
        .collect();
    all.sort();
    all.into_iter().map(|(n, _, hop)| (n, IpAddr::from([10, 9, 9, hop]))).collect()
}

fn wanted(sources: &[(u8, Model)], reader: u8, most: usize) -> BTreeMap<Prefix, Vec<IpAddr>> {
    let mut all = BTreeMap::new();
    for prefix in 0..4 {
        let paths = ranked(sources, prefix);
        let mut hops: Vec<IpAddr> =
            paths.iter().take(most).filter(|(n, _)| *n != reader).map(|(_, hop)| *hop).collect();
        hops.sort();
        if !hops.is_empty() {
            all.insert(host(prefix), hops);
        }
    }
    all
}

const BOTH: AddPath = AddPath { receive: true, send: true };

proptest! {
    /// Whatever is announced and withdrawn, in whatever order, and however late each reads: who asked for all
    /// paths has all but its own, who is sent the best two has those, and who asked for nothing has the best.
    #[test]
    fn everybody_has_as_many_paths_as_it_asked_for(
        ops in proptest::collection::vec((0..3usize, 0..4u8, 1..3u32, proptest::option::of(1..4u8), 0..8u8), 1..60),
        log_limit in prop_oneof![Just(1usize), Just(300), Just(1 << 20)],
    ) {
        let mut s = speaker(log_limit);
        let mut readers = [
            Reader::connect(&mut s, 2, BOTH),
            Reader::connect(&mut s, 18, BOTH),
            Reader::connect(&mut s, 4, AddPath::default()),
        ];
        let mut sources: Vec<(u8, Model)> = readers.iter().map(|r| (r.n, Model::new())).collect();
        let mut late = None;
        for (i, (who, prefix, path, hop, reads)) in ops.iter().enumerate() {
            let path = if readers[*who].ids { *path } else { 0 };
            readers[*who].announce(&mut s, *prefix, path, *hop);
            match hop {
                Some(hop) => drop(sources[*who].1.insert((*prefix, path), *hop)),
                None => drop(sources[*who].1.remove(&(*prefix, path))),
            }
            if *reads < 3 {
                readers[usize::from(*reads)].read(&mut s);
            } else if *reads < 6 {
                s.flush();
            }
            if i == ops.len() / 2 {
                late = Some(Reader::connect(&mut s, 3, AddPath { receive: true, send: false }));
            }
        }
        for reader in readers.iter_mut().chain(&mut late) {
            reader.read(&mut s);
        }
        prop_assert_eq!(readers[0].hops(), wanted(&sources, 2, usize::MAX));
        prop_assert_eq!(readers[1].hops(), wanted(&sources, 18, 2));
        prop_assert_eq!(readers[2].hops(), wanted(&sources, 4, 1));
        let late = late.expect("connected half-way");
        prop_assert_eq!(late.hops(), wanted(&sources, 3, usize::MAX));
        for (reader, view) in readers.iter().zip([2, 18, 4]) {
            let views = s.peers(0);
            let view = views.iter().find(|v| v.address == address(view)).unwrap();
            prop_assert_eq!(view.prefixes_sent, reader.told.len() as u64, "{:?}", view);
        }
        // A source that goes takes its paths along, and theirs alone.
        let gone = readers[0].id;
        s.closed(gone, "reset", 0);
        sources[0].1.clear();
        readers[1].read(&mut s);
        prop_assert_eq!(readers[1].hops(), wanted(&sources, 18, 2));
    }
}

/// A path keeps its identifier when its attributes change and when others come and go.
#[test]
fn a_path_keeps_its_identifier() {
    let mut s = speaker(1 << 20);
    let mut a = Reader::connect(&mut s, 2, BOTH);
    let b = Reader::connect(&mut s, 3, BOTH);
    b.announce(&mut s, 1, 7, Some(1));
    b.announce(&mut s, 1, 8, Some(2));
    a.read(&mut s);
    let before: Vec<u32> = a.told.keys().map(|k| k.1).collect();
    assert_eq!(before.len(), 2);
    b.announce(&mut s, 1, 9, Some(3));
    b.announce(&mut s, 1, 7, Some(4));
    b.announce(&mut s, 1, 9, None);
    a.read(&mut s);
    assert_eq!(a.told.keys().map(|k| k.1).collect::<Vec<_>>(), before);
    let routes = s.routes(&RouteQuery::default());
    let ids: BTreeSet<u32> = routes.iter().map(|r| r.path_id).collect();
    assert_eq!(ids, [7, 8].into(), "shown as received");
    // What is listed as advertised is what was told, identifiers and all.
    let (rows, _) = s.list(&Listing::Advertised(address(2).to_string()), Cursor::START);
    let listed: BTreeMap<(Prefix, u32), IpAddr> =
        rows.iter().map(|r| ((r.prefix, r.path_id), r.next_hop)).collect();
    assert_eq!((rows.len(), listed), (2, a.told));
    // A station's start carries the identifiers that the neighbour gave.
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = heard.clone();
    let sink = Box::new(move |chunk: &bytes::Bytes| {
        into.lock().unwrap().extend_from_slice(chunk);
        true
    });
    s.name_ends(b.id, "10.255.0.1:179".parse().unwrap(), "10.255.0.3:4000".parse().unwrap());
    let station = s.bmp_add(sink, 0, 0);
    let mut next = Some(Cursor::START);
    while let Some(from) = next {
        next = s.bmp_table(station, from, 0);
    }
    let mut nlri: BTreeSet<(u32, u8, u32)> = BTreeSet::new();
    let heard = heard.lock().unwrap();
    let mut rest = &heard[..];
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        // Route Monitoring: 6 octets of header, 42 about the peer, then the UPDATE.
        if rest[5] == 0 {
            let mut field = Update::split(&rest[48 + HEADER_LEN..len]).unwrap().nlri;
            while let Some(route) = next_route::<u32>(&mut field, true).unwrap() {
                nlri.insert(route);
            }
        }
        rest = &rest[len..];
    }
    let Some((addr, len)) = u32::of_prefix(host(1)) else { panic!("an IPv4 prefix") };
    assert_eq!(nlri, [(addr, len, 7), (addr, len, 8)].into());
}
