//! The examples, and what schema and reference say about every Kind.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Kind, PeerAdmission, fields, hub_address};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Every example is right.
#[test]
fn every_example_parses() {
    let mut seen = 0;
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            seen += 1;
            if let Err(mistakes) = config::io::load(&[path]) {
                panic!("{mistakes}");
            }
        }
    }
    assert!(seen >= 2);
}

/// The smallest hub and leaf are under ten lines.
#[test]
fn smallest_files() {
    for name in ["hub.yaml", "leaf.yaml"] {
        let text = fs::read_to_string(examples().join(name)).unwrap();
        assert!(text.lines().count() < 10, "{name}");
    }
}

/// The smallest hub reflects, admits enrolled leaves from the overlay and holds no static claim and no peer.
#[test]
fn smallest_hub() {
    let config = config::io::load(&[examples().join("hub.yaml")]).unwrap();
    let hub = config.hub().unwrap();
    let enrollment = hub.enrollment.as_ref().unwrap();
    let overlay = enrollment.policy.spec.overlay_prefix;
    assert_eq!(hub.router.spec.router_id, Some(hub_address(overlay)));
    assert_eq!(hub.router.spec.cluster_id, hub.router.spec.router_id);
    assert_eq!(hub.router.spec.listen, ["10.255.0.1:179".parse().unwrap()]);
    let [peers] = hub.dynamic_peers.as_slice() else { panic!("one implied BGPDynamicPeer") };
    assert_eq!((peers.name.as_str(), peers.implied), ("fullmesh-leaves", true));
    assert_eq!(peers.spec.source_prefixes, ["10.255.0.0/20".parse().unwrap()]);
    assert_eq!((peers.spec.remote_asn, peers.spec.admission), (64512, PeerAdmission::Enrolled));
    assert!(hub.peers.is_empty());
    assert_eq!(enrollment.wireguard.spec.listen_port, 51820);
}

/// Schema and reference have every Kind with every key, and the effective files write no other key.
#[test]
fn every_key_is_described() {
    let (schema, reference) = (config::schema(), config::reference());
    for kind in Kind::ALL {
        let resource = &schema["$defs"][kind.as_str()];
        assert_eq!(resource["properties"]["apiVersion"]["const"], kind.api_version());
        assert!(reference.contains(&format!("## {kind}\n")));
        let keys = resource["properties"]["spec"]["properties"].as_object().unwrap();
        let (_, fields) = fields(kind);
        assert_eq!(keys.len(), fields.len());
        for field in fields {
            assert!(keys.contains_key(field.name), "{kind}.{}", field.name);
            assert!(
                reference.contains(&format!("| `{}` | {}", field.name, field.doc)),
                "{kind}.{}",
                field.name
            );
            assert!(field.doc.ends_with('.'), "{kind}.{}: {}", field.name, field.doc);
        }
    }
    for name in ["hub.yaml", "leaf.yaml"] {
        for resource in config::io::load(&[examples().join(name)]).unwrap().effective() {
            let written = serde_json::to_value(&resource).unwrap();
            let properties = &schema["$defs"][resource.kind.as_str()]["properties"]["spec"]["properties"];
            for key in written["spec"].as_object().unwrap().keys() {
                assert!(properties.get(key).is_some(), "{}.{key}", resource.kind);
            }
        }
    }
}

/// The effective configuration of the smallest files, as `routerctl render` shows it.
#[test]
fn effective_text() {
    for name in ["hub", "leaf"] {
        let found = config::io::load(&[examples().join(format!("{name}.yaml"))]).unwrap().to_yaml();
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/effective/{name}.yaml"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&recorded, &found).unwrap();
        }
        assert_eq!(fs::read_to_string(&recorded).unwrap(), found, "{name}");
    }
}

/// Where a hub's file is silent, what the fabric says that it joined holds; what stands in the file wins.
#[test]
fn a_hub_that_joined_takes_what_its_fabric_says() {
    let fabric = config::Fabric {
        overlay_prefix: "10.250.0.0/20".parse().unwrap(),
        asn: 65010,
        own: "10.250.0.3".parse().unwrap(),
    };
    let files = [examples().join("hub.yaml")];
    let silent = config::io::load_joined(&files, Some(fabric)).unwrap();
    let hub = silent.hub().unwrap();
    assert_eq!((hub.router.spec.asn, hub.router.spec.router_id), (65010, Some(fabric.own)));
    assert_eq!(hub.router.spec.cluster_id, Some(fabric.own), "never the first hub's");
    assert_eq!(hub.router.spec.listen, ["10.250.0.3:179".parse().unwrap()]);
    assert_eq!(hub.dynamic_peers[0].spec.remote_asn, 65010);
    assert_eq!(hub.enrollment.as_ref().unwrap().policy.spec.overlay_prefix, fabric.overlay_prefix);

    let mut sources = config::io::sources(&files).unwrap();
    sources[0].text += "---\n{apiVersion: net.routerd.net/v1alpha1, kind: BGPRouter, \
                        metadata: {name: hub}, spec: {asn: 64999}}\n";
    let says = config::parse_joined(&sources, Some(fabric)).unwrap();
    assert_eq!(says.hub().unwrap().router.spec.asn, 64999);
}
