//! Prometheus' page of a running reflector with BIRD as its neighbour, and of a leaf before its enrollment: read
//! strictly, and held against what the administration socket says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fabric_tests::space::{Space, peers, until};

#[path = "../../control/src/metrics/strict.rs"]
mod strict;

const HUB: &str = "10.8.0.1";
const LIMIT: Duration = Duration::from_secs(60);

const REFLECTOR: &str = "\
apiVersion: net.routerd.net/v1alpha1
kind: BGPRouter
metadata: {name: reflector}
spec: {asn: 65000, routerID: 10.8.0.1, listen: [\"10.8.0.1:1790\"], metricsListen: \"10.8.0.1:9342\",
  mrtDump: {file: DIR/table.mrt, everySecs: 10, keep: 2}}
---
apiVersion: net.routerd.net/v1alpha1
kind: BGPDynamicPeer
metadata: {name: clients}
spec: {sourcePrefixes: [10.8.0.0/24], admission: open, maxPrefixes: 4}
";

const LEAF: &str = "\
apiVersion: net.routerd.net/v1alpha1
kind: BGPRouter
metadata: {name: leaf}
spec: {metricsListen: \"127.0.0.1:9343\"}
---
apiVersion: mobility.routerd.net/v1alpha1
kind: SAMEnrollmentClient
metadata: {name: leaf}
spec: {dataplane: in-process}
";

fn bird(routes: u8) -> String {
    let routes: String = (1..=routes).map(|n| format!("route 10.77.0.{n}/32 blackhole; ")).collect();
    format!(
        "log stderr all;\nrouter id 10.8.0.2;\nprotocol device {{ }}\nprotocol static own {{ ipv4; {routes}}}\n\
         protocol bgp hub {{ local 10.8.0.2 as 65000; neighbor {HUB} port 1790 as 65000; multihop; strict bind yes;\n\
         connect delay time 1; ipv4 {{ import all; export filter {{ bgp_next_hop = 10.8.0.2; accept; }}; }}; }}\n"
    )
}

/// The page at an address inside the namespace.
fn page(space: &Space, host: &str, port: u16) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port} && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let answer = space.ask(&["timeout", "5", "bash", "-c", &script]);
    let body = answer.split_once("\r\n\r\n").map(|(head, body)| (head.contains(" 200 "), body));
    body.filter(|(good, _)| *good).map(|(_, body)| body.to_string()).unwrap_or_default()
}

fn samples(page: &str) -> BTreeMap<String, f64> {
    strict::read(page).unwrap_or_else(|wrong| panic!("{wrong}\n{page}"))
}

async fn shows(space: &Space, dir: &Path, at: (&str, u16), wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let mut last = String::new();
    until(dir, LIMIT, async || {
        last = page(space, at.0, at.1);
        let seen = if last.is_empty() { BTreeMap::new() } else { samples(&last) };
        wanted.iter().find(|(name, number)| seen.get(*name) != Some(number)).map(|w| format!("{w:?}\n{last}"))
    })
    .await;
    samples(&last)
}

/// The first dump is written at the start, the next ones in their time; `bgpdump` reads the routes from the newest.
async fn dumps_are_kept(dir: &Path) {
    let file = dir.join("table.mrt");
    until(dir, LIMIT, async || {
        let output = std::process::Command::new("bgpdump").arg("-m").arg(&file).output();
        let output = output.expect("bgpdump is installed (Debian package bgpdump)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let routes = (1..=3).filter(|n| text.contains(&format!("|10.77.0.{n}/32|"))).count();
        // The first dump may be late enough to have the routes itself.
        let former = dir.join("table.mrt.1").exists();
        (routes != 3 || text.lines().count() != 3 || !former)
            .then(|| format!("{routes} routes, a former dump: {former}\n{text}"))
    })
    .await;
    assert!(!dir.join("table.mrt.2").exists());
    assert!(!dir.join("table.mrt.new").exists() || dir.join("table.mrt").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflector_tells_prometheus_what_it_tells_its_operator() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut space = Space::new("prom", &[HUB, "10.8.0.2"]);
    space.start_reflector(dir, &REFLECTOR.replace("DIR", &dir.display().to_string()));
    space.start_bird(dir, &bird(3));
    let wanted = [
        ("fabric_ready", 1.0),
        ("fabric_bgp_sessions{state=\"Established\"}", 1.0),
        ("fabric_bgp_peer_established{peer=\"10.8.0.2\"}", 1.0),
        ("fabric_bgp_peer_accepted_prefixes{peer=\"10.8.0.2\"}", 3.0),
        ("fabric_bgp_peer_prefix_limit{peer=\"10.8.0.2\"}", 4.0),
        // Three of four are three quarters.
        ("fabric_bgp_peer_prefix_warnings_total{peer=\"10.8.0.2\"}", 1.0),
        ("fabric_bgp_prefixes", 3.0),
    ];
    let seen = shows(&space, dir, (HUB, 9342), &wanted).await;
    let told = &peers(dir).await[0];
    assert!(seen["fabric_bgp_peer_received_updates_total{peer=\"10.8.0.2\"}"] <= told.updates_in as f64);
    let log = std::fs::read_to_string(dir.join("fabric-rr.log")).unwrap();
    assert_eq!(log.matches("near its prefix limit").count(), 1, "{log}");
    dumps_are_kept(dir).await;
    // Something stands where the next dump is begun: it fails, is counted, and says why.
    std::fs::create_dir(dir.join("table.mrt.new")).unwrap();
    let seen = shows(&space, dir, (HUB, 9342), &[("fabric_mrt_dumps_failed_total", 1.0)]).await;
    assert!(seen["fabric_mrt_dumps_written_total"] >= 2.0);
    space.kill("bird");
    let gone = [("fabric_bgp_peer_established{peer=\"10.8.0.2\"}", 0.0)];
    shows(&space, dir, (HUB, 9342), &gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_answers_before_it_is_enrolled() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut space = Space::new("prom-leaf", &[]);
    let file = dir.join("leaf.yaml");
    std::fs::write(&file, LEAF).unwrap();
    let program = fabric_tests::harness::bin_dir().unwrap().join("fabric-leaf");
    let argv = [program, dir.into(), file].map(|path| path.display().to_string());
    space.start(dir, "fabric-leaf", &[&argv[0], "--root", &argv[1], "--config", &argv[2]]);
    let wanted = [("fabric_ready", 0.0), ("fabric_claims", 0.0), ("fabric_dataplane_routes", 0.0)];
    let seen = shows(&space, dir, ("127.0.0.1", 9343), &wanted).await;
    assert!(seen.keys().any(|name| name.starts_with("fabric_build_info{role=\"leaf\"")), "{seen:?}");
}
