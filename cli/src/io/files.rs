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

/// A file that is filled piece by piece under a name of its own, and gets its true one when it is whole.
#[derive(Debug)]
pub struct Growing {
    file: std::fs::File,
    part: std::path::PathBuf,
    path: std::path::PathBuf,
    octets: u64,
}

impl Growing {
    /// An empty file beside `path`.
    pub fn start(path: &Path) -> Result<Growing, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = std::path::PathBuf::from(name);
        let file = std::fs::File::create(&part).map_err(|e| Failure::file("write", &part, &e))?;
        Ok(Growing { file, part, path: path.into(), octets: 0 })
    }

    /// Appends octets.
    pub fn append(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.octets += octets.len() as u64;
        self.file.write_all(octets)
    }

    /// Makes it durable and gives it its name; how many octets it has.
    pub fn finish(self) -> Result<u64, Failure> {
        let named = self.file.sync_all().and_then(|()| std::fs::rename(&self.part, &self.path));
        named.map_err(|e| Failure::file("write", &self.path, &e))?;
        Ok(self.octets)
    }

    /// Throws away what there is of it.
    pub fn discard(self) {
        // Nothing more can be done about a file that cannot be removed.
        let _ = std::fs::remove_file(&self.part);
    }
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
