//! The boundary check (acceptance point 1): the hub's configuration holds no static claim and no per-leaf peer.
//! Pure, and with a reader of its own: what the hub thinks of its files does not count here.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::layout::SITES;

/// Kinds that say by hand who is there or what belongs to whom.
const BY_HAND: [&str; 6] = [
    "BGPPeer",
    "WireGuardPeer",
    "OverlayPeer",
    "SAMEnrollmentClaim",
    "SAMEnrollmentClient",
    "RemoteAddressClaim",
];

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// Whether nothing was found.
    pub ok: bool,
    /// The files that were read.
    pub files: Vec<String>,
    /// Every resource in them, `Kind/name`.
    pub resources: Vec<String>,
    /// What must not be there.
    pub findings: Vec<String>,
}

/// Judges the hub's configuration files, given as name and text.
pub fn check(files: &[(String, String)]) -> Boundary {
    let (mut resources, mut findings) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let documents: Vec<Value> = match serde_saphyr::from_multiple(text) {
            Ok(documents) => documents,
            Err(_) => {
                findings.push(format!("{name} cannot be read as YAML"));
                continue;
            }
        };
        for document in documents.iter().filter(|document| !document.is_null()) {
            let kind = document.get("kind").and_then(Value::as_str).unwrap_or("(no kind)");
            let own = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
            resources.push(format!("{kind}/{own}"));
            if BY_HAND.contains(&kind) {
                findings.push(format!("{name} holds {kind}/{own}"));
            }
            for (what, address) in leaf_addresses(document) {
                findings.push(format!("{name}: {kind}/{own} names {address}, {what}"));
            }
        }
    }
    if resources.is_empty() {
        findings.push("no resource was read".into());
    }
    let files = files.iter().map(|(name, _)| name.clone()).collect();
    Boundary { ok: findings.is_empty(), files, resources, findings }
}

/// Addresses of single leaves and clients anywhere in a document.
fn leaf_addresses(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    each_string(document, &mut |text| {
        let words: Vec<&str> =
            text.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter(|word| !word.is_empty()).collect();
        for site in &SITES {
            let known = [(site.client, "client"), (site.leaf, "leaf"), (site.public, "public address")];
            for (address, what) in known {
                if words.contains(&address.to_string().as_str()) {
                    found.push((format!("{}'s {what}", site.name), address.to_string()));
                }
            }
        }
    });
    found
}

fn each_string(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| each_string(item, see)),
        Value::Object(fields) => fields.iter().for_each(|(key, item)| {
            see(key);
            each_string(item, see);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Boundary {
        check(&[("hub.yaml".into(), text.into())])
    }

    const HUB: &str = "# a hub\n{apiVersion: a, kind: BGPDynamicPeer, metadata: {name: fullmesh-leaves}, spec: {}}\n\
                       ---\napiVersion: a\nkind: SAMEnrollmentPolicy\nmetadata: {name: fabric}\n\
                       spec: {endpoints: [\"203.0.113.10:51820\"]}\n";

    /// Proves that a hub with a policy and a dynamic peer passes.
    #[test]
    fn clean() {
        let boundary = of(HUB);
        assert!(boundary.ok, "{boundary:?}");
        assert_eq!(boundary.resources, ["BGPDynamicPeer/fullmesh-leaves", "SAMEnrollmentPolicy/fabric"]);
    }

    /// Proves that a peer or a claim by hand is found in either way of writing, and an address wherever it hides.
    #[test]
    fn by_hand() {
        for more in [
            "---\n{apiVersion: a, kind: BGPPeer, metadata: {name: aws}}\n",
            "---\napiVersion: a\nkind: \"SAMEnrollmentClaim\"\nmetadata: {name: x}\n",
            "---\nkind: BGPRouter\nmetadata: {name: x}\nspec: {networks: [{prefix: 10.83.10.20/32}]}\n",
            "---\nkind: BGPRouter\nmetadata: {name: x}\nspec: {\"10.81.10.10\": 1}\n",
        ] {
            let boundary = of(&format!("{HUB}{more}"));
            assert!(!boundary.ok && boundary.findings.len() == 1, "{more}: {boundary:?}");
        }
    }

    /// Proves that an empty or unreadable file is no pass.
    #[test]
    fn nothing_read_is_no_pass() {
        assert!(!of("").ok && !of("a: [").ok && !check(&[]).ok);
    }
}
