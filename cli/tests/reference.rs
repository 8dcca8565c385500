//! The pages under `docs/reference` are what the code says.

use std::path::Path;
use std::process::Command;

/// Every verb, Kind and code stands in the pages as it is in the code; the failure names the command that
/// writes them anew.
#[test]
fn pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    let output = Command::new(env!("CARGO_BIN_EXE_routerctl"))
        .arg("reference")
        .arg(&folder)
        .arg("--check")
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\nin the source tree: cargo run -p fabric-cli -- reference docs/reference"
    );
}

/// A page that was edited by hand is told from a current one, and is put right.
#[test]
fn a_stale_page_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let run = |check: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_routerctl"));
        command.arg("reference").arg(folder.path());
        if check {
            command.arg("--check");
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(run(true), Some(1));
    assert_eq!((run(false), run(true)), (Some(0), Some(0)));
    std::fs::write(folder.path().join("cli.md"), "by hand").unwrap();
    assert_eq!((run(true), run(false), run(true)), (Some(1), Some(0), Some(0)));
}
