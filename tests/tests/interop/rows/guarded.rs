//! The cells on guarded connections: TCP-MD5 and GTSM.

use serde_json::{Value, json};

use super::{Row, WATCH, that};
use crate::make::Role;
use crate::space::{Check, End};

impl Row {
    /// Both start again with a TCP-MD5 key: the kernel drops what they do not sign, and yet the session is up.
    pub(super) fn signed(&mut self) -> Check {
        self.start_again(Role::ClientWithKey)?;
        self.space.until(|| self.is_fresh())
    }

    /// Both ends start again in a role with a guard.
    fn start_again(&mut self, role: Role) -> Check {
        self.space.kill(self.make.processes())?;
        self.space.kill(&["fabric-rr"])?;
        self.role = role;
        self.start_reflector()?;
        // OpenBGPD, refused once, tries again after two minutes.
        let program = self.space.path("routerctl");
        let listens = || self.space.ask(End::Near, &[&program, "bgp", "peers", "-o", "json"]);
        self.space.until(|| that(listens().starts_with('['), || "fabric-rr does not answer".into()))?;
        self.make.start(&mut self.space, self.role, &[1])
    }

    fn is_fresh(&self) -> Check {
        let peer = self.peer();
        let up = peer["state"] == "Established" && peer["prefixesAccepted"] == 2;
        that(up && peer["prefixesStale"] == 0, || format!("{peer}"))
    }

    pub(super) fn nearby(&mut self) -> Check {
        self.nearby_in(Role::ClientNearby)
    }

    pub(super) fn nearby_on_ipv6(&mut self) -> Check {
        self.nearby_in(Role::ClientNearbyOverIpv6)
    }

    /// Both start again with GTSM (RFC 5082). Packets to us whose TTL is 254, as if a router had passed them on, are
    /// dropped and counted, and the session is never up; of the same packets with 255 it comes up.
    fn nearby_in(&mut self, role: Role) -> Check {
        let far = if role == Role::ClientNearby { "ip ttl" } else { "ip6 hoplimit" };
        let rules = &format!(
            "table inet far {{\n chain output {{ type filter hook output priority 0; tcp dport 179 {far} set 254; }}\n}}\n"
        );
        let file = self.space.write("far.nft", rules)?;
        let answer = self.space.ask(End::Far, &["nft", "-f", &file]);
        that(answer.is_empty(), || answer.clone())?;
        self.start_again(role)?;
        let program = self.space.path("routerctl");
        let dropped = || -> u64 {
            let text = self.space.ask(End::Near, &[&program, "get", "BGPRouter", "-o", "json"]);
            let all: Value = serde_json::from_str(&text).unwrap_or_default();
            all[0]["status"]["ttlDropped"].as_u64().unwrap_or_default()
        };
        self.space.until(|| {
            let peer = self.peer();
            let waits = peer["state"] == "OpenSent" || peer["state"] == "OpenConfirm";
            that(waits && dropped() > 0, || format!("nothing is dropped: {peer}"))
        })?;
        self.space.throughout(WATCH, || {
            let peer = self.peer();
            let is_not = peer["establishedCount"] == 0 && peer["guards"] == json!(["gtsm"]);
            that(is_not, || format!("up from too far off: {peer}"))
        })?;
        self.space.ask(End::Far, &["nft", "delete", "table", "inet", "far"]);
        self.space.until(|| self.is_fresh())
    }
}
