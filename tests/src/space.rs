//! A network namespace with routers of other makes and `fabric-rr` in it, for interop tests.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp::view::PeerView;

pub mod stale;

/// A network namespace with its processes; both go with it.
#[derive(Debug)]
pub struct Space {
    name: String,
    children: Vec<(String, Child)>,
}

impl Space {
    /// A namespace with these addresses on its loopback interface.
    pub fn new(tag: &str, addresses: &[&str]) -> Space {
        let space = Space { name: format!("{tag}-{}", std::process::id()), children: Vec::new() };
        run(&["ip", "netns", "add", &space.name]);
        run(&["ip", "-n", &space.name, "link", "set", "lo", "up"]);
        for address in addresses {
            let host = if address.contains(':') { 128 } else { 32 };
            run(&["ip", "-n", &space.name, "address", "add", &format!("{address}/{host}"), "dev", "lo"]);
        }
        space
    }

    fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(argv).stdin(Stdio::null());
        command
    }

    /// Starts a daemon in the foreground; its output goes to a file named like it.
    pub fn start(&mut self, dir: &Path, name: &str, argv: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(format!("{name}.log")));
        let log = log.expect("a log file");
        let mut command = self.command(argv);
        let child = command.stdout(log.try_clone().expect("a log file")).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
        self.children.push((name.to_string(), child));
    }

    /// Kills a daemon with SIGKILL. `ip netns exec` becomes the daemon, so its process is the daemon's.
    pub fn kill(&mut self, name: &str) {
        for (_, child) in self.children.iter_mut().filter(|(n, _)| n == name) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.retain(|(n, _)| n != name);
    }

    /// What a command says, whatever its exit status.
    pub fn ask(&self, argv: &[&str]) -> String {
        let output = self.command(argv).stderr(Stdio::null()).output().expect("the command runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `fabric-rr` with this configuration.
    pub fn start_reflector(&mut self, dir: &Path, config: &str) {
        let file = dir.join("reflector.yaml");
        std::fs::write(&file, config).expect("the configuration is written");
        let program = crate::harness::bin_dir().expect("the programs are built").join("fabric-rr");
        let argv = [program.display().to_string(), dir.display().to_string(), file.display().to_string()];
        self.start(dir, "fabric-rr", &[&argv[0], "--root", &argv[1], "--config", &argv[2]]);
    }

    /// Starts BIRD with this configuration; [`Space::birdc`] asks it.
    pub fn start_bird(&mut self, dir: &Path, config: &str) {
        self.start_bird_as("bird", dir, config);
    }

    /// The same under a name of its own, where there are several that are killed one by one.
    pub fn start_bird_as(&mut self, name: &str, dir: &Path, config: &str) {
        let at = |name: &str| dir.join(name).display().to_string();
        std::fs::write(dir.join("bird.conf"), config).expect("the configuration is written");
        let argv = ["bird", "-f", "-c", &at("bird.conf"), "-s", &at("bird.ctl"), "-P", &at("bird.pid")];
        self.start(dir, name, &argv);
    }

    /// What BIRD answers.
    pub fn birdc(&self, dir: &Path, words: &str) -> String {
        let control = dir.join("bird.ctl").display().to_string();
        let argv: Vec<&str> = ["birdc", "-s", &control].into_iter().chain(words.split(' ')).collect();
        self.ask(&argv)
    }

    /// Starts FRR's bgpd alone with this configuration; [`Space::vtysh`] asks it.
    pub fn start_frr(&mut self, dir: &Path, config: &str) {
        let at = |name: &str| dir.join(name).display().to_string();
        std::fs::write(dir.join("bgpd.conf"), config).expect("the configuration is written");
        let (conf, pid, zserv, vty) =
            (at("bgpd.conf"), at("bgpd.pid"), at("zserv.api"), dir.display().to_string());
        let flags = ["-n", "-Z", "-S", "-p", "0", "-P", "0", "--log", "stdout", "--vty_socket", &vty];
        let files = ["-f", &conf, "-i", &pid, "-z", &zserv];
        self.start(dir, "frr", &[&["/usr/lib/frr/bgpd"][..], &flags, &files].concat());
    }

    /// What FRR answers.
    pub fn vtysh(&self, dir: &Path, words: &str) -> String {
        self.ask(&["vtysh", "--vty_socket", &dir.display().to_string(), "-c", words])
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(argv: &[&str]) {
    let output = Command::new(argv[0]).args(&argv[1..]).output().expect("iproute2 is installed");
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One of the reflector's administration answers; `None` while it does not answer.
pub async fn administration<T: serde::de::DeserializeOwned>(dir: &Path, path: &str) -> Option<T> {
    let paths = control::Paths::below(Some(dir));
    control::Client::new(&paths, control::Node::Hub).get(path).await.ok()
}

/// The reflector's neighbours.
pub async fn peers(dir: &Path) -> Vec<PeerView> {
    administration(dir, "/v1/bgp/peers").await.unwrap_or_default()
}

/// Waits until `wrong` finds nothing; shows the ends of all logs if it still does after `limit`.
pub async fn until(dir: &Path, limit: Duration, mut wrong: impl AsyncFnMut() -> Option<String>) {
    let begin = Instant::now();
    while let Some(what) = wrong().await {
        if begin.elapsed() > limit {
            let mut logs = String::new();
            for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = file.file_name().to_string_lossy().into_owned();
                if name.ends_with(".log") {
                    let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    logs += &format!("{name}:\n  {}\n", lines[lines.len().saturating_sub(10)..].join("\n  "));
                }
            }
            panic!("after {limit:?}: {what}\n{logs}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
