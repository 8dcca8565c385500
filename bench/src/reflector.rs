//! The program under test: how each make is configured and started as the same plain reflector.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::process::{self, Usage};
use crate::workload::{CLIENT_NET, NEXT_HOP_NET};

/// Where every reflector listens.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 1), 1790);
/// The AS of all.
pub const ASN: u32 = 65000;
/// The reflector's BGP identifier.
pub const ROUTER_ID: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);
/// The reflector's cluster id.
pub const CLUSTER_ID: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 253);

/// A make of reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// This workspace's `fabric-rr`, as plain reflector.
    FabricRr,
    /// BIRD 2.
    Bird,
    /// FRR's `bgpd`, alone.
    Frr,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    OpenBgpd,
}

impl Make {
    /// All makes.
    pub const ALL: [Make; 5] = [Make::FabricRr, Make::Bird, Make::Frr, Make::Gobgp, Make::OpenBgpd];

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Make::FabricRr => "fabric-rr",
            Make::Bird => "bird",
            Make::Frr => "frr",
            Make::Gobgp => "gobgp",
            Make::OpenBgpd => "openbgpd",
        }
    }

    /// The make of a name.
    pub fn of(name: &str) -> Option<Make> {
        Make::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Where its program is by default: `fabric-rr` beside this program, the others where Debian puts them.
    pub fn program(self) -> PathBuf {
        match self {
            Make::FabricRr => {
                let own = std::env::current_exe().unwrap_or_default();
                // Test programs stand one folder deeper.
                let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("fabric-rr"));
                beside.into_iter().find(|p| p.exists()).unwrap_or_else(|| "fabric-rr".into())
            }
            Make::Bird => "/usr/sbin/bird".into(),
            Make::Frr => "/usr/lib/frr/bgpd".into(),
            Make::Gobgp => "/usr/bin/gobgpd".into(),
            Make::OpenBgpd => "/usr/sbin/bgpd".into(),
        }
    }

    /// The configuration file's name and text.
    fn config(self, dir: &Path) -> (&'static str, String) {
        let (ip, port, dir) = (ADDRESS.ip(), ADDRESS.port(), dir.display());
        match self {
            Make::FabricRr => ("reflector.yaml", fabric_rr("", "")),
            Make::Bird => (
                "bird.conf",
                format!(
                    "log stderr {{ warning, error, fatal, bug }};\nrouter id {ROUTER_ID};\nprotocol device {{ }}\n\
                     # a route for the clients' next hops, which BIRD resolves\n\
                     protocol static {{ ipv4; route {NEXT_HOP_NET} via \"lo\"; }}\n\
                     protocol bgp clients {{\n local {ip} port {port} as {ASN};\n neighbor range {CLIENT_NET} as {ASN};\n \
                     dynamic name \"client\";\n strict bind yes;\n rr client;\n rr cluster id {CLUSTER_ID};\n \
                     ipv4 {{ import all; export where source = RTS_BGP; }};\n}}\n"
                ),
            ),
            Make::Frr => (
                "bgpd.conf",
                format!(
                    // Emergencies only: without zebra it would log an error for every route. No waiting before an
                    // UPDATE: its default of a second is meant for thousands of peers.
                    "frr defaults traditional\nlog stdout emergencies\nrouter bgp {ASN}\n bgp router-id {ROUTER_ID}\n \
                     bgp cluster-id {CLUSTER_ID}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
                     bgp listen limit 5000\n coalesce-time 0\n neighbor clients peer-group\n neighbor clients remote-as {ASN}\n \
                     neighbor clients advertisement-interval 0\n bgp listen range {CLIENT_NET} peer-group clients\n \
                     address-family ipv4 unicast\n  neighbor clients activate\n  neighbor clients route-reflector-client\n \
                     exit-address-family\n"
                ),
            ),
            Make::Gobgp => (
                "gobgpd.toml",
                format!(
                    "[global.config]\nas = {ASN}\nrouter-id = \"{ROUTER_ID}\"\nport = {port}\nlocal-address-list = [\"{ip}\"]\n\
                     [[peer-groups]]\n[peer-groups.config]\npeer-group-name = \"clients\"\npeer-as = {ASN}\n\
                     [peer-groups.route-reflector.config]\nroute-reflector-client = true\n\
                     route-reflector-cluster-id = \"{CLUSTER_ID}\"\n[peer-groups.transport.config]\npassive-mode = true\n\
                     [[peer-groups.afi-safis]]\n[peer-groups.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
                     [[dynamic-neighbors]]\n[dynamic-neighbors.config]\nprefix = \"{CLIENT_NET}\"\npeer-group = \"clients\"\n"
                ),
            ),
            Make::OpenBgpd => (
                "bgpd.conf",
                format!(
                    "AS {ASN}\nrouter-id {ROUTER_ID}\nfib-update no\nnexthop qualify via default\n\
                     listen on {ip} port {port}\nsocket \"{dir}/bgpd.sock\"\ngroup \"clients\" {{\n remote-as {ASN}\n \
                     route-reflector {CLUSTER_ID}\n announce IPv6 none\n neighbor {CLIENT_NET} {{ descr \"client\" }}\n}}\n\
                     allow from any\nallow to any\n"
                ),
            ),
        }
    }

    fn arguments(self, dir: &Path, config: &Path) -> Vec<OsString> {
        let path = |name: &str| dir.join(name).into_os_string();
        let config = config.as_os_str().to_owned();
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        match self {
            Make::FabricRr => vec!["--root".into(), dir.into(), "--config".into(), config],
            Make::Bird => {
                vec!["-f".into(), "-c".into(), config, "-s".into(), path("ctl"), "-P".into(), path("pid")]
            }
            Make::Frr => {
                let mut all = vec!["-f".into(), config];
                all.extend(words(&["-n", "-Z", "-S", "-p", "1790", "-l", "127.0.0.1", "-P", "0", "-i"]));
                all.extend([path("pid"), "-z".into(), path("zserv"), "--vty_socket".into(), dir.into()]);
                all.extend(words(&["--log", "stdout", "--log-level", "emergencies", "--limit-fds", "20000"]));
                all
            }
            Make::Gobgp => {
                let mut api = OsString::from("unix://");
                api.push(path("api"));
                let mut all = vec!["-f".into(), config];
                all.extend(words(&["-l", "error", "--pprof-disable", "--api-hosts"]));
                all.push(api);
                all
            }
            Make::OpenBgpd => vec!["-d".into(), "-f".into(), config],
        }
    }
}

/// The configuration of `fabric-rr` as plain reflector, with further lines for its `BGPRouter` and `BGPDynamicPeer`.
fn fabric_rr(router: &str, peers: &str) -> String {
    format!(
        "apiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {{name: reflector}}\nspec:\n  asn: {ASN}\n  \
         routerID: {ROUTER_ID}\n  clusterID: {CLUSTER_ID}\n  listen: [\"{ADDRESS}\"]\n  holdTimeSecs: 90\n  \
         gracefulRestartSecs: 120\n{router}---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPDynamicPeer\n\
         metadata: {{name: clients}}\nspec:\n  sourcePrefixes: [{CLIENT_NET}]\n  remoteASN: {ASN}\n  \
         routeReflectorClient: true\n  limit: 10000\n  admission: open\n{peers}"
    )
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its make.
    pub make: Make,
    /// Its program.
    pub program: PathBuf,
    /// Further lines for the `BGPRouter` of `fabric-rr`, each indented by two spaces.
    pub router_extra: String,
    /// The same for its `BGPDynamicPeer`.
    pub peers_extra: String,
}

impl Target {
    /// A make with its default program.
    pub fn new(make: Make) -> Target {
        Target { make, program: make.program(), router_extra: String::new(), peers_extra: String::new() }
    }

    /// Starts it with files in `dir` and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not listen within 30 seconds.
    pub fn start(&self, dir: &Path) -> io::Result<Reflector> {
        if process::listening(ADDRESS.port()) {
            return Err(io::Error::other(format!("somebody listens on port {} already", ADDRESS.port())));
        }
        fs::create_dir_all(dir)?;
        let dir = fs::canonicalize(dir)?;
        let (name, mut text) = self.make.config(&dir);
        if self.make == Make::FabricRr {
            text = fabric_rr(&self.router_extra, &self.peers_extra);
        }
        let config = dir.join(name);
        write_private(&config, &text)?;
        if self.make == Make::OpenBgpd {
            prepare_openbgpd()?;
        }
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        // It shall not outlive this program, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(self.make.arguments(&dir, &config))
            .stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        use std::os::unix::process::CommandExt;
        command.process_group(0);
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("setpriv (util-linux): {e}")))?;
        let mut reflector = Reflector { child };
        reflector.wait_listening(&dir)?;
        Ok(reflector)
    }
}

/// OpenBGPD refuses a file that others may read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// OpenBGPD's processes change root to the home of their user, which Debian's package does not always make.
fn prepare_openbgpd() -> io::Result<()> {
    for user in ["_openbgpd", "_bgpd"] {
        if let Ok(Some(user)) = nix::unistd::User::from_name(user) {
            fs::create_dir_all(&user.dir)?;
            nix::unistd::chown(&user.dir, Some(0.into()), Some(0.into()))?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&user.dir, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// A running reflector; it ends with this value.
#[derive(Debug)]
pub struct Reflector {
    child: Child,
}

impl Reflector {
    fn wait_listening(&mut self, dir: &Path) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        loop {
            if process::listening(ADDRESS.port()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}: {}", log().trim_end())));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("it does not listen after 30 s: {}", log().trim_end())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// CPU time and memory of all its processes.
    pub fn usage(&self) -> Usage {
        process::usage(&process::tree(self.child.id()))
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets its memory's peak begin anew.
    pub fn reset_peak(&self) {
        process::reset_peak(&process::tree(self.child.id()));
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn signal(&mut self, signal: Signal) {
        if self.alive() {
            // Its process group is its own; a process that has just gone needs no signal.
            let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
        }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names lead to makes and back, and each make's file says what is the same for all.
    #[test]
    fn every_make_gets_the_same_reflector() {
        for make in Make::ALL {
            assert_eq!(Make::of(make.name()), Some(make));
            let (_, text) = make.config(Path::new("/x"));
            for word in
                [ASN.to_string(), ROUTER_ID.to_string(), CLUSTER_ID.to_string(), CLIENT_NET.to_string()]
            {
                assert!(text.contains(&word), "{}: {word}", make.name());
            }
        }
        assert_eq!(Make::of("quagga"), None);
    }
}
