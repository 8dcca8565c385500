//! Holds the repository to its own drawing and style: which crate may know which, what a pure file may name, how
//! long a file may get. Each test names the files at fault.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `dir` with one of these endings; build output and hidden folders left out.
fn files(dir: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && name != ".git" && name != "fuzz" {
                files(&path, endings, found);
            }
        } else if endings.iter().any(|e| name.ends_with(e)) {
            found.push(path);
        }
    }
}

fn sources(below: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    for dir in below {
        files(&root.join(dir), &[".rs"], &mut found);
    }
    found.sort();
    let relative = |p: PathBuf| (p.strip_prefix(&root).unwrap().display().to_string(), read(&p));
    found.into_iter().map(relative).collect()
}

/// A source without its test module and its comments.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    body.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

/// The workspace's own crates and whom each may name in its dependencies; the drawing in docs/architecture.md.
const ARROWS: [(&str, &[&str]); 11] = [
    ("config", &[]),
    ("bgp", &[]),
    ("dataplane", &[]),
    ("enrollment", &["bgp"]),
    ("federation", &["bgp"]),
    ("control", &["bgp", "dataplane", "enrollment", "federation"]),
    ("fabric-rr", &["config", "bgp", "dataplane", "enrollment", "federation", "control"]),
    ("fabric-leaf", &["config", "bgp", "dataplane", "enrollment", "federation", "control"]),
    ("lab", &["control"]),
    ("cli", &["config", "bgp", "dataplane", "enrollment", "federation", "control", "lab"]),
    ("tests", &["config", "bgp", "dataplane", "enrollment", "federation", "control", "lab"]),
];

/// Dependencies point one way only: libraries know no daemon, domains do not know each other.
#[test]
fn crates_depend_as_drawn() {
    let mut wrong = Vec::new();
    for (name, may) in ARROWS {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let normal = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for (other, _) in ARROWS {
            let named = normal.lines().any(|l| {
                l.starts_with(&format!("{other}.workspace")) || l.starts_with(&format!("{other} ="))
            });
            if named && !may.contains(&other) {
                wrong.push(format!("{name} -> {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not in docs/architecture.md: {wrong:?}");
}

/// Cores are pure: outside `io/` no library names a socket, the clock, the file system, SQLite or a runtime.
#[test]
fn cores_touch_no_world() {
    let worldly = [
        "tokio::",
        "std::net::Tcp",
        "std::net::Udp",
        "Instant::now",
        "SystemTime::now",
        "std::fs",
        "rusqlite::",
        "std::process::",
        "std::thread::",
        "socket2::",
        "nix::",
    ];
    let mut wrong = Vec::new();
    for (file, text) in
        sources(&["config/src", "bgp/src", "dataplane/src", "enrollment/src", "federation/src"])
    {
        if file.contains("/io/") {
            continue;
        }
        wrong.extend(worldly.iter().filter(|w| code(&text).contains(**w)).map(|w| format!("{file}: {w}")));
    }
    assert!(wrong.is_empty(), "I/O outside io/: {wrong:#?}");
}

/// Printing happens in one place.
#[test]
fn only_output_prints() {
    let mut wrong = Vec::new();
    let crates: Vec<String> = ARROWS.iter().map(|(name, _)| format!("{name}/src")).collect();
    let crates: Vec<&str> = crates.iter().map(String::as_str).collect();
    for (file, text) in sources(&crates) {
        let code = code(&text);
        let prints = ["println!(", "print!(", "io::stdout()", "std::io::stdout"];
        if file != "cli/src/output.rs" && prints.iter().any(|p| code.contains(p)) {
            wrong.push(file);
        }
    }
    assert!(wrong.is_empty(), "these print: {wrong:?}");
}

/// Files stay small enough to be one thing.
#[test]
fn files_are_short() {
    let crates: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let long: BTreeMap<String, usize> = sources(&crates)
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > 800)
        .collect();
    assert!(long.is_empty(), "which two things is each of these? {long:?}");
}

/// Nothing is left for later in the code, and no test is switched off.
#[test]
fn nothing_is_left_open() {
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    let crates: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources(&crates) {
        wrong.extend(words.iter().filter(|w| text.contains(**w)).map(|w| format!("{file}: {w}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// No file names a path of the machine that it was written on.
#[test]
fn no_machine_paths() {
    let needle = concat!("/wo", "rk/");
    let mut found = Vec::new();
    files(&root(), &[".rs", ".md", ".toml", ".yaml", ".sh"], &mut found);
    let wrong: Vec<_> = found.into_iter().filter(|p| read(p).contains(needle)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
