//! Secrets that the configuration names by path.

use std::path::Path;

use bgp::settings::{Guard, Md5Key};
use enrollment::io::private_file;

/// Why a key could not be had. The key itself is never part of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing, open to others, or could not be read.
    #[error("{what} tcpMD5KeyFile: {why}")]
    File {
        /// Whose key it is.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// It holds no key, or too long a one.
    #[error("{what} tcpMD5KeyFile: {path} holds {octets} octets; a TCP-MD5 key has 1 to {max}", max = Md5Key::MAX)]
    Length {
        /// Whose key it is.
        what: String,
        /// The file.
        path: String,
        /// What it holds.
        octets: usize,
    },
}

/// The guard of a neighbour's connections: its key out of `file`, where one is named. `what` names the resource.
pub fn guard(what: &str, file: Option<&Path>, max_hops: Option<u8>) -> Result<Guard, SecretError> {
    let md5 = file.map(|path| md5_key(what, path)).transpose()?;
    Ok(Guard { md5, max_hops })
}

fn md5_key(what: &str, path: &Path) -> Result<Md5Key, SecretError> {
    let fail = |why: String| SecretError::File { what: what.into(), why };
    let octets = private_file::read(path).map_err(|error| fail(error.to_string()))?;
    let mut octets = octets.ok_or_else(|| fail(format!("{} is not there", path.display())))?;
    if octets.last() == Some(&b'\n') {
        octets.pop();
    }
    let found = octets.len();
    let length =
        || SecretError::Length { what: what.into(), path: path.display().to_string(), octets: found };
    Md5Key::new(octets).ok_or_else(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A key is read without its line end; an open, missing, empty or long file is an error that shows no key.
    #[test]
    fn keys_are_read_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let read = || guard("BGPPeer/x", Some(&path), Some(1));
        assert!(read().unwrap_err().to_string().contains("is not there"));
        private_file::write(&path, b"s3cret\n").unwrap();
        let good = read().unwrap();
        assert_eq!(good.md5.as_ref().map(|k| k.octets().to_vec()), Some(b"s3cret".to_vec()));
        assert_eq!(good.min_ttl(), 255);
        assert!(!format!("{good:?}").contains("s3cret"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = read().unwrap_err().to_string();
        assert!(open.contains("chmod 600") && !open.contains("s3cret"), "{open}");
        for bad in [vec![], vec![b'k'; 81]] {
            std::fs::remove_file(&path).unwrap();
            private_file::write(&path, &bad).unwrap();
            let text = read().unwrap_err().to_string();
            assert!(text.contains("1 to 80") && !text.contains("kkk"), "{text}");
        }
    }
}
