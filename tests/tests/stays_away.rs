//! Graceful restart at the reflector's side (RFC 4724, RFC 9494), with real speakers that are killed with SIGKILL: a
//! BIRD and a leaf's speaker that stay away are kept, marked stale, for their restart time and then flushed on time;
//! a leaf's speaker with long-lived graceful restart is kept, marked, until its stale time is over too; one that
//! returns in time loses nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fabric_tests::space::stale::{HUB, REFLECTOR, bird, has_and_marked};
use fabric_tests::space::{Space, peers, until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);
/// What each source asks for, in seconds.
const RESTART: u64 = 4;
const LONG_LIVED: u64 = 5;
/// BIRD, a leaf, a leaf with long-lived graceful restart, and a leaf that returns.
const SOURCES: [&str; 4] = ["10.8.0.2", "10.8.0.3", "10.8.0.4", "10.8.0.5"];
const ROUTES: [&str; 4] = ["10.77.0.2/32", "10.77.0.3/32", "10.77.0.4/32", "10.77.0.5/32"];

fn start_leaf(space: &mut Space, dir: &Path, i: usize, long_lived: u64) {
    let announce = json!([{ "prefix": ROUTES[i], "nextHop": SOURCES[i], "communities": [] }]);
    let config = json!({
        "asn": 65000, "local": SOURCES[i], "reflector": HUB, "announce": announce,
        "restartSecs": if i == 3 { 120 } else { RESTART }, "longLivedSecs": long_lived,
    });
    let file = dir.join(format!("leaf{i}.json"));
    std::fs::write(&file, config.to_string()).expect("the configuration is written");
    let [file, state] = [file, dir.join(format!("state{i}.json"))].map(|p| p.display().to_string());
    space.start(dir, &format!("leaf{i}"), &[env!("CARGO_BIN_EXE_interop-leaf"), &file, &state]);
}

/// Of each route whether the watcher has it, and whether it has it marked LLGR_STALE.
fn watched(space: &Space, watcher: &Path) -> [(bool, bool); 4] {
    let answer = |route: &str| space.birdc(watcher, &format!("show route for {route} all"));
    ROUTES.map(|route| has_and_marked(&answer(route), route))
}

fn folders(dir: &Path) -> [PathBuf; 2] {
    let all = ["source", "watcher"].map(|name| dir.join(name));
    all.iter().for_each(|d| std::fs::create_dir(d).expect("a folder"));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_away_is_flushed_on_time_and_who_returns_loses_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let [source, watcher] = folders(dir);
    let mut space = Space::new("away", &[&[HUB, "10.8.0.9"][..], &SOURCES].concat());
    space.start_reflector(dir, REFLECTOR);
    space.start_bird(&watcher, &bird("10.8.0.9", RESTART, "aware", None));
    space.start_bird_as("source", &source, &bird(SOURCES[0], RESTART, "off", Some(ROUTES[0])));
    (1..4).for_each(|i| start_leaf(&mut space, dir, i, if i == 2 { LONG_LIVED } else { 0 }));
    until(dir, LIMIT, async || {
        let seen = watched(&space, &watcher);
        (seen != [(true, false); 4]).then(|| format!("{seen:?}"))
    })
    .await;

    let killed = Instant::now();
    ["source", "leaf1", "leaf2", "leaf3"].iter().for_each(|name| space.kill(name));
    until(dir, LIMIT, async || {
        let all = peers(dir).await;
        let stale = |a: &&&str| all.iter().any(|p| p.address.to_string() == ***a && p.prefixes_stale == 1);
        let flushed = killed.elapsed() > Duration::from_secs(RESTART);
        assert!(!flushed, "not seen as stale within the restart time: {all:#?}");
        (SOURCES.iter().filter(stale).count() < 4).then(|| format!("not stale: {all:#?}"))
    })
    .await;
    start_leaf(&mut space, dir, 3, 0);

    // When each went from the watcher, and the long-lived one was marked.
    let mut gone: [Option<Duration>; 3] = [None; 3];
    let mut marked = None;
    until(dir, LIMIT, async || {
        let seen = watched(&space, &watcher);
        assert_eq!(seen[3], (true, false), "the one that returns is never lost nor marked");
        for i in 0..3 {
            if !seen[i].0 {
                gone[i].get_or_insert_with(|| killed.elapsed());
            }
        }
        if seen[2].1 {
            marked.get_or_insert_with(|| killed.elapsed());
        }
        gone.iter().any(Option::is_none).then(|| format!("{seen:?} {gone:?}"))
    })
    .await;
    let secs = Duration::from_secs;
    let [bird, leaf, long] = gone.map(|at| at.expect("all are gone"));
    let marked = marked.expect("it was marked before it went");
    // Never early; late by what a busy machine takes.
    for (what, at, wanted) in [
        ("BIRD's", bird, secs(RESTART)),
        ("the leaf's", leaf, secs(RESTART)),
        ("the mark", marked, secs(RESTART)),
        ("the long-lived one's", long, secs(RESTART + LONG_LIVED)),
    ] {
        assert!(at >= wanted && at < wanted + secs(10), "{what}: after {at:?}, wanted {wanted:?}");
    }
    until(dir, LIMIT, async || {
        let all = peers(dir).await;
        let back = all.iter().find(|p| p.address.to_string() == SOURCES[3]).expect("a peer");
        (back.state != "Established" || back.prefixes_stale > 0 || back.prefixes_accepted != 1)
            .then(|| format!("{back:#?}"))
    })
    .await;
}
