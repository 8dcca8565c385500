//! The program `nft`, with our own table and a time limit. Nothing is ever done to another table.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::nft;
use crate::plan::Change;
use crate::state::FilterState;
use crate::view::DropReason;

/// How long one run of `nft` may take before it is killed.
const LIMIT: Duration = Duration::from_secs(10);

/// Our nft table, with what is remembered of the last writing.
#[derive(Default)]
pub(crate) struct Table {
    /// What was written, and the shape in which nft lists it.
    written: Option<(FilterState, String)>,
    /// What was last seen, kept in line with what was done since.
    last: Option<Seen>,
}

/// What was seen of our table.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    pub(crate) filter: Option<FilterState>,
    pub(crate) exists: bool,
    pub(crate) drops: std::collections::BTreeMap<DropReason, u64>,
}

async fn run(arguments: &[&str], input: Option<String>) -> io::Result<String> {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let work = async {
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let write = async move {
            if let Some(input) = input {
                stdin.write_all(input.as_bytes()).await?;
            }
            drop(stdin);
            io::Result::Ok(())
        };
        // Written and read at the same time, so that neither side's full pipe stops the other.
        let (written, output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("nft: {}", text.lines().next().unwrap_or("failed").trim())));
        }
        written?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nft took longer than 10 s")),
    }
}

/// The whole ruleset of the host as JSON; `None` if there is no `nft` or it fails.
pub(crate) async fn ruleset() -> Option<String> {
    run(&["-j", "list", "ruleset"], None).await.ok()
}

impl Table {
    /// What our table holds. What we did not write in this run, or what has been changed since, counts as unknown
    /// and is then replaced as one transaction. Unless `afresh`, what is already known is not read again: running
    /// a program costs more than everything else that a change of routes needs.
    pub(crate) async fn observe(&mut self, afresh: bool) -> Seen {
        if let Some(last) = self.last.as_ref().filter(|_| !afresh) {
            return last.clone();
        }
        let seen = match run(&["-j", "list", "table", "inet", "fabric"], None).await {
            Ok(json) => self.recognise(&json),
            Err(_) => Seen::default(),
        };
        self.last = Some(seen.clone());
        seen
    }

    fn recognise(&self, json: &str) -> Seen {
        let Some(listing) = nft::parse(json) else { return Seen { exists: true, ..Seen::default() } };
        let ours = self.written.as_ref().filter(|(_, shape)| *shape == listing.shape);
        let filter = ours.map(|(written, _)| FilterState { owners: listing.owners, ..written.clone() });
        Seen { filter, exists: true, drops: listing.drops }
    }

    /// Holds the kernel's answers to a peer's calls, or holds them no more.
    pub(crate) async fn hold(&self, peer: SocketAddr, held: bool) {
        if let Err(error) = run(&["-f", "-"], Some(nft::hold(peer, held))).await {
            // Then packets of the first millisecond after its call may be lost; or the element goes by its own time.
            tracing::warn!(%error, %peer, held, "answers to a peer with a fresh key");
        }
    }

    /// Applies a change that concerns the table.
    pub(crate) async fn apply(&mut self, change: &Change) -> io::Result<()> {
        // Whatever becomes of it, what was seen before no longer counts; success says what counts now.
        let last = self.last.take();
        match change {
            Change::SetFilter(filter) => {
                run(&["-f", "-"], Some(nft::replace(filter))).await?;
                let json = run(&["-j", "list", "table", "inet", "fabric"], None).await?;
                let written = FilterState { owners: Default::default(), ..filter.clone() };
                self.written = nft::parse(&json).map(|listing| (written, listing.shape));
                self.last = Some(self.recognise(&json));
            }
            Change::SetOwners { add, remove } => {
                run(&["-f", "-"], Some(nft::change_owners(add, remove))).await?;
                self.last = last.map(|mut seen| {
                    if let Some(filter) = &mut seen.filter {
                        filter.owners.retain(|owner| !remove.contains(owner));
                        filter.owners.extend(add.iter().copied());
                    }
                    seen
                });
            }
            Change::RemoveFilter => {
                self.written = None;
                run(&["-f", "-"], Some(nft::remove())).await?;
                self.last = Some(Seen::default());
            }
            _ => self.last = last,
        }
        Ok(())
    }
}
