//! Makes a node out of a backup: everything is checked in a folder of its own, then put into place; what was there is
//! kept aside.

use super::backup::{CopyError, Places, REGISTRY_FILE, RESTORING_FILE, file_error, summary};
use super::keys::{self, NodeKeys};
use super::private_file;
use super::restored::{NOTE_FILE, Note};
use super::schema;
use crate::backup::{Archive, RegistrySummary};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What a restore is told.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Puts the present node aside.
    pub force: bool,
    /// The configuration to write in place of the backup's.
    pub config: Option<String>,
    /// What the hub does with its registry at its first start; none for a leaf.
    pub note: Option<Note>,
}

/// Checks a backup as a restore would, and removes what that made.
pub fn check(archive: &Archive, state: &Path) -> Result<Option<RegistrySummary>, CopyError> {
    let made = !state.exists();
    let outcome = staged(archive, state);
    let folder = staging(state);
    let _ = std::fs::remove_dir_all(&folder);
    if made {
        let _ = std::fs::remove_dir(state);
    }
    outcome
}

/// Puts the backup's files into place. Gives where the former ones are, if there were any.
pub fn install(
    archive: &Archive,
    places: Places<'_>,
    order: &Order,
    now: u64,
) -> Result<Option<PathBuf>, CopyError> {
    let here = present(archive, places)?;
    if !order.force && !here.is_empty() {
        return Err(CopyError::Exists(here.join(", ")));
    }
    let outcome = staged(archive, places.state).and_then(|_| put(archive, places, order, now));
    let _ = std::fs::remove_dir_all(staging(places.state));
    outcome
}

/// What of a node is at these places.
pub fn present(archive: &Archive, places: Places<'_>) -> Result<Vec<String>, CopyError> {
    let config = places.etc.join(format!("{}.yaml", archive.header.node));
    let mut here: Vec<String> = config.exists().then(|| config.display().to_string()).into_iter().collect();
    match std::fs::read_dir(places.state) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(file_error(places.state))?.path();
                let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                here.extend((!hidden && path.is_file()).then(|| path.display().to_string()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_error(places.state)(error)),
    }
    here.sort();
    Ok(here)
}

fn staging(state: &Path) -> PathBuf {
    state.join(format!(".restore.{}", std::process::id()))
}

fn folder(path: &Path) -> Result<(), CopyError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(file_error(path))
}

fn private(path: &Path, content: &[u8]) -> Result<(), CopyError> {
    private_file::write(path, content).map_err(|error| CopyError::Keys(error.into()))
}

/// Writes every file of the state into a folder beside its place and checks what can be checked there.
fn staged(archive: &Archive, state: &Path) -> Result<Option<RegistrySummary>, CopyError> {
    let unfit = |why: String| CopyError::Unfit(why);
    let stage = staging(state);
    folder(&stage)?;
    for (file, content) in archive.manifest.files.iter().zip(&archive.contents) {
        let Some(name) = file.path.strip_prefix("state/") else { continue };
        if let Some((below, _)) = name.split_once('/') {
            folder(&stage.join(below))?;
        }
        private(&stage.join(name), content)?;
    }
    let keys = NodeKeys::load(&stage)?.ok_or_else(|| unfit("it has no keys".into()))?;
    let (wireguard, signing) = (keys.wireguard_key().to_string(), keys.signing_key().to_string());
    if (&wireguard, &signing) != (&archive.manifest.wireguard_key, &archive.manifest.signing_key) {
        return Err(unfit("its keys are not those that its manifest names".into()));
    }
    let config = format!("etc/{}.yaml", archive.header.node);
    if archive.file(&config).is_none() {
        return Err(unfit(format!("it has no {config}")));
    }
    let registry = stage.join(REGISTRY_FILE);
    if !registry.exists() {
        return Ok(None);
    }
    let summary = summary(&registry)?;
    if summary.tables > schema::VERSION {
        let (found, known) = (summary.tables, schema::VERSION);
        let why = format!("a newer version wrote its registry (tables {found}, known {known})");
        return Err(unfit(why));
    }
    Ok(Some(summary))
}

/// The mark stands from the first file moved to the last: no daemon starts on half a node.
fn put(archive: &Archive, places: Places<'_>, order: &Order, now: u64) -> Result<Option<PathBuf>, CopyError> {
    let mark = places.state.join(RESTORING_FILE);
    private(&mark, b"a restore is under way or was interrupted\n")?;
    let aside = set_aside(archive, places, now)?;
    std::fs::create_dir_all(places.etc).map_err(file_error(places.etc))?;
    let config = format!("etc/{}.yaml", archive.header.node);
    for (file, content) in archive.manifest.files.iter().zip(&archive.contents) {
        let Some(name) = file.path.strip_prefix("etc/") else { continue };
        let edited = order.config.as_ref().filter(|_| file.path == config).map(String::as_bytes);
        private(&places.etc.join(name), edited.unwrap_or(content))?;
    }
    if let Some(note) = &order.note {
        let note = serde_json::to_vec(note).map_err(|e| CopyError::Unfit(e.to_string()))?;
        private(&places.state.join(NOTE_FILE), &note)?;
    }
    let stage = staging(places.state);
    for entry in std::fs::read_dir(&stage).map_err(file_error(&stage))? {
        let from = entry.map_err(file_error(&stage))?.path();
        let to = places.state.join(from.file_name().unwrap_or_default());
        std::fs::rename(&from, &to).map_err(file_error(&to))?;
    }
    let synced = |error: private_file::PrivateFileError| CopyError::Keys(error.into());
    private_file::sync_folder(&mark).map_err(synced)?;
    std::fs::remove_file(&mark).map_err(file_error(&mark))?;
    private_file::sync_folder(&mark).map_err(synced)?;
    Ok(aside)
}

/// Moves what is in the place of the backup's files into a folder of its own.
fn set_aside(archive: &Archive, places: Places<'_>, now: u64) -> Result<Option<PathBuf>, CopyError> {
    let aside = places.state.join(format!("before-restore-{now}"));
    let mut any = false;
    let mut away = |from: &Path, name: &str| -> Result<(), CopyError> {
        folder(&aside)?;
        any = true;
        let to = aside.join(name);
        // /etc and /var may be of different file systems: what people wrote is copied.
        if std::fs::rename(from, &to).is_err() {
            let content = std::fs::read(from).map_err(file_error(from))?;
            private(&to, &content)?;
            std::fs::remove_file(from).map_err(file_error(from))?;
        }
        Ok(())
    };
    for entry in std::fs::read_dir(places.state).map_err(file_error(places.state))? {
        let path = entry.map_err(file_error(places.state))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let moves = path.is_file() || path == keys::next_folder(places.state);
        if moves && !name.starts_with('.') && name != RESTORING_FILE {
            away(&path, &name)?;
        }
    }
    for file in &archive.manifest.files {
        let Some(name) = file.path.strip_prefix("etc/") else { continue };
        let path = places.etc.join(name);
        if path.exists() {
            away(&path, &format!("etc-{name}"))?;
        }
    }
    Ok(any.then_some(aside))
}
