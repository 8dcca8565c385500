//! Writes the evidence bundle (acceptance point 7): configuration, convergence, matrix, status, routing, a scan
//! for secrets, and a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::boundary::{self, Boundary};
use crate::error::LabError;
use crate::explain;
use crate::io::clients::read;
use crate::io::lab::Lab;
use crate::io::matrix::MatrixOptions;
use crate::io::run::words;
use crate::layout::{Hubs, Node, SITES, nodes};
use crate::matrix::Matrix;
use crate::points::{Answers, Point, judge};
use crate::secrets::{Secrets, suspicious};

const LIMIT: Duration = Duration::from_secs(20);
/// Largest file that may be a secret.
const SECRET_LIMIT: u64 = 64 << 10;
/// Largest configuration file that is shown.
const CONFIG_LIMIT: u64 = 1 << 20;

/// What the bundle says, in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvidenceReport {
    /// Where it is.
    pub dir: PathBuf,
    /// Whether every point holds.
    pub ok: bool,
    /// The seven points.
    pub points: Vec<Point>,
    /// How many files it has, the manifest included.
    pub files: usize,
    /// How many known secrets were looked for.
    pub secrets_looked_for: usize,
}

/// The search for secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Scan {
    ok: bool,
    files_searched: usize,
    secrets_looked_for: usize,
    forms: &'static str,
    findings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Manifest {
    lab: String,
    files: Vec<ManifestEntry>,
}

#[derive(Debug, Serialize)]
struct ManifestEntry {
    path: String,
    bytes: usize,
    sha256: String,
}

/// The files of a bundle as they are written.
struct Bundle {
    dir: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) -> Result<(), LabError> {
        let (file, content) = (self.dir.join(path), content.into());
        let what = || LabError::io(format!("write {}", file.display()));
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).map_err(what())?;
        }
        std::fs::write(&file, &content).map_err(what())?;
        self.files.insert(path.into(), content);
        Ok(())
    }

    fn add_json(&mut self, path: &str, value: &impl Serialize) -> Result<(), LabError> {
        let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        self.add(path, text)
    }
}

impl Lab {
    /// Writes the evidence into a directory that is not there yet or empty; runs the matrix where none is given.
    /// A point that fails makes the report say so; a secret that would be shown is an error.
    pub async fn evidence(&self, dir: &Path, matrix: Option<Matrix>) -> Result<EvidenceReport, LabError> {
        fresh(dir)?;
        let secrets = secrets(self)?;
        let mut bundle = Bundle { dir: dir.into(), files: BTreeMap::new() };
        let matrix = match matrix {
            Some(matrix) => matrix,
            None => self.matrix(&MatrixOptions::default()).await?,
        };
        bundle.add("README.md", explain::README)?;
        bundle.add("matrix.json", matrix.json())?;
        bundle.add("matrix.txt", matrix.table())?;
        bundle.add("matrix.xml", matrix.junit())?;
        let boundary = configurations(self, &mut bundle)?;
        bundle.add_json("boundary.json", &boundary)?;
        let answers = convergence(self, &mut bundle).await?;
        routing(self, &mut bundle).await?;
        let mut points = judge(&boundary, &answers, &matrix);
        bundle.add_json("acceptance.json", &points)?;

        let scan = search(&bundle, &secrets);
        bundle.add_json("scan.json", &scan)?;
        let files = manifest(self, &mut bundle)?;
        // What was written last is searched too; it names secrets and never shows them.
        let last = search(&bundle, &secrets);
        if let Some(first) = scan.findings.first().or(last.findings.first()) {
            let count = scan.findings.len().max(last.findings.len());
            return Err(LabError::SecretFound { dir: dir.into(), count, first: first.clone() });
        }
        points.push(Point {
            number: 7,
            title: "the evidence is written and shows no secret".into(),
            ok: true,
            detail: format!("{files} files, {} secrets looked for", secrets.len()),
        });
        let ok = points.iter().all(|point| point.ok);
        Ok(EvidenceReport { dir: dir.into(), ok, points, files, secrets_looked_for: secrets.len() })
    }
}

fn fresh(dir: &Path) -> Result<(), LabError> {
    let what = || LabError::io(format!("make {}", dir.display()));
    std::fs::create_dir_all(dir).map_err(what())?;
    match std::fs::read_dir(dir).map_err(what())?.next() {
        None => Ok(()),
        Some(_) => {
            let detail = "is not empty; evidence goes into a directory of its own".into();
            Err(LabError::Format { what: dir.display().to_string(), detail })
        }
    }
}

fn fabric_nodes(lab: &Lab) -> impl Iterator<Item = Node> + use<> {
    nodes(lab.hubs()).into_iter().filter(|node| node.daemon().is_some())
}

/// Copies and explains every node's configuration; judges the hub's.
fn configurations(lab: &Lab, bundle: &mut Bundle) -> Result<Boundary, LabError> {
    let mut boundary = boundary::check(&[]);
    for node in fabric_nodes(lab) {
        let (name, etc) = (node.name(), lab.node_dir(&node).join("etc/fabric"));
        let mut explained = Vec::new();
        let mut texts = Vec::new();
        for file in files_below(&etc) {
            let size = std::fs::metadata(&file).map_or(u64::MAX, |meta| meta.len());
            let yaml = file.extension().is_some_and(|end| end == "yaml" || end == "yml");
            if !yaml || size > CONFIG_LIMIT {
                continue;
            }
            let shown = file.strip_prefix(&etc).unwrap_or(&file).display().to_string();
            let text = read(&file)?;
            bundle.add(&format!("nodes/{name}/config/{shown}"), text.as_str())?;
            let resources = boundary::check(&[(shown.clone(), text.clone())]).resources;
            explained.push((shown.clone(), resources));
            texts.push((shown, text));
        }
        bundle.add(&format!("nodes/{name}/explanation.md"), explain::node(&node, &explained))?;
        if node == Node::Hub {
            boundary = boundary::check(&texts);
        }
    }
    Ok(boundary)
}

/// Every file below a directory, links not followed.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Asks every node how it stands.
async fn convergence(lab: &Lab, bundle: &mut Bundle) -> Result<Answers, LabError> {
    let mut answers = Answers {
        dynamic_peers: ask(
            lab,
            bundle,
            "hub",
            "convergence/dynamic-peers.json",
            "get BGPDynamicPeer/fullmesh-leaves",
        )
        .await?,
        hub_status: ask(lab, bundle, "hub", "nodes/hub/status.json", "status").await?,
        hub_routes: ask(lab, bundle, "hub", "convergence/hub-routes.json", "bgp routes").await?,
        ..Answers::default()
    };
    for (file, line) in [("bgp-peers", "bgp peers"), ("leaves", "leaves"), ("claims", "claims")] {
        ask(lab, bundle, "hub", &format!("convergence/hub-{file}.json"), line).await?;
    }
    let hub = kernel_routes(lab, "hub").await?;
    bundle.add("nodes/hub/routes.txt", hub)?;
    if lab.hubs() == Hubs::Two {
        ask(lab, bundle, "hub-2", "nodes/hub-2/status.json", "status").await?;
        ask(lab, bundle, "hub-2", "convergence/hub-2-bgp-peers.json", "bgp peers").await?;
    }
    for site in &SITES {
        let (leaf, key) = (Node::Leaf(site).name(), site.name.to_string());
        let file = format!("convergence/{leaf}-enrollment.json");
        let client = ask(lab, bundle, &leaf, &file, "get SAMEnrollmentClient").await?;
        answers.clients.insert(key.clone(), client);
        let status = ask(lab, bundle, &leaf, &format!("nodes/{leaf}/status.json"), "status").await?;
        answers.leaf_status.insert(key.clone(), status);
        ask(lab, bundle, &leaf, &format!("convergence/{leaf}-routes.json"), "bgp routes").await?;
        let routes = kernel_routes(lab, &leaf).await?;
        bundle.add(&format!("nodes/{leaf}/routes.txt"), routes.as_str())?;
        answers.leaf_routes.insert(key, routes);
    }
    Ok(answers)
}

async fn kernel_routes(lab: &Lab, node: &str) -> Result<String, LabError> {
    let argv = words(["ip", "-4", "-o", "route", "show", "table", "main", "proto", "84"]);
    Ok(lab.exec(node, &argv, LIMIT).await?.stdout)
}

/// Asks `routerctl` on a node and keeps the answer; what is no JSON is kept as `null` with what was said.
async fn ask(lab: &Lab, bundle: &mut Bundle, node: &str, file: &str, line: &str) -> Result<Value, LabError> {
    let mut args: Vec<&str> = line.split_ascii_whitespace().collect();
    args.extend(["-o", "json"]);
    let output = lab.routerctl(node, &args, None, LIMIT).await?;
    match serde_json::from_str::<Value>(&output.stdout) {
        Ok(value) => {
            bundle.add_json(file, &value)?;
            Ok(value)
        }
        Err(_) => {
            let said = serde_json::json!({"command": format!("routerctl {line}"), "failed": output.detail()});
            bundle.add_json(file, &said)?;
            Ok(Value::Null)
        }
    }
}

/// The route tables of the providers' routers, and of the clients, who know nothing of the fabric.
async fn routing(lab: &Lab, bundle: &mut Bundle) -> Result<(), LabError> {
    for node in
        nodes(lab.hubs()).into_iter().filter(|node| matches!(node, Node::Gateway(_) | Node::Client(_)))
    {
        let argv = words(["ip", "-4", "route", "show"]);
        let routes = lab.exec(&node.name(), &argv, LIMIT).await?.stdout;
        bundle.add(&format!("routing/{}.txt", node.name()), routes)?;
    }
    Ok(())
}

/// Every secret that the lab knows: whatever its owner alone may read in the nodes' directories, unless it is a
/// store, a log or a configuration; and the lab's own keys and invites.
fn secrets(lab: &Lab) -> Result<Secrets, LabError> {
    let mut secrets = Secrets::default();
    for file in files_below(&lab.dir()) {
        let shown = file.strip_prefix(lab.dir()).unwrap_or(&file).display().to_string();
        let small = std::fs::metadata(&file).is_ok_and(|meta| meta.len() <= SECRET_LIMIT);
        if small && is_secret(&shown) {
            let content = std::fs::read(&file).map_err(LabError::io(format!("read {shown}")))?;
            secrets.add(&shown, &content);
        }
    }
    if secrets.is_empty() {
        let detail = "none was found, so that none can be looked for".into();
        return Err(LabError::Format { what: "the lab's keys".into(), detail });
    }
    Ok(secrets)
}

/// Whether a file of the lab's state is a secret, by its path.
fn is_secret(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let key = name.ends_with(".key") || name.ends_with("host_key") || name.ends_with(".secret");
    key || (path.starts_with("keys/") && !name.ends_with(".pub") && name != "known_hosts")
}

fn search(bundle: &Bundle, secrets: &Secrets) -> Scan {
    let mut findings = Vec::new();
    for (path, content) in &bundle.files {
        findings.extend(secrets.shown_in(content).iter().map(|name| format!("{path} shows {name}")));
        findings.extend(suspicious(content).iter().map(|what| format!("{path} shows {what}")));
    }
    Scan {
        ok: findings.is_empty(),
        files_searched: bundle.files.len(),
        secrets_looked_for: secrets.len(),
        forms: "raw, hexadecimal, base64 and base64url at every offset; PEM, invites and labelled values by their looks",
        findings,
    }
}

/// Writes the manifest of all files so far; gives the number of files with it.
fn manifest(lab: &Lab, bundle: &mut Bundle) -> Result<usize, LabError> {
    let entry = |(path, content): (&String, &Vec<u8>)| {
        let digest = ring::digest::digest(&ring::digest::SHA256, content);
        let sha256 = digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
        ManifestEntry { path: path.clone(), bytes: content.len(), sha256 }
    };
    let files: Vec<ManifestEntry> = bundle.files.iter().map(entry).collect();
    let count = files.len() + 1;
    bundle.add_json("manifest.json", &Manifest { lab: lab.name().to_string(), files })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves which files of a lab count as secrets.
    #[test]
    fn which_files_are_secret() {
        for path in [
            "hub/var/lib/fabric/wireguard.key",
            "aws-leaf/var/lib/fabric/signing.key",
            "keys/lab",
            "keys/invite-aws",
            "aws-client/run/lab/host_key",
        ] {
            assert!(is_secret(path), "{path}");
        }
        for path in
            ["keys/lab.pub", "keys/known_hosts", "hub/etc/fabric/hub.yaml", "logs/hub-daemon.log", "lab.json"]
        {
            assert!(!is_secret(path), "{path}");
        }
    }

    /// Proves that a bundle that shows a known key, or an unknown one by its looks, is found out, and that the
    /// finding does not show it.
    #[test]
    fn search_finds() {
        let mut secrets = Secrets::default();
        secrets.add("hub/wireguard.key", b"cGxlYXNlIGRvIG5vdCBzaG93IHRoaXMga2V5ISEhISE=\n");
        let bundle = |content: &str| Bundle {
            dir: "/nowhere".into(),
            files: [("status.json".to_string(), content.as_bytes().to_vec())].into(),
        };
        let shown = search(&bundle("{\"key\": \"cGxlYXNlIGRvIG5vdCBzaG93IHRoaXMga2V5ISEhISE=\"}"), &secrets);
        assert_eq!(shown.findings, ["status.json shows hub/wireguard.key"]);
        let raw = search(&bundle("please do not show this key!!!!!"), &secrets);
        assert!(!raw.ok && search(&bundle("{}"), &secrets).ok);
        assert!(!search(&bundle("fabric1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), &secrets).ok);
    }
}
