//! BIRD 2, GoBGP, FRR and OpenBGPD as clients of the reflector: each receives the routes of the others, of both
//! families, with ORIGINATOR_ID and CLUSTER_LIST right and the rest as it was.
//!
//! The test starts itself again in network, mount and process namespaces of its own, so whatever happens, nothing
//! of it stays. It needs root and the Debian packages bird2, gobgpd, frr and openbgpd, and fails without them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, RouteQuery, Speaker, SpeakerConfig};
use bgp::policy::Admission;

const INSIDE: &str = "FABRIC_INTEROP_INSIDE";
const ASN: u32 = 64512;
const CLUSTER: &str = "9.9.9.9";

/// Program and Debian package.
const PROGRAMS: [(&str, &str); 10] = [
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("bird", "bird2"),
    ("birdc", "bird2"),
    ("gobgpd", "gobgpd"),
    ("gobgp", "gobgpd"),
    ("/usr/lib/frr/bgpd", "frr"),
    ("vtysh", "frr"),
    ("/usr/sbin/bgpd", "openbgpd"),
    ("/usr/sbin/bgpctl", "openbgpd"),
];

fn found(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
    Path::new(program).is_absolute() && Path::new(program).exists()
        || dirs.into_iter().any(|d| Path::new(d).join(program).exists())
}

fn check_machine() {
    let uid = fs::metadata("/proc/self").expect("/proc").uid();
    assert_eq!(uid, 0, "this test makes network namespaces: run it as root");
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(p, _)| !found(p)).map(|(_, package)| *package).collect();
    assert!(missing.is_empty(), "peers are missing: apt-get install -y {}", missing.join(" "));
}

#[test]
fn bird_gobgp_frr_and_openbgpd_get_each_others_routes() {
    check_machine();
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let me = std::env::current_exe().expect("the test's own path");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(me)
        .args(["--exact", "bird_gobgp_frr_and_openbgpd_get_each_others_routes", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "inside the namespaces: {status}");
}

/// A router of another make, with what it announces and how it is asked.
struct Peer {
    name: &'static str,
    address: Ipv4Addr,
    v4: &'static str,
    v6: &'static str,
    /// Prints what the router has for a prefix.
    show: fn(&Path, &str) -> String,
}

impl Peer {
    /// Whether its answer names the originator, the cluster and the next hop of `owner`'s route.
    fn has(&self, dir: &Path, owner: &Peer, prefix: &str) -> Result<(), String> {
        let answer = (self.show)(dir, prefix);
        let next_hop = next_hop(owner, prefix.contains(':'));
        // BIRD's routes carry the community 65001:7, which GoBGP's JSON shows as a number.
        let community = match (owner.name, self.name) {
            ("bird", "gobgp") => "4259905543",
            ("bird", _) => "65001",
            _ => "",
        };
        for want in [&owner.address.to_string(), CLUSTER, &next_hop, community] {
            if !answer.contains(want) {
                return Err(format!(
                    "{} has no `{want}` for {prefix} of {}:\n{answer}",
                    self.name, owner.name
                ));
            }
        }
        Ok(())
    }
}

/// Next hops are addresses that no router here has, but all have a route to.
fn next_hop(peer: &Peer, v6: bool) -> String {
    let n = peer.address.octets()[3];
    if v6 { format!("2001:db8:99::{n}") } else { format!("10.99.0.{n}") }
}

fn run(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(o) => String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned(),
        Err(e) => format!("{program}: {e}"),
    }
}

fn peers() -> [Peer; 4] {
    [
        Peer {
            name: "bird",
            address: Ipv4Addr::new(10, 50, 0, 2),
            v4: "10.62.0.1/32",
            v6: "2001:db8:62::1/128",
            show: |dir, prefix| {
                let socket = dir.join("bird.ctl");
                run("birdc", &["-s", &socket.to_string_lossy(), "show", "route", "all", prefix])
            },
        },
        Peer {
            name: "frr",
            address: Ipv4Addr::new(10, 50, 0, 3),
            v4: "10.63.0.1/32",
            v6: "2001:db8:63::1/128",
            show: |dir, prefix| {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let command = format!("show bgp {family} unicast {prefix} json");
                run("vtysh", &["--vty_socket", &dir.to_string_lossy(), "-c", &command])
            },
        },
        Peer {
            name: "gobgp",
            address: Ipv4Addr::new(10, 50, 0, 4),
            v4: "10.64.0.1/32",
            v6: "2001:db8:64::1/128",
            show: |_, prefix| {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                run("gobgp", &["global", "rib", prefix, "-a", family, "-j"])
            },
        },
        Peer {
            name: "openbgpd",
            address: Ipv4Addr::new(10, 50, 0, 5),
            v4: "10.65.0.1/32",
            v6: "2001:db8:65::1/128",
            show: |dir, prefix| {
                let socket = dir.join("openbgpd.ctl");
                run("/usr/sbin/bgpctl", &["-s", &socket.to_string_lossy(), "show", "rib", "detail", prefix])
            },
        },
    ]
}

fn start(dir: &Path, log: &str, program: &str, args: &[&str]) -> Child {
    let log = fs::File::create(dir.join(log)).expect("a log file");
    let err = log.try_clone().expect("a log file");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log).stderr(err).spawn().expect(program)
}

fn start_peers(dir: &Path) -> Vec<Child> {
    let file = |name: &str, text: &str| -> String {
        let path: PathBuf = dir.join(name);
        fs::write(&path, text).expect("a configuration file");
        path.to_string_lossy().into_owned()
    };
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let bird = file("bird.conf", BIRD);
    let frr = file("frr.conf", FRR);
    let gobgp = file("gobgp.toml", GOBGP);
    let openbgpd = file("openbgpd.conf", &OPENBGPD.replace("{dir}", &dir.to_string_lossy()));
    let restrict = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&openbgpd, restrict).expect("permissions");
    let dir_text = dir.to_string_lossy().into_owned();
    vec![
        start(dir, "bird.log", "bird", &["-f", "-c", &bird, "-s", &at("bird.ctl"), "-P", &at("bird.pid")]),
        start(
            dir,
            "frr.log",
            "/usr/lib/frr/bgpd",
            &[
                "-f",
                &frr,
                "-n",
                "-Z",
                "-S",
                "-p",
                "179",
                "-l",
                "10.50.0.3",
                "-P",
                "0",
                "-i",
                &at("frr.pid"),
                "-z",
                &at("zserv.api"),
                "--vty_socket",
                &dir_text,
                "--log",
                "stdout",
            ],
        ),
        start(
            dir,
            "gobgp.log",
            "gobgpd",
            &["-f", &gobgp, "--pprof-disable", "--api-hosts", "127.0.0.1:50051"],
        ),
        start(dir, "openbgpd.log", "/usr/sbin/bgpd", &["-d", "-f", &openbgpd]),
    ]
}

fn add_gobgp_routes(peer: &Peer) {
    for (prefix, family) in [(peer.v4, "ipv4"), (peer.v6, "ipv6")] {
        let hop = next_hop(peer, family == "ipv6");
        run("gobgp", &["global", "rib", "add", prefix, "-a", family, "nexthop", &hop]);
    }
}

fn inside() {
    for args in ["link set lo up", "-6 route add 2001:db8::/32 dev lo", "route add 10.0.0.0/8 dev lo"] {
        let answer = run("ip", &args.split(' ').collect::<Vec<_>>());
        assert!(answer.is_empty(), "ip {args}: {answer}");
    }
    for n in 1..=5 {
        run("ip", &["addr", "add", &format!("10.50.0.{n}/32"), "dev", "lo"]);
        run("ip", &["addr", "add", &format!("2001:db8:50::{n}/128"), "dev", "lo", "nodad"]);
    }
    // OpenBGPD changes its root to its user's home, which its service would have made.
    // FRR writes to /var/tmp. Both are this namespace's own.
    for private in ["/run", "/var/tmp"] {
        run("mount", &["-t", "tmpfs", "tmpfs", private]);
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    for home in passwd.lines().filter(|l| l.starts_with("_openbgpd:")).filter_map(|l| l.split(':').nth(5)) {
        fs::create_dir_all(home).expect("OpenBGPD's home");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).expect("permissions");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    let speaker = runtime.block_on(reflector());
    let mut children = start_peers(dir.path());
    let outcome = std::panic::catch_unwind(|| runtime.block_on(converse(dir.path(), &speaker)));
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    if let Err(panic) = outcome {
        for log in ["bird.log", "frr.log", "gobgp.log", "openbgpd.log"] {
            let text = fs::read_to_string(dir.path().join(log)).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            // The harness shows this with the failure.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("--- {log}\n{}\n", tail.join("\n")).as_bytes(),
            );
        }
        std::panic::resume_unwind(panic);
    }
}

async fn reflector() -> Speaker {
    let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 50, 0, 1));
    config.cluster_id = Ipv4Addr::new(9, 9, 9, 9).into();
    let listen = SocketAddr::from(([10, 50, 0, 1], 179));
    let speaker = Speaker::start(config, vec![listen]).await.expect("the reflector starts");
    let clients = DynamicPeers {
        name: "clients".into(),
        source_prefixes: vec!["10.50.0.0/24".parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 10,
        admission: Admission::Open,
        options: Default::default(),
    };
    speaker.set_dynamic_peers(vec![clients]).await;
    speaker
}

async fn converse(dir: &Path, speaker: &Speaker) {
    let peers = peers();
    until(speaker, || {
        add_gobgp_routes(&peers[2]);
        for receiver in &peers {
            for owner in peers.iter().filter(|o| o.name != receiver.name) {
                receiver.has(dir, owner, owner.v4)?;
                receiver.has(dir, owner, owner.v6)?;
            }
        }
        Ok(())
    })
    .await;
    for peer in &peers {
        let views = speaker.peers().await;
        let view = views.iter().find(|v| v.address == IpAddr::V4(peer.address)).expect("a known peer");
        assert_eq!(view.state, "Established", "{view:?}");
        assert_eq!(view.router_id, Some(peer.address));
        assert_eq!((view.prefixes_received, view.prefixes_rejected), (2, 0), "{view:?}");
        assert_eq!(view.prefixes_sent, 6, "{view:?}");
        assert_eq!(view.treated_as_withdraw, 0);
    }
    // A withdrawal, and a loss: GoBGP takes one route back.
    run("gobgp", &["global", "rib", "del", peers[2].v4, "-a", "ipv4"]);
    until(speaker, || {
        for receiver in peers.iter().filter(|p| p.name != "gobgp") {
            if receiver.has(dir, &peers[2], peers[2].v4).is_ok() {
                return Err(format!("{} still has the withdrawn route", receiver.name));
            }
            receiver.has(dir, &peers[2], peers[2].v6)?;
        }
        Ok(())
    })
    .await;
}

/// Polls until `check` passes; fails with its last answer after 60 seconds.
async fn until(speaker: &Speaker, check: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match check() {
            Ok(()) => return,
            Err(why) if Instant::now() > deadline => {
                let routes = speaker.routes(RouteQuery::default()).await;
                panic!("peers: {:#?}\nroutes: {routes:#?}\n{why}", speaker.peers().await);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

const BIRD: &str = r#"
log stderr all;
router id 10.50.0.2;
protocol device { }
protocol static { ipv4; route 10.62.0.1/32 blackhole { bgp_community.add((65001, 7)); }; route 10.0.0.0/8 via "lo"; }
protocol static { ipv6; route 2001:db8:62::1/128 blackhole { bgp_community.add((65001, 7)); }; route 2001:db8::/32 via "lo"; }
protocol bgp hub {
    local 10.50.0.2 as 64512;
    neighbor 10.50.0.1 as 64512;
    multihop;
    strict bind yes;
    ipv4 { import all; export where source = RTS_STATIC && net.len = 32; next hop address 10.99.0.2; };
    ipv6 { import all; export where source = RTS_STATIC && net.len = 128; next hop address 2001:db8:99::2; };
}
"#;

const FRR: &str = r#"
frr defaults traditional
hostname frr
log stdout warnings
!
router bgp 64512
 bgp router-id 10.50.0.3
 no bgp network import-check
 neighbor 10.50.0.1 remote-as 64512
 neighbor 10.50.0.1 update-source 10.50.0.3
 neighbor 10.50.0.1 timers connect 1
 address-family ipv4 unicast
  network 10.63.0.1/32
  neighbor 10.50.0.1 route-map hop4 out
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:63::1/128
  neighbor 10.50.0.1 activate
  neighbor 10.50.0.1 route-map hop6 out
 exit-address-family
!
route-map hop4 permit 10
 set ip next-hop 10.99.0.3
!
route-map hop6 permit 10
 set ipv6 next-hop global 2001:db8:99::3
!
"#;

const GOBGP: &str = r#"
[global.config]
  as = 64512
  router-id = "10.50.0.4"
  port = 179
  local-address-list = ["10.50.0.4"]
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.50.0.1"
    peer-as = 64512
  [neighbors.transport.config]
    local-address = "10.50.0.4"
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
"#;

const OPENBGPD: &str = r#"
AS 64512
router-id 10.50.0.5
fib-update no
listen on 10.50.0.5
socket "{dir}/openbgpd.ctl"
nexthop qualify via default
network 10.65.0.1/32 set nexthop 10.99.0.5
network 2001:db8:65::1/128 set nexthop 2001:db8:99::5
neighbor 10.50.0.1 {
    remote-as 64512
    local-address 10.50.0.5
    announce IPv4 unicast
    announce IPv6 unicast
}
allow from any
allow to any
"#;
