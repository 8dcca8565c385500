//! `hub init --http-listen` as it is shipped: a leaf on a private underlay enrolls over TLS by a string that pins the
//! key, while WireGuard cannot be reached; another key is refused, and so is an address that the Internet can reach.

use std::process::Stdio;

use fabric_tests::switch::{Switch, ip};

/// Where the hub serves enrollment over TLS.
const DOOR: &str = "10.9.0.1:8443";

/// Nothing public is opened unless a person insists, by the flag or by hand in the file, and the reason is told.
fn refused_in_public(net: &mut Switch) {
    let init = ["hub", "init", "--endpoint", "192.0.2.1", "--no-start", "--http-listen"];
    for public in ["192.0.2.1", "0.0.0.0:8443", "[2001:db8::1]:8443"] {
        let (good, told) = net.ask("b", &[&init[..], &[public]].concat());
        assert!(
            !good && told.contains("reached from the Internet") && told.contains("--yes-expose"),
            "{told}"
        );
        assert!(told.contains("WireGuard"), "the reason: {told}");
    }
    net.must("b", &[&init[..], &["192.0.2.2", "--yes-expose"]].concat());
    let file = net.path("b").join("etc/fabric/hub.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(", httpPublic: true", "")).unwrap();
    net.start("b", "fabric-rr");
    net.until("a daemon whose file exposes it does not start, and says why", || {
        net.logs().contains("reached from the Internet")
    });
    assert!(!net.path("b").join("run/fabric/hub.sock").exists());
    net.kill("b");
}

/// What OpenSSL finds at the door: the pin of its public key, as curl and the hub write it.
fn pin_by_openssl(net: &Switch) -> String {
    let command = format!(
        "openssl s_client -connect {DOOR} </dev/null 2>/dev/null | openssl x509 -pubkey -noout \
         | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl base64 -A"
    );
    let output = net.run("c", &["sh", "-c", &command]).stderr(Stdio::inherit()).output().unwrap();
    format!("sha256//{}", String::from_utf8_lossy(&output.stdout).trim())
}

fn starts(net: &mut Switch, leaf: &'static str) {
    net.start(leaf, "fabric-leaf");
    let socket = net.path(leaf).join("run/fabric/leaf.sock");
    net.until("the leaf's daemon starts", || {
        socket.exists() && net.ask(leaf, &["status"]).1.contains("phase")
    });
}

/// Whether a leaf may send to the hub's WireGuard.
fn wireguard(net: &Switch, leaf: &str, open: bool) {
    let words = match open {
        true => "delete table inet test",
        false => {
            "add table inet test; add chain inet test out { type filter hook output priority 0; }; \
                  add rule inet test out udp dport 51820 drop"
        }
    };
    assert!(net.run(leaf, &["nft", words]).status().unwrap().success(), "nft {words}");
}

/// One walk, because each step stands on the one before.
#[test]
fn a_leaf_enrolls_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Switch::new("td", dir.path(), &["a", "b", "c", "d"]);
    for (n, node) in [(1, "a"), (3, "c"), (4, "d")] {
        ip(&format!("-n {} address add 10.9.0.{n}/24 dev eth0", net.name(node)));
    }
    refused_in_public(&mut net);
    net.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--http-listen", "10.9.0.1", "--no-start"]);
    net.start("a", "fabric-rr");
    net.until("the hub starts", || net.ask("a", &["status"]).0);
    let status = net.json("a", &["get", "SAMEnrollmentPolicy"])[0]["status"]["tls"].clone();
    assert_eq!(status["endpoints"][0], DOOR, "{status}");
    assert_eq!(status["pin"], pin_by_openssl(&net).as_str(), "what OpenSSL sees there");
    let key = net.path("a").join("var/lib/fabric/http-tls.pem");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key).unwrap());
    assert_eq!(mode & 0o7777, 0o600);

    // WireGuard's port cannot be reached: the leaf is admitted all the same, and its site works once it can.
    let invite = net.must("a", &["invite", "--site", "aws"]);
    let early = net.must("a", &["invite", "--site", "oci"]);
    assert!(invite.starts_with("fabric3-"), "{} characters", invite.len());
    starts(&mut net, "c");
    wireguard(&net, "c", false);
    let routerctl = fabric_tests::harness::bin_dir().unwrap().join("routerctl");
    let (routerctl, root) = (routerctl.display().to_string(), net.path("c").display().to_string());
    let argv = [&routerctl, "--root", &root, "enroll", &invite, "--client", "10.81.10.20"];
    let enrolling = net.run("c", &argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    net.until("the leaf is admitted without WireGuard", || {
        let leaves = net.json("a", &["leaves"]).to_string();
        leaves.contains("\"aws\"") && leaves.contains("Admitted")
    });
    wireguard(&net, "c", true);
    let output = enrolling.wait_with_output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains(&format!("https://{DOOR}")), "{told}\n{}", net.logs());
    net.until("the site is ready", || net.json("c", &["status"])["phase"] == "Ready");
    let peers = net.json("a", &["bgp", "peers"]).to_string();
    assert!(peers.contains("Established"), "{peers}");

    // The hub's key is another one now: what was invited before pins the old one, and is not believed any more.
    net.kill("a");
    std::fs::remove_file(&key).unwrap();
    net.start("a", "fabric-rr");
    net.until("the hub starts again", || net.ask("a", &["status"]).0);
    starts(&mut net, "d");
    let (good, told) = net.ask("d", &["enroll", &early]);
    assert!(!good && told.contains("pin-mismatch"), "{told}");
    assert!(!net.json("a", &["leaves"]).to_string().contains("\"oci\""), "nothing was said to the hub");
    net.must("a", &["invite", "revoke", &id_of(&net, "oci")]);
    let fresh = net.must("a", &["invite", "--site", "oci"]);
    net.must("d", &["enroll", &fresh]);

    // An old string without a door still means the foyer.
    net.kill("a");
    let file = net.path("a").join("etc/fabric/hub.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!(", httpListen: \"{DOOR}\""), "")).unwrap();
    net.start("a", "fabric-rr");
    net.until("the hub starts without a door", || net.ask("a", &["status"]).0);
    assert!(net.must("a", &["invite", "--site", "pve"]).starts_with("fabric1-"));
    assert!(
        pin_by_openssl(&net).ends_with("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
        "nobody answers there"
    );
}

/// The id of a site's open invite.
fn id_of(net: &Switch, site: &str) -> String {
    let invites = net.json("a", &["invite", "list"]);
    let found = invites.as_array().and_then(|all| all.iter().find(|invite| invite["site"] == site).cloned());
    found.and_then(|invite| invite["id"].as_str().map(String::from)).unwrap_or_default()
}
