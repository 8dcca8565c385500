//! The other makes: how each is configured, started, asked and told. What is a router's own way stands here alone.

use std::fmt::Write as _;

use serde_json::Value;

use crate::space::{Check, End, Space};
use crate::witness::Witness;

/// A router of another make, as Debian packages it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    ExaBgp,
}

/// What it is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A client of `fabric-rr`, which it dials.
    Client,
    /// The same with BFD.
    ClientWithBfd,
    /// The same with BFD, and the session, over IPv6.
    ClientOverIpv6,
    /// The same with BFD at 50 ms.
    ClientWithQuickBfd,
    /// The same with TCP-MD5.
    ClientWithKey,
    /// The same with GTSM: each hears the other from the same link only.
    ClientNearby,
    /// The same with GTSM over IPv6.
    ClientNearbyOverIpv6,
    /// The reflector, which our leaf and the witness dial.
    Reflector,
}

impl Role {
    /// How often each side sends BFD packets, in milliseconds; `None`: it has no BFD.
    pub fn bfd_millis(self) -> Option<u64> {
        match self {
            Role::ClientWithBfd | Role::ClientOverIpv6 => Some(300),
            Role::ClientWithQuickBfd => Some(50),
            _ => None,
        }
    }

    /// Whether the row is there for BFD.
    pub fn with_bfd(self) -> bool {
        self.bfd_millis().is_some()
    }

    /// Whether GTSM is on at both ends.
    pub fn nearby(self) -> bool {
        matches!(self, Role::ClientNearby | Role::ClientNearbyOverIpv6)
    }

    /// The addresses of its session: ours and its own.
    pub fn ends(self) -> [&'static str; 2] {
        if matches!(self, Role::ClientOverIpv6 | Role::ClientNearbyOverIpv6) {
            ["fd09::1", "fd09::2"]
        } else {
            [DIALLERS[0], FAR]
        }
    }
}

/// The TCP-MD5 key.
pub const KEY: &str = "interop-key";
/// Its address.
pub const FAR: &str = "10.9.0.2";
/// Who dials it when it is the reflector: our leaf, the witness and its twin.
const DIALLERS: [&str; 3] = ["10.9.0.1", "10.9.0.9", "10.9.0.8"];
const EXABGP: Witness = Witness {
    name: "exabgp",
    end: End::Far,
    local: FAR,
    remote: "10.9.0.1",
    hops: ["10.99.0.2", "2001:db8:99::2"],
};

/// Its host routes: number 1 stays, 2 is withdrawn, 3 is gone after a restart.
pub fn route(n: u8) -> String {
    format!("10.62.0.{n}/32")
}

/// Its IPv6 route.
pub const ROUTE_V6: &str = "2001:db8:62::1/128";

impl Make {
    pub const ALL: [Make; 5] = [Make::Bird, Make::Frr, Make::GoBgp, Make::OpenBgpd, Make::ExaBgp];

    pub fn name(self) -> &'static str {
        match self {
            Make::Bird => "BIRD",
            Make::Frr => "FRR",
            Make::GoBgp => "GoBGP",
            Make::OpenBgpd => "OpenBGPD",
            Make::ExaBgp => "ExaBGP",
        }
    }

    /// How it writes 65001:7 as a community, as a route target, and 65001:7:8.
    pub fn communities(self) -> [&'static str; 3] {
        match self {
            Make::Bird => ["(65001,7)", "(rt, 65001, 7)", "(65001, 7, 8)"],
            Make::Frr => ["\"string\":\"65001:7\"", "RT:65001:7", "\"65001:7:8\""],
            Make::GoBgp => {
                ["4259905543", "\"value\":\"65001:7\"", "{\"ASN\":65001,\"LocalData1\":7,\"LocalData2\":8}"]
            }
            Make::OpenBgpd => ["Communities: 65001:7", "rt 65001:7", "65001:7:8"],
            Make::ExaBgp => ["[[65001,7]]", "target:65001:7", "[[65001,7,8]]"],
        }
    }

    /// How it writes ::ffff:10.99.0.1, an IPv4 address mapped into IPv6.
    pub fn mapped(self) -> &'static str {
        match self {
            Make::Frr => "::ffff:a63:1",
            Make::Bird => "next_hop: 10.99.0.1",
            Make::GoBgp => "\"nexthop\":\"10.99.0.1\"",
            Make::OpenBgpd | Make::ExaBgp => "::ffff:10.99.0.1",
        }
    }

    /// Writes its configuration with these of its routes, and starts it.
    pub fn start(self, space: &mut Space, role: Role, routes: &[u8]) -> Check {
        self.configure(space, role, routes)?;
        let (dir, zserv) = (space.path("frr"), space.path("frr/zserv.api"));
        let conf = space.path("far.conf");
        let (pid, ctl) = (|name: &str| space.path(&format!("frr/{name}.pid")), space.path("bird.ctl"));
        let vty = ["--vty_socket", &dir, "--log", "stdout"];
        match self {
            Make::Bird => {
                let argv = ["bird", "-f", "-R", "-c", &conf, "-s", &ctl, "-P", &space.path("bird.pid")];
                space.start(End::Far, "bird", &argv)
            }
            Make::Frr => {
                let bfd = role.with_bfd();
                // zebra and bfdd write there as their own user.
                space.open_dir("frr")?;
                let (zebra_pid, bfd_pid, bgp_pid) = (pid("zebra"), pid("bfdd"), pid("bgpd"));
                if bfd {
                    let zebra = ["/usr/lib/frr/zebra", "-P", "0", "-i", &zebra_pid, "-z", &zserv];
                    space.start(End::Far, "zebra", &[&zebra[..], &vty].concat())?;
                    space.until(|| {
                        space.file("frr/zserv.api").exists().then_some(()).ok_or("zebra is late".into())
                    })?;
                    let ctl = space.path("frr/bfdd.sock");
                    let bfdd =
                        ["/usr/lib/frr/bfdd", "-P", "0", "-i", &bfd_pid, "-z", &zserv, "--bfdctl", &ctl];
                    space.start(End::Far, "bfdd", &[&bfdd[..], &vty].concat())?;
                }
                let alone: &[&str] = if bfd { &[] } else { &["-Z"] };
                let bgpd =
                    ["/usr/lib/frr/bgpd", "-f", &conf, "-n", "-S", "-P", "0", "-i", &bgp_pid, "-z", &zserv];
                space.start(End::Far, "bgpd", &[&bgpd[..], alone, &vty].concat())
            }
            Make::GoBgp => {
                space.start(End::Far, "gobgpd", &["gobgpd", "-r", "-f", &conf, "--pprof-disable"])?;
                if role == Role::Reflector {
                    return Ok(());
                }
                space.until(|| routes.iter().try_for_each(|n| self.gobgp(space, "add", &route(*n))))?;
                self.gobgp(space, "add", ROUTE_V6)
            }
            // Its service would have made the home of its user, to which it changes its root.
            Make::OpenBgpd => {
                let home = "mount -t tmpfs tmpfs /run; mkdir -p $(getent passwd _openbgpd | cut -d: -f6)";
                let shell = format!("{home}; exec /usr/sbin/bgpd -d -f {conf}");
                space.start(End::Far, "openbgpd", &["sh", "-c", &shell])?;
                let ready = |text: String| if text.contains("10.9.0.1") { Ok(()) } else { Err(text) };
                space.until(|| ready(self.bgpctl(space, "show summary")))
            }
            Make::ExaBgp => {
                let own: Vec<String> =
                    routes.iter().map(|n| route(*n)).chain([ROUTE_V6.to_string()]).collect();
                let key = (role == Role::ClientWithKey).then_some(KEY);
                EXABGP.start(space, &own.iter().map(String::as_str).collect::<Vec<_>>(), key)
            }
        }
    }

    /// Whether it says that its table is complete before it has sent it: FRR 8.4 sends End-of-RIB a second after the
    /// start and its own networks three seconds later.
    pub fn hasty_end_of_rib(self) -> bool {
        self == Make::Frr
    }

    /// The names of its processes.
    pub fn processes(self) -> &'static [&'static str] {
        match self {
            Make::Bird => &["bird"],
            Make::Frr => &["bgpd"],
            Make::GoBgp => &["gobgpd"],
            Make::OpenBgpd => &["openbgpd"],
            Make::ExaBgp => &["exabgp"],
        }
    }

    fn configure(self, space: &Space, role: Role, routes: &[u8]) -> Check {
        let text = match self {
            Make::Bird => bird(role, routes),
            Make::Frr => frr(role, routes),
            Make::GoBgp => gobgp(role),
            Make::OpenBgpd => openbgpd(role, routes, &space.path("openbgpd.ctl")),
            Make::ExaBgp => return Ok(()),
        };
        space.write("far.conf", &text).map(drop)
    }

    fn gobgp(self, space: &Space, what: &str, prefix: &str) -> Check {
        let (family, hop) =
            if prefix.contains(':') { ("ipv6", "2001:db8:99::2") } else { ("ipv4", "10.99.0.2") };
        let communities =
            ["nexthop", hop, "community", "65001:7", "rt", "65001:7", "large-community", "65001:7:8"];
        let rest: &[&str] = if what == "add" { &communities } else { &[] };
        let answer = space
            .ask(End::Far, &[&["gobgp", "global", "rib", "-a", family, what, prefix][..], rest].concat());
        if answer.is_empty() { Ok(()) } else { Err(answer) }
    }

    fn vtysh(self, space: &Space, commands: &[&str]) -> String {
        let dir = space.path("frr");
        let words = commands.iter().flat_map(|c| ["-c", c]);
        space.ask(End::Far, &["vtysh", "--vty_socket", &dir].into_iter().chain(words).collect::<Vec<_>>())
    }

    fn birdc(self, space: &Space, command: &str) -> String {
        let ctl = space.path("bird.ctl");
        let words = ["birdc", "-s", &ctl].into_iter().chain(command.split(' '));
        space.ask(End::Far, &words.collect::<Vec<_>>())
    }

    fn bgpctl(self, space: &Space, command: &str) -> String {
        let ctl = space.path("openbgpd.ctl");
        let words = ["/usr/sbin/bgpctl", "-s", &ctl].into_iter().chain(command.split(' '));
        space.ask(End::Far, &words.collect::<Vec<_>>())
    }

    /// What it has for a prefix, in its own words; empty: nothing.
    pub fn show(self, space: &Space, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        match self {
            Make::Bird => self.birdc(space, &format!("show route all {prefix}")),
            Make::Frr => {
                let text = self.vtysh(space, &[&format!("show bgp {family} unicast {prefix} json")]);
                serde_json::from_str::<Value>(&text).map_or(text, |json| json.to_string())
            }
            Make::GoBgp => space.ask(End::Far, &["gobgp", "global", "rib", prefix, "-a", family, "-j"]),
            Make::OpenBgpd => self.bgpctl(space, &format!("show rib detail {prefix}")),
            Make::ExaBgp => EXABGP.heard(space).routes.remove(prefix).unwrap_or_default(),
        }
    }

    /// Whether it has a prefix with its next hop.
    pub fn has(self, space: &Space, prefix: &str, next_hop: &str) -> bool {
        self.show(space, prefix).contains(next_hop)
    }

    /// Takes its second route back.
    pub fn withdraw(self, space: &Space, role: Role) -> Check {
        let two = route(2);
        match self {
            Make::Bird => {
                self.configure(space, role, &[1, 3])?;
                self.birdc(space, "configure");
            }
            Make::Frr => {
                let network = format!("no network {two}");
                self.vtysh(space, &["conf t", "router bgp 64512", "address-family ipv4 unicast", &network]);
            }
            Make::GoBgp => self.gobgp(space, "del", &two)?,
            Make::OpenBgpd => {
                self.configure(space, role, &[1, 3])?;
                self.bgpctl(space, "reload");
            }
            Make::ExaBgp => EXABGP.tell(space, "withdraw", &two)?,
        }
        Ok(())
    }

    /// Makes it ask for the table again (RFC 2918). `Err`: it has no command for it.
    pub fn refresh_in(self, space: &Space, from: &str) -> Result<(), &'static str> {
        match self {
            Make::Bird => drop(self.birdc(space, "reload in near")),
            Make::Frr => drop(self.vtysh(space, &[&format!("clear bgp ipv4 unicast {from} soft in")])),
            Make::GoBgp => return Err("softresetin works on the routes that it has kept"),
            Make::OpenBgpd => drop(self.bgpctl(space, &format!("neighbor {from} refresh"))),
            Make::ExaBgp => EXABGP
                .command(space, "announce route-refresh ipv4 unicast")
                .map_err(|_| "its pipe is gone")?,
        }
        Ok(())
    }

    /// Makes it send its table again. `Err`: it has no command for it.
    pub fn refresh_out(self, space: &Space, to: &str) -> Result<(), &'static str> {
        match self {
            Make::Bird => drop(self.birdc(space, "reload out near")),
            Make::Frr => drop(self.vtysh(space, &[&format!("clear bgp ipv4 unicast {to} soft out")])),
            Make::GoBgp => drop(space.ask(End::Far, &["gobgp", "neighbor", to, "softresetout"])),
            Make::OpenBgpd => return Err("bgpctl has no command to send again"),
            Make::ExaBgp => EXABGP.command(space, "flush adj-rib out").map_err(|_| "its pipe is gone")?,
        }
        Ok(())
    }

    /// Whether its session with an address is up.
    pub fn up(self, space: &Space, with: &str) -> bool {
        match self {
            Make::Bird => self.birdc(space, "show protocols near").contains("Established"),
            Make::Frr => {
                let text = self.vtysh(space, &["show bgp ipv4 unicast summary json"]);
                let json: Value = serde_json::from_str(&text).unwrap_or_default();
                json["peers"][with]["state"] == "Established"
            }
            Make::GoBgp => {
                let text = space.ask(End::Far, &["gobgp", "neighbor", with]).to_lowercase();
                text.contains("bgp state = established") || text.contains("state = bgp_fsm_established")
            }
            Make::OpenBgpd => {
                self.bgpctl(space, &format!("show neighbor {with}")).contains("state = Established")
            }
            Make::ExaBgp => EXABGP.heard(space).up,
        }
    }

    /// Its BFD session's state, in its own words.
    pub fn bfd(self, space: &Space) -> String {
        match self {
            Make::Bird => self.birdc(space, "show bfd sessions"),
            Make::Frr => self.vtysh(space, &["show bfd peers json"]),
            _ => String::new(),
        }
    }

    /// Whether it says that its only BFD session is up, with both sides sending at this interval in milliseconds, and
    /// silence of three of them being the end.
    pub fn bfd_is_up(self, space: &Space, millis: u64) -> Check {
        let text = self.bfd(space);
        let up = match self {
            Make::Frr => {
                let all: Value = serde_json::from_str(&text).unwrap_or_default();
                let intervals = [
                    "receive-interval",
                    "transmit-interval",
                    "remote-receive-interval",
                    "remote-transmit-interval",
                ];
                let multipliers = ["detect-multiplier", "remote-detect-multiplier"];
                let all_are = |keys: &[&str], value: u64| keys.iter().all(|key| all[0][*key] == value);
                all[0]["status"] == "up" && all_are(&intervals, millis) && all_are(&multipliers, 3)
            }
            _ => {
                let seconds = |millis: u64| format!("0.{millis:03}");
                let mut words = text.lines().filter(|l| l.contains(" Up ")).flat_map(str::split_whitespace);
                words.any(|w| w == seconds(millis)) && words.any(|w| w == seconds(3 * millis))
            }
        };
        if up { Ok(()) } else { Err(format!("theirs: {text}")) }
    }
}

fn bird(role: Role, routes: &[u8]) -> String {
    let mut text = "log stderr all;\nrouter id 10.9.0.2;\nprotocol device { scan time 5; }\nprotocol direct { ipv4; ipv6; }\n\
                    protocol static { ipv4; route 10.99.0.0/16 via 10.9.0.1; }\n\
                    protocol static { ipv6; route 2001:db8:99::/48 via fd09::1; }\n"
        .to_string();
    let community = "bgp_community.add((65001, 7)); bgp_ext_community.add((rt, 65001, 7)); \
                     bgp_large_community.add((65001, 7, 8));";
    for (name, family, prefix) in routes.iter().map(|n| (format!("r{n}"), "ipv4", route(*n))).chain([(
        "six".into(),
        "ipv6",
        ROUTE_V6.into(),
    )]) {
        let _ = writeln!(
            text,
            "protocol static {name} {{ {family}; route {prefix} blackhole {{ {community} }}; }}"
        );
    }
    let (hop4, hop6) = ("next hop address 10.99.0.2;", "next hop address 2001:db8:99::2;");
    let channels = |export4: &str, export6: &str| {
        format!(
            "ipv4 {{ gateway recursive; add paths on; import all; export {export4} }}; \
             ipv6 {{ gateway recursive; add paths on; import all; export {export6} }};"
        )
    };
    let own = channels(
        &format!("where source = RTS_STATIC && net.len = 32; {hop4}"),
        &format!("where source = RTS_STATIC && net.len = 128; {hop6}"),
    );
    let quick = "connect delay time 1; connect retry time 1; error wait time 1, 2; hold time 90; graceful restart on;";
    match role {
        Role::Client
        | Role::ClientWithBfd
        | Role::ClientOverIpv6
        | Role::ClientWithQuickBfd
        | Role::ClientWithKey
        | Role::ClientNearby
        | Role::ClientNearbyOverIpv6 => {
            let near = if role.nearby() { "ttl security on;" } else { "" };
            let bfd = if role.with_bfd() { "bfd on;" } else { "" };
            let key =
                if role == Role::ClientWithKey { format!("password \"{KEY}\";") } else { String::new() };
            if let Some(ms) = role.bfd_millis() {
                let _ = writeln!(
                    text,
                    "protocol bfd {{ interface \"*\" {{ min rx interval {ms} ms; min tx interval {ms} ms; multiplier 3; }}; }}"
                );
            }
            let [ours, theirs] = role.ends();
            let _ = writeln!(
                text,
                "protocol bgp near {{ local {theirs} as 64512; neighbor {ours} as 64512; direct; {quick} {near} {bfd} {key} {own} }}"
            );
        }
        Role::Reflector => {
            for (name, address) in [("near", "10.9.0.1"), ("witness", "10.9.0.9"), ("twin", "10.9.0.8")] {
                // Without it BIRD refuses a mapped next hop.
                let mapped = "where source = RTS_BGP; extended next hop on;";
                let all = channels("where source = RTS_BGP;", mapped);
                // After its own restart it would wait for the twin, which is not there yet: so does `aware`.
                let off = quick.replace("graceful restart on", "graceful restart off");
                let quick = if name == "twin" { &off } else { quick };
                let _ = writeln!(
                    text,
                    "protocol bgp {name} {{ local 10.9.0.2 as 64512; neighbor {address} as 64512; direct; passive; rr client; \
                     rr cluster id 9.9.9.9; {quick} {all} }}"
                );
            }
        }
    }
    text
}

fn frr(role: Role, routes: &[u8]) -> String {
    let mut text = "frr defaults traditional\nhostname far\nlog stdout informational\nrouter bgp 64512\n \
                    bgp router-id 10.9.0.2\n no bgp network import-check\n bgp graceful-restart\n \
                    bgp graceful-restart preserve-fw-state\n"
        .to_string();
    let [ours, theirs] = role.ends();
    let neighbors: &[&str] = if role == Role::Reflector { &DIALLERS } else { &[ours] };
    if role == Role::Reflector {
        text += " bgp cluster-id 9.9.9.9\n";
    }
    for n in neighbors {
        let _ = writeln!(text, " neighbor {n} remote-as 64512\n neighbor {n} update-source {theirs}");
        let _ = writeln!(text, " neighbor {n} timers 30 90\n neighbor {n} timers connect 1");
        match role {
            Role::Reflector => drop(writeln!(text, " neighbor {n} passive")),
            Role::ClientWithKey => drop(writeln!(text, " neighbor {n} password {KEY}")),
            _ => {}
        }
        if role.nearby() {
            let _ = writeln!(text, " neighbor {n} ttl-security hops 1");
        }
        if let Some(ms) = role.bfd_millis() {
            let _ = writeln!(text, " neighbor {n} bfd 3 {ms} {ms}");
        }
    }
    for (family, hop) in [("ipv4", "hop4"), ("ipv6", "hop6")] {
        let _ = writeln!(text, " address-family {family} unicast");
        let own = routes.iter().map(|n| route(*n)).chain([ROUTE_V6.to_string()]);
        for prefix in own.filter(|p| role != Role::Reflector && p.contains(':') == (family == "ipv6")) {
            let _ = writeln!(text, "  network {prefix} route-map marked");
        }
        for n in neighbors {
            let how = if role == Role::Reflector {
                format!("route-reflector-client\n  neighbor {n} addpath-tx-all-paths")
            } else {
                format!("route-map {hop} out")
            };
            let _ = writeln!(
                text,
                "  neighbor {n} activate\n  neighbor {n} send-community all\n  neighbor {n} {how}"
            );
        }
        text += " exit-address-family\n";
    }
    text + "!\nroute-map marked permit 10\n set community 65001:7\n set extcommunity rt 65001:7\n \
            set large-community 65001:7:8\n!\nroute-map hop4 permit 10\n set ip next-hop 10.99.0.2\n!\n\
            route-map hop6 permit 10\n set ipv6 next-hop global 2001:db8:99::2\n!\n"
}

fn gobgp(role: Role) -> String {
    let mut text = "[global.config]\n  as = 64512\n  router-id = \"10.9.0.2\"\n".to_string();
    text += if role == Role::Reflector { "  local-address-list = [\"10.9.0.2\"]\n" } else { "  port = -1\n" };
    let neighbors: &[&str] = if role == Role::Reflector { &DIALLERS } else { &DIALLERS[..1] };
    let key =
        if role == Role::ClientWithKey { format!("  auth-password = \"{KEY}\"\n") } else { String::new() };
    for n in neighbors {
        let _ = write!(
            text,
            "[[neighbors]]\n[neighbors.config]\n  neighbor-address = \"{n}\"\n  peer-as = 64512\n{key}\
             [neighbors.timers.config]\n  connect-retry = 5\n  idle-hold-time-after-reset = 1\n  hold-time = 90\n\
             [neighbors.graceful-restart.config]\n  enabled = true\n  restart-time = 60\n  deferral-time = 5\n\
             [neighbors.transport.config]\n  local-address = \"10.9.0.2\"\n"
        );
        if role.nearby() {
            text += "[neighbors.ttl-security.config]\n  enabled = true\n  ttl-min = 255\n";
        }
        if role == Role::Reflector {
            text += "  passive-mode = true\n[neighbors.route-reflector.config]\n  route-reflector-client = true\n  \
                     route-reflector-cluster-id = \"9.9.9.9\"\n";
        }
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            let _ = write!(
                text,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n  afi-safi-name = \"{family}\"\n\
                 [neighbors.afi-safis.mp-graceful-restart.config]\n  enabled = true\n\
                 [neighbors.afi-safis.add-paths.config]\n  receive = true\n  send-max = 8\n"
            );
        }
    }
    text
}

fn openbgpd(role: Role, routes: &[u8], socket: &str) -> String {
    let mut text = format!(
        "AS 64512\nrouter-id 10.9.0.2\nfib-update no\nlisten on 10.9.0.2\nsocket \"{socket}\"\nnexthop qualify via default\n"
    );
    let set = "community 65001:7 ext-community rt 65001:7 large-community 65001:7:8";
    if role == Role::Reflector {
        for n in DIALLERS {
            let _ = write!(
                text,
                "neighbor {n} {{\n remote-as 64512\n local-address 10.9.0.2\n passive\n route-reflector 9.9.9.9\n \
                 announce IPv4 unicast\n announce IPv6 unicast\n announce restart yes\n announce add-path send all\n}}\n"
            );
        }
    } else {
        for n in routes {
            let _ = writeln!(text, "network {} set {{ nexthop 10.99.0.2 {set} }}", route(*n));
        }
        let _ = writeln!(text, "network {ROUTE_V6} set {{ nexthop 2001:db8:99::2 {set} }}");
        let key =
            if role == Role::ClientWithKey { format!(" tcp md5sig password {KEY}\n") } else { String::new() };
        let _ = write!(
            text,
            "neighbor 10.9.0.1 {{\n remote-as 64512\n local-address 10.9.0.2\n announce IPv4 unicast\n \
             announce IPv6 unicast\n announce restart yes\n announce add-path recv yes\n{key}}}\n"
        );
    }
    text + "allow from any\nallow to any\n"
}
