//! One file that holds a node: what it is, what it contains, and how it is sealed. Pure: `io::backup` gathers a node
//! into it, `io::restore` makes one out of it.
//!
//! The file is one line of JSON (the [`Header`]), then the body. The body is a length (4 octets, little endian), the
//! [`Manifest`] as JSON, and the files' contents in its order. It is sealed with ChaCha20-Poly1305 (RFC 8439) by a key
//! that Argon2id (RFC 9106) makes from a passphrase and a fresh salt, with the header as associated data; or it is
//! plain, with its SHA-256 in the header.

use crate::signature::sha256;
use crate::wire::Blob;
use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The version of the file's form that is written and read.
pub const VERSION: u32 = 1;
/// The largest backup, octets: it is made and checked in memory.
pub const MAX_OCTETS: u64 = 1 << 30;
/// The longest header line that is read, octets.
const MAX_HEADER: usize = 4096;
const FORMAT: &str = "fabric-backup";
const CIPHER: &str = "chacha20-poly1305";
const KDF: &str = "argon2id";

/// Why a file is no usable backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("this file is no backup of a fabric node")]
    NotABackup,
    /// Another version of the software wrote it.
    #[error("the backup has form {found} (written by version {software}); this program reads form {VERSION}")]
    OtherVersion {
        /// Its form.
        found: u32,
        /// The version of the software that wrote it.
        software: String,
    },
    /// It is sealed and no passphrase was given.
    #[error("the backup is sealed by a passphrase")]
    Sealed,
    /// The passphrase is another one, or a single bit of the file was altered: these cannot be told apart.
    #[error("the passphrase does not open the backup, or the file was altered")]
    WrongPassphrase,
    /// It was altered, or it is not whole.
    #[error("the backup was altered or is not whole: {0}")]
    Altered(String),
    /// It is larger than 1 GiB.
    #[error("a backup has at most 1 GiB")]
    TooLarge,
}

impl BackupError {
    /// The word that names the cause.
    pub const fn code(&self) -> &'static str {
        match self {
            BackupError::NotABackup => "backup-unknown",
            BackupError::OtherVersion { .. } => "backup-version",
            BackupError::Sealed => "backup-sealed",
            BackupError::WrongPassphrase => "backup-passphrase",
            BackupError::Altered(_) => "backup-altered",
            BackupError::TooLarge => "backup-too-large",
        }
    }
}

/// How the key is made from the passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sealing {
    /// `chacha20-poly1305`
    pub cipher: String,
    /// `argon2id`
    pub kdf: String,
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random octets, fresh for each backup, so that its key seals nothing else.
    pub salt: Blob,
}

impl Sealing {
    /// The second recommended choice of RFC 9106 section 4: 64 MiB, 3 passes, 4 lanes.
    pub fn fresh(salt: [u8; 32]) -> Self {
        let (memory_kib, passes, lanes) = (64 * 1024, 3, 4);
        let (cipher, kdf) = (CIPHER.into(), KDF.into());
        Self { cipher, kdf, memory_kib, passes, lanes, salt: Blob(salt.to_vec()) }
    }

    fn key(&self, passphrase: &[u8]) -> Result<LessSafeKey, BackupError> {
        // What a file asks of this machine is bounded before anything is done.
        let fair = self.memory_kib <= 1 << 20 && self.passes <= 16 && self.lanes <= 16;
        if self.cipher != CIPHER || self.kdf != KDF || !fair || self.salt.0.len() != 32 {
            return Err(BackupError::Altered("it is sealed in a way that is not known here".into()));
        }
        let unfit = |why: argon2::Error| BackupError::Altered(why.to_string());
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(unfit)?;
        let mut key = Zeroizing::new([0; 32]);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon.hash_password_into(passphrase, &self.salt.0, key.as_mut()).map_err(unfit)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref());
        Ok(LessSafeKey::new(key.map_err(|_| BackupError::WrongPassphrase)?))
    }
}

/// What everybody may read of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// `fabric-backup`
    pub format: String,
    /// The form of what follows.
    pub version: u32,
    /// The version of the software that wrote it.
    pub software: String,
    /// `hub` or `leaf`.
    pub node: String,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// How the body is sealed; none where it is plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Sealing>,
    /// SHA-256 of a plain body, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One file of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its place: `etc/NAME`, `state/NAME` or `state/next-keys/NAME`.
    pub path: String,
    /// How long it is.
    pub octets: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// What a registry holds, for people who look at its backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySummary {
    /// The version of its tables.
    pub tables: i64,
    /// Names of its leaves, the revoked ones too.
    pub leaves: Vec<String>,
    /// How many addresses are claimed.
    pub claims: u64,
    /// How many invites it knows, open or not.
    pub invites: u64,
    /// How many entries of the signed log.
    pub log_entries: u64,
    /// How many other hubs it knows.
    pub other_hubs: u64,
}

/// What a backup contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The public half of the node's WireGuard key.
    pub wireguard_key: String,
    /// The public half of its signing key.
    pub signing_key: String,
    /// A hub's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistrySummary>,
    /// The files, in the order of their contents.
    pub files: Vec<FileEntry>,
}

/// A backup, opened and checked.
#[derive(Clone)]
pub struct Archive {
    /// What everybody may read.
    pub header: Header,
    /// What it contains.
    pub manifest: Manifest,
    /// The contents, in the manifest's order.
    pub contents: Vec<Zeroizing<Vec<u8>>>,
}

impl Archive {
    /// The content of a file.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        let place = self.manifest.files.iter().position(|file| file.path == path)?;
        self.contents.get(place).map(|content| content.as_slice())
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest's line for a file.
pub fn entry(path: String, content: &[u8]) -> FileEntry {
    FileEntry { path, octets: content.len() as u64, sha256: hex(&sha256(content)) }
}

/// Whether a file may stand at this place: it cannot lead out of the node's two directories.
pub fn is_place(path: &str) -> bool {
    let name = |name: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(known)
    };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["etc" | "state", file] => name(file),
        ["state", "next-keys", file] => name(file),
        _ => false,
    }
}

/// A node's header: plain until it is sealed.
pub fn header(node: &str, software: &str, created_at: u64) -> Header {
    let (node, software) = (node.to_owned(), software.to_owned());
    let (sealing, digest) = (None, None);
    Header { format: FORMAT.into(), version: VERSION, software, node, created_at, sealing, digest }
}

/// The octets of a backup, sealed where a way and a passphrase are given.
pub fn encode(archive: &Archive, seal: Option<(Sealing, &[u8])>) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let unwritable = |e: serde_json::Error| BackupError::Altered(e.to_string());
    let manifest = serde_json::to_vec(&archive.manifest).map_err(unwritable)?;
    let length = u32::try_from(manifest.len()).map_err(|_| BackupError::TooLarge)?;
    let total = archive.contents.iter().map(|content| content.len() as u64).sum::<u64>();
    if total + u64::from(length) > MAX_OCTETS {
        return Err(BackupError::TooLarge);
    }
    // Room for everything at once: a vector that grows leaves copies of what it held.
    let mut body = Zeroizing::new(Vec::with_capacity(total as usize + manifest.len() + 64));
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&manifest);
    archive.contents.iter().for_each(|content| body.extend_from_slice(content));
    let mut header = archive.header.clone();
    let passphrase = seal.map(|(sealing, passphrase)| {
        header.sealing = Some(sealing);
        passphrase
    });
    header.digest = passphrase.is_none().then(|| hex(&sha256(&body)));
    let mut line = serde_json::to_vec(&header).map_err(unwritable)?;
    line.push(b'\n');
    if let (Some(sealing), Some(passphrase)) = (&header.sealing, passphrase) {
        let key = sealing.key(passphrase)?;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let sealed = key.seal_in_place_append_tag(nonce, Aad::from(&line), &mut *body);
        sealed.map_err(|_| BackupError::TooLarge)?;
    }
    let mut whole = Zeroizing::new(Vec::with_capacity(line.len() + body.len()));
    whole.extend_from_slice(&line);
    whole.extend_from_slice(&body);
    Ok(whole)
}

/// What a backup says to everybody, and where its body begins.
pub fn peek(octets: &[u8]) -> Result<(Header, usize), BackupError> {
    #[derive(Deserialize)]
    struct Which {
        format: String,
        version: u32,
        #[serde(default)]
        software: String,
    }
    let end = octets.iter().take(MAX_HEADER).position(|byte| *byte == b'\n');
    let line = end.and_then(|end| octets.get(..end)).ok_or(BackupError::NotABackup)?;
    let which: Which = serde_json::from_slice(line).map_err(|_| BackupError::NotABackup)?;
    if which.format != FORMAT {
        return Err(BackupError::NotABackup);
    }
    if which.version != VERSION {
        return Err(BackupError::OtherVersion { found: which.version, software: which.software });
    }
    let header = serde_json::from_slice(line).map_err(|e| BackupError::Altered(e.to_string()))?;
    Ok((header, line.len() + 1))
}

/// Opens a backup and checks every digest.
pub fn decode(octets: &[u8], passphrase: Option<&[u8]>) -> Result<Archive, BackupError> {
    if octets.len() as u64 > MAX_OCTETS + (1 << 20) {
        return Err(BackupError::TooLarge);
    }
    let (header, start) = peek(octets)?;
    let (line, body) = octets.split_at(start);
    let mut body = Zeroizing::new(body.to_vec());
    match &header.sealing {
        Some(sealing) => {
            let key = sealing.key(passphrase.ok_or(BackupError::Sealed)?)?;
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            let opened = key.open_in_place(nonce, Aad::from(line), &mut body);
            let length = opened.map_err(|_| BackupError::WrongPassphrase)?.len();
            body.truncate(length);
        }
        None if header.digest.as_deref() == Some(&hex(&sha256(&body))) => {}
        None => return Err(BackupError::Altered("its digest is another one".into())),
    }
    split(header, &body)
}

fn split(header: Header, body: &[u8]) -> Result<Archive, BackupError> {
    let short = || BackupError::Altered("it ends too early".into());
    let (length, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let (manifest, mut rest) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|e| BackupError::Altered(e.to_string()))?;
    let mut contents = Vec::new();
    for file in &manifest.files {
        let octets = usize::try_from(file.octets).map_err(|_| short())?;
        let (content, after) = rest.split_at_checked(octets).ok_or_else(short)?;
        rest = after;
        let same = hex(&sha256(content)) == file.sha256;
        if !same || !is_place(&file.path) {
            return Err(BackupError::Altered(format!("{:?} is not what the manifest says", file.path)));
        }
        contents.push(Zeroizing::new(content.to_vec()));
    }
    if !rest.is_empty() {
        return Err(BackupError::Altered("something follows the last file".into()));
    }
    Ok(Archive { header, manifest, contents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive() -> Archive {
        let files = [("etc/hub.yaml", "a: 1\n"), ("state/signing.key", "secret")];
        let manifest = Manifest {
            wireguard_key: "w".into(),
            signing_key: "s".into(),
            registry: None,
            files: files.iter().map(|(path, text)| entry((*path).into(), text.as_bytes())).collect(),
        };
        let contents = files.iter().map(|(_, text)| Zeroizing::new(text.as_bytes().to_vec())).collect();
        Archive { header: header("hub", "0.1.0", 1_700_000_000), manifest, contents }
    }

    /// Quick to derive; what is under test is not how hard guessing is.
    fn quick() -> Sealing {
        Sealing { memory_kib: 64, passes: 1, lanes: 1, ..Sealing::fresh([7; 32]) }
    }

    /// A plain and a sealed backup give back what was put in; the sealed one holds no content in the clear and opens
    /// with its passphrase alone.
    #[test]
    fn what_goes_in_comes_out() {
        let plain = encode(&archive(), None).unwrap();
        assert_eq!(decode(&plain, None).unwrap().file("state/signing.key"), Some(b"secret".as_slice()));
        let sealed = encode(&archive(), Some((quick(), b"correct horse"))).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let opened = decode(&sealed, Some(b"correct horse")).unwrap();
        assert_eq!(opened.manifest, archive().manifest);
        assert!(matches!(decode(&sealed, None), Err(BackupError::Sealed)));
        assert!(matches!(decode(&sealed, Some(b"correct horsf")), Err(BackupError::WrongPassphrase)));
    }

    /// Not a single octet of either kind can be altered, and none can be missing.
    #[test]
    fn alterations_are_seen() {
        for seal in [None, Some((quick(), b"correct horse".as_slice()))] {
            let passphrase = seal.as_ref().map(|(_, passphrase)| *passphrase);
            let whole = encode(&archive(), seal).unwrap();
            let (_, start) = peek(&whole).unwrap();
            // The header of a plain backup says when and by what it was made, and is not proved.
            let first = if passphrase.is_some() { 0 } else { start };
            for at in first..whole.len() {
                let mut altered = whole.to_vec();
                altered[at] ^= 1;
                assert!(decode(&altered, passphrase).is_err(), "octet {at}");
            }
            for length in 0..whole.len() {
                assert!(decode(&whole[..length], passphrase).is_err(), "{length} octets");
            }
        }
    }

    /// Another form is named with the version that wrote it; other files are none.
    #[test]
    fn other_versions_are_named() {
        let later = br#"{"format":"fabric-backup","version":2,"software":"9.9","more":[]}
x"#;
        let error = decode(later, None).err().unwrap();
        assert_eq!(error.code(), "backup-version");
        assert!(error.to_string().contains("form 2 (written by version 9.9)"), "{error}");
        for other in [b"".as_slice(), b"\n", b"{}\n", b"\x7fELF\n", br#"{"format":"x","version":1}"#] {
            assert!(matches!(decode(other, None), Err(BackupError::NotABackup)), "{other:?}");
        }
    }

    /// No place leads out of the node's directories.
    #[test]
    fn places_stay_inside() {
        for good in ["etc/hub.yaml", "state/registry.sqlite", "state/next-keys/signing.key"] {
            assert!(is_place(good), "{good}");
        }
        let bad =
            ["", "etc", "/etc/passwd", "etc/../x", "state/..", "state/a/b", "etc//x", "run/x", "etc/a\n"];
        for path in bad {
            assert!(!is_place(path), "{path:?}");
        }
    }

    proptest! {
        /// No octets make the reader panic, or ask it for more memory than it has.
        #[test]
        fn any_octets_are_survived(body in prop::collection::vec(any::<u8>(), 0..200), sealed: bool) {
            let mut header = header("hub", "x", 0);
            header.digest = Some(hex(&sha256(&body)));
            header.sealing = sealed.then(|| Sealing { memory_kib: u32::MAX, ..quick() });
            let mut octets = serde_json::to_vec(&header).unwrap();
            octets.push(b'\n');
            octets.extend(&body);
            prop_assert!(decode(&octets, Some(b"correct horse")).is_err());
        }
    }
}
