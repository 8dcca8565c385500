//! Files that only their owner may read: written whole or not at all, refused when others could read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Why a private file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others than the owner may read or write it.
    #[error("{path} has mode {mode:04o}; only its owner may read it: chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It is a link or a directory, or larger than any such file.
    #[error("{0} is not a small regular file")]
    NotAFile(String),
    /// It could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The largest file that is read (bytes).
const MAX_BYTES: u64 = 4 * 1024 * 1024;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError + '_ {
    move |source| PrivateFileError::Io { path: path.display().to_string(), source }
}

/// Reads it; `None` if it is not there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PrivateFileError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path)(e)),
        Ok(meta) if !meta.is_file() => return Err(PrivateFileError::NotAFile(path.display().to_string())),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(failed(path))?;
    let meta = file.metadata().map_err(failed(path))?;
    if meta.mode() & 0o077 != 0 {
        return Err(PrivateFileError::TooOpen {
            path: path.display().to_string(),
            mode: meta.mode() & 0o7777,
        });
    }
    if meta.len() > MAX_BYTES {
        return Err(PrivateFileError::NotAFile(path.display().to_string()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed(path))?;
    Ok(Some(bytes))
}

/// Replaces it as a whole: a reader, or a crash at any moment, finds the old content or the new, never a part.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let temporary = beside(path);
    let result = write_new(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed(path)))
        .and_then(|()| sync_folder(path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Makes it if it is not there, as a whole; `false` if somebody was quicker.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool, PrivateFileError> {
    let temporary = beside(path);
    write_new(&temporary, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed(path)(e)),
    }
}

fn beside(path: &Path) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.{}.new", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let _ = fs::remove_file(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(failed(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed(path))
}

/// Makes what was renamed, made or removed beside `path` durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), PrivateFileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Made 0600, replaced whole, refused when others could read it, and nothing is left beside it.
    #[test]
    fn private_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(read(&path).unwrap().is_none());
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(read(&path).unwrap().unwrap(), b"one");
        write(&path, b"three").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for mode in [0o640, 0o604, 0o660, 0o700 | 0o001] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(PrivateFileError::TooOpen { .. })), "{mode:o}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(read(&path), Err(PrivateFileError::NotAFile(_))));
    }
}
