//! The program `nft`, with our own table and a time limit. Nothing is ever done to another table.

use std::io;
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
}

/// What was seen of our table.
#[derive(Default)]
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
    /// Reads our table. What we did not write in this run, or what has been changed since, counts as unknown and is
    /// then replaced as one transaction.
    pub(crate) async fn observe(&self) -> Seen {
        let Ok(json) = run(&["-j", "list", "table", "inet", "fabric"], None).await else {
            return Seen::default();
        };
        let Some(listing) = nft::parse(&json) else { return Seen { exists: true, ..Seen::default() } };
        let ours = self.written.as_ref().filter(|(_, shape)| *shape == listing.shape);
        let filter = ours.map(|(written, _)| FilterState { filter: written.filter, owners: listing.owners });
        Seen { filter, exists: true, drops: listing.drops }
    }

    /// Applies a change that concerns the table.
    pub(crate) async fn apply(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::SetFilter(filter) => {
                run(&["-f", "-"], Some(nft::replace(filter))).await?;
                let json = run(&["-j", "list", "table", "inet", "fabric"], None).await?;
                let shape = nft::parse(&json).map(|l| l.shape);
                self.written = shape.map(|shape| (filter.clone(), shape));
                Ok(())
            }
            Change::SetOwners { add, remove } => {
                run(&["-f", "-"], Some(nft::change_owners(add, remove))).await.map(drop)
            }
            Change::RemoveFilter => {
                self.written = None;
                run(&["-f", "-"], Some(nft::remove())).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}
