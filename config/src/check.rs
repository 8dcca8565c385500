//! Resources that are each right but do not fit together.

use ipnet::{IpNet, Ipv4Net};

use crate::mistake::{Mistakes, Position, Problem};
use crate::node_config::{Enrollment, Hub, Leaf, Object};
use crate::spec::{BgpDynamicPeer, BgpPeer, Capture, PeerAdmission, SamEnrollmentPolicy};
use crate::value::Endpoint;

fn conflict(mistakes: &mut Mistakes, at: &Position, text: impl Into<String>) {
    mistakes.add(at.clone(), Problem::Conflict(text.into()));
}

pub(crate) fn hub(hub: &Hub, mistakes: &mut Mistakes) {
    for peer in &hub.dynamic_peers {
        admission(peer, hub.enrollment.as_ref(), mistakes);
    }
    source_prefixes(&hub.dynamic_peers, mistakes);
    peers(&hub.peers, mistakes);
    if let Some(enrollment) = &hub.enrollment {
        policy(&enrollment.policy, mistakes);
    }
}

pub(crate) fn leaf(leaf: &Leaf, mistakes: &mut Mistakes) {
    for key in ["listen", "clusterID"] {
        if let Some(at) = leaf.router.keys.get(key) {
            conflict(mistakes, at, format!("a leaf dials and does not reflect: leave `{key}` out"));
        }
    }
    for peer in leaf.peers.iter().filter(|peer| peer.spec.route_reflector_client) {
        let at = peer.at_key("routeReflectorClient");
        conflict(mistakes, at, "a leaf does not reflect: leave `routeReflectorClient` out");
    }
    peers(&leaf.peers, mistakes);
    let client = &leaf.client;
    match (client.spec.capture, &client.spec.capture_interface) {
        (Capture::ProxyArp, None) => {
            conflict(mistakes, client.at_key("capture"), "`capture: proxy-arp` needs a `captureInterface`");
        }
        (Capture::None, Some(_)) => {
            let text = "`captureInterface` does nothing without `capture: proxy-arp`";
            conflict(mistakes, client.at_key("captureInterface"), text);
        }
        (Capture::ProxyArp, Some(_)) | (Capture::None, None) => {}
    }
}

fn admission(peer: &Object<BgpDynamicPeer>, enrollment: Option<&Enrollment>, mistakes: &mut Mistakes) {
    if peer.spec.admission != PeerAdmission::Enrolled {
        return;
    }
    let Some(enrollment) = enrollment else {
        let text =
            "`admission: enrolled` needs a SAMEnrollmentPolicy; a plain reflector has `admission: open`";
        return conflict(mistakes, peer.at_key("admission"), text);
    };
    let overlay = IpNet::V4(enrollment.policy.spec.overlay_prefix);
    for prefix in peer.spec.source_prefixes.iter().filter(|prefix| !overlay.contains(*prefix)) {
        let text =
            format!("enrolled leaves connect from the overlay prefix {overlay}, and {prefix} is not inside");
        conflict(mistakes, peer.at_key("sourcePrefixes"), text);
    }
}

/// A neighbour belongs to one BGPDynamicPeer only.
fn source_prefixes(peers: &[Object<BgpDynamicPeer>], mistakes: &mut Mistakes) {
    let mut seen: Vec<(&IpNet, &Object<BgpDynamicPeer>)> = Vec::new();
    for peer in peers {
        for prefix in &peer.spec.source_prefixes {
            let other = seen.iter().find(|(other, _)| other.contains(prefix) || prefix.contains(*other));
            if let Some((other, owner)) = other {
                let whose =
                    format!("{other} of BGPDynamicPeer/{} at {}", owner.name, owner.at_key("sourcePrefixes"));
                let text = format!("`sourcePrefixes` {prefix} overlaps {whose}");
                conflict(mistakes, peer.at_key("sourcePrefixes"), text);
            }
            seen.push((prefix, peer));
        }
    }
}

fn peers(peers: &[Object<BgpPeer>], mistakes: &mut Mistakes) {
    for (index, peer) in peers.iter().enumerate() {
        let same = |other: &&Object<BgpPeer>| other.spec.address == peer.spec.address;
        if let Some(other) = peers[..index].iter().find(same) {
            let text = format!("{} is already BGPPeer/{} at {}", peer.spec.address, other.name, other.at);
            conflict(mistakes, peer.at_key("address"), text);
        }
    }
}

fn policy(policy: &Object<SamEnrollmentPolicy>, mistakes: &mut Mistakes) {
    let spec = &policy.spec;
    if spec.lease_secs < 2 * spec.fail_static_secs {
        let text = format!(
            "`leaseSecs` must be at least twice `failStaticSecs`: {} is less than 2 × {}",
            spec.lease_secs, spec.fail_static_secs
        );
        let key = if policy.keys.contains_key("leaseSecs") { "leaseSecs" } else { "failStaticSecs" };
        conflict(mistakes, policy.at_key(key), text);
    }
    for endpoint in &spec.endpoints {
        if let Endpoint::Address(address) = endpoint
            && IpNet::V4(spec.overlay_prefix).contains(&address.ip())
        {
            let text = format!("endpoint {endpoint} lies inside the overlay prefix {}", spec.overlay_prefix);
            conflict(mistakes, policy.at_key("endpoints"), text);
        }
    }
    let swallowed = |prefix: &&Ipv4Net| spec.overlay_prefix.contains(*prefix);
    for prefix in spec.permitted_prefixes.iter().filter(swallowed) {
        let text =
            format!("permitted prefix {prefix} lies inside the overlay prefix {}", spec.overlay_prefix);
        conflict(mistakes, policy.at_key("permittedPrefixes"), text);
    }
}
