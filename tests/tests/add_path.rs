//! ADD-PATH (RFC 7911) with BIRD and FRR: BIRD sends two paths of one prefix, `fabric-rr` takes both and sends both
//! to those that ask, another BIRD and FRR; a path that is withdrawn goes alone.

use std::path::Path;
use std::time::Duration;

use fabric_tests::space::{Space, peers, until};

const HUB: &str = "10.8.0.1";
const ROUTE: &str = "10.77.0.1/32";
const HOPS: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const LIMIT: Duration = Duration::from_secs(60);

const REFLECTOR: &str = "\
apiVersion: net.routerd.net/v1alpha1
kind: BGPRouter
metadata: {name: reflector}
spec: {asn: 65000, routerID: 10.8.0.1, listen: [\"10.8.0.1:1790\"]}
---
apiVersion: net.routerd.net/v1alpha1
kind: BGPDynamicPeer
metadata: {name: clients}
spec: {sourcePrefixes: [10.8.0.0/24], admission: open, addPathSend: all, addPathReceive: true}
";

fn bird(address: &str, routes: &str, paths: &str, export: &str) -> String {
    format!(
        "log stderr all;\nrouter id {address};\nprotocol device {{ }}\n{routes}\
         protocol bgp hub {{ local {address} as 65000; neighbor {HUB} port 1790 as 65000; multihop; strict bind yes;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
         ipv4 {{ import all; {export} add paths {paths}; }}; }}\n"
    )
}

fn sender() -> String {
    let one = |n: usize| format!("protocol static s{n} {{ ipv4; route {ROUTE} blackhole; }}\n");
    let export = format!(
        "export filter {{ if proto = \"s0\" then bgp_next_hop = {}; else bgp_next_hop = {}; accept; }};",
        HOPS[0], HOPS[1]
    );
    bird("10.8.0.2", &(one(0) + &one(1)), "tx", &export)
}

fn frr() -> String {
    format!(
        "frr defaults traditional\nlog stdout informational\nrouter bgp 65000\n bgp router-id 10.8.0.3\n \
         no bgp network import-check\n neighbor {HUB} remote-as 65000\n neighbor {HUB} port 1790\n \
         neighbor {HUB} update-source 10.8.0.3\n neighbor {HUB} timers connect 1\n"
    )
}

/// What a router's answer names of the two next hops.
fn named(answer: &str) -> Vec<&'static str> {
    HOPS.into_iter().filter(|hop| answer.contains(hop)).collect()
}

async fn everybody_has(space: &Space, dir: &Path, second: &Path, wanted: &[&str]) {
    until(dir, LIMIT, async || {
        let frr = space.vtysh(dir, &format!("show bgp ipv4 unicast {ROUTE} json"));
        let bird = space.birdc(second, &format!("show route for {ROUTE} all"));
        let seen = [named(&frr), named(&bird)];
        (seen != [wanted, wanted]).then(|| format!("{seen:?}\n{frr}\n{bird}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_paths_of_one_prefix_pass_through() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let second = dir.join("second");
    std::fs::create_dir(&second).unwrap();
    let mut space = Space::new("paths", &[HUB, "10.8.0.2", "10.8.0.3", "10.8.0.4"]);
    space.start_reflector(dir, REFLECTOR);
    space.start_bird(dir, &sender());
    space.start_frr(dir, &frr());
    space.start_bird(&second, &bird("10.8.0.4", "", "rx", "export none;"));

    everybody_has(&space, dir, &second, &HOPS).await;
    let all = peers(dir).await;
    let sender = all.iter().find(|p| p.address.to_string() == "10.8.0.2").expect("the sender is a peer");
    assert_eq!(sender.prefixes_accepted, 2, "{sender:#?}");
    assert!(sender.capabilities.iter().any(|c| c == "add-path-receive"), "{sender:#?}");
    for receiver in ["10.8.0.3", "10.8.0.4"] {
        let view = all.iter().find(|p| p.address.to_string() == receiver).expect("a peer");
        assert_eq!(view.prefixes_sent, 2, "{view:#?}");
        assert!(view.capabilities.iter().any(|c| c == "add-path-send"), "{view:#?}");
    }
    space.birdc(dir, "disable s0");
    everybody_has(&space, dir, &second, &HOPS[1..]).await;
    space.birdc(dir, "enable s0");
    everybody_has(&space, dir, &second, &HOPS).await;
}
