//! Reading configuration files.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::document::parse_joined;
use crate::mistake::{Mistakes, Position, Problem};
use crate::node_config::Config;
use crate::resource::Fabric;
use crate::{MAX_FILE_BYTES, Source};

/// Reads files, and the `.yaml` and `.yml` files of folders in the order of their names, as one configuration.
pub fn load(paths: &[PathBuf]) -> Result<Config, Mistakes> {
    load_joined(paths, None)
}

/// The same for a hub that has joined a fabric, which fills in what the files leave out.
pub fn load_joined(paths: &[PathBuf], fabric: Option<Fabric>) -> Result<Config, Mistakes> {
    parse_joined(&sources(paths)?, fabric)
}

/// The texts that [`load`] parses.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Mistakes> {
    let mut found = Vec::new();
    let mut mistakes = Mistakes::default();
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    match read(&file) {
                        Ok(text) => found.push(Source { name: file.display().to_string(), text }),
                        Err(problem) => mistakes.add(whole(&file), problem),
                    }
                }
            }
            Err(error) => mistakes.add(whole(path), Problem::Unreadable(error.to_string())),
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes) }
}

fn whole(path: &Path) -> Position {
    Position::whole(&path.display().to_string())
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, Problem> {
    let unreadable = |error: io::Error| Problem::Unreadable(error.to_string());
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let bytes = fs::metadata(file).map_err(unreadable)?.len();
        return Err(Problem::TooLong { bytes, limit: MAX_FILE_BYTES });
    }
    String::from_utf8(bytes).map_err(|_| Problem::Syntax("not UTF-8 text".into()))
}
