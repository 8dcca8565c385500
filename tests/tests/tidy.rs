//! Holds the repository to its own drawing and style: which crate may know which, what a pure file may name, how
//! long a file may get. Each test names the files at fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The longest source file, in lines.
const LONGEST: usize = 700;

/// The libraries whose cores are pure.
const LIBRARIES: [&str; 6] = ["config", "bfd", "bgp", "dataplane", "enrollment", "federation"];

/// What a core must not name: runtimes, sockets, SQLite, netlink, the clock, files, processes, threads.
const WORLDLY: [&str; 22] = [
    "tokio",
    "axum",
    "hyper",
    "rusqlite",
    "socket2",
    "nix",
    "rtnetlink",
    "netlink_sys",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant::now",
    "SystemTime::now",
    "fs",
    "File::open",
    "std::process",
    "Command::new",
    "std::thread",
    "thread::spawn",
];

/// Core files that name something worldly all the same: the file, the word, and why.
const ALLOWED: [(&str, &str, &str); 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `dir` that `wanted` takes; build output, what is fetched and version control left out.
fn files(dir: &Path, wanted: &dyn Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            if !["target", ".git", "proptest-regressions"].contains(&name.as_str()) {
                files(&path, wanted, found);
            }
        } else if wanted(&name) {
            found.push(path);
        }
    }
}

/// Sources below these folders, by their path in the repository.
fn sources(below: &[String]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    for dir in below {
        files(&root.join(dir), &|name| name.ends_with(".rs"), &mut found);
    }
    found.sort();
    assert!(!found.is_empty(), "no sources below {below:?}");
    let relative = |p: PathBuf| (p.strip_prefix(&root).unwrap().display().to_string(), read(&p));
    found.into_iter().map(relative).collect()
}

/// A source without its test module, its comments and what stands between quotes on one line.
fn code(text: &str) -> String {
    // A module in another file (`mod tests;`) has no body here to leave out.
    let tests = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at);
    let end = tests.into_iter().find(|at| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{')));
    let body = &text[..end.unwrap_or(text.len())];
    let line = |line: &str| {
        let line = line.trim_start();
        let bare: String = line.replace("\\\"", "").split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
        bare.split("//").next().unwrap_or_default().to_string() + "\n"
    };
    body.lines().map(line).collect()
}

/// Whether a path or identifier occurs as a whole: `fs` is in `std::fs::read` and in `use std::{fs, io}`, not in `offs`.
fn names(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        // A field or method of that name is something else.
        !part(before) && !part(after) && before != Some('.')
    })
}

/// The arrows of the drawing in docs/architecture.md.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let page = read(&root().join("docs/architecture.md"));
    let arrows = page.lines().filter_map(|line| line.split_once(" -> "));
    let crates = arrows.filter(|(name, _)| name.trim().chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let known =
        |list: &str| list.split(", ").filter(|n| *n != "nothing").map(|n| n.trim().to_string()).collect();
    crates.map(|(name, list)| (name.trim().to_string(), known(list))).collect()
}

/// The workspace's members, as its manifest lists them.
fn members() -> BTreeSet<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let (_, list) = manifest.split_once("members = [").expect("the workspace has members");
    let list = list.split(']').next().unwrap_or_default();
    list.split(',')
        .map(|name| name.trim().trim_matches('"').to_string())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The members that a member's manifest names in `[dependencies]` or `[build-dependencies]`, in any spelling.
fn dependencies(name: &str, members: &BTreeSet<String>) -> BTreeSet<String> {
    let manifest = read(&root().join(name).join("Cargo.toml"));
    let mut normal = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        let key = if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            normal = section.contains("dependencies") && !section.contains("dev-dependencies");
            section.rsplit_once("dependencies.").map(|(_, key)| key).unwrap_or_default()
        } else {
            line.split(['.', '=', ' ']).next().unwrap_or_default()
        };
        if normal && (members.contains(key) || key.starts_with("fabric-")) {
            found.insert(key.to_string());
        }
    }
    found
}

/// The drawing and the manifests say the same, in both directions.
#[test]
fn crates_depend_as_drawn() {
    let members = members();
    let written: BTreeMap<_, _> = members.iter().map(|m| (m.clone(), dependencies(m, &members))).collect();
    assert_eq!(written, drawn(), "left: the Cargo.toml files; right: docs/architecture.md section 3");
}

/// Whatever is drawn: libraries know no other domain, and nobody knows a daemon.
#[test]
fn arrows_point_one_way() {
    let drawn = drawn();
    for (name, list) in &drawn {
        for other in list {
            let domain = LIBRARIES.contains(&name.as_str());
            let may = matches!(
                (name.as_str(), other.as_str()),
                ("enrollment" | "federation", "bgp") | ("bgp", "bfd" | "sockopt")
            );
            assert!(!domain || may, "{name} -> {other}: a library knows its own domain");
            assert!(!other.starts_with("fabric-"), "{name} -> {other}: nothing depends on a daemon");
        }
    }
    assert!(LIBRARIES.iter().all(|library| drawn.contains_key(*library)), "{drawn:?}");
}

/// Cores are pure: outside `io/` no library names a runtime, a socket, the clock, the file system or SQLite.
#[test]
fn cores_touch_no_world() {
    let mut wrong = BTreeSet::new();
    for (file, text) in sources(&LIBRARIES.map(|library| format!("{library}/src"))) {
        let code = code(&text);
        if !file.contains("/src/io/") {
            wrong.extend(WORLDLY.iter().filter(|w| names(&code, w)).map(|w| (file.clone(), w.to_string())));
        }
    }
    let allowed = ALLOWED.map(|(file, word, _)| (file.to_string(), word.to_string()));
    let idle: Vec<_> = allowed.iter().filter(|entry| !wrong.contains(entry)).collect();
    assert!(idle.is_empty(), "no longer needed in ALLOWED: {idle:?}");
    wrong.retain(|entry| !allowed.contains(entry));
    assert!(wrong.is_empty(), "I/O outside io/: {wrong:#?}");
}

/// Printing happens in one place of each program that a person runs.
#[test]
fn only_output_prints() {
    let mut wrong = Vec::new();
    let folders: Vec<_> = members().into_iter().map(|name| format!("{name}/src")).collect();
    for (file, text) in sources(&folders) {
        let code = code(&text);
        let prints = ["println!", "print!", "eprintln!", "eprint!", "stdout", "dbg!"];
        let found = prints.iter().filter(|p| match p.strip_suffix('!') {
            Some(name) => code.contains(&format!("{name}!(")) && names(&code, name),
            None => code.contains("io::stdout()"),
        });
        if !["cli/src/output.rs", "bench/src/output.rs"].contains(&file.as_str()) {
            wrong.extend(found.map(|p| format!("{file}: {p}")));
        }
    }
    assert!(wrong.is_empty(), "these print: {wrong:?}");
}

/// Unsafe code is forbidden everywhere but in one crate, and there it is one block.
#[test]
fn one_crate_has_unsafe_code() {
    let word = concat!("uns", "afe {");
    let folders: Vec<_> = members().into_iter().map(|name| format!("{name}/src")).collect();
    let blocks: Vec<_> = sources(&folders)
        .into_iter()
        .flat_map(|(file, text)| vec![file; code(&text).matches(word).count()])
        .collect();
    assert_eq!(blocks, ["sockopt/src/lib.rs"], "docs/adr/0011");
    for name in members() {
        let manifest = read(&root().join(&name).join("Cargo.toml"));
        assert_eq!(manifest.contains("[lints]\nworkspace = true"), name != "sockopt", "{name}: lints");
    }
}

/// Files stay small enough to be one thing.
#[test]
fn files_are_short() {
    let long: BTreeMap<String, usize> = sources(&Vec::from_iter(members()))
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .collect();
    assert!(long.is_empty(), "which two things is each of these? {long:?}");
}

/// Nothing is left for later in the code, and no test is switched off.
#[test]
fn nothing_is_left_open() {
    let words =
        [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut wrong = Vec::new();
    for (file, text) in sources(&Vec::from_iter(members())) {
        wrong.extend(words.iter().filter(|w| text.contains(**w)).map(|w| format!("{file}: {w}")));
    }
    // An ignored test needs another kernel; scripts/test runs its program there, ignored tests alone.
    let script = read(&root().join("scripts/test"));
    for (file, text) in sources(&Vec::from_iter(members())) {
        let program = file.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
        let run = script.contains(&format!("--test {program} ")) && script.contains("--ignored");
        if text.contains(concat!("#[ig", "nore")) && !run {
            wrong.push(format!("{file}: an ignored test that scripts/test never runs"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every test that the security page names by file and function is there.
#[test]
fn security_names_tests_that_exist() {
    let page = read(&root().join("docs/security.md"));
    let named = page.split('`').filter_map(|word| word.split_once(".rs:")).collect::<Vec<_>>();
    assert!(named.len() > 15, "{named:?}");
    for (file, test) in named {
        let text = read(&root().join(format!("{file}.rs")));
        assert!(text.contains(&format!("fn {test}(")), "{file}.rs has no {test}");
    }
}

/// No file names a path of the machine that it was written on, scripts and those without an ending too.
#[test]
fn no_machine_paths() {
    let needles = [concat!("/wo", "rk/"), concat!("/ro", "ot/.cargo")];
    let mut found = Vec::new();
    // In a linked worktree `.git` is a file.
    files(&root(), &|name| !["Cargo.lock", ".git"].contains(&name), &mut found);
    let text =
        |path: &PathBuf| String::from_utf8(std::fs::read(path).unwrap_or_default()).unwrap_or_default();
    let wrong: Vec<_> = found.into_iter().filter(|p| needles.iter().any(|n| text(p).contains(n))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The tests above see what they should see.
#[test]
fn words_are_whole() {
    for (text, word, is) in [
        ("use std::{fs, io};", "fs", true),
        ("std::fs::read(path)", "fs", true),
        ("let offs = self.fs;", "fs", false),
        ("tokio::spawn(x)", "tokio", true),
        ("my_tokio", "tokio", false),
        ("Instant::now()", "Instant::now", true),
    ] {
        assert_eq!(names(text, word), is, "{word} in {text}");
    }
    assert!(!code("/// tokio\nlet x = \"tokio\"; // tokio\n").contains("tokio"));
    assert!(code("#[cfg(test)]\nmod tests;\nuse std::fs;\n").contains("fs"));
    assert!(!code("#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n").contains("fs"));
    assert!(members().contains("fabric-rr") && drawn().contains_key("fabric-rr"));
}
