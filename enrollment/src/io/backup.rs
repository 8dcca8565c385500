//! Gathers a node into a backup, while its daemon runs: every file of its two directories, SQLite's by the online
//! backup, so that each is of one moment.

use super::keys::{self, NodeKeys};
use super::private_file;
use super::schema;
use crate::backup::{self, Archive, Manifest, RegistrySummary};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long SQLite may wait for the daemon's own writing.
const BUSY: Duration = Duration::from_secs(5);
/// The registry's file.
pub const REGISTRY_FILE: &str = "registry.sqlite";
/// Says that a restore is under way, or was interrupted.
pub const RESTORING_FILE: &str = "restoring";

/// Why a node could not be gathered, or made out of a backup.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The keys.
    #[error(transparent)]
    Keys(#[from] keys::KeyError),
    /// There is no such node here.
    #[error("there is no {node} here: {path} is not there")]
    NoNode {
        /// `hub` or `leaf`.
        node: String,
        /// What is missing.
        path: PathBuf,
    },
    /// A file has a name that no backup can hold.
    #[error("{0}: a backup holds names of letters, digits, dots, dashes and underscores only")]
    Name(PathBuf),
    /// The backup's content contradicts itself.
    #[error("the backup cannot be used: {0}")]
    Unfit(String),
    /// A node is here already.
    #[error("a node is here already: {0}")]
    Exists(String),
}

pub(crate) fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> CopyError + '_ {
    move |source| CopyError::File { path: path.to_owned(), source }
}

fn database_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> CopyError + '_ {
    move |source| CopyError::Database { path: path.to_owned(), source }
}

/// The two directories of a node.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// What people wrote.
    pub etc: &'a Path,
    /// What the node knows.
    pub state: &'a Path,
}

/// Everything of a node (`hub` or `leaf`) as it is now.
pub fn gather(places: Places<'_>, node: &str, software: &str, now: u64) -> Result<Archive, CopyError> {
    let config = format!("{node}.yaml");
    let missing = |path: PathBuf| CopyError::NoNode { node: node.into(), path };
    let config = places.etc.join(config);
    if !config.exists() {
        return Err(missing(config));
    }
    let keys = NodeKeys::load(places.state)?.ok_or_else(|| missing(places.state.join(keys::SIGNING_FILE)))?;
    let mut found = listed(places.etc, "etc")?;
    found.extend(listed(places.state, "state")?);
    let next = keys::next_folder(places.state);
    if next.is_dir() {
        found.extend(listed(&next, "state/next-keys")?);
    }
    let (mut files, mut contents, mut registry) = (Vec::new(), Vec::new(), None);
    for (place, path) in found {
        if !backup::is_place(&place) {
            return Err(CopyError::Name(path));
        }
        let content = match place.ends_with(".sqlite") {
            true => database(&path, places.state, &place, &mut registry)?,
            false => Zeroizing::new(std::fs::read(&path).map_err(file_error(&path))?),
        };
        files.push(backup::entry(place, &content));
        contents.push(content);
    }
    let (wireguard_key, signing_key) = (keys.wireguard_key().to_string(), keys.signing_key().to_string());
    let manifest = Manifest { wireguard_key, signing_key, registry, files };
    Ok(Archive { header: backup::header(node, software, now), manifest, contents })
}

/// The regular files of a directory that hold something lasting, by name.
fn listed(folder: &Path, below: &str) -> Result<Vec<(String, PathBuf)>, CopyError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file_error(folder))? {
        let entry = entry.map_err(file_error(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // SQLite's companions are in its copy; what is half written, hidden, or a note of a restore is nothing yet.
        let passing = ["-wal", "-shm", "-journal", ".new"].iter().any(|end| name.ends_with(end))
            || name.starts_with('.')
            || name == super::restored::NOTE_FILE
            || name == RESTORING_FILE;
        if !passing && entry.file_type().map_err(file_error(folder))?.is_file() {
            found.push((format!("{below}/{name}"), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A copy of a database of one moment, whatever is being written to it.
fn database(
    path: &Path,
    state: &Path,
    place: &str,
    registry: &mut Option<RegistrySummary>,
) -> Result<Zeroizing<Vec<u8>>, CopyError> {
    let copy = state.join(format!(".backup.{}.new", std::process::id()));
    let result = copied(path, &copy).and_then(|()| {
        if place == format!("state/{REGISTRY_FILE}") {
            *registry = Some(summary(&copy)?);
        }
        Ok(Zeroizing::new(std::fs::read(&copy).map_err(file_error(&copy))?))
    });
    let _ = std::fs::remove_file(&copy);
    result
}

fn copied(path: &Path, copy: &Path) -> Result<(), CopyError> {
    let _ = std::fs::remove_file(copy);
    private_file::write(copy, b"").map_err(keys::KeyError::from)?;
    let database = database_error(path);
    let work = || {
        let from = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        from.busy_timeout(BUSY)?;
        let mut to = Connection::open(copy)?;
        {
            // All pages in one step: one read transaction, which in WAL mode keeps no writer waiting.
            let work = rusqlite::backup::Backup::new(&from, &mut to)?;
            if work.step(-1)? != rusqlite::backup::StepResult::Done {
                return Err(rusqlite::Error::InvalidQuery);
            }
        }
        // The copy is one file: without the write-ahead log's mark it needs no companions.
        to.pragma_update(None, "journal_mode", "DELETE")
    };
    work().map_err(database)
}

/// What a registry's file holds; refused where SQLite finds it damaged.
pub fn summary(path: &Path) -> Result<RegistrySummary, CopyError> {
    let database = database_error(path);
    let work = || {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let count = |table: &str| -> rusqlite::Result<u64> {
            let found: i64 = db.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0))?;
            Ok(u64::try_from(found).unwrap_or(0))
        };
        let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut names = db.prepare("SELECT name FROM leaves ORDER BY name")?;
        let leaves = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let summary = RegistrySummary {
            tables: schema::version(&db)?,
            leaves,
            claims: count("claims")?,
            invites: count("invites")?,
            log_entries: count("log")?,
            other_hubs: count("hubs")?.saturating_sub(1),
        };
        Ok((sound, summary))
    };
    let (sound, summary) = work().map_err(database)?;
    if sound == "ok" {
        Ok(summary)
    } else {
        Err(CopyError::Unfit(format!("its registry is damaged: {sound}")))
    }
}
