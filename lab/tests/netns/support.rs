//! What the tests of this crate share: a lab of their own name, taken away whatever happens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Lab, LabName, UpOptions};

/// A directory with the programs a lab without a fabric needs, and a place for its state.
pub struct Place {
    pub name: LabName,
    pub base: tempfile::TempDir,
    pub programs: tempfile::TempDir,
}

impl Place {
    pub fn new(tag: &str) -> Place {
        let name = format!("t{tag}{}", std::process::id()).parse().expect("a lab name");
        let programs = tempfile::tempdir().expect("a temporary directory");
        let agent = target_dir().join("examples/lab-agent");
        assert!(agent.exists(), "{} is missing: cargo test builds it with the examples", agent.display());
        std::os::unix::fs::symlink(agent, programs.path().join("routerctl")).expect("a link");
        Place { name, base: tempfile::tempdir().expect("a temporary directory"), programs }
    }

    pub fn options(&self) -> UpOptions {
        UpOptions {
            name: self.name.clone(),
            base: Some(self.base.path().into()),
            bin_dir: Some(self.programs.path().into()),
            underlay_only: true,
            ..UpOptions::default()
        }
    }

    pub fn namespaces(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name);
        let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    /// Processes that were started for this lab: its state directory or its name is in their words.
    pub fn processes(&self) -> Vec<String> {
        let (marks, own) =
            ([self.base.path().display().to_string(), format!("{}-", self.name)], std::process::id());
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != own)
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
            .filter(|words| marks.iter().any(|mark| words.contains(mark)))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if Lab::open(&self.name, Some(self.base.path())).is_ok() {
            let (name, base) = (self.name.clone(), self.base.path().to_path_buf());
            // A runtime of its own: the test's may be the one that is unwinding.
            let _ = std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(Lab::down(&name, Some(&base))).expect("the lab goes");
            })
            .join();
        }
    }
}

fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("this test's place");
    program.parent().and_then(Path::parent).expect("target/debug/deps").to_path_buf()
}

/// Runs a shell line on a node; gives exit status and output.
pub async fn sh(lab: &Lab, node: &str, line: &str) -> (i32, String) {
    let argv: Vec<String> = ["sh", "-c", line].map(String::from).into();
    let output = lab.exec(node, &argv, Duration::from_secs(20)).await.expect("the command runs");
    (output.code.unwrap_or(-1), output.stdout + &output.stderr)
}

/// [`sh`] that must end with status 0.
pub async fn ok(lab: &Lab, node: &str, line: &str) -> String {
    let (code, output) = sh(lab, node, line).await;
    assert_eq!(code, 0, "{line} on {node}: {output}");
    output
}

/// [`sh`] that must not end with status 0.
pub async fn fails(lab: &Lab, node: &str, line: &str) -> String {
    let (code, output) = sh(lab, node, line).await;
    assert_ne!(code, 0, "{line} on {node}: {output}");
    output
}
