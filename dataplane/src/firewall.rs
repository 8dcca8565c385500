//! What the host's own firewall does with fabric packets, read from nft's JSON listing.
//!
//! Each base chain is walked as the kernel would walk it for one described packet. What the description does not
//! say (an address, a mark) makes a rule "unknown", and an unknown rule decides nothing: a finding is therefore
//! always a chain that certainly ends the packet, by a rule or by its policy. Chains of the old iptables (legacy
//! tables) are not in the listing and are not judged.

use std::collections::BTreeMap;

use serde_json::Value;

/// Jumps that are followed; a ruleset with more is taken to let the packet pass.
const MAX_DEPTH: usize = 16;

/// Where in the kernel a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets for this node.
    Input,
    /// Packets that are forwarded.
    Forward,
}

impl Hook {
    const fn as_str(self) -> &'static str {
        match self {
            Hook::Input => "input",
            Hook::Forward => "forward",
        }
    }
}

/// One interface of a described packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface<'a> {
    /// This one.
    Named(&'a str),
    /// Some interface of the host that is neither ours nor loopback.
    Other,
    /// There is none (the output of an input packet).
    None,
}

/// A packet that opens a connection, as far as it is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it is looked at.
    pub hook: Hook,
    /// Where it came in.
    pub input: Interface<'a>,
    /// Where it goes out.
    pub output: Interface<'a>,
    /// Name and number of its protocol, if that is said.
    pub protocol: Option<(&'a str, u8)>,
    /// Its destination port, if that is said.
    pub port: Option<u16>,
}

/// A base chain that ends a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// `family table chain`, as nft wants them.
    pub chain: String,
    /// What ends the packet: `policy drop`, or the verdict of a rule and the chain it is in.
    pub by: String,
}

/// A parsed ruleset.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// By (family, table, chain).
    chains: BTreeMap<(String, String, String), Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    hook: Option<String>,
    drops_by_policy: bool,
    rules: Vec<Vec<Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Accept,
    Block(String),
    Return,
    Continue,
}

/// Reads what `nft -j list ruleset` printed; what is not understood is left out.
pub fn parse(json: &str) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let root: Value = serde_json::from_str(json).unwrap_or_default();
    for item in root["nftables"].as_array().into_iter().flatten() {
        let (object, name) = match (item.get("chain"), item.get("rule")) {
            (Some(chain), _) => (chain, &chain["name"]),
            (_, Some(rule)) => (rule, &rule["chain"]),
            _ => continue,
        };
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let chain =
            ruleset.chains.entry((text(&object["family"]), text(&object["table"]), text(name))).or_default();
        if item.get("chain").is_some() {
            chain.hook = object["hook"].as_str().map(str::to_string);
            chain.drops_by_policy = object["policy"] == "drop";
        } else if let Some(statements) = object["expr"].as_array() {
            chain.rules.push(statements.clone());
        }
    }
    ruleset
}

impl Ruleset {
    /// The base chains of the host, ours left out, that certainly end `packet`.
    pub fn blockers(&self, packet: &Packet<'_>) -> Vec<Blocker> {
        let mut blockers = Vec::new();
        for ((family, table, name), chain) in &self.chains {
            let looks = chain.hook.as_deref() == Some(packet.hook.as_str())
                && ["ip", "inet"].contains(&family.as_str());
            if !looks || (family == "inet" && table == "fabric") {
                continue;
            }
            let by = match self.walk((family, table, name), packet, 0) {
                Verdict::Block(by) => by,
                Verdict::Continue | Verdict::Return if chain.drops_by_policy => "policy drop".into(),
                _ => continue,
            };
            blockers.push(Blocker { chain: format!("{family} {table} {name}"), by });
        }
        blockers
    }

    fn walk(&self, at: (&str, &str, &str), packet: &Packet<'_>, depth: usize) -> Verdict {
        if depth > MAX_DEPTH {
            return Verdict::Accept;
        }
        let key = (at.0.to_string(), at.1.to_string(), at.2.to_string());
        for rule in self.chains.get(&key).into_iter().flat_map(|c| &c.rules) {
            match self.rule(rule, at, packet, depth) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }

    fn rule(
        &self,
        statements: &[Value],
        at: (&str, &str, &str),
        packet: &Packet<'_>,
        depth: usize,
    ) -> Verdict {
        for statement in statements {
            let Some((kind, body)) = statement.as_object().and_then(|o| o.iter().next()) else {
                return Verdict::Continue;
            };
            let verdict = match kind.as_str() {
                "match" if matches(body, packet) == Some(true) => continue,
                "match" | "limit" => return Verdict::Continue,
                "vmap" => match mapped(body, packet) {
                    Some(verdict) => self.verdict(verdict, at, packet, depth),
                    None => return Verdict::Continue,
                },
                "xt" => match (body["type"].as_str(), body["name"].as_str()) {
                    (Some("target"), Some("ACCEPT")) => Verdict::Accept,
                    (Some("target"), Some(name @ ("DROP" | "REJECT"))) => block(name, at),
                    _ => return Verdict::Continue,
                },
                _ => self.verdict(statement, at, packet, depth),
            };
            if verdict != Verdict::Continue {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// The effect of a verdict statement; any other statement (a counter, a log) lets the packet go on.
    fn verdict(
        &self,
        statement: &Value,
        at: (&str, &str, &str),
        packet: &Packet<'_>,
        depth: usize,
    ) -> Verdict {
        let Some((kind, body)) = statement.as_object().and_then(|o| o.iter().next()) else {
            return Verdict::Continue;
        };
        match kind.as_str() {
            "accept" | "queue" => Verdict::Accept,
            "drop" | "reject" => block(kind, at),
            "return" => Verdict::Return,
            "jump" | "goto" => {
                let target = body["target"].as_str().unwrap_or_default();
                match self.walk((at.0, at.1, target), packet, depth + 1) {
                    Verdict::Return | Verdict::Continue if kind == "jump" => Verdict::Continue,
                    Verdict::Continue => Verdict::Return,
                    verdict => verdict,
                }
            }
            _ => Verdict::Continue,
        }
    }
}

fn block(verdict: &str, at: (&str, &str, &str)) -> Verdict {
    Verdict::Block(format!("a rule of chain {} ({})", at.2, verdict.to_lowercase()))
}

/// Whether a match statement holds; `None` if the description does not say.
fn matches(body: &Value, packet: &Packet<'_>) -> Option<bool> {
    let holds = compare(&body["left"], &body["right"], packet)?;
    match body["op"].as_str()? {
        "==" | "in" => Some(holds),
        "!=" => Some(!holds),
        _ => None,
    }
}

/// The verdict that a verdict map gives, if it certainly gives one.
fn mapped<'v>(body: &'v Value, packet: &Packet<'_>) -> Option<&'v Value> {
    let entries = body["data"]["set"].as_array()?;
    let hit = entries.iter().find(|e| compare(&body["key"], &e[0], packet) == Some(true))?;
    hit.get(1)
}

fn compare(left: &Value, right: &Value, packet: &Packet<'_>) -> Option<bool> {
    if let Some(options) = right.get("set").and_then(Value::as_array).or_else(|| right.as_array()) {
        let answers: Vec<_> = options.iter().map(|option| compare(left, option, packet)).collect();
        return if answers.contains(&Some(true)) {
            Some(true)
        } else if answers.contains(&None) {
            None
        } else {
            Some(false)
        };
    }
    if let Some(key) = left["meta"]["key"].as_str() {
        return match key {
            "iifname" | "iif" => same_interface(packet.input, right.as_str()?),
            "oifname" | "oif" => same_interface(packet.output, right.as_str()?),
            "l4proto" => same_protocol(packet, right),
            "nfproto" => Some(right == "ipv4"),
            "protocol" => Some(right == "ip"),
            _ => None,
        };
    }
    if left["ct"]["key"] == "state" {
        return Some(right == "new");
    }
    let (protocol, field) = (left["payload"]["protocol"].as_str()?, left["payload"]["field"].as_str()?);
    match (protocol, field) {
        ("ip", "protocol") => same_protocol(packet, right),
        (protocol, "dport") => match packet.protocol {
            Some((name, _)) if name != protocol && protocol != "th" => Some(false),
            Some(_) => same_port(packet.port?, right),
            None => None,
        },
        ("ip6", _) => Some(false),
        _ => None,
    }
}

fn same_interface(interface: Interface<'_>, pattern: &str) -> Option<bool> {
    match interface {
        Interface::Named(name) => Some(match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => name == pattern,
        }),
        Interface::Other if pattern == "*" => Some(true),
        Interface::Other if pattern == "lo" || pattern.starts_with("fab-") => Some(false),
        Interface::Other => None,
        Interface::None => Some(false),
    }
}

fn same_protocol(packet: &Packet<'_>, right: &Value) -> Option<bool> {
    let (name, number) = packet.protocol?;
    Some(right == name || right.as_u64() == Some(number.into()))
}

fn same_port(port: u16, right: &Value) -> Option<bool> {
    if let Some(range) = right.get("range") {
        return Some((range[0].as_u64()?..=range[1].as_u64()?).contains(&port.into()));
    }
    Some(right.as_u64()? == u64::from(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN: Packet<'static> = Packet {
        hook: Hook::Forward,
        input: Interface::Named("fab-tun"),
        output: Interface::Other,
        protocol: None,
        port: None,
    };
    const OUT: Packet<'static> =
        Packet { input: Interface::Other, output: Interface::Named("fab-tun"), ..IN };

    /// A ruleset with one base chain FORWARD of this policy and these rules, and a chain OTHER to jump to.
    fn ruleset(policy: &str, rules: &[&str], other: &[&str]) -> Ruleset {
        let chain = format!(
            r#"{{"chain": {{"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "{policy}"}}}}"#
        );
        let rule = |chain: &str, expr: &str| {
            format!(
                r#"{{"rule": {{"family": "ip", "table": "filter", "chain": "{chain}", "expr": {expr}}}}}"#
            )
        };
        let all = std::iter::once(chain)
            .chain(rules.iter().map(|r| rule("FORWARD", r)))
            .chain(other.iter().map(|r| rule("OTHER", r)));
        parse(&format!(r#"{{"nftables": [{}]}}"#, all.collect::<Vec<_>>().join(",")))
    }

    const REJECT: &str =
        r#"[{"counter": {"packets": 1}}, {"reject": {"type": "icmp", "expr": "host-prohibited"}}]"#;
    const ESTABLISHED: &str = r#"[{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]"#;
    const FROM_FABRIC: &str = r#"[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "fab-*"}}, {"accept": null}]"#;
    const TO_FABRIC: &str = r#"[{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": {"set": ["fab-wg", "fab-tun"]}}}, {"accept": null}]"#;
    const DOCKER: &str = r#"[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}}, {"accept": null}]"#;
    const JUMP: &str = r#"[{"jump": {"target": "OTHER"}}]"#;
    const XT_REJECT: &str = r#"[{"xt": {"type": "target", "name": "REJECT"}}]"#;

    /// The OCI image's chain: established is accepted, the rest rejected; a new fabric packet is ended both ways.
    #[test]
    fn rejecting_rule_blocks() {
        for reject in [REJECT, XT_REJECT] {
            let ruleset = ruleset("accept", &[ESTABLISHED, reject], &[]);
            for packet in [IN, OUT] {
                let blockers = ruleset.blockers(&packet);
                assert_eq!(blockers[0].chain, "ip filter FORWARD");
                assert_eq!(blockers[0].by, "a rule of chain FORWARD (reject)");
            }
        }
    }

    /// Docker's and ufw's way: policy drop, and accepts for their own interfaces only.
    #[test]
    fn dropping_policy_blocks() {
        let ruleset = ruleset("drop", &[JUMP, ESTABLISHED], &[DOCKER]);
        assert_eq!(ruleset.blockers(&IN)[0].by, "policy drop");
        assert_eq!(ruleset.blockers(&OUT)[0].by, "policy drop");
    }

    /// The documented fix, rules in front that accept fabric interfaces both ways, removes the finding.
    #[test]
    fn fix_unblocks_both_ways() {
        let half = ruleset("drop", &[FROM_FABRIC, REJECT], &[]);
        assert_eq!((half.blockers(&IN).len(), half.blockers(&OUT).len()), (0, 1));
        let whole = ruleset("drop", &[FROM_FABRIC, TO_FABRIC, REJECT], &[]);
        assert_eq!((whole.blockers(&IN).len(), whole.blockers(&OUT).len()), (0, 0));
        let inner = ruleset("accept", &[JUMP, REJECT], &[FROM_FABRIC, TO_FABRIC]);
        assert_eq!((inner.blockers(&IN).len(), inner.blockers(&OUT).len()), (0, 0));
    }

    /// A rule on something that is not described decides nothing.
    #[test]
    fn unknown_rules_do_not_block() {
        let by_address = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "1.2.3.4"}}, {"drop": null}]"#;
        let by_interface = r#"[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth7"}}, {"drop": null}]"#;
        let ruleset = ruleset("accept", &[by_address, by_interface], &[]);
        assert_eq!((ruleset.blockers(&IN).len(), ruleset.blockers(&OUT).len()), (0, 0));
    }

    /// Ports, protocols, verdict maps and goto are followed for packets that say more.
    #[test]
    fn described_packets_are_followed() {
        let wireguard = Packet { protocol: Some(("udp", 17)), port: Some(51820), ..OUT };
        let open = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [53, {"range": [51000, 52000]}]}}}, {"accept": null}]"#;
        let ssh = r#"[{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}, {"accept": null}]"#;
        assert_eq!(ruleset("drop", &[ssh, open], &[]).blockers(&wireguard), []);
        assert_eq!(ruleset("drop", &[ssh], &[]).blockers(&wireguard).len(), 1);
        let vmap = r#"[{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["new", {"goto": {"target": "OTHER"}}]]}}}]"#;
        assert_eq!(ruleset("accept", &[vmap], &[REJECT]).blockers(&IN).len(), 1);
        assert_eq!(ruleset("drop", &[vmap, FROM_FABRIC], &[DOCKER]).blockers(&IN)[0].by, "policy drop");
    }

    /// A ruleset that jumps in circles, and nonsense, end.
    #[test]
    fn nonsense_is_survived() {
        assert_eq!(ruleset("accept", &[JUMP], &[JUMP]).blockers(&IN), []);
        for text in ["", "[]", "{\"nftables\": 3}", "{\"nftables\": [{\"rule\": 1}]}"] {
            assert_eq!(parse(text).blockers(&IN), []);
        }
    }
}
