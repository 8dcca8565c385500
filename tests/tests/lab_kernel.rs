//! The acceptance tests once more, all of them and under the same names, inside the lab kernel, where the kernel's own
//! WireGuard and ipip carry the packets. The program of those tests runs inside unmodified; its verdicts are read here.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fabric_tests::harness::bin_dir;
use lab::kernel::KernelRun;
use libtest_mimic::{Arguments, Failed, Trial};

/// Longest time for all of it; the kernel has one processor and slow system calls.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let said: Arc<OnceLock<Result<String, String>>> = Arc::default();
    let trials = match names() {
        Ok(names) => names.into_iter().map(|name| trial(name, said.clone())).collect(),
        Err(wrong) => vec![Trial::test("the_acceptance_tests_are_built", move || Err(Failed::from(wrong)))],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, said: Arc<OnceLock<Result<String, String>>>) -> Trial {
    Trial::test(format!("in_the_lab_kernel::{name}"), move || {
        let said = said.get_or_init(inside).as_ref().map_err(Failed::from)?;
        verdict(said, &name).map_err(Failed::from)
    })
}

/// The newest acceptance test program beside this one.
fn acceptance() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let dir = own.parent().ok_or("this test has no place")?;
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let program = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("acceptance-") && !name.contains('.')
    };
    let newest = entries
        .flatten()
        .filter(program)
        .max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok());
    let missing = "no acceptance test program beside this one: run `cargo test -p fabric-tests --no-run`";
    newest.map(|entry| entry.path()).ok_or_else(|| missing.into())
}

/// What the acceptance tests are called.
fn names() -> Result<Vec<String>, String> {
    let output = Command::new(acceptance()?).args(["--list", "--format", "terse"]).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<String> =
        text.lines().filter_map(|line| line.strip_suffix(": test")).map(String::from).collect();
    if names.is_empty() { Err(format!("no acceptance tests: {text}")) } else { Ok(names) }
}

/// Runs them inside and gives all that they said.
fn inside() -> Result<String, String> {
    let words = [
        "env".to_string(),
        format!("FABRIC_BIN_DIR={}", bin_dir()?.display()),
        "FABRIC_EXPECT_DATAPLANE=kernel".into(),
        acceptance()?.display().to_string(),
    ];
    let mut run = KernelRun::new(words.to_vec());
    run.limit = LIMIT;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let output = runtime.block_on(lab::kernel::run(&run)).map_err(|error| error.to_string())?;
    Ok(output.stdout + &output.stderr)
}

/// The verdict on one test, with its own part of the output when it failed.
fn verdict(said: &str, name: &str) -> Result<(), String> {
    let line = said.lines().find(|line| line.starts_with(&format!("test {name} ")));
    match line {
        Some(line) if line.ends_with(" ok") => Ok(()),
        Some(_) => {
            let (_, part) = said.split_once(&format!("---- {name} ----")).unwrap_or(("", said));
            Err(part.split("\n----").next().unwrap_or(part).trim().to_string())
        }
        None => Err(format!("it did not run: {}", said.trim())),
    }
}
