//! Questions to a lab's nodes, by the commands that a person would type.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::layout::{Node, SITES, Site};
use lab::{Lab, Output};
use serde_json::Value;

/// Longest time that one command may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Splits a command line at its blanks.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// A leaf's node.
pub fn leaf(site: &'static Site) -> String {
    Node::Leaf(site).name()
}

/// A client's node.
pub fn client(site: &'static Site) -> String {
    Node::Client(site).name()
}

/// What a `routerctl` command did, whatever its exit status.
pub async fn routerctl(lab: &Lab, node: &str, line: &str, input: Option<&str>) -> Result<Output, String> {
    let args = words(line);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    lab.routerctl(node, &args, input, LIMIT).await.map_err(|error| error.to_string())
}

/// The JSON that a `routerctl` command answers; it must end with status 0.
pub async fn json(lab: &Lab, node: &str, line: &str) -> Result<Value, String> {
    let output = routerctl(lab, node, &format!("{line} -o json"), None).await?;
    if !output.ok() {
        return Err(format!("routerctl {line} on {node}: {}", output.detail()));
    }
    serde_json::from_str(&output.stdout)
        .map_err(|error| format!("routerctl {line} on {node}: no JSON: {error}"))
}

/// The one resource of a list, or the resource itself.
pub fn single(value: &Value) -> Result<&Value, String> {
    match value.as_array().map(Vec::as_slice) {
        None => Ok(value),
        Some([one]) => Ok(one),
        Some(list) => Err(format!("{} resources instead of one", list.len())),
    }
}

/// Runs a command on a node; it must end with status 0.
pub async fn exec(lab: &Lab, node: &str, line: &str) -> Result<String, String> {
    exec_words(lab, node, &words(line)).await
}

/// [`exec`] with the words as they are, for those that hold blanks.
pub async fn exec_words(lab: &Lab, node: &str, argv: &[String]) -> Result<String, String> {
    let output = lab.exec(node, argv, LIMIT).await.map_err(|error| error.to_string())?;
    if output.ok() { Ok(output.stdout) } else { Err(format!("{argv:?} on {node}: {}", output.detail())) }
}

/// The client `/32`s that a leaf's kernel has by our route protocol.
pub async fn kernel_clients(lab: &Lab, site: &'static Site) -> Result<BTreeSet<Ipv4Addr>, String> {
    let text = exec(lab, &leaf(site), "ip -4 -o route show table main proto 84").await?;
    let first = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<Ipv4Addr>().ok());
    Ok(text.lines().filter_map(first).collect())
}

/// The clients of every other site.
pub fn other_clients(site: &'static Site) -> BTreeSet<Ipv4Addr> {
    site.others().map(|other| other.client).collect()
}

/// All clients.
pub fn all_clients() -> BTreeSet<Ipv4Addr> {
    SITES.iter().map(|site| site.client).collect()
}

/// Asks until the answer is good; gives the time that took, or the last thing that was wrong.
pub async fn eventually<F, R>(limit: Duration, mut check: F) -> Result<Duration, String>
where
    F: FnMut() -> R,
    R: Future<Output = Result<(), String>>,
{
    let begin = Instant::now();
    loop {
        match check().await {
            Ok(()) => return Ok(begin.elapsed()),
            Err(wrong) if begin.elapsed() > limit => return Err(format!("after {limit:?} still: {wrong}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Writes the lab's evidence into a folder that does not exist yet.
pub async fn write_evidence(lab: &Lab, dir: &std::path::Path) -> Result<(), String> {
    let mut argv = words(&format!("{} evidence --lab {}", lab.bin("routerctl").display(), lab.name()));
    argv.extend(["--out".to_string(), dir.display().to_string()]);
    let output =
        std::process::Command::new(&argv[0]).args(&argv[1..]).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("routerctl evidence: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// When the replies of a `ping -D` arrived, in seconds since 1970.
pub fn replies(ping: &str) -> Vec<f64> {
    let stamp = |line: &str| line.strip_prefix('[')?.split(']').next()?.parse().ok();
    ping.lines().filter(|line| line.contains("bytes from")).filter_map(stamp).collect()
}

/// Seconds since 1970 now.
pub fn now_secs() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Pings from a client for some seconds, every `interval_ms`; gives the replies' times.
pub async fn ping(
    lab: &Lab,
    from: &'static Site,
    to: Ipv4Addr,
    secs: u64,
    interval_ms: u64,
) -> Result<Vec<f64>, String> {
    let interval = interval_ms as f64 / 1000.0;
    // Not -w: with it, ping ends at the first ICMP error, such as a host's firewall sends while there is no route.
    let count = secs * 1000 / interval_ms.max(1);
    let argv = words(&format!("ping -D -n -i {interval} -c {count} -W 1 {to}"));
    let limit = Duration::from_secs(secs + 10);
    // Without a reply, ping's exit status is 1: what counts are the replies.
    let output = lab.exec(&client(from), &argv, limit).await.map_err(|error| error.to_string())?;
    Ok(replies(&output.stdout))
}

/// Ends a node's daemon by a signal, and waits until it is gone.
pub async fn stop(lab: &Lab, node: &str, signal: nix::sys::signal::Signal) -> Result<(), String> {
    lab.kill(node, signal).await.map_err(|error| error.to_string())
}

/// A program that runs in a node's place; its output is in the lab's logs. It goes when this is dropped, but only
/// [`Guest::end`] waits for it.
#[derive(Debug)]
pub struct Guest(tokio::process::Child);

impl Guest {
    /// Starts it on a node whose daemon is stopped.
    pub fn start(lab: &Lab, node: &str, argv: &[String]) -> Result<Guest, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{argv:?} on {node}: {error}");
        let all = lab.argv(node, argv).map_err(|error| failed(&error))?;
        let log = lab.dir().join("logs").join(format!("{node}-guest.log"));
        let open = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let (out, err) = open.and_then(|log| Ok((log.try_clone()?, log))).map_err(|error| failed(&error))?;
        let mut command = tokio::process::Command::new(&all[0]);
        command.args(&all[1..]).stdin(std::process::Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.spawn().map(Guest).map_err(|error| failed(&error))
    }

    /// Ends it with all that it started; one that has been collected has no number any more.
    fn kill(&self) {
        if let Some(group) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::SIGKILL);
        }
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self, limit: Duration) -> Result<(), String> {
        match tokio::time::timeout(limit, self.0.wait()).await {
            Ok(status) => status.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("the program in the node's place does not end within {limit:?}")),
        }
    }

    /// Kills it and waits until nothing of it is left: a daemon that is started beside one that is still dying finds its
    /// socket answered, and ends. An error when it had ended by itself.
    pub async fn end(mut self) -> Result<(), String> {
        let by_itself = self.0.try_wait().map_err(|error| error.to_string())?;
        self.kill();
        self.0.wait().await.map_err(|error| error.to_string())?;
        by_itself.map_or(Ok(()), |status| {
            Err(format!("the program in the node's place ended by itself: {status}"))
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a node's daemon and waits until it answers.
pub async fn start(lab: &Lab, node: &str) -> Result<(), String> {
    lab.start_daemon(node).await.map_err(|error| error.to_string())
}

/// The site of this name.
///
/// # Panics
/// When the lab has none.
pub fn site(name: &str) -> &'static Site {
    SITES.iter().find(|site| site.name == name).expect("the lab has this site")
}

/// Shows a figure that was measured, whether it is good or not.
pub fn note(told: &str) {
    use std::io::Write;
    // A closed standard error is nobody's loss.
    let _ = writeln!(std::io::stderr(), "  {told}");
}
