//! The texts of mistakes, as people read them. Each `mistakes/NAME.yaml` has its expected text in
//! `mistakes/NAME.txt`; with `UPDATE_SNAPSHOTS=1` the texts are written instead of compared.

use std::fs;
use std::path::Path;

use config::{Mistakes, Source, parse};

fn read(name: &str, text: &str) -> Result<config::Config, Mistakes> {
    parse(&[Source { name: name.into(), text: text.into() }])
}

/// Every recorded wrong file gives exactly its recorded mistakes, all of them at once.
#[test]
fn recorded_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let found = match read(&name, &fs::read_to_string(&path).unwrap()) {
            Ok(config) => format!("accepted as {}\n", config.role()),
            Err(mistakes) => format!("{mistakes}\n"),
        };
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let text = fs::read_to_string(&expected).unwrap_or_default();
        if text != found {
            wrong.push(format!("--- {name}: expected\n{text}--- found\n{found}"));
        }
    }
    assert!(seen >= 10, "{seen} recorded files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A repetition in another file names the place of the first.
#[test]
fn duplicate_across_files() {
    let peer = "apiVersion: net.routerd.net/v1alpha1\nkind: BGPPeer\nmetadata: {name: a}\nspec: {address: 192.0.2.1}\n";
    let sources = ["z.yaml", "a.yaml"].map(|name| Source { name: name.into(), text: peer.into() });
    let text = parse(&sources).unwrap_err().to_string();
    assert_eq!(text, "a.yaml:1:1: BGPPeer/a is already defined at z.yaml:1:1");
}

/// A file beyond the limit is refused by its length, not parsed.
#[test]
fn too_long() {
    let text = "#".repeat(config::MAX_FILE_BYTES as usize + 1);
    let mistakes = read("long.yaml", &text).unwrap_err().to_string();
    assert_eq!(mistakes, "long.yaml: the file has 4194305 bytes, more than the 4194304 that are read");
}

/// Missing files and bytes that are no text are mistakes with the file's name.
#[test]
fn unreadable_files() {
    let folder = tempfile::tempdir().unwrap();
    let (gone, junk) = (folder.path().join("gone.yaml"), folder.path().join("junk.yaml"));
    fs::write(&junk, [0xff, 0xfe, 0x00]).unwrap();
    let text = config::io::load(&[gone.clone(), junk.clone()]).unwrap_err().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with(&format!("{}: cannot read: ", gone.display())), "{text}");
    assert_eq!(lines[1], format!("{}: not UTF-8 text", junk.display()));
}
