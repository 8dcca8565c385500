//! Long-lived graceful restart (RFC 9494) with BIRD: a BIRD that is killed and stays away keeps its route, marked, at
//! another BIRD that knows the mark, until its long-lived stale time is over; one that does not is told to withdraw.

use std::path::Path;
use std::time::Duration;

use fabric_tests::space::{Space, peers, until};

const HUB: &str = "10.8.0.1";
const ROUTE: &str = "10.77.0.1/32";
const LIMIT: Duration = Duration::from_secs(40);

const REFLECTOR: &str = "\
apiVersion: net.routerd.net/v1alpha1
kind: BGPRouter
metadata: {name: reflector}
spec: {asn: 65000, routerID: 10.8.0.1, listen: [\"10.8.0.1:1790\"], longLivedStaleSecs: 600}
---
apiVersion: net.routerd.net/v1alpha1
kind: BGPDynamicPeer
metadata: {name: clients}
spec: {sourcePrefixes: [10.8.0.0/24], admission: open}
";

fn bird(address: &str, routes: &str, long_lived: &str, export: &str) -> String {
    format!(
        "log stderr all;\nrouter id {address};\nprotocol device {{ }}\n{routes}\
         protocol bgp hub {{ local {address} as 65000; neighbor {HUB} port 1790 as 65000; multihop; strict bind yes;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
         graceful restart on; graceful restart time 3; long lived graceful restart {long_lived};\n\
         ipv4 {{ import all; export {export}; }}; }}\n"
    )
}

/// Waits until both receivers show the route as wanted: there or not, and with the mark or not.
async fn seen(space: &Space, dir: &Path, [knows, plain]: [&Path; 2], wanted: [(bool, bool); 2]) {
    until(dir, LIMIT, async || {
        let shown = [knows, plain].map(|d| space.birdc(d, &format!("show route for {ROUTE} all")));
        let has = shown.each_ref().map(|s| (s.contains(ROUTE), s.contains("(65535,6)")));
        (has != wanted).then(|| format!("{has:?}\n{shown:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_outlives_its_restart_time_where_the_mark_is_known() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let [source, knows, plain] = ["source", "knows", "plain"].map(|name| dir.join(name));
    [&source, &knows, &plain].iter().for_each(|d| std::fs::create_dir(d).unwrap());
    let mut space = Space::new("llgr", &[HUB, "10.8.0.2", "10.8.0.3", "10.8.0.4"]);
    space.start_reflector(dir, REFLECTOR);
    space.start_bird(&knows, &bird("10.8.0.3", "", "aware", "none"));
    space.start_bird(&plain, &bird("10.8.0.4", "", "off", "none"));
    let route = format!("protocol static own {{ ipv4; route {ROUTE} blackhole; }}\n");
    let next_hop = "filter { bgp_next_hop = 10.8.0.2; accept; }";
    let at = |name: &str| source.join(name).display().to_string();
    std::fs::write(at("bird.conf"), bird("10.8.0.2", &route, "on; long lived stale time 8", next_hop))
        .unwrap();
    let argv = ["bird", "-f", "-c", &at("bird.conf"), "-s", &at("bird.ctl"), "-P", &at("bird.pid")];
    space.start(&source, "source", &argv);
    let both = [knows.as_path(), plain.as_path()];
    seen(&space, dir, both, [(true, false); 2]).await;
    for peer in peers(dir).await {
        let long_lived = peer.capabilities.iter().any(|c| c == "long-lived-graceful-restart");
        assert_eq!(long_lived, peer.address.to_string() != "10.8.0.4", "{peer:#?}");
    }

    space.kill("source");
    seen(&space, dir, both, [(true, true), (false, false)]).await;
    let all = peers(dir).await;
    let away = all.iter().find(|p| p.address.to_string() == "10.8.0.2").expect("it is shown");
    assert_eq!((away.prefixes_stale, away.prefixes_long_lived_stale), (1, 1), "{away:#?}");
    seen(&space, dir, both, [(false, false); 2]).await;
}
