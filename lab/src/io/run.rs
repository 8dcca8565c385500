//! Runs programs with a time limit. Each gets a process group of its own, and the whole group ends with it:
//! nothing started here outlives its caller.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::error::LabError;

/// Most of a program's output that is kept, in bytes, for each of its two streams.
pub const OUTPUT_LIMIT: u64 = 8 << 20;

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Output {
    /// Whether it ended with status 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Exit status and the last lines that it said, for a message.
    pub fn detail(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let status = self.code.map_or("ended by a signal".into(), |code| format!("exit status {code}"));
        match tail(said, 6) {
            said if said.is_empty() => status,
            said => format!("{status}: {said}"),
        }
    }
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A running program whose process group is killed when this is dropped.
pub struct Running {
    /// The program.
    pub child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Starts a program as the leader of a new process group.
    pub fn start(mut command: Command, what: &str) -> Result<Running, LabError> {
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(LabError::io(what))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Running { child, group })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // While the leader has not been collected its number is not used again; once it has, a member left
        // behind keeps the group's number taken, and without any member there is nobody to signal.
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Turns words into a command without any input.
pub fn command(argv: &[String]) -> Command {
    let mut command = Command::new(argv.first().map_or("", String::as_str));
    command.args(argv.get(1..).unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end, or kills it when `limit` has passed.
pub async fn run(argv: &[String], input: Option<&str>, limit: Duration) -> Result<Output, LabError> {
    run_command(command(argv), &argv.join(" "), input, limit).await
}

/// [`run`], and anything but exit status 0 is an error.
pub async fn checked(argv: &[String], input: Option<&str>, limit: Duration) -> Result<Output, LabError> {
    let output = run(argv, input, limit).await?;
    match output.ok() {
        true => Ok(output),
        false => Err(LabError::Command { what: argv.join(" "), detail: output.detail() }),
    }
}

/// Runs a prepared command to its end; `what` names it in errors.
pub async fn run_command(
    mut command: Command,
    what: &str,
    input: Option<&str>,
    limit: Duration,
) -> Result<Output, LabError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let begin = Instant::now();
    let mut running = Running::start(command, what)?;
    let (stdin, stdout, stderr) =
        (running.child.stdin.take(), running.child.stdout.take(), running.child.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program that does not read its input says why by its exit status.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (_, stdout, stderr) = tokio::join!(feed, collect(stdout), collect(stderr));
        (running.child.wait().await, stdout, stderr)
    })
    .await;
    let (status, stdout, stderr) =
        ended.map_err(|_| LabError::Timeout { what: what.into(), secs: limit.as_secs() })?;
    let status = status.map_err(LabError::io(what))?;
    Ok(Output { code: status.code(), stdout, stderr, elapsed: begin.elapsed() })
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut bytes).await;
    // What is beyond the limit is read and dropped, so that the program is not held up.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Owned words out of borrowed ones.
pub fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that output, status and input pass through.
    #[tokio::test]
    async fn passes_through() {
        let argv = words(["sh", "-c", "cat; echo bad >&2; exit 3"]);
        let output = run(&argv, Some("in"), Duration::from_secs(5)).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (Some(3), "in"));
        assert_eq!(output.detail(), "exit status 3: bad");
        assert!(checked(&argv, None, Duration::from_secs(5)).await.is_err());
    }

    /// Proves that a program that takes too long ends, with the children it made.
    #[tokio::test]
    async fn limit_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let error = run(&words(["sh", "-c", &script]), None, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, LabError::Timeout { .. }));
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        for _ in 0..100 {
            if !crate::io::process::alive(pid, None) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the child is still there");
    }
}
