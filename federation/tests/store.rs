//! The owner of the store: durable, idempotent, quick, and pruned.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use federation::event::EventType;
use federation::io::{Federation, Filter, NewEvent, Outcome, Settings, system_clock};
use federation::reason::ReasonCode;

const OBSERVED: &str = "routerd.client.ipv4.observed";
const EXPIRED: &str = "routerd.client.ipv4.expired";

fn settings() -> Settings {
    Settings {
        group: "fabric".into(),
        observation: Duration::from_secs(300),
        grace: Duration::from_secs(600),
        debounce: Duration::from_secs(60),
        retention: Duration::from_secs(7 * 86_400),
        retention_events: 1000,
    }
}

fn new(event_type: &str, subject: &str) -> NewEvent {
    NewEvent {
        source_node: "aws".into(),
        event_type: event_type.into(),
        subject: subject.into(),
        ..NewEvent::default()
    }
}

fn all() -> Filter {
    Filter { limit: 1000, ..Filter::default() }
}

async fn open(folder: &Path, settings: Settings) -> Federation {
    Federation::open(&folder.join("events.sqlite"), settings).await.unwrap()
}

/// A federation whose clock the test moves.
async fn with_clock(folder: &Path, settings: Settings) -> (Federation, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let clock = now.clone();
    let clock = Arc::new(move || clock.load(Ordering::SeqCst));
    let federation =
        Federation::open_with_clock(&folder.join("events.sqlite"), settings, clock).await.unwrap();
    (federation, now)
}

fn claimed(federation: &Federation) -> Vec<String> {
    federation.claims().borrow().addresses().map(|address| address.to_string()).collect()
}

/// `observed` claims and `expired` lets go before their answers come, and whoever watches hears of it.
#[tokio::test]
async fn events_become_claims() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    let mut watched = federation.claims();
    let emitted = federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    assert_eq!((emitted.outcome, emitted.id.len()), (Outcome::Stored, 32));
    assert!(watched.has_changed().unwrap());
    assert_eq!(claimed(&federation), ["10.81.10.20"]);
    watched.borrow_and_update();
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    assert!(!watched.has_changed().unwrap(), "a second observation claims nothing new");
    federation.emit(new(EXPIRED, "10.81.10.20")).await.unwrap();
    assert!(watched.borrow_and_update().is_empty());
}

/// A hundred events, one after the other, each durable and claimed, take milliseconds each, and what this disk takes to
/// keep something: nothing polls.
#[tokio::test]
async fn no_poll_between_event_and_claim() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    let mut watched = federation.claims();
    let (mut times, mut syncs) = (Vec::new(), Vec::new());
    let mut file = std::fs::File::create(folder.path().join("beside")).unwrap();
    for host in 1..=100 {
        let before = Instant::now();
        std::io::Write::write_all(&mut file, &[7; 4096]).unwrap();
        file.sync_all().unwrap();
        syncs.push(before.elapsed());
        let before = Instant::now();
        federation.emit(new(OBSERVED, &format!("10.81.10.{host}"))).await.unwrap();
        watched.changed().await.unwrap();
        assert_eq!(watched.borrow_and_update().len(), host);
        times.push(before.elapsed());
    }
    times.sort();
    syncs.sort();
    let (median, sync) = (times[50], syncs[50]);
    // A commit writes and syncs a few times; a poll would cost its interval each time.
    assert!(median < Duration::from_millis(100) + 4 * sync, "median {median:?}, of a sync alone {sync:?}");
}

/// A known id is no event, whatever it says.
#[tokio::test]
async fn known_id_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    let first = NewEvent { id: Some("a".into()), ..new(OBSERVED, "10.81.10.20") };
    assert_eq!(federation.emit(first.clone()).await.unwrap().outcome, Outcome::Stored);
    assert_eq!(federation.emit(first).await.unwrap().outcome, Outcome::Known);
    let other = NewEvent { id: Some("a".into()), ..new(EXPIRED, "10.81.10.20") };
    assert_eq!(federation.emit(other).await.unwrap().outcome, Outcome::Known);
    assert_eq!(claimed(&federation), ["10.81.10.20"]);
    assert_eq!(federation.list(all()).await.unwrap().len(), 1);
}

/// An event that holds no more is ignored and not stored.
#[tokio::test]
async fn expired_event_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    let old = NewEvent { expires_secs: Some(0), ..new(OBSERVED, "10.81.10.20") };
    assert_eq!(federation.emit(old).await.unwrap().outcome, Outcome::Expired);
    assert!(claimed(&federation).is_empty() && federation.list(all()).await.unwrap().is_empty());
}

/// Wrong events have their codes and leave nothing behind.
#[tokio::test]
async fn refusals_store_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    federation.set_captured(["10.82.10.20".parse().unwrap()].into()).await.unwrap();
    let payload = serde_json::Value::String("x".repeat(65_536));
    let cases = [
        (new("routerd.client.ipv6.observed", "10.81.10.20"), ReasonCode::TypeUnknown),
        (new(OBSERVED, "aws-host"), ReasonCode::SubjectInvalid),
        (NewEvent { id: Some(String::new()), ..new(OBSERVED, "10.81.10.20") }, ReasonCode::IdInvalid),
        (NewEvent { source_node: String::new(), ..new(OBSERVED, "10.81.10.20") }, ReasonCode::SourceInvalid),
        (NewEvent { payload, ..new(OBSERVED, "10.81.10.20") }, ReasonCode::PayloadTooLarge),
        (NewEvent { expires_secs: Some(u64::MAX), ..new(OBSERVED, "10.81.10.20") }, ReasonCode::LifeTooLong),
        (new(OBSERVED, "10.82.10.20"), ReasonCode::AddressCaptured),
    ];
    for (event, code) in cases {
        assert_eq!(federation.emit(event).await.unwrap_err().code, code);
    }
    assert!(claimed(&federation).is_empty() && federation.list(all()).await.unwrap().is_empty());
}

/// What another site's client is seen as is never claimed; once it is captured no more, what was seen counts again.
#[tokio::test]
async fn captured_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    federation.set_captured(["10.81.10.20".parse().unwrap()].into()).await.unwrap();
    assert!(claimed(&federation).is_empty());
    assert!(federation.status().await.unwrap().claimed[0].captured);
    federation.emit(new(EXPIRED, "10.82.10.20")).await.unwrap();
    federation.set_captured(BTreeSet::new()).await.unwrap();
    assert_eq!(claimed(&federation), ["10.81.10.20"]);
}

/// Silence withdraws a claim by a timer, at expiry + grace + debounce.
#[tokio::test]
async fn silence_withdraws_by_timer() {
    let folder = tempfile::tempdir().unwrap();
    let short = |ms| Duration::from_millis(ms);
    let settings = Settings { observation: short(200), grace: short(150), debounce: short(50), ..settings() };
    let federation = open(folder.path(), settings).await;
    let mut watched = federation.claims();
    let before = Instant::now();
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    watched.borrow_and_update();
    tokio::time::timeout(Duration::from_secs(10), watched.changed()).await.unwrap().unwrap();
    assert!(watched.borrow_and_update().is_empty());
    assert!(before.elapsed() >= short(398), "{:?}", before.elapsed());
}

/// After a restart the claims are as before, also when the process was cut off in the middle.
#[tokio::test]
async fn claims_survive() {
    let folder = tempfile::tempdir().unwrap();
    let federation = open(folder.path(), settings()).await;
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    federation.emit(new(OBSERVED, "10.81.10.21")).await.unwrap();
    federation.emit(new(EXPIRED, "10.81.10.21")).await.unwrap();
    // What is on disk now is what a process that is killed here leaves behind.
    let other = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, other.path().join(path.file_name().unwrap())).unwrap();
    }
    let killed = open(other.path(), settings()).await;
    assert_eq!(claimed(&killed), ["10.81.10.20"]);
    assert_eq!(killed.list(all()).await.unwrap(), federation.list(all()).await.unwrap());
    drop(federation);
    assert_eq!(claimed(&open(folder.path(), settings()).await), ["10.81.10.20"]);
}

/// Lists are filtered by type and by the beginning of the subject (taken literally), the newest first.
#[tokio::test]
async fn filters() {
    let folder = tempfile::tempdir().unwrap();
    let (federation, now) = with_clock(folder.path(), settings()).await;
    for (event_type, subject) in [
        (OBSERVED, "10.81.10.20"),
        (OBSERVED, "10.82.10.20"),
        (EXPIRED, "10.82.10.20"),
        ("routerd.dynamic.part.accepted", "%part"),
    ] {
        now.fetch_add(1, Ordering::SeqCst);
        federation.emit(new(event_type, subject)).await.unwrap();
    }
    let subjects = async |filter: Filter| {
        let found = federation.list(filter).await.unwrap();
        found.into_iter().map(|event| format!("{} {}", event.event_type, event.subject)).collect::<Vec<_>>()
    };
    assert_eq!(subjects(all()).await[0], "routerd.dynamic.part.accepted %part");
    assert_eq!(subjects(Filter { limit: 2, ..all() }).await.len(), 2);
    let azure = Filter { subject_prefix: Some("10.82.".into()), ..all() };
    assert_eq!(subjects(azure).await, [format!("{EXPIRED} 10.82.10.20"), format!("{OBSERVED} 10.82.10.20")]);
    let wild = Filter { subject_prefix: Some("%".into()), ..all() };
    assert_eq!(subjects(wild).await.len(), 1);
    let gone = Filter { event_type: Some(EventType::ClientExpired), ..all() };
    assert_eq!(subjects(gone).await, [format!("{EXPIRED} 10.82.10.20")]);
}

/// Pruning takes the old by age and the oldest by count, says how many, and keeps what a claim rests on.
#[tokio::test]
async fn pruning() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { retention: Duration::from_secs(1000), retention_events: 10, ..settings() };
    let (federation, now) = with_clock(folder.path(), settings).await;
    let lasting = NewEvent { expires_secs: Some(86_400), ..new(OBSERVED, "10.81.10.20") };
    federation.emit(lasting).await.unwrap();
    for host in 1..=5 {
        federation.emit(new(OBSERVED, &format!("10.82.10.{host}"))).await.unwrap();
    }
    now.fetch_add(1_000_001, Ordering::SeqCst);
    // The owner may have pruned by itself when it saw the clock move: the sums are what counts.
    federation.prune().await.unwrap();
    let status = federation.status().await.unwrap();
    assert_eq!((status.events, status.pruned_by_age, status.pruned_by_count), (1, 5, 0));
    assert_eq!(claimed(&federation), ["10.81.10.20"]);
    for _ in 0..20 {
        now.fetch_add(1, Ordering::SeqCst);
        federation.emit(new(OBSERVED, "10.83.10.1")).await.unwrap();
    }
    let pruned = federation.prune().await.unwrap();
    assert_eq!((pruned.by_age, pruned.by_count), (0, 11));
    assert_eq!(federation.prune().await.unwrap(), federation::io::Pruned::default());
    let status = federation.status().await.unwrap();
    assert_eq!((status.events, status.pruned_by_age, status.pruned_by_count), (10, 5, 11));
    assert_eq!(claimed(&federation), ["10.81.10.20", "10.83.10.1"]);
}

/// A clock that is set back does not fence a node's later observations.
#[tokio::test]
async fn clock_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let (federation, now) = with_clock(folder.path(), settings()).await;
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    now.fetch_sub(86_400_000, Ordering::SeqCst);
    federation.emit(new(EXPIRED, "10.81.10.20")).await.unwrap();
    assert!(claimed(&federation).is_empty());
    federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
    assert_eq!(claimed(&federation), ["10.81.10.20"]);
}

/// Events of another group, from before the group was renamed, claim nothing and are not listed.
#[tokio::test]
async fn another_group() {
    let folder = tempfile::tempdir().unwrap();
    drop({
        let federation = open(folder.path(), settings()).await;
        federation.emit(new(OBSERVED, "10.81.10.20")).await.unwrap();
        federation
    });
    let renamed = open(folder.path(), Settings { group: "other".into(), ..settings() }).await;
    assert!(claimed(&renamed).is_empty() && renamed.list(all()).await.unwrap().is_empty());
}

/// A file of a newer version and a file that is no database are refused with their reasons.
#[tokio::test]
async fn files_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let junk = folder.path().join("junk");
    std::fs::write(&junk, "x".repeat(10_000)).unwrap();
    let error = Federation::open(&junk, settings()).await.err().unwrap().to_string();
    assert!(error.contains("not a database"), "{error}");
    let newer = folder.path().join("newer");
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Federation::open(&newer, settings()).await.err().unwrap().to_string();
    assert!(error.contains("newer version"), "{error}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&newer).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(system_clock()() > 1_700_000_000_000);
}
