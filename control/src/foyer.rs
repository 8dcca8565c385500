//! The one-time tunnel of an invite, for a leaf that enrolls and a hub that joins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dataplane::state::{Filter, Peers, PrivateKey, PublicKey, Target, Wireguard, WireguardPeer, Wished};
use enrollment::identity::WireguardKey;
use enrollment::invite::Invite;
use ipnet::Ipv4Net;

/// MTU of the tunnel to the foyer, octets: any path that can carry the fabric carries this.
const FOYER_MTU: u16 = 1200;

/// What a node wishes for while it is in the foyer: the invite's key, its foyer address, and nothing but the hub's
/// foyer address behind the tunnel. `hub_key` is the hub's at `endpoint`. `listen_port` 0 leaves the port to the kernel.
pub fn wished(invite: &Invite, hub_key: &WireguardKey, endpoint: SocketAddr, listen_port: u16) -> Wished {
    let hub = Ipv4Net::from(invite.foyer_hub);
    let peer = WireguardPeer { endpoint: Some(endpoint), allowed_ips: [hub].into(), keepalive_secs: 0 };
    let wireguard = Wireguard {
        private_key: PrivateKey::from_bytes(*invite.wireguard_private_key()),
        listen_port,
        addresses: BTreeSet::from([Ipv4Net::from(invite.foyer_address)]),
        mtu: FOYER_MTU,
        peers: Peers::unit(PublicKey(hub_key.0), peer),
        former_keys: BTreeMap::new(),
    };
    Wished {
        wireguard: Some(wireguard),
        second: None,
        tunnel: None,
        relay: None,
        routes: BTreeMap::from([(hub, Target::Wireguard)]),
        captures: BTreeSet::new(),
        filter: Filter { clamp: None, foyer: None },
    }
}
