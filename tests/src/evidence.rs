//! Looks at an evidence folder with eyes of its own: is it complete, does its manifest hold, is a secret in it.
//! Nothing here is shared with the code that wrote the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lab::layout::{Node, SITES};

use crate::Check;

/// Every file below a folder, by its path relative to it.
pub fn files(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(next) = left.pop() {
        let entries = std::fs::read_dir(&next).map_err(|error| format!("{}: {error}", next.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).map_err(|error| error.to_string())?.display().to_string();
            found.insert(name, std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
        }
    }
    Ok(found)
}

/// The folder tells of every node, and has matrix, boundary check, convergence and provider routing.
pub fn complete(dir: &Path) -> Check {
    let files = files(dir)?;
    let nodes = std::iter::once(Node::Hub).chain(SITES.iter().map(Node::Leaf)).map(|node| node.name());
    let subjects = ["matrix", "boundary", "convergence", "routing"].map(String::from);
    for subject in nodes.chain(subjects) {
        if !files.iter().any(|(name, content)| name.contains(&subject) && !content.is_empty()) {
            return Err(format!("no file of the evidence is about {subject}"));
        }
    }
    Ok(())
}

/// Every file but the manifest is in it with its SHA-256, and nothing else is.
pub fn manifest_holds(dir: &Path) -> Check {
    let mut files = files(dir)?;
    let manifest = files.remove("manifest.json").ok_or("the evidence has no manifest.json")?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
    let mut listed = BTreeMap::new();
    for file in manifest["files"].as_array().ok_or("the manifest lists no files")? {
        let (Some(path), Some(sha256)) = (file["path"].as_str(), file["sha256"].as_str()) else {
            return Err(format!("the manifest's entry {file} has no path or no sha256"));
        };
        listed.insert(path.to_string(), sha256.to_string());
    }
    for (name, content) in &files {
        let digest = hex(ring::digest::digest(&ring::digest::SHA256, content).as_ref());
        match listed.remove(name) {
            None => return Err(format!("{name} is not in the manifest")),
            Some(sha256) if sha256 != digest => return Err(format!("{name} is not what the manifest says")),
            Some(_) => {}
        }
    }
    match listed.into_keys().next() {
        None => Ok(()),
        Some(name) => Err(format!("{name} is in the manifest and not in the folder")),
    }
}

/// A secret under a name that may be shown.
#[derive(Clone)]
pub struct Secret {
    name: String,
    needles: Vec<Vec<u8>>,
}

/// Every secret of a lab: private keys of its nodes, its SSH keys, its invites.
pub fn secrets_of(lab: &Path) -> Result<Vec<Secret>, String> {
    let mut found: Vec<PathBuf> = Vec::new();
    for node in std::iter::once(Node::Hub).chain(SITES.iter().map(Node::Leaf)) {
        let paths = control::Paths::below(Some(&lab.join(node.name())));
        found.extend([paths.wireguard_key(), paths.signing_key()]);
    }
    let second = control::Paths::below(Some(&lab.join(Node::Hub2.name())));
    let of_second = [second.wireguard_key(), second.signing_key(), lab.join("keys").join("invite-hub-2")];
    found.extend(of_second.into_iter().filter(|path| path.exists()));
    found.push(lab.join("keys/lab"));
    for site in &SITES {
        found.push(lab.join("keys").join(format!("invite-{}", site.name)));
        found.push(lab.join(Node::Client(site).name()).join("run/lab/host_key"));
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Secret { name: path.display().to_string(), needles: needles(&text) })
    };
    found.iter().map(read).collect()
}

/// The forms in which a secret might be written down.
fn needles(text: &str) -> Vec<Vec<u8>> {
    let mut needles = Vec::new();
    // Of a key of several lines the longest tells: the others are the same in every key.
    let line = text.lines().map(str::trim).max_by_key(|line| line.len()).unwrap_or_default();
    if line.len() >= 16 {
        needles.push(line.as_bytes().to_vec());
    }
    // An invite is its name and then the secret in base64; its last part alone is enough to use it.
    if let Some((_, body)) = line.split_once('-') {
        needles.push(body.as_bytes().to_vec());
    }
    if let Some(raw) = STANDARD.decode(line).ok().filter(|raw| raw.len() == 32) {
        needles.push(hex(&raw).into_bytes());
        needles.push(URL_SAFE_NO_PAD.encode(&raw).into_bytes());
        needles.push(raw);
    }
    needles
}

/// No file of the folder holds any of the secrets, in any usual form, nor the mark of a private key.
pub fn no_secret(dir: &Path, secrets: &[Secret]) -> Check {
    let mark = ["PRIVATE", "KEY-----"].join(" ");
    for (name, content) in files(dir)? {
        if contains(&content, mark.as_bytes()) {
            return Err(format!("{name} holds a private key"));
        }
        if let Some(secret) = shows(&content, secrets) {
            return Err(format!("{name} holds the secret of {secret}"));
        }
    }
    Ok(())
}

/// The name of a secret that `content` shows.
pub fn shows<'a>(content: &[u8], secrets: &'a [Secret]) -> Option<&'a str> {
    let shown = |secret: &&Secret| secret.needles.iter().any(|needle| contains(content, needle));
    secrets.iter().find(shown).map(|secret| secret.name.as_str())
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && content.windows(needle.len()).any(|window| window == needle)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
