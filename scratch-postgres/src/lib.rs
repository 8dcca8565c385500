//! A PostgreSQL of the tests' own: in a folder that goes with it, on a unix socket, as an unprivileged user. Needs
//! Debian's `postgresql`. What goes wrong in it is a test's failure, hence the panics.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A running (or stopped) server; it ends with this, and with the tests' process.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    extra: Vec<String>,
    server: Mutex<Option<Server>>,
    schemas: Mutex<Vec<String>>,
}

/// The thread that started the server ends it: the server dies with that thread, whatever becomes of the tests.
#[derive(Debug)]
struct Server {
    stop: Sender<&'static str>,
    thread: std::thread::JoinHandle<()>,
    pid: u32,
}

/// Where Debian's package has its programs; the newest version.
fn programs() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql is installed (scripts/setup)");
    let bins =
        versions.map(|entry| entry.unwrap().path().join("bin")).filter(|bin| bin.join("initdb").exists());
    bins.max().expect("Debian's postgresql is installed (scripts/setup)")
}

/// The same as an unprivileged user, for PostgreSQL refuses to run as root; it gets SIGQUIT when its parent dies.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if user_id("-u", "") == "0" {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

/// To a server and its processes.
fn signal(pid: u32, signal: &str) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for process in children.split_whitespace().chain([pid.to_string().as_str()]) {
        let _ = Command::new("kill").args([signal, process]).stderr(Stdio::null()).status();
    }
}

fn user_id(what: &str, name: &str) -> String {
    let mut command = Command::new("id");
    command.arg(what);
    if !name.is_empty() {
        command.arg(name);
    }
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

impl Cluster {
    /// The one that all tests of this process share while any of them runs.
    pub fn of_all_tests() -> Arc<Cluster> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// A fresh one on a unix socket.
    pub fn start() -> Cluster {
        Self::start_with(&["-c", "listen_addresses="], |_| {})
    }

    /// The same with other arguments, and a chance to change its folder before it starts.
    pub fn start_with(extra: &[&str], prepare: impl FnOnce(&Path)) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        if user_id("-u", "") == "0" {
            let id = |what| user_id(what, "postgres").parse().expect("the user postgres is there");
            std::os::unix::fs::chown(folder.path(), Some(id("-u")), Some(id("-g"))).unwrap();
        }
        let data = folder.path().join("data");
        let mut init = unprivileged(&programs().join("initdb"));
        init.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data);
        let output = init.current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        prepare(&data);
        let extra = extra.iter().map(|word| (*word).to_owned()).collect();
        let cluster = Cluster { folder, extra, server: Mutex::default(), schemas: Mutex::default() };
        cluster.go();
        cluster
    }

    /// The folder of its socket.
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again.
    pub fn go(&self) {
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "it runs");
        let folder = self.folder.path().to_owned();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = unprivileged(&programs().join("postgres"));
        // No test takes the machine's power away, so what the kernel has been given is kept.
        command.arg("-D").arg(folder.join("data")).arg("-k").arg(&folder).args(["-c", "fsync=off"]);
        command.args(&self.extra);
        command.current_dir(&folder).stdout(log.try_clone().unwrap()).stderr(log);
        let (started, pid) = channel();
        let (stop, stopping) = channel();
        let thread = std::thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            started.send(child.id()).unwrap();
            // Without a word the cluster was dropped.
            let signal = stopping.recv().unwrap_or("-QUIT");
            let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
            let _ = child.wait();
        });
        *server = Some(Server { stop, thread, pid: pid.recv().unwrap() });
        drop(server);
        let begin = Instant::now();
        while !self.sql("SELECT 1") {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(begin.elapsed() < LIMIT, "PostgreSQL does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it; connections are ended as by an administrator.
    pub fn stop(&self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = server.stop.send("-INT");
            let _ = server.thread.join();
        }
    }

    /// Stops all its processes where they stand, or lets them go on: it does not answer, and connections stay.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.server.lock().unwrap().as_ref().expect("it runs").pid;
        signal(pid, if frozen { "-STOP" } else { "-CONT" });
    }

    /// Whether these commands went well.
    pub fn sql(&self, commands: &str) -> bool {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
        psql.arg(self.socket()).args(["-c", commands]).stdin(Stdio::null());
        psql.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// The address of a registry of its own as it stands in a configuration, in a schema that is made if it is not
    /// there.
    ///
    /// # Panics
    /// When the server refuses to make it.
    pub fn schema_url(&self, of: &str) -> String {
        let mut schemas = self.schemas.lock().unwrap();
        let known = schemas.iter().position(|schema| schema == of);
        let number = known.unwrap_or_else(|| {
            schemas.push(of.to_owned());
            schemas.len() - 1
        });
        drop(schemas);
        if known.is_none() {
            assert!(self.sql(&format!("CREATE SCHEMA registry{number}")));
        }
        let socket = self.socket().display();
        format!("postgres://postgres@/postgres?host={socket}&options=-c%20search_path%3Dregistry{number}")
    }

    /// A name that no other schema has.
    pub fn fresh(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("fresh {}", NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            signal(server.pid, "-CONT");
            drop(server.stop);
            let _ = server.thread.join();
        }
    }
}
