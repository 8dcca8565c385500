//! The networks under the fabric, on a real kernel, without the fabric. Needs root and the lab's programs.

use crate::support::{Place, fails, ok, sh};
use lab::layout::{Hubs, Node, SITES, nodes};
use lab::{Lab, LabError};

const PING: &str = "ping -n -c 1 -W 2 -q";

/// Proves that every site reaches its gateway and the hub's public address, through real translation, and
/// that no packet with a private address crosses the Internet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_reach_the_hub_through_nat() {
    let place = Place::new("a");
    let (lab, report) = Lab::up(place.options()).await.unwrap();
    assert!(report.ok && report.sites.is_empty());
    for site in &SITES {
        ok(&lab, &Node::Client(site).name(), &format!("{PING} {}", site.gateway)).await;
        let leaf = Node::Leaf(site).name();
        ok(&lab, &leaf, &format!("{PING} 203.0.113.10")).await;
        // Who the hub sees: the site's public address, also for the leaf of its own site.
        let hub_sees =
            format!("timeout 5 tcpdump -ni eth0 -c 1 'icmp[icmptype] == 8 and src host {}'", site.public);
        let (seen, _) = tokio::join!(sh(&lab, "hub", &hub_sees), async {
            ok(&lab, &leaf, "ping -n -c 20 -i 0.05 -q 203.0.113.10").await
        });
        assert_eq!(seen.0, 0, "{}: {}", site.name, seen.1);
        // Another site's private address is not reached by the underlay alone.
        for other in site.others() {
            fails(&lab, &Node::Client(site).name(), &format!("{PING} {}", other.client)).await;
        }
    }
    let leaked = ok(&lab, "inet", "nft list table ip isp | grep -c 'packets 0 bytes 0'").await;
    assert_eq!(leaked.trim(), "2", "private addresses reached the Internet");
    // The hub goes out with its own public address.
    let aws_sees = "timeout 5 tcpdump -ni pub0 -c 1 'icmp[icmptype] == 8 and src host 203.0.113.10'";
    let (seen, _) = tokio::join!(sh(&lab, "aws-vpc", aws_sees), async {
        ok(&lab, "hub", "ping -n -c 20 -i 0.05 -q 198.51.100.2").await
    });
    assert_eq!(seen.0, 0, "{}", seen.1);
}

/// Proves that a provider's route table hands a remote client's packets to the leaf with their source, that
/// pve's client asks for remote clients by ARP, and that oci's leaf rejects what it should forward.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_for_remote_clients_come_to_the_leaf() {
    let place = Place::new("b");
    let (lab, _) = Lab::up(place.options()).await.unwrap();
    for site in SITES.iter().filter(|site| site.name != "pve") {
        let filter = format!("icmp and src host {} and dst host 10.99.9.10", site.client);
        let see = format!("timeout 5 tcpdump -ni eth0 -c 1 '{filter}'");
        let leaf = Node::Leaf(site).name();
        let client = Node::Client(site).name();
        let (seen, called) = tokio::join!(sh(&lab, &leaf, &see), async {
            sh(&lab, &client, "ping -n -c 30 -i 0.05 -W 1 10.99.9.10").await
        });
        assert_eq!(seen.0, 0, "{}: {}", site.name, seen.1);
        assert!(!called.1.contains("Redirect"), "{}", called.1);
        assert_eq!(
            called.1.contains("Host Prohibited") || called.1.contains("Packet filtered"),
            site.rejects_forward
        );
    }
    let see = "timeout 5 tcpdump -ni eth0 -c 1 'arp and arp[24:4] = 0x0a510a14'";
    let (seen, _) = tokio::join!(sh(&lab, "pve-leaf", see), async {
        sh(&lab, "pve-client", "ping -n -c 3 -i 0.2 -W 1 10.81.10.20").await
    });
    assert_eq!(seen.0, 0, "{}", seen.1);
}

/// Proves that oci's way to the Internet is 1,400 octets wide and says so, and that the others' is 1,500.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_mtu() {
    let place = Place::new("c");
    let (lab, _) = Lab::up(place.options()).await.unwrap();
    let fits = |size: u16| format!("{PING} -M do -s {} 203.0.113.10", size - 28);
    ok(&lab, "oci-leaf", &fits(1400)).await;
    let output = fails(&lab, "oci-leaf", &fits(1401).replace("-q", "")).await;
    assert!(output.contains("mtu = 1400") || output.contains("mtu=1400"), "{output}");
    ok(&lab, "aws-leaf", &fits(1500)).await;
    // Narrowed by hand, as a fault.
    lab.set_public_mtu("aws", 1300).await.unwrap();
    fails(&lab, "aws-leaf", &fits(1301)).await;
    ok(&lab, "aws-leaf", &fits(1300)).await;
}

/// Proves that a cut is silent (the link stays up) and heals, for a leaf and for a whole site.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_and_heal() {
    let place = Place::new("d");
    let (lab, _) = Lab::up(place.options()).await.unwrap();
    for node in ["aws-leaf", "aws-vpc", "pve-nat"] {
        let leaf = if node == "pve-nat" { "pve-leaf" } else { "aws-leaf" };
        ok(&lab, leaf, &format!("{PING} 203.0.113.10")).await;
        lab.cut(node).await.unwrap();
        fails(&lab, leaf, &format!("{PING} -w 1 203.0.113.10")).await;
        assert!(ok(&lab, leaf, "ip -br link show eth0").await.contains("UP"));
        lab.heal(node).await.unwrap();
        ok(&lab, leaf, &format!("{PING} -w 3 203.0.113.10")).await;
    }
    assert!(matches!(lab.cut("gcp-leaf").await, Err(LabError::UnknownNode(_))));
}

/// Proves that two labs stand side by side, that a name is not taken twice, that a namespace of somebody
/// else's is left alone, and that `down` from the state file alone leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn side_by_side_and_nothing_left() {
    let (first, second) = (Place::new("e"), Place::new("f"));
    let (one, two) = tokio::join!(Lab::up(first.options()), Lab::up(second.options()));
    let (one, _two) = (one.unwrap().0, two.unwrap().0);
    assert_eq!(first.namespaces().len(), nodes(Hubs::One).len());
    assert!(matches!(Lab::up(first.options()).await, Err(LabError::AlreadyUp { .. })));
    assert!(one.status().nodes.iter().all(|node| node.present && node.processes.iter().all(|p| p.alive)));
    // A session that outlives its server's end, and a forgotten shell.
    let argv = one.argv("aws-client", &["sleep".into(), "600".into()]).unwrap();
    let mut forgotten = std::process::Command::new(&argv[0]).args(&argv[1..]).spawn().unwrap();
    let report = Lab::down(&first.name, Some(first.base.path())).await.unwrap();
    let _ = forgotten.wait();
    assert_eq!(report.namespaces, nodes(Hubs::One).len());
    assert_eq!((first.namespaces(), first.processes()), (vec![], vec![]));
    assert!(!first.base.path().exists(), "the state directory is still there");
    assert!(matches!(Lab::down(&first.name, Some(first.base.path())).await, Err(LabError::NotUp { .. })));
    // The other one does not notice.
    assert_eq!(second.namespaces().len(), nodes(Hubs::One).len());
    Lab::down(&second.name, Some(second.base.path())).await.unwrap();
    assert_eq!((second.namespaces(), second.processes()), (vec![], vec![]));
    // Somebody else's namespace is in the way: nothing is made, nothing of theirs removed.
    let foreign = format!("{}-hub", second.name);
    assert!(std::process::Command::new("ip").args(["netns", "add", &foreign]).status().unwrap().success());
    let refused = Lab::up(second.options()).await;
    let left = second.namespaces();
    assert!(std::process::Command::new("ip").args(["netns", "delete", &foreign]).status().unwrap().success());
    assert!(matches!(refused, Err(LabError::NamespaceTaken(name)) if name == foreign));
    assert_eq!(left, [foreign]);
}

/// Proves that a lab whose building stops half way is taken away: by `up` itself when a step fails, by a later
/// `down` when its process is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_built() {
    let place = Place::new("g");
    let mut options = place.options();
    options.bin_dir = Some("/nonexistent".into());
    assert!(Lab::up(options).await.is_err());
    assert_eq!((place.namespaces(), place.processes()), (vec![], vec![]));
    for wait_ms in [30, 120, 300] {
        let place = Place::new("h");
        let up = tokio::spawn(Lab::up(place.options()));
        tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
        up.abort();
        let _ = up.await;
        if Lab::open(&place.name, Some(place.base.path())).is_ok() {
            Lab::down(&place.name, Some(place.base.path())).await.unwrap();
        }
        assert_eq!((place.namespaces(), place.processes()), (vec![], vec![]), "after {wait_ms} ms");
    }
}
