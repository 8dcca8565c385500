//! A node's two key pairs and the files that hold them. The private halves never leave the host.

use super::private_file::{self, PrivateFileError};
use crate::identity::{SigningKey, WireguardKey};
use crate::reason::{ReasonCode, Refusal};
use crate::signature::SigningKeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;
use zeroize::Zeroizing;

/// File name of the WireGuard private key (base64, as `wg genkey` writes it).
pub const WIREGUARD_FILE: &str = "wireguard.key";
/// File name of the signing key's seed (base64).
pub const SIGNING_FILE: &str = "signing.key";

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// It does not hold 32 bytes in base64.
    #[error("{0} does not hold a key")]
    NotAKey(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        let code = match &error {
            KeyError::File(PrivateFileError::Io { .. }) | KeyError::Random => ReasonCode::StateFileFailed,
            KeyError::File(_) | KeyError::NotAKey(_) => ReasonCode::KeyFileUnsafe,
        };
        Refusal::new(code, error.to_string())
    }
}

/// Random bytes of the system.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// A node's keys (hub or leaf): X25519 for WireGuard, Ed25519 for signing. It has no `Debug`.
pub struct NodeKeys {
    wireguard: Zeroizing<[u8; 32]>,
    signing: SigningKeyPair,
}

impl NodeKeys {
    /// Keys out of their private bytes.
    pub fn from_private(wireguard: Zeroizing<[u8; 32]>, signing_seed: &[u8; 32]) -> Self {
        Self { wireguard, signing: SigningKeyPair::from_seed(signing_seed) }
    }

    /// Fresh keys that are in no file.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self::from_private(Zeroizing::new(random()?), &Zeroizing::new(random()?)))
    }

    /// The keys in the folder's two files; those that are absent are made (mode 0600, the folder 0700). Running it
    /// twice, also at the same moment, gives the same keys.
    pub fn load_or_create(folder: &Path) -> Result<Self, KeyError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| PrivateFileError::Io { path: folder.display().to_string(), source })?;
        let wireguard = load_or_create_key(&folder.join(WIREGUARD_FILE))?;
        let signing = load_or_create_key(&folder.join(SIGNING_FILE))?;
        Ok(Self::from_private(wireguard, &signing))
    }

    /// The keys in the folder's two files; `None` if either is absent.
    pub fn load(folder: &Path) -> Result<Option<Self>, KeyError> {
        let wireguard = load_key(&folder.join(WIREGUARD_FILE))?;
        let signing = load_key(&folder.join(SIGNING_FILE))?;
        Ok(wireguard.zip(signing).map(|(wireguard, signing)| Self::from_private(wireguard, &signing)))
    }

    /// The WireGuard private key, for the dataplane alone.
    pub fn wireguard_private_key(&self) -> Zeroizing<[u8; 32]> {
        self.wireguard.clone()
    }

    /// The WireGuard public key.
    pub fn wireguard_key(&self) -> WireguardKey {
        let private = x25519_dalek::StaticSecret::from(*self.wireguard);
        WireguardKey(x25519_dalek::PublicKey::from(&private).to_bytes())
    }

    /// What signs.
    pub fn signing(&self) -> &SigningKeyPair {
        &self.signing
    }

    /// The public half of what signs.
    pub fn signing_key(&self) -> SigningKey {
        self.signing.public()
    }
}

/// Where a rotation keeps fresh keys until the hub has agreed.
pub fn next_folder(folder: &Path) -> std::path::PathBuf {
    folder.join("next-keys")
}

/// Puts the fresh keys in the place of the old ones. A crash between the two files is made good by
/// [`finish_promotion`].
pub fn promote(folder: &Path) -> Result<(), KeyError> {
    let next = next_folder(folder);
    for name in [WIREGUARD_FILE, SIGNING_FILE] {
        if next.join(name).exists() {
            std::fs::rename(next.join(name), folder.join(name)).map_err(io_error(&next))?;
        }
    }
    private_file::sync_folder(&folder.join(WIREGUARD_FILE))?;
    std::fs::remove_dir(&next).map_err(io_error(&next))
}

/// Ends a promotion that a crash interrupted: one of the two fresh files was moved, the other was not.
pub fn finish_promotion(folder: &Path) -> Result<(), KeyError> {
    let next = next_folder(folder);
    let left = [WIREGUARD_FILE, SIGNING_FILE].iter().filter(|name| next.join(name).exists()).count();
    // An empty folder is a promotion whose last step is missing; none at all is no promotion.
    if next.exists() && left < 2 && folder.join(WIREGUARD_FILE).exists() { promote(folder) } else { Ok(()) }
}

/// Removes fresh keys that the hub never heard of.
pub fn forget_next(folder: &Path) -> Result<(), KeyError> {
    remove(&next_folder(folder))
}

/// Removes a folder's key files, and those of a rotation under way.
pub fn remove(folder: &Path) -> Result<(), KeyError> {
    for folder in [next_folder(folder), folder.to_owned()] {
        for name in [WIREGUARD_FILE, SIGNING_FILE] {
            match std::fs::remove_file(folder.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&folder)(e)),
                _ => {}
            }
        }
    }
    // Of the two folders only that of a rotation is the keys' own.
    let _ = std::fs::remove_dir(next_folder(folder));
    Ok(())
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> KeyError + '_ {
    move |source| PrivateFileError::Io { path: path.display().to_string(), source }.into()
}

fn load_key(path: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
    let Some(text) = private_file::read(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let not_a_key = || KeyError::NotAKey(path.display().to_string());
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| not_a_key())?);
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| not_a_key())?;
    Ok(Some(Zeroizing::new(key)))
}

fn load_or_create_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    if let Some(key) = load_key(path)? {
        return Ok(key);
    }
    let key = Zeroizing::new(random::<32>()?);
    let text = Zeroizing::new(format!("{}\n", STANDARD.encode(key.as_slice())));
    if private_file::create(path, text.as_bytes())? {
        return Ok(key);
    }
    load_key(path)?.ok_or_else(|| KeyError::NotAKey(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Keys are made once, read back, and refused with their own code when others could read them or when damaged.
    #[test]
    fn key_files() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        assert!(NodeKeys::load(folder.path()).unwrap().is_none());
        let made = NodeKeys::load_or_create(&keys).ok().unwrap();
        let read = NodeKeys::load_or_create(&keys).ok().unwrap();
        assert_eq!((made.wireguard_key(), made.signing_key()), (read.wireguard_key(), read.signing_key()));
        for file in [WIREGUARD_FILE, SIGNING_FILE] {
            assert_eq!(std::fs::metadata(keys.join(file)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::set_permissions(keys.join(SIGNING_FILE), std::fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = Refusal::from(NodeKeys::load(&keys).err().unwrap());
        assert_eq!(refusal.code, ReasonCode::KeyFileUnsafe);
        std::fs::set_permissions(keys.join(SIGNING_FILE), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(keys.join(SIGNING_FILE), "c2hvcnQ=").unwrap();
        assert_eq!(Refusal::from(NodeKeys::load(&keys).err().unwrap()).code, ReasonCode::KeyFileUnsafe);
    }

    /// Fresh keys come in the place of the old ones as a whole, also when a crash came between the two files; what
    /// the hub never heard of goes, and removing leaves none.
    #[test]
    fn rotated_key_files() {
        let folder = tempfile::tempdir().unwrap();
        let old = NodeKeys::load_or_create(folder.path()).unwrap().signing_key();
        let next = next_folder(folder.path());
        NodeKeys::load_or_create(&next).unwrap();
        forget_next(folder.path()).unwrap();
        finish_promotion(folder.path()).unwrap();
        assert_eq!(NodeKeys::load(folder.path()).unwrap().unwrap().signing_key(), old);
        let fresh = NodeKeys::load_or_create(&next).unwrap();
        finish_promotion(folder.path()).unwrap();
        assert_eq!(NodeKeys::load(folder.path()).unwrap().unwrap().signing_key(), old, "nothing was begun");
        std::fs::rename(next.join(WIREGUARD_FILE), folder.path().join(WIREGUARD_FILE)).unwrap();
        finish_promotion(folder.path()).unwrap();
        let now = NodeKeys::load(folder.path()).unwrap().unwrap();
        assert_eq!((now.wireguard_key(), now.signing_key()), (fresh.wireguard_key(), fresh.signing_key()));
        NodeKeys::load_or_create(&next).unwrap();
        remove(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Eight at once agree on one pair.
    #[test]
    fn making_keys_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let path = folder.path();
            let jobs: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || NodeKeys::load_or_create(path).ok().unwrap().signing_key()))
                .collect();
            jobs.into_iter().map(|job| job.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
