//! A reflector that keeps the routes of lost neighbours (RFC 4724, RFC 9494), and BIRDs that are its clients.

/// The reflector's address.
pub const HUB: &str = "10.8.0.1";

/// Its configuration: graceful restart, long-lived too, with anyone of 10.8.0.0/24.
pub const REFLECTOR: &str = "\
apiVersion: net.routerd.net/v1alpha1
kind: BGPRouter
metadata: {name: reflector}
spec: {asn: 65000, routerID: 10.8.0.1, listen: [\"10.8.0.1:179\"], longLivedStaleSecs: 600}
---
apiVersion: net.routerd.net/v1alpha1
kind: BGPDynamicPeer
metadata: {name: clients}
spec: {sourcePrefixes: [10.8.0.0/24], admission: open}
";

/// A BIRD at this address: for how many seconds it asks to be kept, what follows `long lived graceful restart` in its
/// configuration, and the route that it announces; `None`: it only listens.
pub fn bird(address: &str, restart_secs: u64, long_lived: &str, route: Option<&str>) -> String {
    let (own, export) = match route {
        None => (String::new(), "none".to_string()),
        Some(route) => (
            format!("protocol static own {{ ipv4; route {route} blackhole; }}\n"),
            format!("filter {{ bgp_next_hop = {address}; accept; }}"),
        ),
    };
    format!(
        "log stderr all;\nrouter id {address};\nprotocol device {{ }}\n{own}\
         protocol bgp hub {{ local {address} as 65000; neighbor {HUB} as 65000; multihop; strict bind yes;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
         graceful restart on; graceful restart time {restart_secs}; long lived graceful restart {long_lived};\n\
         ipv4 {{ import all; export {export}; }}; }}\n"
    )
}

/// Whether a BIRD's answer to `show route for … all` has the route, and whether it has it marked LLGR_STALE.
pub fn has_and_marked(answer: &str, route: &str) -> (bool, bool) {
    (answer.contains(route), answer.contains("(65535,6)"))
}
