//! Resources that are each right but do not fit together.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::mistake::{Mistakes, Position, Problem};
use crate::node_config::Object;
use crate::spec::{
    BgpDynamicPeer, BgpPeer, BgpRouter, Capture, PeerAdmission, SamEnrollmentClient, SamEnrollmentPolicy,
};
use crate::value::Endpoint;

fn conflict(mistakes: &mut Mistakes, at: &Position, text: impl Into<String>) {
    mistakes.add(at.clone(), Problem::Conflict(text.into()));
}

/// What is nothing without graceful restart (RFC 9494 section 4.1).
pub(crate) fn router(router: &Object<BgpRouter>, mistakes: &mut Mistakes) {
    let keys = ["gracefulRestartSecs", "longLivedStaleSecs"];
    let spec = &router.spec;
    if router.sound(&keys) && spec.long_lived_stale_secs > 0 && spec.graceful_restart_secs == 0 {
        let text = "`longLivedStaleSecs` does nothing without graceful restart: set `gracefulRestartSecs`, or leave it out";
        conflict(mistakes, router.at_key("longLivedStaleSecs"), text);
    }
}

/// The metrics are for the operator's network alone unless a person says otherwise.
pub(crate) fn metrics(router: &Object<BgpRouter>, mistakes: &mut Mistakes) {
    let spec = &router.spec;
    if !router.sound(&["metricsListen", "metricsPublic"]) || spec.metrics_public {
        return;
    }
    if let Some(at) = spec.metrics_listen.filter(|at| is_public(at.ip())) {
        let text = format!(
            "`metricsListen` {at} may be reached from the Internet: give a loopback, private or overlay address, or set `metricsPublic: true`"
        );
        conflict(mistakes, router.at_key("metricsListen"), text);
    }
}

/// Whether an address is not of a loopback, private, shared or link-local range, or stands for all of the host.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(a) => {
            let shared = a.octets()[0] == 100 && a.octets()[1] & 0xc0 == 64;
            !(a.is_loopback() || a.is_private() || a.is_link_local() || shared)
        }
        IpAddr::V6(a) => !(a.is_loopback() || a.is_unique_local() || a.is_unicast_link_local()),
    }
}

/// What a hub has no use for: it installs no client routes.
pub(crate) fn hub_router(router: &Object<BgpRouter>, mistakes: &mut Mistakes) {
    if router.sound(&["maximumPaths"]) && router.spec.maximum_paths > 1 {
        let text =
            "a hub installs no client routes: leave `maximumPaths` out; `addPathSend` sends several paths";
        conflict(mistakes, router.at_key("maximumPaths"), text);
    }
}

/// The fabric is one AS: a neighbour of another one would be refused with 2/2 (bad peer AS) at every attempt.
pub(crate) fn internal(
    asn: u32,
    dynamic_peers: &[Object<BgpDynamicPeer>],
    peers: &[Object<BgpPeer>],
    mistakes: &mut Mistakes,
) {
    let dynamic = dynamic_peers.iter().filter(|d| d.sound(&["remoteASN"]));
    let dynamic = dynamic.map(|d| (d.spec.remote_asn, d.at_key("remoteASN")));
    let dialled = peers.iter().filter(|p| p.sound(&["remoteASN"]));
    let dialled = dialled.map(|p| (p.spec.remote_asn, p.at_key("remoteASN")));
    for (remote, at) in dynamic.chain(dialled).filter(|(remote, _)| *remote != asn) {
        let text = format!(
            "external BGP is not spoken: `remoteASN` {remote} must be the `asn` of the BGPRouter, {asn}; \
             let a router of AS {remote} speak internal BGP with this node, or leave `remoteASN` out"
        );
        conflict(mistakes, at, text);
    }
}

/// The resources of a hub; `enrolls` says whether a policy is written, `policy` whether it could be read.
pub(crate) fn hub(
    enrolls: bool,
    policy: Option<&Object<SamEnrollmentPolicy>>,
    dynamic_peers: &[Object<BgpDynamicPeer>],
    peers: &[Object<BgpPeer>],
    mistakes: &mut Mistakes,
) {
    for peer in dynamic_peers {
        admission(peer, enrolls, policy, mistakes);
    }
    source_prefixes(dynamic_peers, mistakes);
    dialled(peers, mistakes);
    keyed_ranges(dynamic_peers, peers, mistakes);
    if let Some(policy) = policy {
        lease(policy, mistakes);
        overlay(policy, mistakes);
        registry(policy, mistakes);
        http(policy, mistakes);
    }
}

/// On the Internet enrollment needs no TCP port: one is opened there only if a person insists.
fn http(policy: &Object<SamEnrollmentPolicy>, mistakes: &mut Mistakes) {
    let spec = &policy.spec;
    if !policy.sound(&["httpListen", "httpPublic"]) || spec.http_public {
        return;
    }
    if let Some(at) = spec.http_listen.filter(|at| is_public(at.ip())) {
        let text = format!(
            "`httpListen` {at} may be reached from the Internet, where leaves enroll through WireGuard and no TCP port need be open: give a private address, leave it out, or insist with `httpPublic: true` (`hub init --yes-expose`)"
        );
        conflict(mistakes, policy.at_key("httpListen"), text);
    }
}

fn registry(policy: &Object<SamEnrollmentPolicy>, mistakes: &mut Mistakes) {
    let spec = &policy.spec;
    if let Some(text) = spec.registry.mistake() {
        conflict(mistakes, policy.at_key("registry"), text);
    }
    if spec.registry_password_file.is_some() && spec.registry.url().is_none() {
        let text = "`registryPasswordFile` does nothing with the registry in SQLite: leave it out, or set `registry`";
        conflict(mistakes, policy.at_key("registryPasswordFile"), text);
    }
}

/// The resources of a leaf.
pub(crate) fn leaf(
    router: Option<&Object<BgpRouter>>,
    client: Option<&Object<SamEnrollmentClient>>,
    peers: &[Object<BgpPeer>],
    mistakes: &mut Mistakes,
) {
    for key in ["listen", "clusterID"] {
        if let Some(at) = router.and_then(|router| router.keys.get(key)) {
            conflict(mistakes, at, format!("a leaf dials and does not reflect: leave `{key}` out"));
        }
    }
    for peer in peers.iter().filter(|peer| peer.spec.route_reflector_client) {
        let at = peer.at_key("routeReflectorClient");
        conflict(mistakes, at, "a leaf does not reflect: leave `routeReflectorClient` out");
    }
    dialled(peers, mistakes);
    if let Some(client) = client {
        capture(client, mistakes);
    }
}

fn capture(client: &Object<SamEnrollmentClient>, mistakes: &mut Mistakes) {
    if !client.sound(&["capture", "captureInterface"]) {
        return;
    }
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

fn admission(
    peer: &Object<BgpDynamicPeer>,
    enrolls: bool,
    policy: Option<&Object<SamEnrollmentPolicy>>,
    mistakes: &mut Mistakes,
) {
    if peer.spec.admission != PeerAdmission::Enrolled || !peer.sound(&["admission"]) {
        return;
    }
    if !enrolls {
        let text =
            "`admission: enrolled` needs a SAMEnrollmentPolicy; a plain reflector has `admission: open`";
        return conflict(mistakes, peer.at_key("admission"), text);
    }
    let Some(policy) = policy.filter(|policy| policy.sound(&["overlayPrefix"])) else { return };
    let overlay = IpNet::V4(policy.spec.overlay_prefix);
    for prefix in peer.spec.source_prefixes.iter().filter(|prefix| !overlay.contains(*prefix)) {
        let text =
            format!("enrolled leaves connect from the overlay prefix {overlay}, and {prefix} is not inside");
        conflict(mistakes, peer.at_key("sourcePrefixes"), text);
    }
}

/// A neighbour belongs to one BGPDynamicPeer only.
fn source_prefixes(peers: &[Object<BgpDynamicPeer>], mistakes: &mut Mistakes) {
    let mut seen: Vec<(&IpNet, &Object<BgpDynamicPeer>)> = Vec::new();
    for peer in peers.iter().filter(|peer| peer.sound(&["sourcePrefixes"])) {
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

fn dialled(peers: &[Object<BgpPeer>], mistakes: &mut Mistakes) {
    for (index, peer) in peers.iter().enumerate() {
        let same = |other: &&Object<BgpPeer>| other.spec.address == peer.spec.address;
        if let Some(other) = peers[..index].iter().find(same) {
            let text = format!("{} is already BGPPeer/{} at {}", peer.spec.address, other.name, other.at);
            conflict(mistakes, peer.at_key("address"), text);
        }
        if let Some(local) = peer.spec.local_address.filter(|l| l.is_ipv4() != peer.spec.address.is_ipv4()) {
            let text =
                format!("`localAddress` {local} is of another family than `address` {}", peer.spec.address);
            conflict(mistakes, peer.at_key("localAddress"), text);
        }
    }
}

/// The kernel demands the range's key of every address in it that has no key of its own.
fn keyed_ranges(
    dynamic_peers: &[Object<BgpDynamicPeer>],
    peers: &[Object<BgpPeer>],
    mistakes: &mut Mistakes,
) {
    let keyed =
        dynamic_peers.iter().filter(|d| d.spec.tcp_md5_key_file.is_some() && d.sound(&["sourcePrefixes"]));
    for range in keyed {
        let inside = |p: &&Object<BgpPeer>| {
            p.spec.tcp_md5_key_file.is_none()
                && p.sound(&["tcpMD5KeyFile"])
                && range.spec.source_prefixes.iter().any(|net| net.contains(&p.spec.address))
        };
        for peer in peers.iter().filter(inside) {
            let text = format!(
                "{} lies inside the `sourcePrefixes` of BGPDynamicPeer/{}, which has a `tcpMD5KeyFile`: this BGPPeer needs one too",
                peer.spec.address, range.name
            );
            conflict(mistakes, peer.at_key("address"), text);
        }
    }
}

fn lease(policy: &Object<SamEnrollmentPolicy>, mistakes: &mut Mistakes) {
    let (lease, silent) = (policy.spec.lease_secs, policy.spec.fail_static_secs);
    if policy.sound(&["leaseSecs", "failStaticSecs"]) && lease < 2 * silent {
        let text =
            format!("`leaseSecs` must be at least twice `failStaticSecs`: {lease} is less than 2 × {silent}");
        let key = if policy.keys.contains_key("leaseSecs") { "leaseSecs" } else { "failStaticSecs" };
        conflict(mistakes, policy.at_key(key), text);
    }
}

/// The overlay route must cover neither its own underlay nor clients.
fn overlay(policy: &Object<SamEnrollmentPolicy>, mistakes: &mut Mistakes) {
    let spec = &policy.spec;
    if !policy.sound(&["overlayPrefix"]) {
        return;
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
