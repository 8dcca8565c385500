//! TCP-MD5 (RFC 2385) and GTSM (RFC 5082) with BIRD and FRR: the right key comes up, another key and none do not,
//! and `fabric-rr` says so; a neighbour that is too far away is not heard.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use bgp::view::{PeerView, SpeakerView};
use fabric_tests::space::{Space, administration, peers, until};

/// The reflector listens on several addresses: BIRD runs one session to each address and port.
const HUBS: [&str; 5] = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5"];
const KEY: &str = "right-key-of-a-range";
const LIMIT: Duration = Duration::from_secs(60);

/// Address, protocol name, whether it comes up.
const NEIGHBOURS: [(&str, &str, bool); 8] = [
    ("10.9.1.2", "bird, the range's key", true),
    ("10.9.1.3", "bird, another key", false),
    ("10.9.1.4", "bird, no key", false),
    ("10.9.1.5", "frr, the range's key", true),
    ("10.9.2.2", "dialled, the right key", true),
    ("10.9.2.3", "dialled, another key", false),
    ("10.9.3.2", "GTSM, TTL 255", true),
    ("10.9.3.3", "GTSM, TTL 64", false),
];

fn key_file(dir: &Path, name: &str, key: &str) -> String {
    let file = dir.join(name);
    let mut options = std::fs::OpenOptions::new();
    let open = options.write(true).create_new(true).mode(0o600).open(&file).unwrap();
    std::io::Write::write_all(&mut &open, format!("{key}\n").as_bytes()).unwrap();
    file.display().to_string()
}

fn reflector(dir: &Path) -> String {
    let (range, dialled) = (key_file(dir, "range.key", KEY), key_file(dir, "peer.key", "key-of-one-peer"));
    let object = |kind: &str, name: &str, spec: String| {
        format!(
            "apiVersion: net.routerd.net/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let peer = |name: &str, address: &str, local: &str| {
        let spec = format!("address: {address}, port: 1792, localAddress: {local}, tcpMD5KeyFile: {dialled}");
        object("BGPPeer", name, spec)
    };
    let listen = HUBS.map(|hub| format!("\"{hub}:1790\"")).join(", ");
    [
        object("BGPRouter", "reflector", format!("asn: 65000, routerID: {}, listen: [{listen}]", HUBS[0])),
        object(
            "BGPDynamicPeer",
            "signed",
            format!("sourcePrefixes: [10.9.1.0/24], admission: open, tcpMD5KeyFile: {range}"),
        ),
        object("BGPDynamicPeer", "near", "sourcePrefixes: [10.9.3.0/24], admission: open, maxHops: 1".into()),
        peer("right", "10.9.2.2", HUBS[0]),
        peer("wrong", "10.9.2.3", HUBS[1]),
    ]
    .join("---\n")
}

fn bird() -> String {
    let quick = "connect delay time 1; connect retry time 1; error wait time 1, 2; strict bind yes;";
    let dials = |name: &str, hub: usize, local: &str, how: &str| {
        let hub = HUBS[hub];
        format!(
            "protocol bgp p_{name} {{ local {local} as 65000; neighbor {hub} port 1790 as 65000; multihop; {quick} {how}\n\
             ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    let waits = |name: &str, hub: usize, local: &str, key: &str| {
        let hub = HUBS[hub];
        format!(
            "protocol bgp p_{name} {{ local {local} port 1792 as 65000; neighbor {hub} as 65000; multihop; passive; {quick}\n\
             password \"{key}\"; ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    [
        "log stderr all;\nrouter id 10.9.1.2;\nprotocol device { }\n".to_string(),
        dials("keyed", 0, "10.9.1.2", &format!("password \"{KEY}\";")),
        dials("other", 1, "10.9.1.3", "password \"wrong\";"),
        dials("unsigned", 2, "10.9.1.4", ""),
        waits("dialled", 0, "10.9.2.2", "key-of-one-peer"),
        waits("misdialled", 1, "10.9.2.3", "another key"),
        dials("near", 3, "10.9.3.2", "ttl security on;"),
        dials("far", 4, "10.9.3.3", ""),
    ]
    .concat()
}

fn frr() -> String {
    let hub = HUBS[0];
    format!(
        "frr defaults traditional\nlog stdout informational\nrouter bgp 65000\n bgp router-id 10.9.1.5\n \
         neighbor {hub} remote-as 65000\n neighbor {hub} port 1790\n neighbor {hub} password {KEY}\n \
         neighbor {hub} update-source 10.9.1.5\n neighbor {hub} timers connect 1\n"
    )
}

/// The right keys come up, by range, by neighbour and dialled; wrong and missing ones do not and are shown; a TTL
/// of 64 is too far for `maxHops: 1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_key_and_distance_come_up() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let addresses: Vec<&str> = HUBS.into_iter().chain(NEIGHBOURS.map(|(a, ..)| a)).collect();
    let mut space = Space::new("md5", &addresses);
    space.start_reflector(dir, &reflector(dir));
    space.start_bird(dir, &bird());
    space.start_frr(dir, &frr());

    let up = |all: &[PeerView], address: &str| {
        all.iter().any(|p| p.address.to_string() == address && p.state == "Established")
    };
    for (address, what, _) in NEIGHBOURS.into_iter().filter(|(.., comes_up)| *comes_up) {
        until(dir, LIMIT, async || {
            let all = peers(dir).await;
            (!up(&all, address)).then(|| format!("{what} is not up: {all:#?}"))
        })
        .await;
    }
    // The wrong ones have been tried meanwhile: the kernel has dropped both kinds, and the dialled one says why.
    until(dir, LIMIT, async || {
        let view: Option<serde_json::Value> = administration(dir, "/v1/resources/BGPRouter").await;
        let status = view.unwrap_or_default()[0]["status"].clone();
        let Ok(view) = serde_json::from_value::<SpeakerView>(status) else { return Some("no answer".into()) };
        let counted = |what: &str| view.md5_dropped.get(what).copied().unwrap_or(0) > 0;
        (!(counted("failure") && counted("not-found"))).then(|| format!("not counted: {view:?}"))
    })
    .await;
    until(dir, LIMIT, async || {
        let all = peers(dir).await;
        let error =
            all.iter().find(|p| p.name == "wrong").and_then(|p| p.last_error.clone()).unwrap_or_default();
        (!error.contains("TCP-MD5")).then(|| format!("the dialled neighbour's error is {error:?}"))
    })
    .await;
    let all = peers(dir).await;
    for (address, what, _) in NEIGHBOURS.into_iter().filter(|(.., comes_up)| !*comes_up) {
        assert!(!up(&all, address), "{what} came up");
    }
    let guards = |name: &str| all.iter().find(|p| p.address.to_string() == name).map(|p| p.guards.join(" "));
    assert_eq!(guards("10.9.1.2").as_deref(), Some("tcp-md5"));
    assert_eq!(guards("10.9.3.2").as_deref(), Some("gtsm"));
    let shown = serde_json::to_string(&all).unwrap();
    let config: serde_json::Value = administration(dir, "/v1/config").await.unwrap();
    for secret in [KEY, "key-of-one-peer"] {
        assert!(!shown.contains(secret) && !config.to_string().contains(secret), "a key is shown");
    }
}
