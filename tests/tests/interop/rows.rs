//! What is done in each row, in the order of the table.

mod guarded;
mod liveness;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::make::{FAR, KEY, Make, ROUTE_V6, Role, route};
use crate::space::{Check, End, Space, installed};
use crate::witness::{Heard, Witness};
use crate::{Cells, Feature};

const NEAR: &str = "10.9.0.1";
const CLUSTER: &str = "9.9.9.9";
/// The witness' routes: the first stays, the second is withdrawn, the third while its reflector is away.
const WITNESSED: [&str; 4] = ["10.66.0.1/32", "10.66.0.2/32", "10.66.0.3/32", "2001:db8:66::1/128"];
const HOP: [&str; 2] = ["10.99.0.9", "2001:db8:99::9"];
/// The next hops of its twin, which announces the first and the last of these too.
const TWIN: Witness = Witness {
    name: "twin",
    end: End::Near,
    local: "10.9.0.8",
    remote: NEAR,
    hops: ["10.99.0.8", "2001:db8:99::8"],
};
const TWINNED: [&str; 2] = [WITNESSED[0], WITNESSED[3]];
/// Our leaf's routes; it announces IPv4 with standard communities.
const OURS: [&str; 3] = ["10.69.0.1/32", "10.69.0.2/32", "10.69.0.3/32"];
/// Its IPv6 route, with its IPv4 address as next hop, and how the witness writes that.
const OURS_V6: &str = "2001:db8:69::1/128";
const MAPPED: &str = "::ffff:10.99.0.1";
/// How long what must stay is watched.
const WATCH: Duration = Duration::from_millis(1500);
/// Program and Debian package.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("bird", "bird2"),
    ("gobgpd", "gobgpd"),
    ("vtysh", "frr"),
    ("/usr/lib/frr/bgpd", "frr"),
    ("/usr/lib/frr/bfdd", "frr"),
    ("/usr/sbin/bgpd", "openbgpd"),
    ("exabgp", "exabgp"),
];

/// What a cell does; `Err` says what is wrong.
type Test = fn(&mut Row) -> Check;

struct Row {
    make: Make,
    role: Role,
    space: Space,
    witness: Witness,
    cells: Cells,
    /// What our leaf announces, and how often it was told to ask its reflector again.
    leaf: (Vec<&'static str>, u32),
}

/// Runs a row; a cell that fails is the last one.
pub fn run(make: Make, role: Role) -> Cells {
    let tag = match role {
        Role::Client => "c",
        Role::ClientWithBfd => "b",
        Role::ClientOverIpv6 => "s",
        Role::ClientWithQuickBfd => "q",
        Role::ClientWithKey => "k",
        Role::ClientNearby | Role::ClientNearbyOverIpv6 => "g",
        Role::Reflector => "r",
    };
    let remote = if role == Role::Reflector { FAR } else { NEAR };
    let witness = Witness { name: "witness", end: End::Near, local: "10.9.0.9", remote, hops: HOP };
    let space = installed(&PROGRAMS).and_then(|()| Space::new(&format!("{tag}{}", make as u8)));
    let mut row = match space {
        Ok(space) => Row { make, role, space, witness, cells: Cells::new(), leaf: (Vec::new(), 0) },
        Err(error) => {
            let firsts = [Feature::Routes, Feature::BfdUp, Feature::BfdIpv6, Feature::BfdQuick];
            return firsts.into_iter().map(|f| (f, Err(error.clone()))).collect();
        }
    };
    let cells: &[(Feature, Test)] = match role {
        Role::Client => &[
            (Feature::Routes, Row::client_routes),
            (Feature::Ipv6, Row::client_ipv6),
            (Feature::Communities, Row::client_communities),
            (Feature::Withdraw, Row::client_withdraw),
            (Feature::WeAsk, Row::we_ask),
            (Feature::PathsSent, Row::paths_sent),
            (Feature::RefreshAsked, Row::refresh_asked),
            (Feature::RefreshSent, Row::refresh_sent),
            (Feature::TheyRestart, Row::client_restarts),
            (Feature::WeRestart, Row::reflector_restarts),
            (Feature::Md5, Row::signed),
            (Feature::Gtsm, Row::nearby),
            (Feature::GtsmIpv6, Row::nearby_on_ipv6),
        ],
        Role::Reflector => &[
            (Feature::Routes, Row::leaf_routes),
            (Feature::Ipv6, Row::leaf_ipv6),
            (Feature::Mapped, Row::leaf_mapped),
            (Feature::Communities, Row::leaf_communities),
            (Feature::Withdraw, Row::leaf_withdraw),
            (Feature::WeAsk, Row::we_ask),
            (Feature::PathsTaken, Row::paths_taken),
            (Feature::RefreshAsked, Row::refresh_asked),
            (Feature::RefreshSent, Row::refresh_sent),
            (Feature::TheyRestart, Row::their_reflector_restarts),
            (Feature::WeRestart, Row::leaf_restarts),
        ],
        Role::ClientWithKey | Role::ClientNearby | Role::ClientNearbyOverIpv6 => &[],
        Role::ClientWithBfd => &[(Feature::BfdUp, Row::bfd_up), (Feature::BfdCut, Row::bfd_cut)],
        Role::ClientOverIpv6 => &[(Feature::BfdIpv6, Row::bfd_on_ipv6)],
        Role::ClientWithQuickBfd => &[(Feature::BfdQuick, Row::bfd_quick)],
    };
    for (feature, check) in cells.iter().filter(|(f, _)| f.missing(make, role).is_none()) {
        let begin = Instant::now();
        let verdict = check(&mut row).map(|()| begin.elapsed());
        let failed = verdict.is_err();
        row.cells.entry(*feature).or_insert(verdict);
        if failed {
            break;
        }
    }
    row.cells
}

/// Words that must all be in a text.
fn all_in(who: &str, text: &str, words: &[&str]) -> Check {
    match words.iter().find(|word| !text.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("{who}: no `{word}` in: {text}")),
    }
}

fn that(is: bool, what: impl FnOnce() -> String) -> Check {
    if is { Ok(()) } else { Err(what()) }
}

impl Row {
    fn heard(&self) -> Heard {
        self.witness.heard(&self.space)
    }

    /// What our side says of the other router.
    fn peer(&self) -> Value {
        let peers: Value = if self.role == Role::Reflector {
            let text = std::fs::read_to_string(self.space.file("state.json")).unwrap_or_default();
            serde_json::from_str::<Value>(&text).unwrap_or_default()["peers"].take()
        } else {
            let program = self.space.path("routerctl");
            serde_json::from_str(&self.space.ask(End::Near, &[&program, "bgp", "peers", "-o", "json"]))
                .unwrap_or_default()
        };
        let [_, far] = self.role.ends();
        peers.as_array().into_iter().flatten().find(|p| p["address"] == far).cloned().unwrap_or_default()
    }

    fn number(&self, key: &str) -> u64 {
        self.peer()[key].as_u64().unwrap_or_default()
    }

    /// A route of our leaf, as it has it.
    fn learned(&self, prefix: &str) -> Value {
        self.all_learned(prefix)[0].clone()
    }

    /// All its paths of a prefix.
    fn all_learned(&self, prefix: &str) -> Value {
        let text = std::fs::read_to_string(self.space.file("state.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        let of = |r: &&Value| r["prefix"] == prefix && r["peer"] != "local";
        state["routes"].as_array().into_iter().flatten().filter(of).cloned().collect()
    }

    fn start_reflector(&mut self) -> Check {
        let bfd = match self.role.bfd_millis() {
            Some(ms) => format!("{{minTxMillis: {ms}, minRxMillis: {ms}}}"),
            None => "{enabled: false}".into(),
        };
        // OpenBGPD tries again after two minutes only, and FRR not soon after a refusal: these are dialled too.
        let dialled = "---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPPeer\nmetadata: {name: far}\n\
                       spec: {address: 10.9.0.2, routeReflectorClient: true, addPathSend: all, addPathReceive: true}\n";
        let late = matches!(self.make, Make::OpenBgpd | Make::Frr) && self.role == Role::Client;
        let dialled = if late { dialled } else { "" };
        let signed = self.role == Role::ClientWithKey;
        let (guard, of_peer) = match self.space.write("far.key", KEY)? {
            file if signed => (format!(", tcpMD5KeyFile: {file}"), "10.9.0.2/32"),
            _ if self.role.nearby() => (", maxHops: 1".into(), "10.9.0.2/32, \"fd09::2/128\""),
            _ => (String::new(), "10.9.0.0/24, \"fd09::/64\""),
        };
        let config = self.space.write(
            "reflector.yaml",
            &format!(
                "apiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {{name: reflector}}\nspec:\n  \
                 asn: 64512\n  routerID: {NEAR}\n  clusterID: {CLUSTER}\n  listen: [\"{NEAR}:179\", \"[fd09::1]:179\"]\n  \
                 holdTimeSecs: 90\n---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPDynamicPeer\n\
                 metadata: {{name: clients}}\nspec: {{sourcePrefixes: [{of_peer}], admission: open, addPathSend: all, addPathReceive: true, bfd: {bfd}{guard}}}\n\
                 {dialled}"
            ),
        )?;
        let bin = fabric_tests::harness::bin_dir()?;
        let link = self.space.file("routerctl");
        if !link.exists() {
            std::os::unix::fs::symlink(bin.join("routerctl"), link).map_err(|e| e.to_string())?;
        }
        let (program, root) = (bin.join("fabric-rr").display().to_string(), self.space.path(""));
        self.space.start(End::Near, "fabric-rr", &[&program, "--root", &root, "--config", &config])
    }

    fn tell_leaf(&mut self, routes: &[&'static str]) -> Result<String, String> {
        self.leaf.0 = routes.to_vec();
        let route = |prefix: &&str| json!({ "prefix": prefix, "nextHop": "10.99.0.1", "communities": [4259905543u32] });
        let announce: Vec<Value> = routes.iter().map(route).collect();
        let config = json!({ "asn": 64512, "local": NEAR, "reflector": FAR, "announce": announce, "refreshes": self.leaf.1 });
        self.space.write("leaf.json", &config.to_string())
    }

    fn start_leaf(&mut self, routes: &[&'static str]) -> Check {
        let (config, state) = (self.tell_leaf(routes)?, self.space.path("state.json"));
        self.space.start(End::Near, "leaf", &[env!("CARGO_BIN_EXE_interop-leaf"), &config, &state])
    }

    /// Both see the other's route, reflected as RFC 4456 section 8 says.
    fn client_routes(&mut self) -> Check {
        self.start_reflector()?;
        self.make.start(&mut self.space, self.role, &[1, 2, 3])?;
        self.witness.start(&mut self.space, &WITNESSED, None)?;
        self.space.until(|| {
            let text = self.make.show(&self.space, WITNESSED[0]);
            all_in("they", &text, &[HOP[0], "10.9.0.9", CLUSTER])?;
            let heard = self.heard();
            [1, 2, 3].iter().try_for_each(|n| {
                let text = heard.routes.get(&route(*n)).map_or("", String::as_str);
                all_in("the witness", text, &["10.99.0.2", &format!("\"originator-id\":\"{FAR}\""), CLUSTER])
            })
        })
    }

    fn client_ipv6(&mut self) -> Check {
        self.space.until(|| {
            let text = self.make.show(&self.space, WITNESSED[3]);
            all_in("they", &text, &[HOP[1], "10.9.0.9", CLUSTER])?;
            let text = self.heard().routes.remove(ROUTE_V6).unwrap_or_default();
            all_in(
                "the witness",
                &text,
                &["2001:db8:99::2", &format!("\"originator-id\":\"{FAR}\""), CLUSTER],
            )
        })
    }

    /// Standard, extended and large ones come out as they went in, of both families, both ways.
    fn client_communities(&mut self) -> Check {
        for prefix in [WITNESSED[0], WITNESSED[3]] {
            all_in("they", &self.make.show(&self.space, prefix), &self.make.communities())?;
        }
        for prefix in [route(1), ROUTE_V6.to_string()] {
            let text = self.heard().routes.remove(&prefix).unwrap_or_default();
            all_in("the witness", &text, &Make::ExaBgp.communities())?;
        }
        Ok(())
    }

    fn client_withdraw(&mut self) -> Check {
        self.make.withdraw(&self.space, self.role)?;
        self.witness.tell(&self.space, "withdraw", WITNESSED[1])?;
        self.space.until(|| {
            that(!self.heard().routes.contains_key(&route(2)), || "the witness keeps it".into())?;
            that(!self.make.has(&self.space, WITNESSED[1], HOP[0]), || "they keep it".into())
        })?;
        that(self.make.has(&self.space, WITNESSED[0], HOP[0]), || "they lost another one".into())?;
        that(self.heard().routes.contains_key(&route(1)), || "the witness lost another one".into())
    }

    /// We ask for their table again, and get it: an operator at the reflector, or our leaf.
    fn we_ask(&mut self) -> Check {
        let (before, had) = (self.number("updatesIn"), self.number("prefixesAccepted"));
        if self.role == Role::Reflector {
            self.leaf.1 += 1;
            let routes = self.leaf.0.clone();
            self.tell_leaf(&routes)?;
        } else {
            let program = self.space.path("routerctl");
            let answer = self.space.ask(End::Near, &[&program, "bgp", "refresh", FAR, "-o", "json"]);
            all_in("routerctl", &answer, &["ipv4-unicast", "ipv6-unicast"])?;
        }
        self.space.until(|| that(self.number("updatesIn") > before, || "no UPDATE came".into()))?;
        self.space.until(|| {
            let peer = self.peer();
            let (has, stale) = (peer["prefixesAccepted"].as_u64(), peer["prefixesStale"].as_u64());
            that(has == Some(had) && had > 0 && stale == Some(0), || format!("{had} routes became: {peer}"))
        })
    }

    /// Two paths of one prefix go to them, of both families, and one is withdrawn alone.
    fn paths_sent(&mut self) -> Check {
        let sent = |row: &Row| row.peer()["capabilities"].to_string();
        all_in("the session", &sent(self), &["add-path-send"])?;
        TWIN.start(&mut self.space, &TWINNED, None)?;
        let all = [0, 1].map(|f| (TWINNED[f], HOP[f], TWIN.hops[f]));
        self.space.until(|| {
            all.iter()
                .try_for_each(|(p, one, two)| all_in("they", &self.make.show(&self.space, p), &[one, two]))
        })?;
        TWINNED.iter().try_for_each(|p| TWIN.tell(&self.space, "withdraw", p))?;
        self.space.until(|| {
            all.iter().try_for_each(|(p, one, two)| {
                let text = self.make.show(&self.space, p);
                all_in("they", &text, &[one])?;
                that(!text.contains(two), || format!("they keep {two}: {text}"))
            })
        })
    }

    /// Two paths of one prefix come from them, of both families, and one is withdrawn alone.
    fn paths_taken(&mut self) -> Check {
        let twin = Witness { remote: FAR, ..TWIN };
        all_in("the session", &self.peer()["capabilities"].to_string(), &["add-path-receive"])?;
        twin.start(&mut self.space, &TWINNED, None)?;
        let all = [0, 1].map(|f| (TWINNED[f], HOP[f], twin.hops[f]));
        self.space.until(|| {
            all.iter()
                .try_for_each(|(p, one, two)| all_in("we", &self.all_learned(p).to_string(), &[one, two]))
        })?;
        TWINNED.iter().try_for_each(|p| twin.tell(&self.space, "withdraw", p))?;
        self.space.until(|| {
            all.iter().try_for_each(|(p, one, two)| {
                let text = self.all_learned(p).to_string();
                all_in("we", &text, &[one])?;
                that(!text.contains(two), || format!("we keep {two}: {text}"))
            })
        })
    }

    /// They ask for the table again, and get it.
    fn refresh_asked(&mut self) -> Check {
        // More than two keepalives, and no more than our smallest table.
        let before = self.number("bytesOut");
        self.make.refresh_in(&self.space, NEAR)?;
        self.space.until(|| {
            let sent = self.number("bytesOut").saturating_sub(before);
            that(sent >= 55, || format!("{sent} octets were sent again"))
        })?;
        let stays =
            if self.role == Role::Reflector { (OURS[0], "10.99.0.1") } else { (WITNESSED[0], HOP[0]) };
        that(self.make.has(&self.space, stays.0, stays.1), || format!("{} is gone", stays.0))
    }

    /// They send their table again, and we take it for what it is.
    fn refresh_sent(&mut self) -> Check {
        let (before, had) = (self.number("updatesIn"), self.number("prefixesAccepted"));
        self.make.refresh_out(&self.space, NEAR)?;
        self.space.until(|| that(self.number("updatesIn") > before, || "no UPDATE came".into()))?;
        self.space.until(|| {
            let has = self.number("prefixesAccepted");
            that(has == had && has > 0, || format!("{had} routes became {has}"))
        })
    }

    /// They are killed and come back with a route less: nobody loses the others, and that one is swept.
    fn client_restarts(&mut self) -> Check {
        let one = route(1);
        let withdrawals = |heard: &Heard| heard.withdrawn.get(&one).copied().unwrap_or_default();
        let before = withdrawals(&self.heard());
        self.space.kill(self.make.processes())?;
        self.space
            .until(|| that(self.number("prefixesStale") >= 3, || format!("not stale: {}", self.peer())))?;
        self.space.throughout(WATCH, || {
            that(self.heard().routes.contains_key(&one), || "the witness lost a route that is kept".into())
        })?;
        self.make.start(&mut self.space, self.role, &[1])?;
        self.space.until(|| {
            let (peer, heard) = (self.peer(), self.heard());
            let fresh =
                peer["state"] == "Established" && peer["prefixesStale"] == 0 && peer["prefixesAccepted"] == 2;
            that(fresh, || format!("not fresh: {peer}"))?;
            that(!heard.routes.contains_key(&route(3)), || "the witness keeps what was swept".into())
        })?;
        let never = withdrawals(&self.heard()) == before;
        that(never || self.make.hasty_end_of_rib(), || "a kept route was withdrawn meanwhile".into())
    }

    /// We are killed: they keep our routes, and have them afresh when we are back.
    fn reflector_restarts(&mut self) -> Check {
        let kept =
            |row: &Row| that(row.make.has(&row.space, WITNESSED[0], HOP[0]), || "they lost our route".into());
        self.space.kill(&["fabric-rr"])?;
        self.space.until(|| that(!self.make.up(&self.space, NEAR), || "they noticed nothing".into()))?;
        self.space.throughout(WATCH, || kept(self))?;
        self.start_reflector()?;
        self.space.until(|| {
            let peer = self.peer();
            that(peer["state"] == "Established" && peer["prefixesAccepted"].as_u64() >= Some(2), || {
                format!("{peer}")
            })?;
            that(self.make.up(&self.space, NEAR), || "they are not up".into())?;
            kept(self)
        })
    }

    fn leaf_routes(&mut self) -> Check {
        self.make.start(&mut self.space, self.role, &[])?;
        self.start_leaf(&OURS)?;
        self.witness.start(&mut self.space, &WITNESSED, None)?;
        self.space.until(|| {
            let route = self.learned(WITNESSED[0]).to_string();
            all_in("we", &route, &[HOP[0], "\"originatorId\":\"10.9.0.9\"", CLUSTER])?;
            let text = self.heard().routes.remove(OURS[0]).unwrap_or_default();
            all_in("the witness", &text, &["10.99.0.1", &format!("\"originator-id\":\"{NEAR}\""), CLUSTER])
        })
    }

    fn leaf_ipv6(&mut self) -> Check {
        self.space.until(|| {
            let route = self.learned(WITNESSED[3]).to_string();
            all_in("we", &route, &[HOP[1], "\"originatorId\":\"10.9.0.9\"", CLUSTER])
        })
    }

    /// Standard, extended and large ones come in as they were sent, of both families; a leaf sends standard ones.
    fn leaf_communities(&mut self) -> Check {
        for prefix in TWINNED {
            let all = ["\"communities\":[\"65001:7\"]", "[\"rt:65001:7\"]", "[\"65001:7:8\"]"];
            all_in("we", &self.learned(prefix).to_string(), &all)?;
        }
        let text = self.heard().routes.remove(OURS[0]).unwrap_or_default();
        all_in("the witness", &text, &["[[65001,7]]"])
    }

    fn leaf_withdraw(&mut self) -> Check {
        self.tell_leaf(&[OURS[0], OURS[2]])?;
        self.witness.tell(&self.space, "withdraw", WITNESSED[1])?;
        self.space.until(|| {
            that(!self.heard().routes.contains_key(OURS[1]), || "the witness keeps it".into())?;
            that(self.learned(WITNESSED[1]).is_null(), || "we keep it".into())
        })?;
        that(self.heard().routes.contains_key(OURS[0]), || "the witness lost another one".into())?;
        that(!self.learned(WITNESSED[0]).is_null(), || "we lost another one".into())
    }

    /// Their reflector is killed and comes back: our leaf keeps its routes, and sweeps what went meanwhile.
    fn their_reflector_restarts(&mut self) -> Check {
        self.space.kill(self.make.processes())?;
        self.space.until(|| that(self.learned(WITNESSED[0])["stale"] == true, || "not stale".into()))?;
        self.witness.tell(&self.space, "withdraw", WITNESSED[2])?;
        self.space
            .throughout(WATCH, || that(!self.learned(WITNESSED[0]).is_null(), || "we lost it".into()))?;
        self.make.start(&mut self.space, self.role, &[])?;
        self.space.until(|| {
            that(self.learned(WITNESSED[0])["stale"] == false, || format!("not fresh: {}", self.peer()))?;
            that(self.learned(WITNESSED[2]).is_null(), || "not swept".into())?;
            that(self.heard().routes.contains_key(OURS[0]), || "the witness has not got ours".into())
        })
    }

    /// Our leaf is killed and comes back with a route less: the witness loses that one alone.
    fn leaf_restarts(&mut self) -> Check {
        let before = self.heard().withdrawn.get(OURS[0]).copied();
        self.space.kill(&["leaf"])?;
        self.space.until(|| that(!self.make.up(&self.space, NEAR), || "they noticed nothing".into()))?;
        self.space.throughout(WATCH, || {
            that(self.heard().routes.contains_key(OURS[0]), || "the witness lost a route that is kept".into())
        })?;
        self.start_leaf(&[OURS[0]])?;
        self.space.until(|| {
            let heard = self.heard();
            that(!heard.routes.contains_key(OURS[2]), || "not swept".into())?;
            that(heard.routes.contains_key(OURS[0]), || "lost".into())
        })?;
        that(self.heard().withdrawn.get(OURS[0]).copied() == before, || "a kept route was withdrawn".into())
    }

    /// An IPv6 route whose next hop is an IPv4 address goes out with that address mapped (RFC 4291 section 2.5.5.2), and
    /// is taken, passed on as it is, and withdrawn.
    fn leaf_mapped(&mut self) -> Check {
        let ours = self.leaf.0.clone();
        self.tell_leaf(&[&ours[..], &[OURS_V6]].concat())?;
        self.space.until(|| {
            all_in("they", &self.make.show(&self.space, OURS_V6), &[self.make.mapped()])?;
            let text = self.heard().routes.remove(OURS_V6).unwrap_or_default();
            all_in("the witness", &text, &[&format!("next-hop={MAPPED}"), CLUSTER])
        })?;
        self.tell_leaf(&ours)?;
        self.space.until(|| {
            that(!self.heard().routes.contains_key(OURS_V6), || "the witness keeps it".into())?;
            that(!self.make.has(&self.space, OURS_V6, self.make.mapped()), || "they keep it".into())
        })
    }
}
