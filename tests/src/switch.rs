//! Network namespaces on one switch with the shipped daemons in them, for walks that a lab of four sites does not make.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Namespaces with the daemons in them; all of it goes with this. The n-th node on the switch has 192.0.2.n on `eth0`.
#[derive(Debug)]
pub struct Switch {
    tag: String,
    dir: PathBuf,
    nodes: Vec<&'static str>,
    children: Vec<(&'static str, Child)>,
}

/// Runs `ip` with these words.
///
/// # Panics
/// When it fails.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Switch {
    /// A namespace for each node, all on one switch, their files under `dir`; `tag` begins the namespaces' names.
    pub fn new(tag: &str, dir: &Path, nodes: &[&'static str]) -> Switch {
        let tag = format!("{tag}{}", std::process::id());
        let mut net = Switch { tag, dir: dir.to_owned(), nodes: Vec::new(), children: Vec::new() };
        let switch = net.space("u");
        ip(&format!("-n {switch} link add name sw0 type bridge"));
        ip(&format!("-n {switch} link set sw0 up"));
        for (n, node) in nodes.iter().enumerate() {
            let space = net.space(node);
            ip(&format!("-n {switch} link add name u{node} type veth peer name eth0 netns {space}"));
            ip(&format!("-n {switch} link set u{node} master sw0 up"));
            ip(&format!("-n {space} address add 192.0.2.{}/24 dev eth0", n + 1));
            ip(&format!("-n {space} link set eth0 up"));
        }
        net
    }

    /// One more namespace, on no switch; gives its name.
    pub fn space(&mut self, node: &'static str) -> String {
        let name = self.name(node);
        ip(&format!("netns add {name}"));
        self.nodes.push(node);
        ip(&format!("-n {name} link set lo up"));
        name
    }

    /// The name of a node's namespace.
    pub fn name(&self, node: &str) -> String {
        format!("{}{node}", self.tag)
    }

    /// The folder of a node's files, or another file of this walk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program in a node's namespace, before it runs.
    pub fn run(&self, node: &str, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(node)]).args(argv).stdin(Stdio::null());
        command
    }

    /// What goes on in the background and ends with this.
    pub fn keep(&mut self, name: &'static str, child: Child) {
        self.children.push((name, child));
    }

    fn command(&self, node: &str, program: &str) -> Command {
        let bin = crate::harness::bin_dir().expect("the programs are built").join(program);
        let mut command = self.run(node, &[]);
        command.arg(bin).arg("--root").arg(self.dir.join(node));
        command
    }

    /// Starts a daemon; its output goes to a file named like the node.
    pub fn start(&mut self, node: &'static str, program: &str) {
        let log = self.dir.join(format!("{node}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let mut command = self.command(node, program);
        let child = command.stdout(log.try_clone().expect("a log file")).stderr(log).spawn();
        self.keep(node, child.unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    /// SIGKILL: nothing is tidied up.
    pub fn kill(&mut self, node: &str) {
        for (_, child) in self.children.iter_mut().filter(|(n, _)| *n == node) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.retain(|(n, _)| *n != node);
    }

    /// What `routerctl` answers on a node, and whether it said that all is good.
    pub fn ask(&self, node: &str, words: &[&str]) -> (bool, String) {
        let output = self.command(node, "routerctl").args(words).output().expect("routerctl runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), if output.status.success() { text } else { text + &error })
    }

    /// What `routerctl` answers.
    ///
    /// # Panics
    /// When it says that something is not good.
    pub fn must(&self, node: &str, words: &[&str]) -> String {
        let (good, text) = self.ask(node, words);
        assert!(good, "{node}: routerctl {words:?}: {text}\n{}", self.logs());
        text
    }

    /// The answer as JSON; null when there is none.
    pub fn json(&self, node: &str, words: &[&str]) -> Value {
        let (_, text) = self.ask(node, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// The end of every daemon's log.
    pub fn logs(&self) -> String {
        let log = |node: &&str| {
            let text = std::fs::read_to_string(self.dir.join(format!("{node}.log"))).ok()?;
            let lines: Vec<&str> = text.lines().collect();
            Some(format!("{node}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n")))
        };
        self.nodes.iter().filter_map(log).collect()
    }

    /// Waits until it is so; gives the time that took.
    ///
    /// # Panics
    /// When it is not so in time.
    pub fn until(&self, what: &str, mut good: impl FnMut() -> bool) -> Duration {
        let begin = Instant::now();
        while !good() {
            assert!(begin.elapsed() < LIMIT, "{what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        begin.elapsed()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in &self.nodes {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(node)]).status();
        }
    }
}
