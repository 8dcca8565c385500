//! MRT table dumps (RFC 6396 section 4.3, RFC 8050): the table as files that `bgpdump` and others read.

use std::net::IpAddr;

use crate::attributes::{Attributes, Raw, Walk, code};
use crate::message::{Address, put_prefix};
use crate::types::{Family, RouterId};

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;

/// One path of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The number of its peer in the peer index table.
    pub peer: u16,
    /// Its path identifier (RFC 7911), 0 without ADD-PATH.
    pub path_id: u32,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// The BGP Identifier of its peer.
    pub router_id: RouterId,
    /// Whether we originate it.
    pub local: bool,
}

fn begin(out: &mut Vec<u8>, unix_secs: u32, subtype: u16) -> usize {
    out.extend_from_slice(&unix_secs.to_be_bytes());
    out.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.len()
}

fn finish(out: &mut [u8], at: usize) {
    let len = (out.len() - at) as u32;
    out[at - 4..at].copy_from_slice(&len.to_be_bytes());
}

/// Appends the record that numbers the peers: BGP Identifier, address and AS of each, in order.
pub fn put_peers(
    out: &mut Vec<u8>,
    unix_secs: u32,
    own: RouterId,
    view: &str,
    peers: &[(RouterId, IpAddr, u32)],
) {
    let at = begin(out, unix_secs, PEER_INDEX_TABLE);
    out.extend_from_slice(&own.bits().to_be_bytes());
    let view = &view.as_bytes()[..view.len().min(255)];
    out.extend_from_slice(&(view.len() as u16).to_be_bytes());
    out.extend_from_slice(view);
    let peers = &peers[..peers.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(peers.len() as u16).to_be_bytes());
    for (id, address, asn) in peers {
        // Bit 0: the address is IPv6; bit 1: the AS number has four octets.
        out.push(2 | u8::from(address.is_ipv6()));
        out.extend_from_slice(&id.bits().to_be_bytes());
        match address {
            IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
        }
        out.extend_from_slice(&asn.to_be_bytes());
    }
    finish(out, at);
}

/// Appends the record, or the two, of one prefix; `sequence` counts records. Paths with an identifier have a record
/// type of their own.
pub fn put_routes<A: Address>(
    out: &mut Vec<u8>,
    unix_secs: u32,
    sequence: &mut u32,
    (addr, len): (A, u8),
    entries: &[Entry<'_>],
) {
    for add_path in [false, true] {
        let chosen: Vec<&Entry<'_>> = entries.iter().filter(|e| (e.path_id != 0) == add_path).collect();
        if chosen.is_empty() {
            continue;
        }
        let subtype = match (A::FAMILY, add_path) {
            (Family::Ipv4, false) => 2,
            (Family::Ipv6, false) => 4,
            (Family::Ipv4, true) => 8,
            (Family::Ipv6, true) => 10,
        };
        let at = begin(out, unix_secs, subtype);
        out.extend_from_slice(&sequence.to_be_bytes());
        *sequence = sequence.wrapping_add(1);
        put_prefix(addr, len, out);
        out.extend_from_slice(&(chosen.len().min(usize::from(u16::MAX)) as u16).to_be_bytes());
        for entry in chosen.into_iter().take(usize::from(u16::MAX)) {
            out.extend_from_slice(&entry.peer.to_be_bytes());
            // When a path was learned is not kept: the time of the dump stands for it.
            out.extend_from_slice(&unix_secs.to_be_bytes());
            if add_path {
                out.extend_from_slice(&entry.path_id.to_be_bytes());
            }
            let mut attributes = as_received(entry.attributes, entry.router_id, entry.local);
            if A::FAMILY == Family::Ipv6 {
                // The next hop alone, without family and routes (RFC 6396 section 4.3.4).
                let hop = &entry.attributes.mp_next_hop;
                let value = [&[hop.len() as u8], &hop[..]].concat();
                Raw { flags: 0x80, code: code::MP_REACH, value: &value }.put(&mut attributes);
            }
            out.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
            out.extend_from_slice(&attributes);
        }
        finish(out, at);
    }
}

/// The attribute section as the peer sent it, without what we add for reflection (RFC 4456 section 8). An
/// ORIGINATOR_ID that a peer has put on its own route is not told from ours and left out as well.
pub fn as_received(a: &Attributes, router_id: RouterId, local: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(a.blob.len());
    for raw in Walk(&a.blob) {
        match raw.code {
            code::ORIGINATOR_ID if !local && a.originator == router_id && a.cluster_count == 0 => {}
            code::CLUSTER_LIST if !local && a.cluster_count == 0 => {}
            code::CLUSTER_LIST if !local => {
                Raw { value: raw.value.get(4..).unwrap_or_default(), ..raw }.put(&mut out);
            }
            _ => raw.put(&mut out),
        }
    }
    out
}
