//! The seven points of the acceptance scenario, judged from what `routerctl` and the kernel answered. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::boundary::Boundary;
use crate::layout::SITES;
use crate::matrix::Matrix;

/// One point, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its number, 1 to 7.
    pub number: u8,
    /// What must hold.
    pub title: String,
    /// Whether it does.
    pub ok: bool,
    /// What was seen, or what is wrong.
    pub detail: String,
}

/// What the points are judged from. A missing answer is `null` and fails its point.
#[derive(Debug, Default)]
pub struct Answers {
    /// `routerctl get SAMEnrollmentClient` of each site's leaf.
    pub clients: BTreeMap<String, Value>,
    /// `routerctl get BGPDynamicPeer/fullmesh-leaves` of the hub.
    pub dynamic_peers: Value,
    /// `routerctl status` of the hub.
    pub hub_status: Value,
    /// `routerctl bgp routes` of the hub.
    pub hub_routes: Value,
    /// `routerctl status` of each site's leaf.
    pub leaf_status: BTreeMap<String, Value>,
    /// `ip route show table main proto 84` of each site's leaf.
    pub leaf_routes: BTreeMap<String, String>,
}

fn point(number: u8, title: &str, result: Result<String, String>) -> Point {
    let (ok, detail) = match result {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    Point { number, title: title.into(), ok, detail }
}

/// Points 1 to 6. The seventh is the evidence itself.
pub fn judge(boundary: &Boundary, answers: &Answers, matrix: &Matrix) -> Vec<Point> {
    let first =
        if boundary.ok { Ok(boundary.resources.join(", ")) } else { Err(boundary.findings.join("; ")) };
    let pairs = format!("{} of {} pairs", matrix.pairs_ok, matrix.pairs_total);
    let whole = matrix.ok() && matrix.pairs_total == SITES.len() * (SITES.len() - 1);
    vec![
        point(1, "the hub's configuration holds no static claim and no per-leaf peer", first),
        point(2, "every leaf's SAMEnrollmentClient is Ready", ready(answers)),
        point(3, "the hub discovered four peers, all Established", established(&answers.dynamic_peers)),
        point(4, "the hub accepted exactly the four clients and rejected none", accepted(answers)),
        point(5, "each leaf installed all other clients and serves its own", installed(answers)),
        point(6, "all directed pairs pass", if whole { Ok(pairs) } else { Err(pairs) }),
    ]
}

/// A list with one resource, or the resource.
fn single(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => value,
    }
}

fn ready(answers: &Answers) -> Result<String, String> {
    let phase = |site: &str| {
        let answer = answers.clients.get(site).map_or(&Value::Null, single);
        answer.pointer("/status/phase").and_then(Value::as_str).unwrap_or("unknown").to_string()
    };
    let phases: Vec<String> =
        SITES.iter().map(|site| format!("{} {}", site.name, phase(site.name))).collect();
    let all = SITES.iter().all(|site| phase(site.name) == "Ready");
    if all { Ok(phases.join(", ")) } else { Err(phases.join(", ")) }
}

fn established(answer: &Value) -> Result<String, String> {
    let none = Vec::new();
    let peers = single(answer).pointer("/status/peers").and_then(Value::as_array).unwrap_or(&none);
    let word =
        |peer: &Value, key: &str| peer.get(key).and_then(Value::as_str).unwrap_or("unknown").to_string();
    let shown: Vec<String> =
        peers.iter().map(|peer| format!("{} {}", word(peer, "leaf"), word(peer, "state"))).collect();
    let leaves: BTreeSet<String> = peers.iter().map(|peer| word(peer, "leaf")).collect();
    let sites: BTreeSet<String> = SITES.iter().map(|site| site.name.into()).collect();
    let up = peers.iter().all(|peer| word(peer, "state") == "Established");
    let detail = format!("{} peers: {}", peers.len(), shown.join(", "));
    if up && leaves == sites && peers.len() == SITES.len() { Ok(detail) } else { Err(detail) }
}

fn clients() -> BTreeSet<Ipv4Addr> {
    SITES.iter().map(|site| site.client).collect()
}

fn shown(addresses: &BTreeSet<Ipv4Addr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn accepted(answers: &Answers) -> Result<String, String> {
    let count = |key: &str| answers.hub_status.pointer(&format!("/bgp/{key}")).and_then(Value::as_u64);
    let none = Vec::new();
    let host = |route: &Value| -> Option<Ipv4Addr> {
        let best = route.get("best")?.as_bool()?;
        let address = route.get("prefix")?.as_str()?.strip_suffix("/32")?.parse().ok()?;
        best.then_some(address)
    };
    let routes: BTreeSet<Ipv4Addr> =
        answers.hub_routes.as_array().unwrap_or(&none).iter().filter_map(host).collect();
    let number = |key| count(key).map_or("unknown".into(), |count: u64| count.to_string());
    let detail =
        format!("accepted {}, rejected {}: {}", number("accepted"), number("rejected"), shown(&routes));
    // Every other hub passes each of them on once more.
    let hubs = answers.hub_status.pointer("/replication/hubs").and_then(Value::as_array).map_or(0, Vec::len);
    let expected = (SITES.len() * (1 + hubs)) as u64;
    let exact = count("accepted") == Some(expected) && count("rejected") == Some(0);
    if exact && routes == clients() { Ok(detail) } else { Err(detail) }
}

/// The hubs' own addresses, which a leaf of two hubs has routes to.
fn hubs(leaf_status: Option<&Value>) -> BTreeSet<Ipv4Addr> {
    let hubs = leaf_status.and_then(|status| status.get("hubs")?.as_array());
    hubs.into_iter().flatten().filter_map(|hub| hub.get("overlay")?.as_str()?.parse().ok()).collect()
}

fn installed(answers: &Answers) -> Result<String, String> {
    let mut wrong = Vec::new();
    for site in &SITES {
        let text = answers.leaf_routes.get(site.name).map_or("", String::as_str);
        let first = |line: &str| line.split_ascii_whitespace().next()?.parse::<Ipv4Addr>().ok();
        let hubs = hubs(answers.leaf_status.get(site.name));
        let routes: BTreeSet<Ipv4Addr> =
            text.lines().filter_map(first).filter(|to| !hubs.contains(to)).collect();
        let wished: BTreeSet<Ipv4Addr> = site.others().map(|other| other.client).collect();
        if routes != wished {
            wrong.push(format!("{} has routes to {}", site.name, shown(&routes)));
        }
        let claims = answers.leaf_status.get(site.name).and_then(|status| status.get("claims"));
        if claims != Some(&serde_json::json!([site.client])) {
            let claims = claims.unwrap_or(&Value::Null);
            wrong.push(format!("{} serves {claims}", site.name));
        }
    }
    let fine = format!("{} leaves, {} routes each", SITES.len(), SITES.len() - 1);
    if wrong.is_empty() { Ok(fine) } else { Err(wrong.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Answers {
        let each = |value: fn(&'static crate::layout::Site) -> Value| {
            SITES.iter().map(|site| (site.name.to_string(), value(site))).collect()
        };
        let routes = |site: &'static crate::layout::Site| {
            site.others().map(|other| format!("{} dev fab-ipip scope link\n", other.client)).collect()
        };
        Answers {
            clients: each(|_| json!([{"status": {"phase": "Ready"}}])),
            dynamic_peers: json!([{"status": {"peers": SITES.iter()
                .map(|site| json!({"leaf": site.name, "state": "Established"})).collect::<Vec<_>>()}}]),
            hub_status: json!({"bgp": {"accepted": 4, "rejected": 0}}),
            hub_routes: Value::from_iter(
                SITES.iter().map(|site| json!({"prefix": format!("{}/32", site.client), "best": true})),
            ),
            leaf_status: each(|site| json!({"claims": [site.client]})),
            leaf_routes: SITES.iter().map(|site| (site.name.to_string(), routes(site))).collect(),
        }
    }

    fn failed(answers: &Answers) -> Vec<u8> {
        let boundary = Boundary { ok: true, files: vec![], resources: vec![], findings: vec![] };
        let matrix = Matrix::new("fab".into(), vec![], 0);
        let points = judge(&boundary, answers, &matrix);
        points.iter().filter(|point| !point.ok).map(|point| point.number).collect()
    }

    /// With a second hub, each route comes from it too, and leaves have routes to both; no more than that.
    #[test]
    fn a_second_hub_is_no_fault() {
        let mut two = good();
        two.hub_status = json!({"bgp": {"accepted": 8, "rejected": 0}, "replication": {"hubs": [{}]}});
        for (site, routes) in &mut two.leaf_routes {
            two.leaf_status.get_mut(site).unwrap()["hubs"] =
                json!([{"overlay": "10.255.0.1"}, {"overlay": "10.255.0.2"}]);
            routes.push_str("10.255.0.1 dev fab-tun\n10.255.0.2 dev fab-tun\n");
        }
        assert_eq!(failed(&two), [6]);
        two.hub_status["bgp"]["accepted"] = json!(9);
        two.leaf_routes.insert("pve".into(), "10.255.0.3 dev fab-tun\n".into());
        assert_eq!(failed(&two), [4, 5, 6]);
    }

    /// Proves that each point fails when, and only when, what it is about is broken. (Six fails throughout: there
    /// is no pair.)
    #[test]
    fn one_by_one() {
        assert_eq!(failed(&good()), [6]);
        assert_eq!(failed(&Answers::default()), [2, 3, 4, 5, 6]);
        let mut broken = good();
        broken.clients.insert("oci".into(), json!([{"status": {"phase": "Stale"}}]));
        assert_eq!(failed(&broken), [2, 6]);
        let mut broken = good();
        broken.dynamic_peers[0]["status"]["peers"][2]["state"] = json!("Connect");
        assert_eq!(failed(&broken), [3, 6]);
        let mut broken = good();
        broken.hub_status["bgp"]["rejected"] = json!(1);
        assert_eq!(failed(&broken), [4, 6]);
        let mut broken = good();
        broken.hub_routes[0]["prefix"] = json!("10.81.10.66/32");
        assert_eq!(failed(&broken), [4, 6]);
        let mut broken = good();
        broken.leaf_routes.insert("pve".into(), "10.81.10.20 dev fab-ipip\n".into());
        assert_eq!(failed(&broken), [5, 6]);
        let mut broken = good();
        broken.leaf_status.insert("aws".into(), json!({"claims": []}));
        assert_eq!(failed(&broken), [5, 6]);
    }
}
