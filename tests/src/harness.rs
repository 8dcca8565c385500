//! Runs cases one after the other against one lab, as a test program of its own (`harness = false`).

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use lab::{Hubs, Lab, LabName, UpOptions, UpReport};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::sync::OnceCell;

use crate::{Check, aftermath};

/// A lab with all four sites enrolled.
#[derive(Debug)]
pub struct Fabric {
    /// The lab.
    pub lab: Lab,
    /// How its building went.
    pub report: UpReport,
}

type Running = Pin<Box<dyn Future<Output = Check> + Send>>;

/// A test with its name.
pub struct Case {
    name: &'static str,
    run: Box<dyn FnOnce(Arc<Fabric>) -> Running + Send>,
}

/// Names a test; the name says what it proves.
pub fn case<F, R>(name: &'static str, run: F) -> Case
where
    F: FnOnce(Arc<Fabric>) -> R + Send + 'static,
    R: Future<Output = Check> + Send + 'static,
{
    Case { name, run: Box::new(move |fabric| Box::pin(run(fabric))) }
}

/// The folder of the programs that are shipped.
pub fn bin_dir() -> Result<PathBuf, String> {
    let beside = || {
        let exe = std::env::current_exe().ok()?;
        Some(exe.parent()?.parent()?.to_path_buf())
    };
    let dir = std::env::var_os("FABRIC_BIN_DIR").map(PathBuf::from).or_else(beside);
    let dir = dir.ok_or("this test's own place is unknown; set FABRIC_BIN_DIR")?;
    for program in ["fabric-rr", "fabric-leaf", "routerctl"] {
        if !dir.join(program).is_file() {
            let (dir, build) = (dir.display(), "cargo build -p fabric-rr -p fabric-leaf -p fabric-cli");
            return Err(format!("no {program} in {dir}: run `{build}`, or set FABRIC_BIN_DIR"));
        }
    }
    Ok(dir)
}

/// The main of a test program: builds the lab when the first case needs it, runs the cases in their order, takes the
/// lab down whatever happened, and proves as a last case that nothing of it is left.
pub fn main(tag: &str, cases: Vec<Case>) -> ExitCode {
    main_with(tag, Hubs::One, cases)
}

/// The same in a lab with so many hubs.
pub fn main_with(tag: &str, hubs: Hubs, cases: Vec<Case>) -> ExitCode {
    main_sharing(tag, hubs, None, cases)
}

/// The same with hubs that share a database.
pub fn main_sharing(tag: &str, hubs: Hubs, registry: Option<String>, cases: Vec<Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::from(101);
    };
    let runtime = Arc::new(runtime);
    let Ok(name) = format!("{tag}{}", std::process::id()).parse::<LabName>() else {
        return ExitCode::from(101);
    };
    let shared: Arc<OnceCell<Result<Arc<Fabric>, String>>> = Arc::default();
    let mut trials: Vec<Trial> = Vec::new();
    for case in cases {
        let (runtime, shared, name) = (runtime.clone(), shared.clone(), name.clone());
        let registry = registry.clone();
        trials.push(Trial::test(case.name, move || {
            let work = async {
                let fabric = shared.get_or_init(|| up(name, hubs, registry)).await.clone()?;
                let begin = Instant::now();
                let Err(wrong) = (case.run)(fabric.clone()).await else { return Ok(()) };
                let secs = begin.elapsed().as_secs_f64();
                let seen = aftermath::of(&fabric.lab).await;
                let mended = aftermath::mend(&fabric.lab).await.err();
                let mended = mended.map_or(String::new(), |what| format!("\nand it stays so: {what}"));
                Err(format!("{wrong}\nafter {secs:.1} s; {seen}{mended}"))
            };
            runtime.block_on(work).map_err(Failed::from)
        }));
    }
    let (last_runtime, last_name, last_shared) = (runtime.clone(), name.clone(), shared.clone());
    trials.push(Trial::test("taking_the_lab_down_leaves_nothing", move || {
        last_runtime.block_on(down(&last_name, last_shared.get().is_some())).map_err(Failed::from)
    }));
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    let interrupted = name.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            // What is left is shown by `routerctl lab status`; there is nobody here to tell.
            let _ = Lab::down(&interrupted, None).await;
            std::process::exit(130);
        }
    });
    let conclusion = libtest_mimic::run(&arguments, trials);
    if shared.get().is_some() {
        // Taken down already unless the last case was left out; then there is no case to fail.
        let _ = runtime.block_on(Lab::down(&name, None));
    }
    conclusion.exit_code()
}

async fn up(name: LabName, hubs: Hubs, registry: Option<String>) -> Result<Arc<Fabric>, String> {
    let bin_dir = Some(bin_dir()?);
    let options = UpOptions { name, bin_dir, hubs, registry, ..UpOptions::default() };
    let (lab, report) =
        Lab::up(options).await.map_err(|error| format!("the lab does not come up: {error}"))?;
    Ok(Arc::new(Fabric { lab, report }))
}

async fn down(name: &LabName, was_up: bool) -> Check {
    if !was_up {
        return Ok(());
    }
    let dir = PathBuf::from(lab::STATE_BASE).join(name.as_str());
    let report = Lab::down(name, None).await;
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let prefix = format!("{name}-");
    let mut left: Vec<String> = namespaces
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|namespace| namespace.starts_with(&prefix))
        .collect();
    if dir.exists() {
        left.push(dir.display().to_string());
    }
    let needle = dir.display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(&needle) {
            left.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    match report {
        Err(error) => Err(format!("the lab does not go down: {error}")),
        Ok(_) if left.is_empty() => Ok(()),
        Ok(_) => Err(format!("left behind: {left:?}")),
    }
}
