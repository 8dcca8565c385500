//! The matrix on a real kernel, its packets carried by the kernel's plain routing in place of the fabric:
//! private addresses are let through the Internet, so that pairs can be green, and broken one by one.

use crate::support::{Place, ok};
use lab::layout::{Node, SITES};
use lab::{Lab, MatrixOptions};

/// Lets the sites reach each other without a fabric: the Internet carries private addresses, the gateways do
/// not translate them, and the leaves hand packets back to their gateways.
async fn plain_routing(lab: &Lab) {
    ok(lab, "inet", "nft delete table ip isp").await;
    for site in &SITES {
        ok(lab, "inet", &format!("ip route add {} via {}", site.prefix(), site.public)).await;
        let gateway = site.gateway_node().name();
        ok(lab, &gateway, "nft insert rule ip provider after ip daddr 10.0.0.0/8 accept").await;
        ok(lab, &gateway, "nft flush chain ip provider routed").await;
        for other in site.others() {
            ok(lab, &gateway, &format!("ip route replace {} via {}", other.prefix(), site.upstream)).await;
        }
    }
    for other in SITES[3].others() {
        ok(lab, "pve-client", &format!("ip route replace {} via 10.99.9.1", other.prefix())).await;
    }
}

fn quick() -> MatrixOptions {
    MatrixOptions { limit_secs: 5, ..MatrixOptions::default() }
}

/// Proves that twelve pairs pass all four checks with real ping, SSH and TCP; that a translated source turns
/// the source check red and nothing else; and that a client cut off turns its six pairs red, with the place
/// where the packet was last seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn green_and_red() {
    let place = Place::new("m");
    let (lab, _) = Lab::up(place.options()).await.unwrap();
    plain_routing(&lab).await;
    let matrix = lab.matrix(&MatrixOptions::default()).await.unwrap();
    assert!(matrix.ok() && matrix.pairs_total == 12, "{}", matrix.table());

    let translate = "nft insert rule ip provider after oifname pub0 ip daddr 10.83.10.20 masquerade";
    ok(&lab, "aws-vpc", translate).await;
    let matrix = lab.matrix(&quick()).await.unwrap();
    assert_eq!(matrix.pairs_ok, 11, "{}", matrix.table());
    let red = matrix.pairs.iter().find(|pair| !pair.ok).unwrap();
    assert_eq!((red.from.as_str(), red.to.as_str()), ("aws", "oci"));
    assert!(red.ping.ok && red.ssh.ok && red.tcp.ok && red.source.error.contains("198.51.100.2"), "{red:?}");

    lab.cut("pve-client").await.unwrap();
    let matrix = lab.matrix(&quick()).await.unwrap();
    assert_eq!(matrix.pairs_ok, 5, "{}", matrix.table());
    let red = matrix.pairs.iter().find(|pair| pair.from == "azure" && pair.to == "pve").unwrap();
    assert!(!red.ping.ok && !red.ssh.ok && !red.tcp.ok && !red.source.ok);
    assert!(red.last_seen.as_ref().unwrap().contains("leaving azure-vpc"), "{red:?}");
    for node in [Node::Client(&SITES[0]), SITES[0].gateway_node(), Node::Hub] {
        let tables = ok(&lab, &node.name(), "nft list tables").await;
        assert!(!tables.contains("lab_trace"), "{tables}");
    }
}
