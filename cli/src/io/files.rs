//! Files that a verb writes: never over one that says something else.

use std::io::Write;
use std::path::Path;

use crate::failure::Failure;

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was not there and is now.
    Made,
    /// It was there and says the same.
    Same,
    /// It was there and says something else; it was left alone. Lines of the old (`-`) and the new (`+`).
    Differs(Vec<String>),
}

/// Writes a file that is not there, mode 0644, its directories too.
pub fn write_new(path: &Path, content: &str) -> Result<Written, Failure> {
    if let Some(old) = read(path)? {
        return Ok(if old == content { Written::Same } else { Written::Differs(difference(&old, content)) });
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Failure::file("make the directory", dir, &e))?;
    }
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written =
        opened.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| Failure::file("write", path, &e))?;
    Ok(Written::Made)
}

/// A file's text, if there is such a file.
pub fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("read", path, &error)),
    }
}

/// Writes a file, over an old one too (reports that were asked for by name).
pub fn write(path: &Path, content: &str) -> Result<(), Failure> {
    std::fs::write(path, content).map_err(|e| Failure::file("write", path, &e))
}

/// The lines that only one of two texts has.
fn difference(old: &str, new: &str) -> Vec<String> {
    let only = |a: &str, b: &str, mark: char| -> Vec<String> {
        a.lines()
            .filter(|line| !b.lines().any(|other| other == *line))
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut lines = only(old, new, '-');
    lines.extend(only(new, old, '+'));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file is made once, found the same, and never overwritten by another text.
    #[test]
    fn other_texts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b.yaml");
        assert_eq!(write_new(&file, "one\ntwo\n").unwrap(), Written::Made);
        assert_eq!(write_new(&file, "one\ntwo\n").unwrap(), Written::Same);
        let expected = Written::Differs(vec!["- two".into(), "+ three".into()]);
        assert_eq!(write_new(&file, "one\nthree\n").unwrap(), expected);
        assert_eq!(read(&file).unwrap().unwrap(), "one\ntwo\n");
    }
}
