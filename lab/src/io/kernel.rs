//! The lab kernel: a full Linux kernel that runs as a process (User Mode Linux), so that the kernel's own
//! WireGuard and ipip carry the packets where the host's kernel has neither. The recipe is in `lab/kernel`; it
//! is inside this program too, so that an installed `routerctl` needs no source tree.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::io::clients::{private_dir, read, text, write};
use crate::io::down::DownReport;
use crate::io::run::{Output, command, run_command, tail, words};
use crate::layout::{Hubs, LabName};
use crate::matrix::Matrix;
use crate::report::UpReport;

/// The recipe's files.
const RECIPE: [(&str, &str); 6] = [
    ("build.sh", include_str!("../../kernel/build.sh")),
    ("ensure.sh", include_str!("../../kernel/ensure.sh")),
    ("init.sh", include_str!("../../kernel/init.sh")),
    ("run.sh", include_str!("../../kernel/run.sh")),
    ("kernel.config", include_str!("../../kernel/kernel.config")),
    ("xstate.patch", include_str!("../../kernel/xstate.patch")),
];

/// The recipe's files that a built kernel depends on, in the order in which `ensure.sh` hashes them.
const HASHED: [&str; 3] = ["kernel.config", "xstate.patch", "build.sh"];

/// Longest time for a build, another's build waited for included.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// What the kernel may take on top of a command's limit, to boot and to be ended.
const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// A command to run inside the lab kernel.
#[derive(Debug, Clone)]
pub struct KernelRun {
    /// The command and its words.
    pub argv: Vec<String>,
    /// Host directories, writable inside as `/mnt/NAME`. Names: letters, digits, `-`; paths without line breaks.
    pub shares: Vec<(String, PathBuf)>,
    /// Memory in MiB; 1024 by default.
    pub memory_mib: u32,
    /// Longest time for boot and command.
    pub limit: Duration,
    /// Skips idle time: an hour's sleep takes about a second.
    pub time_travel: bool,
}

impl KernelRun {
    /// A command with no share, 1 GiB and ten minutes.
    pub fn new(argv: Vec<String>) -> KernelRun {
        KernelRun {
            argv,
            shares: Vec::new(),
            memory_mib: 1024,
            limit: Duration::from_secs(600),
            time_travel: false,
        }
    }
}

/// The directory of the built kernel, if the cache has it: `${FABRIC_CACHE:-/var/cache/fabric-lab}`.
pub fn cached() -> Option<PathBuf> {
    let dir = cache().join(format!("linux-lab-{}", recipe_hash()));
    dir.join("linux").is_file().then_some(dir)
}

fn cache() -> PathBuf {
    std::env::var_os("FABRIC_CACHE").map_or_else(|| "/var/cache/fabric-lab".into(), PathBuf::from)
}

/// Names the built kernel after what it is built from.
fn recipe_hash() -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for name in HASHED {
        let (_, content) = RECIPE.iter().find(|(known, _)| *known == name).unwrap_or(&("", ""));
        context.update(content.as_bytes());
    }
    context.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the recipe into a directory that goes with the returned guard.
fn recipe() -> Result<tempfile::TempDir, LabError> {
    let dir = tempfile::tempdir().map_err(LabError::io("make a temporary directory"))?;
    for (name, content) in RECIPE {
        write(&dir.path().join(name), content, 0o755)?;
    }
    Ok(dir)
}

/// The directory of the built kernel; builds it first where the cache has none: about 9 minutes on 2 cores, as
/// root, from Debian packages that it installs.
pub async fn ensure() -> Result<PathBuf, LabError> {
    if let Some(dir) = cached() {
        return Ok(dir);
    }
    let recipe = recipe()?;
    let argv = words(["bash", &text(&recipe.path().join("ensure.sh"))]);
    let output = run_command(command(&argv), "build the lab kernel", None, BUILD_LIMIT).await?;
    match output.ok() {
        true => Ok(PathBuf::from(output.stdout.trim())),
        false => Err(LabError::Command { what: "build the lab kernel".into(), detail: output.detail() }),
    }
}

/// Runs a command inside the lab kernel, over the host's root file system (read-only; `/run`, `/tmp`, `/var/lib`
/// and `/var/log` are private and empty). Gives exit status and output (both streams in one); a kernel that
/// ended without an exit status is an error. Nothing runs on when this returns or is dropped.
pub async fn run(run: &KernelRun) -> Result<Output, LabError> {
    let (kernel, recipe) = (ensure().await?, recipe()?);
    let mut shares = Vec::new();
    for (name, dir) in &run.shares {
        let dir = std::path::absolute(dir).map_err(LabError::io(name.as_str()))?;
        shares.push(share(name, &dir)?);
    }
    let argv = words(["bash", &text(&recipe.path().join("run.sh")), &shell_line(&run.argv)]);
    let mut command = command(&argv);
    command
        // Below the guard's directory, so that nothing is left when the script cannot clean up.
        .env("TMPDIR", recipe.path())
        .env("KERNEL_DIR", kernel)
        .env("MEM", format!("{}M", run.memory_mib))
        .env("LIMIT", run.limit.as_secs().max(1).to_string())
        .env("SHARE", shares.join("\n"))
        .env("KARGS", if run.time_travel { "time-travel" } else { "" });
    let what = format!("{} inside the lab kernel", run.argv.join(" "));
    let output = run_command(command, &what, None, run.limit + BOOT_LIMIT).await?;
    if output.code == Some(124) && output.stderr.contains("the lab kernel was ended") {
        return Err(LabError::Timeout { what, secs: run.limit.as_secs() });
    }
    if output.code == Some(125) && output.stderr.contains("without an exit status") {
        let detail = format!("{}\n{}", tail(&output.stderr, 12), tail(&output.stdout, 12));
        return Err(LabError::Command { what, detail });
    }
    Ok(output)
}

fn share(name: &str, dir: &Path) -> Result<String, LabError> {
    let dir = text(dir);
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !good || ["kernel", "lab"].contains(&name) || dir.contains('\n') {
        let detail = "a share needs a name of letters and digits and a path of one line".into();
        return Err(LabError::Format { what: format!("share {name}"), detail });
    }
    Ok(format!("{name}={dir}"))
}

/// One line for a shell that stands for exactly these words.
fn shell_line(argv: &[String]) -> String {
    let quoted = argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// How to run the whole scenario inside the lab kernel.
#[derive(Debug, Clone)]
pub struct ScenarioOptions {
    /// The lab's name inside.
    pub name: LabName,
    /// How many hubs.
    pub hubs: Hubs,
    /// Where `routerctl`, `fabric-rr` and `fabric-leaf` are on the host.
    pub bin_dir: PathBuf,
    /// A host directory for the results; made when it is not there.
    pub out: PathBuf,
    /// Longest time for all of it.
    pub limit: Duration,
}

/// What the scenario found inside the lab kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The release of the kernel that carried the packets.
    pub kernel: String,
    /// Whether the lab came up whole, all pairs passed, the evidence holds no secret, and nothing was left.
    pub ok: bool,
    /// What `lab up` did.
    pub up: UpReport,
    /// The matrix.
    pub matrix: Matrix,
    /// What `lab down` removed.
    pub down: DownReport,
    /// Exit status of each command: `up`, `matrix`, `evidence`, `down`.
    pub exit: std::collections::BTreeMap<String, i32>,
    /// What was left after `lab down`: namespaces, processes, files. Empty.
    pub left: String,
    /// The results on the host: `up.json`, `matrix.json`, `matrix.xml`, `evidence/`, `down.json`.
    pub out: PathBuf,
    /// Milliseconds for all of it, boot included.
    pub elapsed_ms: u64,
}

/// The commands, as a person would type them one after the other.
const SCENARIO: &str = r#"
cd /mnt/collected || exit 9
export PATH=/mnt/bin:$PATH
uname -r >kernel.txt
step() { step=$1; shift; "$@" >"$step.json" 2>"$step.err"; echo "$step $?" >>exit.txt; }
step up routerctl lab up --name "$1" --hubs "$2" -o json
step matrix routerctl matrix --lab "$1" --parallel 3 --limit 20 --junit matrix.xml -o json
step evidence routerctl evidence --lab "$1" --out evidence --matrix matrix.json -o json
cp -r "/run/fabric-lab/$1/logs" logs 2>/dev/null
step down routerctl lab down --name "$1" -o json
{ ip netns; ls -d "/run/fabric-lab" 2>/dev/null; pgrep -a 'fabric-|sshd|routerctl'; } >left.txt
"#;

/// Runs `lab up`, `matrix`, `evidence` and `lab down` inside the lab kernel, as one command, with the programs of
/// the host.
pub async fn scenario(options: &ScenarioOptions) -> Result<ScenarioReport, LabError> {
    let begin = Instant::now();
    private_dir(&options.out)?;
    let hubs = options.hubs.nodes().len().to_string();
    let mut run = KernelRun::new(words(["bash", "-c", SCENARIO, "scenario", options.name.as_str(), &hubs]));
    run.limit = options.limit;
    run.shares = vec![("bin".into(), options.bin_dir.clone()), ("collected".into(), options.out.clone())];
    let output = self::run(&run).await?;
    if !output.ok() && !options.out.join("exit.txt").exists() {
        return Err(LabError::Command { what: "the scenario inside".into(), detail: output.detail() });
    }
    let exit = exits(&read(&options.out.join("exit.txt"))?);
    let left = read(&options.out.join("left.txt"))?.trim().to_string();
    let matrix: Matrix = result(&options.out, "matrix")?;
    let report = ScenarioReport {
        kernel: read(&options.out.join("kernel.txt"))?.trim().into(),
        ok: matrix.ok() && left.is_empty() && exit.len() == 4 && exit.values().all(|status| *status == 0),
        up: result(&options.out, "up")?,
        matrix,
        down: result(&options.out, "down")?,
        exit,
        left,
        out: options.out.clone(),
        elapsed_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Ok(report)
}

fn exits(content: &str) -> std::collections::BTreeMap<String, i32> {
    let line = |line: &str| {
        let (step, status) = line.split_once(' ')?;
        Some((step.to_string(), status.parse().ok()?))
    };
    content.lines().filter_map(line).collect()
}

/// Reads what one of the commands answered; what it said instead is the error.
fn result<T: serde::de::DeserializeOwned>(out: &Path, step: &str) -> Result<T, LabError> {
    let answer = read(&out.join(format!("{step}.json")))?;
    serde_json::from_str(&answer).map_err(|error| {
        let said = std::fs::read_to_string(out.join(format!("{step}.err"))).unwrap_or_default();
        let detail = if said.trim().is_empty() { error.to_string() } else { tail(&said, 8) };
        LabError::Command { what: format!("{step} inside the lab kernel"), detail }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that words pass a shell unchanged.
    #[tokio::test]
    async fn quoting() {
        let argv = words(["printf", "%s|", "a b", "it's", "$HOME", "", "\"q\" \\ `id`"]);
        let line = shell_line(&argv);
        let output =
            crate::io::run::run(&words(["sh", "-c", &line]), None, Duration::from_secs(5)).await.unwrap();
        assert_eq!(output.stdout, "a b|it's|$HOME||\"q\" \\ `id`|");
    }

    /// Proves that this program and `ensure.sh` name the built kernel alike.
    #[tokio::test]
    async fn one_name_for_the_built_kernel() {
        let recipe = recipe().unwrap();
        let script = format!(
            "cd {} && cat kernel.config xstate.patch build.sh | sha256sum | cut -c1-16",
            recipe.path().display()
        );
        let output =
            crate::io::run::run(&words(["sh", "-c", &script]), None, Duration::from_secs(5)).await.unwrap();
        assert_eq!(output.stdout.trim(), recipe_hash());
        assert!(
            RECIPE[1].1.contains("cat \"$here\"/kernel.config \"$here\"/xstate.patch \"$here\"/build.sh")
        );
    }

    /// Proves that shares cannot break out of their line or cover the kernel's own.
    #[test]
    fn shares() {
        assert_eq!(share("out", Path::new("/a b")).unwrap(), "out=/a b");
        for (name, dir) in [("kernel", "/a"), ("a/b", "/a"), ("", "/a"), ("out", "/a\n/b"), ("a=b", "/a")] {
            assert!(share(name, Path::new(dir)).is_err(), "{name} {dir:?}");
        }
    }
}
