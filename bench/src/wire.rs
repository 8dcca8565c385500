//! The BGP messages that a client of a reflector sends and reads (RFC 4271, 4456, 4724, 6793).
//!
//! This codec is the generator's own, small and apart from the reflector's, so that a mistake of one is not
//! mirrored in the other. It knows IPv4 unicast and the attributes that the workload uses; any other attribute
//! that a reflector adds is reported, not skipped.

/// Octets of a message header.
pub const HEADER: usize = 19;
/// The longest message without the extended message capability.
pub const LONGEST: usize = 4096;

/// Message types (RFC 4271 section 4.1).
pub mod kind {
    /// OPEN.
    pub const OPEN: u8 = 1;
    /// UPDATE.
    pub const UPDATE: u8 = 2;
    /// NOTIFICATION.
    pub const NOTIFICATION: u8 = 3;
    /// KEEPALIVE.
    pub const KEEPALIVE: u8 = 4;
}

mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
}

const TRANSITIVE: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const EXTENDED: u8 = 0x10;

/// Appends a message whose body `fill` writes.
///
/// # Panics
/// When the body is longer than a message may be: the callers pack by [`LONGEST`].
fn message(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind]);
    fill(out);
    let len = out.len() - start;
    assert!(len <= LONGEST, "a message of {len} octets");
    out[start + 16..start + 18].copy_from_slice(&(len as u16).to_be_bytes());
}

/// What a client says of graceful restart in its OPEN (RFC 4724 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The restart time, in seconds, 0 to 4095.
    pub secs: u16,
    /// The R bit: the client itself has been restarted.
    pub restarting: bool,
}

/// An OPEN with IPv4 unicast, route refresh, 4-octet AS numbers and, if asked, graceful restart with preserved
/// forwarding.
pub fn open(asn: u32, hold_secs: u16, id: u32, restart: Option<Restart>) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4];
    capabilities.extend_from_slice(&asn.to_be_bytes());
    if let Some(r) = restart {
        let word = r.secs & 0x0fff | u16::from(r.restarting) << 15;
        capabilities.extend_from_slice(&[64, 6]);
        capabilities.extend_from_slice(&word.to_be_bytes());
        capabilities.extend_from_slice(&[0, 1, 1, 0x80]);
    }
    let mut out = Vec::new();
    message(&mut out, kind::OPEN, |out| {
        out.push(4);
        out.extend_from_slice(&u16::try_from(asn).unwrap_or(23456).to_be_bytes());
        out.extend_from_slice(&hold_secs.to_be_bytes());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&[capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        out.extend_from_slice(&capabilities);
    });
    out
}

/// The graceful restart capability of a received OPEN's body; `None` without one.
pub fn open_restart(body: &[u8]) -> Option<Restart> {
    let mut parameters = body.get(10..)?;
    while let [2, len, rest @ ..] = parameters {
        let (mut capabilities, after) = rest.split_at_checked(usize::from(*len))?;
        while let [code, len, rest @ ..] = capabilities {
            let (value, after) = rest.split_at_checked(usize::from(*len))?;
            if let (64, [high, low, ..]) = (*code, value) {
                let word = u16::from_be_bytes([*high, *low]);
                return Some(Restart { secs: word & 0x0fff, restarting: word & 0x8000 != 0 });
            }
            capabilities = after;
        }
        parameters = after;
    }
    None
}

/// A KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, kind::KEEPALIVE, |_| {});
    out
}

/// The End-of-RIB marker of IPv4 unicast: an UPDATE without content (RFC 4724 section 2).
pub fn end_of_rib() -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, kind::UPDATE, |out| out.extend_from_slice(&[0; 4]));
    out
}

/// The path attributes that the workload uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: u8,
    /// AS_PATH, one AS_SEQUENCE; empty: no segment.
    pub as_path: Vec<u32>,
    /// NEXT_HOP.
    pub next_hop: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// COMMUNITIES.
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator: Option<u32>,
    /// CLUSTER_LIST (RFC 4456).
    pub cluster_list: Vec<u32>,
    /// Codes of attributes that nobody here sends.
    pub foreign: Vec<u8>,
}

fn put(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(len) => out.extend_from_slice(&[flags, code, len]),
        Err(_) => {
            out.extend_from_slice(&[flags | EXTENDED, code]);
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(value);
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|w| w.to_be_bytes()).collect()
}

fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn word_list(value: &[u8]) -> Option<Vec<u32>> {
    value.len().is_multiple_of(4).then(|| value.chunks_exact(4).filter_map(word).collect())
}

/// One AS_SEQUENCE or nothing; anything else was not sent by the workload.
fn sequence(value: &[u8]) -> Option<Vec<u32>> {
    match value {
        [] => Some(Vec::new()),
        [2, count, list @ ..] if list.len() == 4 * usize::from(*count) => word_list(list),
        _ => None,
    }
}

impl Attributes {
    /// The attributes as they stand in an UPDATE, by ascending code.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, TRANSITIVE, code::ORIGIN, &[self.origin]);
        let mut path = Vec::new();
        if !self.as_path.is_empty() {
            path.extend_from_slice(&[2, self.as_path.len() as u8]);
            path.extend_from_slice(&words(&self.as_path));
        }
        put(&mut out, TRANSITIVE, code::AS_PATH, &path);
        put(&mut out, TRANSITIVE, code::NEXT_HOP, &self.next_hop.to_be_bytes());
        let one = |out: &mut Vec<u8>, flags, code, value: Option<u32>| {
            if let Some(value) = value {
                put(out, flags, code, &value.to_be_bytes());
            }
        };
        one(&mut out, OPTIONAL, code::MED, self.med);
        one(&mut out, TRANSITIVE, code::LOCAL_PREF, self.local_pref);
        if !self.communities.is_empty() {
            put(&mut out, OPTIONAL | TRANSITIVE, code::COMMUNITIES, &words(&self.communities));
        }
        one(&mut out, OPTIONAL, code::ORIGINATOR_ID, self.originator);
        if !self.cluster_list.is_empty() {
            put(&mut out, OPTIONAL, code::CLUSTER_LIST, &words(&self.cluster_list));
        }
        out
    }

    /// Reads what an UPDATE holds; `None` when it is malformed: wrong lengths, wrong flags, one code twice.
    pub fn decode(mut bytes: &[u8]) -> Option<Attributes> {
        let mut all = Attributes::default();
        let mut seen = [false; 256];
        while let [flags, code, rest @ ..] = bytes {
            let (len, rest) = match (flags & EXTENDED != 0, rest) {
                (false, [len, rest @ ..]) => (usize::from(*len), rest),
                (true, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                _ => return None,
            };
            let (value, after) = rest.split_at_checked(len)?;
            if std::mem::replace(&mut seen[usize::from(*code)], true) {
                return None;
            }
            all.take(flags & (OPTIONAL | TRANSITIVE), *code, value)?;
            bytes = after;
        }
        bytes.is_empty().then_some(all)
    }

    fn take(&mut self, flags: u8, code: u8, value: &[u8]) -> Option<()> {
        let known = match code {
            code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF => TRANSITIVE,
            code::COMMUNITIES => OPTIONAL | TRANSITIVE,
            code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST => OPTIONAL,
            _ => {
                self.foreign.push(code);
                return Some(());
            }
        };
        if flags != known {
            return None;
        }
        match code {
            code::ORIGIN => self.origin = *value.first().filter(|_| value.len() == 1)?,
            code::AS_PATH => self.as_path = sequence(value)?,
            code::NEXT_HOP => self.next_hop = word(value)?,
            code::MED => self.med = Some(word(value)?),
            code::LOCAL_PREF => self.local_pref = Some(word(value)?),
            code::COMMUNITIES => self.communities = word_list(value)?,
            code::ORIGINATOR_ID => self.originator = Some(word(value)?),
            _ => self.cluster_list = word_list(value)?,
        }
        Some(())
    }
}

/// Appends UPDATEs that announce host routes under encoded attributes, as many to a message as fit.
pub fn announce(out: &mut Vec<u8>, attributes: &[u8], hosts: impl Iterator<Item = u32>) {
    pack(out, (LONGEST - HEADER - 4 - attributes.len()) / 5, hosts, |out, nlri| {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
        out.extend_from_slice(attributes);
        out.extend_from_slice(nlri);
    });
}

/// Appends UPDATEs that withdraw host routes, as many to a message as fit.
pub fn withdraw(out: &mut Vec<u8>, hosts: impl Iterator<Item = u32>) {
    pack(out, (LONGEST - HEADER - 4) / 5, hosts, |out, nlri| {
        out.extend_from_slice(&(nlri.len() as u16).to_be_bytes());
        out.extend_from_slice(nlri);
        out.extend_from_slice(&[0, 0]);
    });
}

fn pack(
    out: &mut Vec<u8>,
    most: usize,
    mut hosts: impl Iterator<Item = u32>,
    body: impl Fn(&mut Vec<u8>, &[u8]),
) {
    loop {
        let nlri: Vec<u8> =
            hosts.by_ref().take(most).flat_map(|h| std::iter::once(32).chain(h.to_be_bytes())).collect();
        if nlri.is_empty() {
            return;
        }
        message(out, kind::UPDATE, |out| body(out, &nlri));
    }
}

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u8,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The first message of `bytes` and its length; `Ok(None)`: not all of it is there yet.
///
/// # Errors
/// When this is no BGP message.
#[inline]
pub fn frame(bytes: &[u8]) -> Result<Option<(Message<'_>, usize)>, &'static str> {
    if bytes.len() < HEADER {
        return Ok(None);
    }
    if bytes[..16] != [0xff; 16] {
        return Err("marker");
    }
    let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    if !(HEADER..=LONGEST).contains(&len) {
        return Err("message length");
    }
    Ok(bytes.get(HEADER..len).map(|body| (Message { kind: bytes[18], body }, len)))
}

/// The three parts of an UPDATE: withdrawn routes, path attributes, announced routes; `None`: malformed.
#[inline]
pub fn split(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (withdrawn, rest) = part(body)?;
    let (attributes, nlri) = part(rest)?;
    Some((withdrawn, attributes, nlri))
}

#[inline]
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes([len[0], len[1]])))
}

/// Takes the first host route off `nlri`; `None`: its end, or something else than a host route is left.
#[inline]
pub fn next_host(nlri: &mut &[u8]) -> Option<u32> {
    let [32, a, b, c, d, rest @ ..] = nlri else { return None };
    let host = u32::from_be_bytes([*a, *b, *c, *d]);
    *nlri = rest;
    Some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_attributes() -> impl Strategy<Value = Attributes> {
        let list = || proptest::collection::vec(any::<u32>(), 0..70);
        let one = proptest::option::of(any::<u32>());
        (0..3u8, list(), any::<u32>(), one.clone(), one.clone(), list(), one, list()).prop_map(
            |(origin, as_path, next_hop, med, local_pref, communities, originator, cluster_list)| {
                Attributes {
                    origin,
                    as_path,
                    next_hop,
                    med,
                    local_pref,
                    communities,
                    originator,
                    cluster_list,
                    foreign: Vec::new(),
                }
            },
        )
    }

    proptest! {
        /// What is encoded is read back; lists that need an extended length too.
        #[test]
        fn attributes_round_trip(all in any_attributes()) {
            prop_assert_eq!(Attributes::decode(&all.encode()), Some(all));
        }

        /// No octets make the reader panic or loop.
        #[test]
        fn any_octets_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Attributes::decode(&bytes);
            let _ = frame(&bytes);
            let _ = open_restart(&bytes);
            if let Some((mut withdrawn, _, _)) = split(&bytes) {
                while next_host(&mut withdrawn).is_some() {}
            }
        }

        /// Packed updates hold every host once, in order, in messages of permitted length.
        #[test]
        fn packing_loses_nothing(count in 0..3000u32, withdrawn in any::<bool>()) {
            let mut out = Vec::new();
            let attributes = Attributes { as_path: vec![1, 2], ..Attributes::default() }.encode();
            if withdrawn { withdraw(&mut out, 0..count) } else { announce(&mut out, &attributes, 0..count) }
            let mut got = Vec::new();
            let mut rest = &out[..];
            while let Some((message, len)) = frame(rest).expect("a message") {
                prop_assert_eq!(message.kind, kind::UPDATE);
                let (w, a, n) = split(message.body).expect("an UPDATE");
                prop_assert_eq!(a.is_empty(), withdrawn);
                let mut hosts = if withdrawn { w } else { n };
                while let Some(host) = next_host(&mut hosts) {
                    got.push(host);
                }
                prop_assert!(hosts.is_empty());
                rest = &rest[len..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(got, Vec::from_iter(0..count));
        }
    }

    /// The octets of RFC 4271's and 4456's own words, written by hand: the codec is not only its own mirror.
    #[test]
    fn attributes_look_as_the_rfcs_say() {
        let bytes = [
            0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8, 0x40, 3, 4, 10, 254, 1, 1, 0x80, 4, 4, 0, 0,
            0, 7, 0x40, 5, 4, 0, 0, 0, 100, 0xc0, 8, 4, 0xff, 0xff, 0xff, 0x01, 0x80, 9, 4, 10, 254, 1, 1,
            0x80, 10, 4, 10, 255, 255, 253,
        ];
        let all = Attributes::decode(&bytes).expect("well formed");
        assert_eq!(all.as_path, [65000]);
        assert_eq!(all.communities, [0xffff_ff01]);
        assert_eq!(all.originator, Some(0x0afe_0101));
        assert_eq!(all.cluster_list, [0x0aff_fffd]);
        assert_eq!(all.encode(), bytes);
        let mut twice = bytes.to_vec();
        twice.extend_from_slice(&bytes[..4]);
        assert_eq!(Attributes::decode(&twice), None, "an attribute twice");
        assert_eq!(Attributes::decode(&[0xc0, 1, 1, 0]), None, "ORIGIN with the optional flag");
        let foreign = Attributes::decode(&[0xc0, 32, 0]).expect("well formed");
        assert_eq!(foreign.foreign, [32], "a large community that nobody sent is seen");
    }

    /// The restart capability is found where it stands, and its absence too.
    #[test]
    fn open_says_what_it_was_told() {
        let restart = Restart { secs: 120, restarting: true };
        for told in [None, Some(restart)] {
            let bytes = open(4_200_000_000, 90, 0x0afe_0101, told);
            let (message, len) = frame(&bytes).expect("a message").expect("whole");
            assert_eq!((message.kind, len), (kind::OPEN, bytes.len()));
            assert_eq!(message.body[1..3], 23456u16.to_be_bytes());
            assert_eq!(open_restart(message.body), told);
        }
        assert_eq!(frame(&end_of_rib()).unwrap().unwrap().0.body, [0; 4]);
        assert!(frame(&[0; 19]).is_err());
        assert_eq!(frame(&keepalive()[..18]), Ok(None));
    }
}
