//! What `scripts/test` shows of a stage that failed, for the outputs of the test runners that it starts.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `scripts/what-failed.awk` makes of a log.
fn told(log: &str, show: &str, lines: usize) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/what-failed.awk");
    let mut awk = Command::new("awk")
        .args(["-v", &format!("show={show}"), "-v", &format!("lines={lines}"), "-f"])
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    awk.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
    let output = awk.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

const LIBTEST: &str = "     Running tests/acceptance.rs (target/debug/deps/acceptance-61a4d42ba18175d3)

running 3 tests
test point_1 ... ok
test point_2 ... FAILED
test point_3 ... FAILED

failures:

---- point_2 ----
the lab is not there
    for this reason

---- point_3 stdout ----

thread 'point_3' (9) panicked at tests/tests/acceptance.rs:9:74:
assertion `left == right` failed: sums
  left: 2
 right: 3
stack backtrace:
   0: a frame
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.


failures:
    point_2
    point_3

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.41s

error: test failed, to rerun pass `--test acceptance`
     Running unittests src/lib.rs (target/debug/deps/lab-61a4d42ba18175d3)

running 1 test
error: test failed, to rerun pass `-p lab --lib`

Caused by:
  process didn't exit successfully: `/target/debug/deps/lab-61a4d42ba18175d3` (signal: 6, SIGABRT: process abort signal)
   Doc-tests lab

running 1 test
test lab/src/lib.rs - up (line 2) ... FAILED

failures:

---- lab/src/lib.rs - up (line 2) stdout ----
Test executable failed (exit status: 101).

failures:
    lab/src/lib.rs - up (line 2)

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.73s
check failed: load, see /logs/load
";

const NEXTEST: &str = "    Starting 3 tests across 1 binary
        PASS [   0.079s] (1/3) fabric-bgp tests::good
        FAIL [   0.048s] (2/3) fabric-bgp tests::worse
  stdout ───

    running 1 test
    test tests::worse ... FAILED

    failures:

    failures:
        tests::worse

    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s

  stderr ───
    Error: \"worse said\"

     TIMEOUT [  60.971s] (3/3) fabric-bgp tests::slow
  stderr ───
    waiting
────────────
     Summary [   0.971s] 3 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped
        FAIL [   0.048s] (2/3) fabric-bgp tests::worse
     TIMEOUT [  60.971s] (3/3) fabric-bgp tests::slow
error: test run failed
";

/// Proves that every failed test is named with its program and its first words, by libtest and libtest-mimic, and so are
/// a program that died and a failed check; what passed is not.
#[test]
fn names_of_libtest() {
    let names = "acceptance: point_2
    the lab is not there
        for this reason
acceptance: point_3
    thread 'point_3' (9) panicked at tests/tests/acceptance.rs:9:74:
    assertion `left == right` failed: sums
      left: 2
lab: the test program ended (signal: 6, SIGABRT: process abort signal)
lab: lab/src/lib.rs - up (line 2)
    Test executable failed (exit status: 101).
load, see /logs/load
";
    assert_eq!(told(LIBTEST, "names", 0), names);
}

/// Proves that a failed test's own words are whole, without the backtrace.
#[test]
fn words_of_libtest() {
    let words = told(LIBTEST, "words", 150);
    let panicked = "-- acceptance: point_3
thread 'point_3' (9) panicked at tests/tests/acceptance.rs:9:74:
assertion `left == right` failed: sums
  left: 2
 right: 3
-- lab: lab/src/lib.rs - up (line 2)
";
    assert!(words.contains(panicked) && !words.contains("a frame"), "{words}");
}

/// Proves the same of cargo-nextest, which names each failed test twice.
#[test]
fn names_and_words_of_nextest() {
    let names =
        "fabric-bgp tests::worse\n        Error: \"worse said\"\nfabric-bgp tests::slow\n        waiting\n";
    assert_eq!(told(NEXTEST, "names", 0), names);
    let words =
        "-- fabric-bgp tests::worse\n    Error: \"worse said\"\n-- fabric-bgp tests::slow\n    waiting\n";
    assert_eq!(told(NEXTEST, "words", 150), words);
}

/// Proves that the compiler's errors are shown up to their end, and nothing of a log in which nothing failed.
#[test]
fn the_compiler_and_nothing() {
    let log = "warning: a\n\nerror[E0425]: cannot find value\n --> src/lib.rs:1:2\n\nerror: could not compile `lab`\n";
    assert_eq!(told(log, "words", 9), "-- error[E0425]: cannot find value\n --> src/lib.rs:1:2\n");
    let calm = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
    assert_eq!(told(calm, "names", 0) + &told(calm, "words", 9), "");
}

/// Proves that the bound holds, that the first failure has the most room, and that its begin and end are both shown.
#[test]
fn many_words_are_cut_in_the_middle() {
    let mut log = String::from("failures:\n\n");
    for test in 1..=5 {
        log += &format!("---- t{test} ----\n");
        (1..=100).for_each(|line| log += &format!("line {line}\n"));
    }
    log += "\nfailures:\n";
    let words = told(&log, "words", 50);
    let blocks: Vec<usize> =
        words.split("-- :").skip(1).map(|block| block.trim_end().lines().count()).collect();
    assert!(words.lines().count() <= 50 && blocks.len() == 5, "{blocks:?}\n{words}");
    assert!(blocks[0] >= 25 && blocks.iter().all(|lines| *lines >= 4), "{blocks:?}");
    assert!(
        words.contains("line 1\n") && words.contains("lines left out]\n") && words.contains("line 100\n")
    );
}
