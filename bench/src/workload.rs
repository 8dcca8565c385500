//! What each client announces, and what a reflector must make of it.
//!
//! Client `c` owns two sets of host routes: its table (`m` routes, announced once) and its slots (routes that
//! change in the latency and churn scenarios). A slot is absent or has one of the colours 1 to 3, each with
//! attributes of its own, so that the last state is told from the one before.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::wire::{self, Attributes};

/// First address of the tables.
pub const TABLE: u32 = 0x2c00_0000;
/// First address of the slots.
pub const SLOTS: u32 = 0x2d00_0000;
/// First address of what flooders announce.
pub const FLOOD: u32 = 0x2e00_0000;
/// How many routes each of the three spaces holds.
pub const SPACE: usize = 1 << 24;
/// The colour of the table's routes.
pub const TABLE_COLOUR: u8 = 4;
/// How many clients at most.
pub const CLIENTS: usize = 60_000;
/// The first flooder: clients from this number on are no honest ones.
pub const FLOODERS: usize = 50_000;
const NEXT_HOPS: u32 = 0x0afe_0000;
const SOURCES: u32 = 0x7f01_0000;
const LOW_COUNT: usize = 250;

/// The network of all clients' addresses, for the reflector's configuration.
pub const CLIENT_NET: &str = "127.1.0.0/16";
/// The network of all next hops; a reflector that resolves next hops needs a route that covers it.
pub const NEXT_HOP_NET: &str = "10.254.0.0/16";

/// Sizes and identities of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Clients that announce.
    pub clients: usize,
    /// Table routes of each.
    pub routes: usize,
    /// Slots of each.
    pub slots: usize,
    /// The AS number of all.
    pub asn: u32,
    /// The reflector's cluster id.
    pub cluster_id: u32,
}

/// Low 16 bits of a client's addresses: x.y with y from 1 to 250.
fn low(client: usize) -> u32 {
    ((client / LOW_COUNT) << 8 | (client % LOW_COUNT + 1)) as u32
}

/// The address that a client connects from.
pub fn source(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(SOURCES | low(client))
}

/// A client's BGP identifier, which is its next hop too.
pub fn identifier(client: usize) -> u32 {
    NEXT_HOPS | low(client)
}

/// The client with this identifier.
pub fn client_of(identifier: u32) -> Option<usize> {
    let (high, low) = ((identifier >> 8 & 0xff) as usize, (identifier & 0xff) as usize);
    (identifier & 0xffff_0000 == NEXT_HOPS && (1..=LOW_COUNT).contains(&low))
        .then(|| high * LOW_COUNT + low - 1)
}

impl Workload {
    /// Whether the sizes fit the address spaces.
    pub fn fits(&self) -> bool {
        (2..FLOODERS).contains(&self.clients)
            && self.clients * self.routes <= SPACE
            && self.clients * self.slots <= SPACE
    }

    /// Routes of all tables.
    pub fn table_len(&self) -> usize {
        self.clients * self.routes
    }

    /// Slots of all clients.
    pub fn slots_len(&self) -> usize {
        self.clients * self.slots
    }

    /// The table routes of a client, by number.
    pub fn table_of(&self, client: usize) -> Range<usize> {
        client * self.routes..(client + 1) * self.routes
    }

    /// The slots of a client, by number.
    pub fn slots_of(&self, client: usize) -> Range<usize> {
        client * self.slots..(client + 1) * self.slots
    }

    /// What a client sends with its routes of a colour.
    pub fn sent(&self, client: usize, colour: u8) -> Attributes {
        let (c, n) = (client as u32, u32::from(colour));
        Attributes {
            origin: 0,
            // Neither number is the reflector's own AS, which would be a loop.
            as_path: vec![4_210_000_000 + c, 4_220_000_000 + n],
            next_hop: identifier(client),
            med: Some(1000 + n),
            local_pref: Some(100 + n),
            communities: vec![65_010 << 16 | c & 0xffff, 65_011 << 16 | n],
            ..Attributes::default()
        }
    }

    /// What every other client must receive of them (RFC 4456 section 8).
    pub fn reflected(&self, client: usize, colour: u8) -> Attributes {
        let mut all = self.sent(client, colour);
        all.originator = Some(identifier(client));
        all.cluster_list = vec![self.cluster_id];
        all
    }

    /// The UPDATEs that announce a client's table.
    pub fn announcements(&self, client: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let hosts = self.table_of(client).map(|g| TABLE + g as u32);
        wire::announce(&mut out, &self.sent(client, TABLE_COLOUR).encode(), hosts);
        out
    }

    /// Appends the UPDATE that brings a slot to a colour; 0 withdraws it.
    pub fn change(&self, out: &mut Vec<u8>, encoded: &[Vec<u8>; 4], slot: usize, colour: u8) {
        let host = std::iter::once(SLOTS + slot as u32);
        match colour {
            0 => wire::withdraw(out, host),
            _ => wire::announce(out, &encoded[usize::from(colour)], host),
        }
    }

    /// A client's encoded attributes by colour, for [`Workload::change`].
    pub fn encoded(&self, client: usize) -> [Vec<u8>; 4] {
        [0, 1, 2, 3].map(|colour| self.sent(client, colour).encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Workload = Workload { clients: 3, routes: 1000, slots: 8, asn: 65000, cluster_id: 9 };

    /// Identities of clients are their own and lead back to them.
    #[test]
    fn identifiers_lead_back() {
        for client in (0..CLIENTS).step_by(7) {
            assert_eq!(client_of(identifier(client)), Some(client));
        }
        assert_eq!(source(0), Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(source(250), Ipv4Addr::new(127, 1, 1, 1));
        assert_eq!(client_of(0x0afe_0000), None);
        assert_eq!(client_of(0x0aff_0001), None);
    }

    /// Each client's table and slots are apart from all others', and no two colours look alike.
    #[test]
    fn routes_have_one_owner() {
        assert!(SMALL.fits());
        assert_eq!(SMALL.table_of(2), 2000..3000);
        assert_eq!(SMALL.slots_of(1), 8..16);
        let all: Vec<_> = (0..3).flat_map(|c| (1..=TABLE_COLOUR).map(move |k| SMALL.sent(c, k))).collect();
        assert!((1..all.len()).all(|i| !all[..i].contains(&all[i])));
        assert!(!Workload { routes: SPACE, ..SMALL }.fits());
    }

    /// A reflector adds two attributes and changes none.
    #[test]
    fn reflection_adds_two_attributes() {
        let mut got = SMALL.reflected(1, 2);
        assert_eq!(
            (got.originator.take(), std::mem::take(&mut got.cluster_list)),
            (Some(identifier(1)), vec![9])
        );
        assert_eq!(got, SMALL.sent(1, 2));
    }

    /// A change names its slot and nothing else.
    #[test]
    fn a_change_is_one_route() {
        for colour in 0..4 {
            let mut out = Vec::new();
            SMALL.change(&mut out, &SMALL.encoded(1), 9, colour);
            let (message, len) = wire::frame(&out).unwrap().unwrap();
            assert_eq!(len, out.len());
            let (withdrawn, attributes, nlri) = wire::split(message.body).unwrap();
            let host = [32, 0x2d, 0, 0, 9];
            match colour {
                0 => assert_eq!((withdrawn, attributes, nlri), (&host[..], &[][..], &[][..])),
                _ => {
                    assert_eq!((withdrawn, nlri), (&[][..], &host[..]));
                    assert_eq!(Attributes::decode(attributes), Some(SMALL.sent(1, colour)));
                }
            }
        }
    }
}
