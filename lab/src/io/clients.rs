//! The clients: plain machines with a real SSH server and a small TCP server, and no knowledge of the fabric.
//!
//! Each client has a `/run` of its own (a directory of the lab's state, bound over `/run` in the mount
//! namespace that `ip netns exec` makes), so that `sshd` finds its privilege separation directory there and
//! nothing is written to the machine's. `/etc/passwd` and `/etc/shadow` are bound over too: a client has users of
//! its own, so that neither a locked root account nor what root's shell reads at its start is the machine's.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::io::lab::Lab;
use crate::io::run::{checked, words};
use crate::io::underlay::find_program;
use crate::layout::{AGENT_PORT, Node, SITES, Site};
use crate::state::Role;

/// Where a client finds its own files once its `/run` is in place.
const INSIDE: &str = "/run/lab";

/// Makes the lab's key, every client's host key and configuration, and starts both servers on each.
pub async fn start(lab: &Lab) -> Result<(), LabError> {
    let keys = lab.dir().join("keys");
    private_dir(&keys)?;
    keygen(&keys.join("lab"), lab.name().as_str()).await?;
    let authorized = read(&keys.join("lab.pub"))?;
    let mut known = String::new();
    for site in &SITES {
        let host_key = prepare(lab, site, &authorized).await?;
        let _ = writeln!(known, "{} {host_key}", site.client);
    }
    write(&keys.join("known_hosts"), &known, 0o600)?;
    for site in &SITES {
        let node = Node::Client(site);
        let home = lab.node_dir(&node);
        // /run last: the client's files may themselves be below the machine's.
        let script = "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/shadow\" /etc/shadow && \
                      mount --bind \"$1/run\" /run && exec \"$2\" -D -e -f /run/lab/sshd_config";
        let sshd = find_program("sshd").unwrap_or_else(|| PathBuf::from("/usr/sbin/sshd"));
        let argv = words(["sh", "-c", script, "sh", &text(&home), &text(&sshd)]);
        lab.start_process(&node, Role::Sshd, &argv)?;
        let routerctl = text(&lab.bin("routerctl"));
        let listen = format!("0.0.0.0:{AGENT_PORT}");
        let argv = words([&routerctl, "lab-agent", "serve", "--listen", &listen]);
        lab.start_process(&node, Role::Agent, &argv)?;
    }
    for site in &SITES {
        listening(lab, site).await?;
    }
    Ok(())
}

/// Waits until both servers of a client listen.
async fn listening(lab: &Lab, site: &'static Site) -> Result<(), LabError> {
    let node = Node::Client(site);
    let begin = Instant::now();
    let argv = words(["ss", "-Hltn"]);
    loop {
        let output = lab.exec(&node.name(), &argv, Duration::from_secs(10)).await?;
        let open = |port: u16| output.stdout.lines().any(|line| line.contains(&format!(":{port} ")));
        let missing =
            [(22, Role::Sshd), (AGENT_PORT, Role::Agent)].into_iter().find(|(port, _)| !open(*port));
        let Some((port, role)) = missing else { return Ok(()) };
        if begin.elapsed() > Duration::from_secs(20) || !lab.running(&node, role) {
            let detail = format!("no TCP server on port {port}: {}", lab.log_tail(&node, role));
            return Err(LabError::Daemon { node: node.name(), detail });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes a client's files; gives its public host key.
async fn prepare(lab: &Lab, site: &'static Site, authorized: &str) -> Result<String, LabError> {
    let home = lab.node_dir(&Node::Client(site));
    let files = home.join("run/lab");
    private_dir(&home)?;
    for dir in ["run/sshd", "run/lock", "run/lab"] {
        std::fs::create_dir_all(home.join(dir)).map_err(LabError::io(dir))?;
    }
    std::fs::set_permissions(home.join("run/sshd"), std::fs::Permissions::from_mode(0o755))
        .map_err(LabError::io("run/sshd"))?;
    keygen(&files.join("host_key"), site.name).await?;
    write(&files.join("authorized_keys"), authorized, 0o600)?;
    write(&files.join("sshd_config"), &sshd_config(site), 0o600)?;
    let passwd = format!(
        "root:x:0:0:root:{INSIDE}:/bin/sh\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    write(&home.join("passwd"), &passwd, 0o644)?;
    write(&home.join("shadow"), "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n", 0o640)?;
    let public = read(&files.join("host_key.pub"))?;
    Ok(public.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

fn sshd_config(site: &Site) -> String {
    format!(
        "Port 22\nListenAddress {}\nHostKey {INSIDE}/host_key\nAuthorizedKeysFile {INSIDE}/authorized_keys\n\
         PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\n\
         PrintLastLog no\nMaxStartups 100\nX11Forwarding no\nLogLevel VERBOSE\n",
        site.client
    )
}

/// The words that run a command on `to` over SSH, as a person at `from`'s client would (without `from`'s
/// namespace).
pub fn ssh(lab: &Lab, to: &Site, limit_secs: u64, remote: &str) -> Vec<String> {
    let keys = lab.dir().join("keys");
    let mut argv = words(["ssh", "-F", "none", "-T", "-i", &text(&keys.join("lab"))]);
    let options = [
        "BatchMode=yes".into(),
        "IdentitiesOnly=yes".into(),
        "IdentityAgent=none".into(),
        "StrictHostKeyChecking=yes".into(),
        format!("UserKnownHostsFile={}", keys.join("known_hosts").display()),
        "GlobalKnownHostsFile=/dev/null".into(),
        format!("ConnectTimeout={limit_secs}"),
        "ServerAliveInterval=2".into(),
        // The cheapest key exchange: in the lab kernel a costly one is most of a session's time.
        "KexAlgorithms=curve25519-sha256".into(),
        "LogLevel=ERROR".to_string(),
    ];
    for option in options {
        argv.extend(["-o".to_string(), option]);
    }
    argv.extend([format!("root@{}", to.client), remote.to_string()]);
    argv
}

async fn keygen(file: &Path, comment: &str) -> Result<(), LabError> {
    let argv = words(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &text(file)]);
    checked(&argv, None, Duration::from_secs(20)).await.map(drop)
}

/// A path as a word for a program.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes a directory that its owner alone can enter.
pub fn private_dir(dir: &Path) -> Result<(), LabError> {
    use std::os::unix::fs::DirBuilderExt;
    let what = format!("make {}", dir.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(LabError::io(what))
}

/// Writes a small file with the given mode.
pub fn write(file: &Path, content: &str, mode: u32) -> Result<(), LabError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let what = format!("write {}", file.display());
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(file);
    open.and_then(|mut opened| opened.write_all(content.as_bytes())).map_err(LabError::io(what))
}

/// Reads a small text file.
pub fn read(file: &Path) -> Result<String, LabError> {
    std::fs::read_to_string(file).map_err(LabError::io(format!("read {}", file.display())))
}
