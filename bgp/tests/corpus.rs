//! What the fuzzers found worth keeping, replayed without a fuzzer, and random inputs on top.

mod fuzzing;
mod wire;

use std::path::Path;

use fuzzing::{TARGETS, Target};
use proptest::prelude::*;

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name)
}

/// Runs one input and names it when it fails.
fn run((name, run, _): &Target, input: &[u8], what: &str) {
    let caught = std::panic::catch_unwind(|| run(input));
    assert!(caught.is_ok(), "{name}: {what} fails: {input:02x?}");
}

/// Every kept input of every target still passes, and there are some.
#[test]
fn the_corpus_passes() {
    for target in &TARGETS {
        let dir = folder(target.0);
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::create_dir_all(&dir).expect("a folder");
            for (n, seed) in target.2().iter().enumerate() {
                std::fs::write(dir.join(format!("seed-{n:02}")), seed).expect("written");
            }
        }
        let mut files: Vec<_> =
            std::fs::read_dir(&dir).expect("a corpus").map(|e| e.expect("a file").path()).collect();
        files.sort();
        assert!(files.len() >= target.2().len(), "{}: only {} inputs", target.0, files.len());
        for file in files {
            run(target, &std::fs::read(&file).expect("readable"), &file.display().to_string());
        }
    }
}

/// The corpora stay small enough for a repository: under 1 MiB together, no input over 4 KiB.
#[test]
fn the_corpora_are_small() {
    let mut sum = 0;
    for (name, ..) in TARGETS {
        for file in std::fs::read_dir(folder(name)).expect("a corpus") {
            let len = file.expect("a file").metadata().expect("its size").len();
            assert!(len <= 4096, "{name}: an input of {len} octets");
            sum += len;
        }
    }
    assert!(sum < 1 << 20, "{sum} octets");
}

/// The speaker's target compares something: its seeds bring peers up that are owed routes, with every capability.
#[test]
fn the_comparison_at_the_end_sees_routes() {
    let played: Vec<_> = fuzzing::speaker::seeds().iter().map(|s| fuzzing::speaker::play(s)).collect();
    assert!(played.iter().filter(|(n, _)| *n > 0).count() >= 6, "{played:?}");
    let capabilities = [
        "add-path-receive",
        "add-path-send",
        "enhanced-route-refresh",
        "extended-message",
        "graceful-restart",
        "long-lived-graceful-restart",
    ];
    for what in capabilities.into_iter().chain(["stale", "long-lived-stale", "identifiers", "marks"]) {
        assert!(played.iter().any(|(_, seen)| seen.contains(what)), "no {what} in {played:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_octets_are_messages_or_refused(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::messages::run(&input);
    }

    #[test]
    fn any_events_leave_a_session_whole(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::session::run(&input);
    }

    /// Small numbers, so that happenings hit the same few peers and routes.
    #[test]
    fn any_happenings_leave_everybody_with_what_is_owed(
        flavour: u8,
        happenings in proptest::collection::vec((0..32u8, 0..12u8, proptest::collection::vec(any::<u8>(), 0..8)), 0..60),
    ) {
        let mut input = vec![flavour];
        for (what, who, more) in happenings {
            input.extend_from_slice(&[what, who]);
            input.extend_from_slice(&more);
        }
        fuzzing::speaker::run(&input);
    }
}
