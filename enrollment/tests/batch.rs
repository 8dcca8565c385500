//! Requests that wait together are made durable together, and only then answered.

mod common;

use common::{keys, order, settings};
use enrollment::io::store::Registry;
use enrollment::reason::{ReasonCode, Refusal};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Hub {
    _dir: tempfile::TempDir,
    file: PathBuf,
    registry: Registry,
    /// Another connection to the same file.
    other: Connection,
}

async fn hub() -> Hub {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registry.sqlite");
    let own = Arc::new(keys(1));
    let registry = Registry::open(&file, settings(&own), own).await.unwrap();
    let other = Connection::open(&file).unwrap();
    Hub { _dir: dir, file, registry, other }
}

/// Commits in the write-ahead log: frames that carry a database size (SQLite file format, section 4).
fn commits(file: &Path) -> usize {
    let wal = std::fs::read(file.with_extension("sqlite-wal")).unwrap();
    let salt = &wal[16..24];
    let frames = wal[32..].chunks_exact(24 + 4096);
    frames.filter(|frame| frame[8..16] == *salt && frame[4..8] != [0; 4]).count()
}

type Outcomes = Vec<Result<(), Refusal>>;

/// Asks for an invite for each site while another writer holds the file, and lets go when all of them wait.
async fn asked_together(hub: &Hub, sites: &[String]) -> Outcomes {
    hub.other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut jobs = tokio::task::JoinSet::new();
    for (index, site) in sites.iter().enumerate() {
        let (registry, order) = (hub.registry.clone(), order(site, &["10.1.0.0/16"]));
        jobs.spawn(async move { (index, registry.create_invite(order).await.map(drop)) });
        // In this order.
        tokio::task::yield_now().await;
    }
    let before = hub.registry.snapshot().generation;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(jobs.try_join_next().is_none(), "answered before it is durable");
    assert_eq!(hub.registry.snapshot().generation, before, "published before it is durable");
    hub.other.execute_batch("ROLLBACK").unwrap();
    let mut outcomes = jobs.join_all().await;
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn sites(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("site-{n}")).collect()
}

async fn remembered(hub: &Hub) -> usize {
    let own = Arc::new(keys(1));
    let again = Registry::open(&hub.file, settings(&own), own).await.unwrap();
    let report = again.verify_audit().await.unwrap();
    assert_eq!(report.fault, None);
    let (stored, shown) = (again.view().await.unwrap(), hub.registry.view().await.unwrap());
    assert_eq!(stored.invites.len(), shown.invites.len(), "memory and disk agree");
    stored.invites.len()
}

/// A hundred requests that wait cost one commit, and each of them is on disk when it is answered.
#[tokio::test]
async fn those_who_wait_share_a_commit() {
    let hub = hub().await;
    let before = commits(&hub.file);
    let outcomes = asked_together(&hub, &sites(100)).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(commits(&hub.file) - before, 1);
    assert_eq!(remembered(&hub).await, 100);
}

/// What cannot be written is refused alone; the others of its batch are stored.
#[tokio::test]
async fn one_that_cannot_be_written_fails_alone() {
    let hub = hub().await;
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON invites WHEN NEW.record LIKE '%site-5%'
                   BEGIN SELECT RAISE(ABORT, 'no'); END";
    hub.other.execute_batch(trigger).unwrap();
    let outcomes = asked_together(&hub, &sites(10)).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        match n {
            5 => assert_eq!(outcome.as_ref().unwrap_err().code, ReasonCode::Internal),
            _ => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
    assert_eq!(remembered(&hub).await, 9);
}

/// A transaction that SQLite takes back by itself, as on a full disk: nobody in it is told that it worked, nothing of
/// it is remembered, and the next request is served.
#[tokio::test]
async fn a_lost_batch_is_refused_as_a_whole() {
    let hub = hub().await;
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON invites WHEN NEW.record LIKE '%site-5%'
                   BEGIN SELECT RAISE(ROLLBACK, 'no'); END";
    hub.other.execute_batch(trigger).unwrap();
    let outcomes = asked_together(&hub, &sites(10)).await;
    let refused = outcomes.iter().take(6).map(|outcome| outcome.as_ref().map_err(|r| r.code));
    assert!(refused.eq([Err(ReasonCode::Internal); 6].iter().map(|r| r.as_ref().map_err(|c| *c))));
    assert!(outcomes.iter().skip(6).all(Result::is_ok), "those behind it are a batch of their own");
    hub.other.execute_batch("DROP TRIGGER no").unwrap();
    let order = order("later", &["10.1.0.0/16"]);
    hub.registry.create_invite(order).await.unwrap();
    assert_eq!(remembered(&hub).await, 5);
}
