//! Host facts that stand in the fabric's way: checked and explained with a fix, never silently changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::firewall::Interface::{self, Named, Other};
use crate::firewall::{self, Hook, Packet, Ruleset};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `net.ipv4.ip_forward` is 0: clients' packets are not forwarded.
    IpForwardOff,
    /// `rp_filter` is strict on a capture interface: a client that moves here is not heard while its route is remote.
    RpFilterStrict,
    /// A chain of the host's firewall drops or rejects forwarded fabric packets.
    HostForwardDrops,
    /// A chain of the host's firewall drops or rejects fabric packets for this node itself.
    HostInputDrops,
    /// Proxy ARP answers late on a capture interface.
    ProxyArpDelayed,
    /// The program `nft` is missing: no clamp, no quarantine, no ownership check in the kernel.
    NftMissing,
    /// A capture names an interface that does not exist.
    CaptureInterfaceMissing,
}

impl Code {
    /// Every code, in the order of the docs.
    pub const ALL: [Code; 7] = [
        Code::IpForwardOff,
        Code::RpFilterStrict,
        Code::HostForwardDrops,
        Code::HostInputDrops,
        Code::ProxyArpDelayed,
        Code::NftMissing,
        Code::CaptureInterfaceMissing,
    ];

    /// Kebab-case name, the same everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::IpForwardOff => "ip-forward-off",
            Code::RpFilterStrict => "rp-filter-strict",
            Code::HostForwardDrops => "host-forward-drops",
            Code::HostInputDrops => "host-input-drops",
            Code::ProxyArpDelayed => "proxy-arp-delayed",
            Code::NftMissing => "nft-missing",
            Code::CaptureInterfaceMissing => "capture-interface-missing",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, but not in every case.
    Warning,
    /// Does not work.
    Error,
}

/// One host fact that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in one sentence.
    pub message: String,
    /// The shell command that puts it right, ready to run as root.
    pub fix: Option<String>,
}

/// What was read from the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Whether clients' or leaves' packets have to be forwarded by the kernel here.
    pub forwards: bool,
    /// `net.ipv4.ip_forward`.
    pub ip_forward: bool,
    /// Capture interfaces.
    pub captures: BTreeMap<String, CaptureInterface>,
    /// The whole ruleset as `nft -j list ruleset` prints it; `None` if there is no `nft`.
    pub ruleset: Option<String>,
    /// Interface between which and the rest of the host clients' packets are forwarded.
    pub forward_interface: Option<String>,
    /// Interface that the kernel relays overlay packets on, from one peer to another.
    pub relay_interface: Option<String>,
    /// Interface on which new connections or ipip packets for this node itself arrive.
    pub input_interface: Option<String>,
    /// UDP port that WireGuard must be reachable on from anywhere (a hub's).
    pub listen_port: Option<u16>,
}

/// What was read of an interface that captures work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaptureInterface {
    /// Whether it exists.
    pub exists: bool,
    /// Effective `rp_filter` (the larger of `all` and its own): 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// `proxy_delay` in hundredths of a second.
    pub proxy_delay: u32,
}

/// All findings, the worst first.
pub fn findings(facts: &HostFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.forwards && !facts.ip_forward {
        findings.push(Finding {
            code: Code::IpForwardOff,
            severity: Severity::Error,
            message: "the kernel does not forward IPv4 packets (net.ipv4.ip_forward is 0)".into(),
            fix: Some("sysctl -w net.ipv4.ip_forward=1".into()),
        });
    }
    match &facts.ruleset {
        Some(json) => judge_firewall(facts, &firewall::parse(json), &mut findings),
        None => findings.push(Finding {
            code: Code::NftMissing,
            severity: Severity::Error,
            message:
                "the program nft is missing or fails: no MSS clamp, no quarantine, no check of ownership"
                    .into(),
            fix: Some("apt-get install -y nftables".into()),
        }),
    }
    for (name, interface) in &facts.captures {
        judge_capture(name, interface, &mut findings);
    }
    findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), f.code));
    findings
}

fn judge_firewall(facts: &HostFacts, ruleset: &Ruleset, findings: &mut Vec<Finding>) {
    let any = Packet { hook: Hook::Forward, input: Other, output: Other, protocol: None, port: None };
    let mut forwarded = Vec::new();
    if let Some(name) = &facts.forward_interface {
        forwarded.push(Packet { input: Named(name), ..any });
        forwarded.push(Packet { output: Named(name), ..any });
    }
    if let Some(name) = &facts.relay_interface {
        forwarded.push(Packet { input: Named(name), output: Named(name), ..any });
    }
    let fix = |chain: &str| {
        format!(
            r#"nft 'insert rule {chain} iifname "fab-*" accept; insert rule {chain} oifname "fab-*" accept'"#
        )
    };
    push_blockers(ruleset, &forwarded, Code::HostForwardDrops, "forwarded fabric packets", fix, findings);
    let inward = Packet { hook: Hook::Input, output: Interface::None, ..any };
    if let Some(name) = &facts.input_interface {
        let packet = Packet { input: Named(name), ..inward };
        let fix = |chain: &str| format!(r#"nft 'insert rule {chain} iifname "fab-*" accept'"#);
        push_blockers(
            ruleset,
            &[packet],
            Code::HostInputDrops,
            "fabric packets for this node",
            fix,
            findings,
        );
    }
    if let Some(port) = facts.listen_port {
        let packet = Packet { protocol: Some(("udp", 17)), port: Some(port), ..inward };
        let fix = |chain: &str| format!("nft 'insert rule {chain} udp dport {port} accept'");
        push_blockers(ruleset, &[packet], Code::HostInputDrops, &format!("UDP port {port}"), fix, findings);
    }
}

/// One finding for each chain that ends any of `packets`.
fn push_blockers(
    ruleset: &Ruleset,
    packets: &[Packet<'_>],
    code: Code,
    what: &str,
    fix: impl Fn(&str) -> String,
    findings: &mut Vec<Finding>,
) {
    let blockers = packets.iter().flat_map(|p| ruleset.blockers(p)).map(|b| (b.chain, b.by));
    for (chain, by) in blockers.collect::<BTreeMap<_, _>>() {
        findings.push(Finding {
            code,
            severity: Severity::Error,
            message: format!("the host's firewall drops {what}: chain {chain}, {by}"),
            fix: Some(fix(&chain)),
        });
    }
}

fn judge_capture(name: &str, interface: &CaptureInterface, findings: &mut Vec<Finding>) {
    if !interface.exists {
        findings.push(Finding {
            code: Code::CaptureInterfaceMissing,
            severity: Severity::Error,
            message: format!("captures are wished on interface {name}, which does not exist"),
            fix: None,
        });
        return;
    }
    if interface.rp_filter == 1 {
        findings.push(Finding {
            code: Code::RpFilterStrict,
            severity: Severity::Warning,
            message: format!(
                "rp_filter is strict on {name}: a client that moves to this site is not heard while its route \
                 still leads elsewhere"
            ),
            fix: Some(format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2")),
        });
    }
    if interface.proxy_delay > 0 {
        let delay_ms = u64::from(interface.proxy_delay) * 10;
        findings.push(Finding {
            code: Code::ProxyArpDelayed,
            severity: Severity::Warning,
            message: format!("proxy ARP on {name} answers up to {delay_ms} ms late"),
            fix: Some(format!("sysctl -w net.ipv4.neigh.{name}.proxy_delay=0")),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(facts: &HostFacts) -> Vec<Code> {
        findings(facts).into_iter().map(|f| f.code).collect()
    }

    fn fine() -> HostFacts {
        HostFacts { ip_forward: true, forwards: true, ruleset: Some(String::new()), ..HostFacts::default() }
    }

    /// Every host fact that is wrong gives its own finding, with a fix where one command can be given.
    #[test]
    fn each_fact_has_its_finding() {
        assert_eq!(codes(&fine()), []);
        assert_eq!(codes(&HostFacts { ip_forward: false, ..fine() }), [Code::IpForwardOff]);
        assert_eq!(codes(&HostFacts { ip_forward: false, forwards: false, ..fine() }), []);
        assert_eq!(codes(&HostFacts { ruleset: None, ..fine() }), [Code::NftMissing]);
        let strict = CaptureInterface { exists: true, rp_filter: 1, proxy_delay: 80 };
        let captures = [("lan".to_string(), strict), ("gone".to_string(), CaptureInterface::default())];
        let all = findings(&HostFacts { captures: captures.into(), ..fine() });
        let codes: Vec<_> = all.iter().map(|f| f.code).collect();
        assert_eq!(codes, [Code::CaptureInterfaceMissing, Code::RpFilterStrict, Code::ProxyArpDelayed]);
        assert_eq!(all[1].fix.as_deref(), Some("sysctl -w net.ipv4.conf.lan.rp_filter=2"));
        assert!(all[2].message.contains("800 ms"));
    }

    /// A dropping FORWARD chain is one finding, however many of our packets it ends.
    #[test]
    fn forward_chain_is_found_once() {
        let ruleset = r#"{"nftables": [{"chain": {"family": "inet", "table": "host", "name": "fw", "hook": "forward", "policy": "drop"}}]}"#;
        let facts = HostFacts {
            ruleset: Some(ruleset.into()),
            forward_interface: Some("fab-tun".into()),
            relay_interface: Some("fab-wg".into()),
            ..fine()
        };
        let all = findings(&facts);
        assert_eq!(all.len(), 1);
        let fix = all[0].fix.as_deref().unwrap();
        assert_eq!(
            fix,
            r#"nft 'insert rule inet host fw iifname "fab-*" accept; insert rule inet host fw oifname "fab-*" accept'"#
        );
    }

    /// Names are unique, and serde writes what `as_str` says.
    #[test]
    fn codes_are_one_list() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
