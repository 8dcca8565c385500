//! Configured neighbours as the speaker wants them; both daemons read a `BGPPeer` alike.

use bgp::io::Neighbor;
use bgp::settings::{AddPathOptions, PeerOptions};
use config::{Bfd, BgpPeer, FilePath, Object};

use crate::secret::{SecretError, guard};

/// The neighbours that the configuration names; their TCP-MD5 keys are read here, once.
pub fn neighbors(peers: &[Object<BgpPeer>]) -> Result<Vec<Neighbor>, SecretError> {
    let neighbor = |object: &Object<BgpPeer>| {
        let (name, peer) = (object.name.as_str(), &object.spec);
        let key = peer.tcp_md5_key_file.as_ref().map(FilePath::as_path);
        Ok(Neighbor {
            port: peer.port,
            local_address: peer.local_address,
            route_reflector_client: peer.route_reflector_client,
            hold_time_secs: peer.hold_time_secs,
            options: PeerOptions {
                guard: guard(&format!("BGPPeer/{name}"), key, peer.max_hops)?,
                add_path: AddPathOptions { receive: peer.add_path_receive, send: peer.add_path_send.count() },
                max_prefixes: peer.max_prefixes,
                prefix_warning_percent: peer.prefix_warning_percent,
                multipath: true,
            },
            ..Neighbor::new(name, peer.address, peer.remote_asn)
        })
    };
    peers.iter().map(neighbor).collect()
}

/// The BFD session that a neighbour is wished to have, if any.
pub fn bfd(wished: &Bfd) -> Option<bfd::settings::Settings> {
    wished.enabled.then_some(bfd::settings::Settings {
        min_tx_millis: wished.min_tx_millis,
        min_rx_millis: wished.min_rx_millis,
        multiplier: wished.multiplier,
        multihop: wished.multihop,
    })
}
