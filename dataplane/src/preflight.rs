//! Host facts that stand in the fabric's way: checked and explained with a fix, never silently changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// UDP port that WireGuard must be reachable on from anywhere (a hub's).
    pub listen_port: Option<u16>,
    /// Whether the kernel hands ipip packets to this node itself (kernel dataplane with a tunnel).
    pub kernel_tunnel: bool,
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
    findings
}
