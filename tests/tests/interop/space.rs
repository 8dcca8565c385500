//! Two network namespaces with a cable between them, and the programs in them; everything goes with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for anything; the slowest router tries to connect every ten seconds.
pub const LIMIT: Duration = Duration::from_secs(45);
/// Which end of the cable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Ours: `fabric-rr` or the leaf at 10.9.0.1, the witness at 10.9.0.9 and its twin at 10.9.0.8.
    Near,
    /// The other router at 10.9.0.2.
    Far,
}

/// A check's verdict: what is wrong.
pub type Check = Result<(), String>;

/// The namespaces.
pub struct Space {
    near: String,
    far: String,
    children: Vec<(String, Child)>,
    dir: TempDir,
}

fn run(argv: &[&str]) -> Result<String, String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().map_err(|e| format!("{argv:?}: {e}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{argv:?}: {text}")) }
}

impl Space {
    /// Both ends with their addresses, and next hops that resolve over the cable.
    pub fn new(tag: &str) -> Result<Space, String> {
        let name = |end: &str| format!("io{}-{tag}-{end}", std::process::id());
        let dir = TempDir::new().map_err(|e| e.to_string())?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).map_err(|e| e.to_string())?;
        let space = Space { near: name("n"), far: name("f"), children: Vec::new(), dir };
        let (near, far) = (&space.near, &space.far);
        for end in [near, far] {
            run(&["ip", "netns", "add", end])?;
            run(&["ip", "-n", end, "link", "set", "lo", "up"])?;
        }
        run(&[
            "ip", "-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far,
        ])?;
        for (end, addresses) in [
            (near, &["10.9.0.1/24", "10.9.0.8/24", "10.9.0.9/24", "fd09::1/64"][..]),
            (far, &["10.9.0.2/24", "fd09::2/64"][..]),
        ] {
            for address in addresses {
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                run(&[&["ip", "-n", end, "address", "add", address, "dev", "cable"][..], nodad].concat())?;
            }
            run(&["ip", "-n", end, "link", "set", "cable", "up"])?;
        }
        run(&["ip", "-n", far, "route", "add", "10.99.0.0/16", "via", "10.9.0.1"])?;
        run(&["ip", "-n", far, "-6", "route", "add", "2001:db8:99::/48", "via", "fd09::1"])?;
        Ok(space)
    }

    /// A file of this space's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Writes a file; returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let part = self.file(&format!("{name}.part"));
        std::fs::write(&part, text).map_err(|e| format!("{name}: {e}"))?;
        // OpenBGPD refuses files that others may read.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&part, mode).map_err(|e| format!("{name}: {e}"))?;
        std::fs::rename(&part, self.file(name)).map_err(|e| format!("{name}: {e}"))?;
        Ok(self.path(name))
    }

    fn command(&self, end: End, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        let end = if end == End::Near { &self.near } else { &self.far };
        command.args(["netns", "exec", end]).args(argv).stdin(Stdio::null()).current_dir(self.dir.path());
        command.env("FABRIC_ROOT", self.dir.path());
        command
    }

    /// Makes a directory that any user may write to.
    pub fn open_dir(&self, name: &str) -> Check {
        let dir = self.file(name);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::set_permissions(&dir, open))
            .map_err(|e| e.to_string())
    }

    /// Starts a daemon in the foreground; its output is appended to a file named like it.
    pub fn start(&mut self, end: End, name: &str, argv: &[&str]) -> Check {
        let log = std::fs::File::options().create(true).append(true).open(self.file(&format!("{name}.log")));
        let log = log.map_err(|e| e.to_string())?;
        let err = log.try_clone().map_err(|e| e.to_string())?;
        let child = self.command(end, argv).stdout(log).stderr(err).spawn();
        self.children.push((name.to_string(), child.map_err(|e| format!("{name}: {e}"))?));
        Ok(())
    }

    /// Kills daemons with SIGKILL, as a crash would.
    pub fn kill(&mut self, names: &[&str]) -> Check {
        for name in names {
            let at = self.children.iter().position(|(n, _)| n == name);
            let (_, mut child) = self.children.remove(at.ok_or(format!("{name} does not run"))?);
            child.kill().and_then(|()| child.wait()).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }

    /// What a command says, whatever its exit status.
    pub fn ask(&self, end: End, argv: &[&str]) -> String {
        match self.command(end, argv).output() {
            Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            Err(error) => format!("{argv:?}: {error}"),
        }
    }

    /// Polls until nothing is wrong any more.
    pub fn until(&self, mut wrong: impl FnMut() -> Check) -> Check {
        let begin = Instant::now();
        loop {
            match wrong() {
                Ok(()) => return Ok(()),
                Err(what) if begin.elapsed() > LIMIT => {
                    return Err(format!("after {LIMIT:?}: {what}{}", self.logs()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(150)),
            }
        }
    }

    /// Checks again and again that nothing is wrong, for so long.
    pub fn throughout(&self, time: Duration, mut wrong: impl FnMut() -> Check) -> Check {
        let begin = Instant::now();
        while begin.elapsed() < time {
            wrong()?;
            std::thread::sleep(Duration::from_millis(150));
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let tail = |name: &str| {
            let log = std::fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(6).collect();
            format!("\n--- {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.children.iter().map(|(name, _)| tail(name)).collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for end in [&self.near, &self.far] {
            let _ = run(&["ip", "netns", "delete", end]);
        }
    }
}

/// The folder that holds a program of Debian, for a message that says what to install.
pub fn installed(programs: &[(&str, &str)]) -> Check {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = |program: &str| {
        let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
        Path::new(program).is_absolute() && Path::new(program).exists()
            || dirs.into_iter().any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<&str> =
        programs.iter().filter(|(p, _)| !found(p)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("apt-get install -y {}", missing.join(" "))) }
}
