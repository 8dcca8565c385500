//! Routers of other makes as clients of `fabric-rr` as a plain reflector: BIRD 2, GoBGP and FRR, as Debian packages
//! them, in a network namespace of this test's own. Each announces a route and hears those of the other two, with
//! ORIGINATOR_ID and CLUSTER_LIST as RFC 4456 section 8 wants them; a withdrawn route is gone everywhere.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const REFLECTOR: &str = "10.9.0.1";
const CLUSTER: &str = "10.9.0.100";
const PORT: u16 = 1790;
const BIRD: &str = "10.9.0.2";
const GOBGP: &str = "10.9.0.3";
const FRR: &str = "10.9.0.4";
/// Longest wait for sessions and routes; the slowest of them tries to connect every ten seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The route that the router at an address announces.
fn route_of(router: &str) -> String {
    router.replace("10.9.", "10.81.") + "/32"
}

/// A network namespace with its processes; both go with it.
struct Space {
    name: String,
    children: Vec<Child>,
}

impl Space {
    fn new() -> Space {
        let name = format!("interop-{}", std::process::id());
        let space = Space { name, children: Vec::new() };
        run(&["ip", "netns", "add", &space.name]);
        run(&["ip", "-n", &space.name, "link", "set", "lo", "up"]);
        for address in [REFLECTOR, BIRD, GOBGP, FRR] {
            run(&["ip", "-n", &space.name, "address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        space
    }

    fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(argv).stdin(Stdio::null());
        command
    }

    /// Starts a daemon in the foreground; its output goes to a file named like it.
    fn start(&mut self, dir: &Path, name: &str, argv: &[&str]) {
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        let mut command = self.command(argv);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.children.push(child.unwrap_or_else(|error| panic!("{name}: {error}")));
    }

    /// What a command says, whatever its exit status.
    fn ask(&self, argv: &[&str]) -> String {
        let output = self.command(argv).stderr(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(argv: &[&str]) {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(file: &Path, text: String) -> String {
    std::fs::write(file, text).unwrap();
    file.display().to_string()
}

/// Waits until `wrong` finds nothing.
fn until(dir: &Path, mut wrong: impl FnMut() -> Option<String>) {
    let begin = Instant::now();
    while let Some(what) = wrong() {
        if begin.elapsed() > LIMIT {
            let logs = ["fabric-rr", "bird", "gobgpd", "frr"].map(|name| {
                let log = std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
                format!("{name}: {}", log.lines().rev().take(8).collect::<Vec<_>>().join("\n  "))
            });
            panic!("after {LIMIT:?}: {what}\n{}", logs.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start_reflector(space: &mut Space, dir: &Path) {
    let config = write(
        &dir.join("reflector.yaml"),
        format!(
            "apiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {{name: reflector}}\nspec:\n  \
             asn: 65000\n  routerID: {REFLECTOR}\n  clusterID: {CLUSTER}\n  listen: [\"{REFLECTOR}:{PORT}\"]\n---\n\
             apiVersion: net.routerd.net/v1alpha1\nkind: BGPDynamicPeer\nmetadata: {{name: clients}}\nspec:\n  \
             sourcePrefixes: [10.9.0.0/24]\n  admission: open\n"
        ),
    );
    let program = fabric_tests::harness::bin_dir().unwrap().join("fabric-rr").display().to_string();
    space.start(dir, "fabric-rr", &[&program, "--root", &dir.display().to_string(), "--config", &config]);
}

fn start_bird(space: &mut Space, dir: &Path) {
    let config = write(
        &dir.join("bird.conf"),
        format!(
            "log stderr all;\nrouter id {BIRD};\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\n\
             protocol static {{ ipv4; route {} blackhole; }}\n\
             protocol bgp reflector {{ local {BIRD} as 65000; neighbor {REFLECTOR} port {PORT} as 65000; multihop;\n\
             connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
             ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n",
            route_of(BIRD)
        ),
    );
    let (control, pid) =
        (dir.join("bird.ctl").display().to_string(), dir.join("bird.pid").display().to_string());
    space.start(dir, "bird", &["bird", "-f", "-c", &config, "-s", &control, "-P", &pid]);
}

fn start_gobgp(space: &mut Space, dir: &Path) {
    let config = write(
        &dir.join("gobgpd.toml"),
        format!(
            "[global.config]\n  as = 65000\n  router-id = \"{GOBGP}\"\n  port = -1\n[[neighbors]]\n\
             [neighbors.config]\n  neighbor-address = \"{REFLECTOR}\"\n  peer-as = 65000\n\
             [neighbors.timers.config]\n  connect-retry = 5\n  hold-time = 90\n\
             [neighbors.transport.config]\n  local-address = \"{GOBGP}\"\n  remote-port = {PORT}\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n  afi-safi-name = \"ipv4-unicast\"\n"
        ),
    );
    space.start(
        dir,
        "gobgpd",
        &["gobgpd", "-f", &config, "--pprof-disable", "--api-hosts", "127.0.0.1:50051"],
    );
    let announced = route_of(GOBGP);
    let add = ["gobgp", "global", "rib", "add", &announced, "nexthop", GOBGP];
    until(dir, || {
        (!space.command(&add).output().unwrap().status.success()).then(|| "gobgpd does not answer".into())
    });
}

fn start_frr(space: &mut Space, dir: &Path) {
    let config = write(
        &dir.join("bgpd.conf"),
        format!(
            "frr defaults traditional\nlog stdout informational\nrouter bgp 65000\n bgp router-id {FRR}\n \
             no bgp network import-check\n neighbor {REFLECTOR} remote-as 65000\n neighbor {REFLECTOR} port {PORT}\n \
             neighbor {REFLECTOR} update-source {FRR}\n neighbor {REFLECTOR} timers connect 1\n \
             address-family ipv4 unicast\n  network {}\n  neighbor {REFLECTOR} activate\n  \
             neighbor {REFLECTOR} next-hop-self\n exit-address-family\n",
            route_of(FRR)
        ),
    );
    let place = dir.display().to_string();
    let (pid, zserv) = (format!("{place}/bgpd.pid"), format!("{place}/zserv.api"));
    let argv = [
        "/usr/lib/frr/bgpd",
        "-f",
        &config,
        "-n",
        "-Z",
        "-S",
        "-p",
        "0",
        "-P",
        "0",
        "-i",
        &pid,
        "-z",
        &zserv,
    ];
    space.start(dir, "frr", &[&argv[..], &["--vty_socket", &place, "--log", "stdout"]].concat());
}

/// ORIGINATOR_ID and CLUSTER_LIST of a route, as one of the routers has it; nothing if it has not.
fn seen_by(space: &Space, dir: &Path, viewer: &str, route: &str) -> Option<(String, String)> {
    let dir = dir.display().to_string();
    match viewer {
        BIRD => {
            let text =
                space.ask(&["birdc", "-s", &format!("{dir}/bird.ctl"), "show", "route", "for", route, "all"]);
            let word =
                |key: &str| text.lines().find_map(|line| Some(line.split_once(key)?.1.trim().to_string()));
            Some((word("BGP.originator_id:")?, word("BGP.cluster_list:")?))
        }
        GOBGP => {
            let text = space.ask(&["gobgp", "global", "rib", route, "-j"]);
            let paths: Value = serde_json::from_str(&text).ok()?;
            let path = paths[route].as_array()?.first()?;
            let attributes = path["attrs"].as_array()?;
            let value =
                |kind: u64| Some(&attributes.iter().find(|attribute| attribute["type"] == kind)?["value"]);
            let clusters = value(10)?.as_array()?.iter().filter_map(Value::as_str).collect::<Vec<_>>();
            Some((value(9)?.as_str()?.to_string(), clusters.join(" ")))
        }
        _ => {
            let show = format!("show bgp ipv4 unicast {route} json");
            let text = space.ask(&["vtysh", "--vty_socket", &dir, "-c", &show]);
            let answer: Value = serde_json::from_str(&text).ok()?;
            let path = answer["paths"].as_array()?.first()?;
            let clusters = path["clusterList"]["list"].as_array()?.iter().filter_map(Value::as_str);
            Some((path["originatorId"].as_str()?.to_string(), clusters.collect::<Vec<_>>().join(" ")))
        }
    }
}

/// BIRD, GoBGP and FRR exchange routes over the reflector, attributes right, and lose a withdrawn one.
#[test]
fn bird_gobgp_and_frr_hear_each_other() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut space = Space::new();
    start_reflector(&mut space, dir);
    start_bird(&mut space, dir);
    start_gobgp(&mut space, dir);
    start_frr(&mut space, dir);

    for viewer in [BIRD, GOBGP, FRR] {
        for origin in [BIRD, GOBGP, FRR].into_iter().filter(|origin| *origin != viewer) {
            let wanted = Some((origin.to_string(), CLUSTER.to_string()));
            until(dir, || {
                let seen = seen_by(&space, dir, viewer, &route_of(origin));
                (seen != wanted).then(|| format!("{viewer} has the route of {origin} with {seen:?}"))
            });
        }
    }
    let withdrawn = route_of(GOBGP);
    run(&["ip", "netns", "exec", &space.name, "gobgp", "global", "rib", "del", &withdrawn]);
    for viewer in [BIRD, FRR] {
        until(dir, || Some(format!("{viewer} keeps {:?}", seen_by(&space, dir, viewer, &withdrawn)?)));
    }
}
