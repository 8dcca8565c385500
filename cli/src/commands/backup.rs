//! `routerctl backup`: one file that holds a node.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use control::Node;
use enrollment::backup::{self, Archive, BackupError, Manifest, Sealing};
use enrollment::io::backup::{CopyError, Places, gather};
use enrollment::io::{keys, private_file};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// The shortest passphrase, characters.
const SHORTEST: usize = 12;

/// Words of `backup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    routerctl backup /root/hub.backup --passphrase-file /root/backup.pass\n  \
    routerctl backup --list /root/hub.backup --passphrase-file /root/backup.pass\n\n\
    The file holds the node's keys, its configuration directory, its registry and everything else in its state\n\
    directory, each of one moment, while the daemon runs. Whoever can open it can be this node.\n\
    Without --passphrase-file the passphrase is asked for on the terminal.")]
pub struct BackupArgs {
    /// The backup: written, never over another file; with --list, read
    file: PathBuf,
    /// Shows what the file contains, after checking all of it
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Writes it unsealed, mode 0600: for a place that is as safe as the node itself
    #[arg(long, conflicts_with_all = ["passphrase_file", "list"])]
    plain: bool,
}

/// Where the passphrase comes from.
#[derive(Debug, Args)]
pub struct PassphraseArgs {
    /// File of mode 0600 whose first line is the passphrase; - reads standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// What was written, or is in a file.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// The file.
    pub file: String,
    /// `hub` or `leaf`.
    pub node: String,
    /// Whether a passphrase seals it.
    pub sealed: bool,
    /// When it was made, seconds since 1970.
    pub created_at: u64,
    /// The version that made it.
    pub software: String,
    /// Its length, octets.
    pub octets: u64,
    /// What it contains.
    pub manifest: Manifest,
    /// Files that the configuration names and that are not contained.
    pub left_out: Vec<String>,
}

/// Runs the verb.
pub fn run(context: &Context, args: BackupArgs) -> Result<Answer, Failure> {
    let report = match args.list {
        true => listed(&args)?,
        false => made(context, &args)?,
    };
    context.answer(&report, people)
}

fn made(context: &Context, args: &BackupArgs) -> Result<BackupReport, Failure> {
    let node = context.node.or_else(|| context.paths.node_here()).ok_or_else(|| {
        Failure::bad("no-node", format!("no node is set up here: {} is empty", context.paths.etc.display()))
            .fix("name the node's directories with --root DIR")
    })?;
    if args.file.exists() {
        let what = format!("{} is there already", args.file.display());
        return Err(Failure::bad("file-exists", what).fix("choose another name, or remove the old backup"));
    }
    let passphrase = match args.plain {
        true => None,
        false => Some(args.passphrase.read(true)?),
    };
    let places = Places { etc: &context.paths.etc, state: &context.paths.state };
    let archive = gather(places, node.as_str(), env!("CARGO_PKG_VERSION"), now()).map_err(copy_failed)?;
    let seal = match &passphrase {
        Some(passphrase) => {
            let salt = keys::random().map_err(|e| Failure::bad("internal", e.to_string()))?;
            Some((Sealing::fresh(salt), passphrase.as_slice()))
        }
        None => None,
    };
    let octets = backup::encode(&archive, seal).map_err(backup_failed)?;
    // Read back before it counts: a backup that cannot be opened is none.
    let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_slice());
    backup::decode(&octets, passphrase).map_err(backup_failed)?;
    let new = private_file::create(&args.file, &octets);
    if !new.map_err(|e| {
        Failure::bad("file-failed", e.to_string()).fix("check free space and permissions there")
    })? {
        let what = format!("{} is there already", args.file.display());
        return Err(Failure::bad("file-exists", what).fix("choose another name"));
    }
    let left_out = left_out(&archive, &context.paths.etc);
    Ok(report(&args.file, &archive, octets.len(), !args.plain, left_out))
}

fn listed(args: &BackupArgs) -> Result<BackupReport, Failure> {
    let (archive, octets) = open(&args.file, &args.passphrase)?;
    let sealed = archive.header.sealing.is_some();
    Ok(report(&args.file, &archive, octets, sealed, Vec::new()))
}

fn report(
    file: &Path,
    archive: &Archive,
    octets: usize,
    sealed: bool,
    left_out: Vec<String>,
) -> BackupReport {
    BackupReport {
        file: file.display().to_string(),
        node: archive.header.node.clone(),
        sealed,
        created_at: archive.header.created_at,
        software: archive.header.software.clone(),
        octets: octets as u64,
        manifest: archive.manifest.clone(),
        left_out,
    }
}

/// Reads a backup and checks all of it; the passphrase is asked for only where one is needed.
pub fn open(file: &Path, passphrase: &PassphraseArgs) -> Result<(Archive, usize), Failure> {
    let length = std::fs::metadata(file).map_err(|e| Failure::file("read", file, &e))?.len();
    if length > backup::MAX_OCTETS + (1 << 20) {
        return Err(backup_failed(BackupError::TooLarge));
    }
    let octets = Zeroizing::new(std::fs::read(file).map_err(|e| Failure::file("read", file, &e))?);
    let (header, _) = backup::peek(&octets).map_err(backup_failed)?;
    let passphrase = match header.sealing {
        Some(_) => Some(passphrase.read(false)?),
        None => None,
    };
    let archive =
        backup::decode(&octets, passphrase.as_ref().map(|p| p.as_slice())).map_err(backup_failed)?;
    Ok((archive, octets.len()))
}

impl PassphraseArgs {
    /// The passphrase, out of its file, standard input, or the terminal (twice for a new one).
    fn read(&self, new: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let unreadable = |what: String| {
            Failure::bad("passphrase-unreadable", what)
                .fix("give --passphrase-file FILE, a file of mode 0600")
        };
        let text = match self.passphrase_file.as_deref() {
            Some(path) if path == Path::new("-") => {
                let mut line = Zeroizing::new(String::new());
                std::io::stdin().lock().read_line(&mut line).map_err(|e| unreadable(e.to_string()))?;
                line
            }
            Some(path) => {
                let bytes = private_file::read(path).map_err(|e| unreadable(e.to_string()))?;
                let bytes = bytes.ok_or_else(|| unreadable(format!("{} is not there", path.display())))?;
                Zeroizing::new(String::from_utf8(bytes).map_err(|_| unreadable("it is no text".into()))?)
            }
            None if std::io::stdin().is_terminal() => {
                let ask = |prompt: &str| {
                    rpassword::prompt_password(prompt)
                        .map(Zeroizing::new)
                        .map_err(|e| unreadable(e.to_string()))
                };
                let text = ask("Passphrase of the backup: ")?;
                if new && *ask("Once more: ")? != *text {
                    return Err(Failure::usage("the two passphrases differ"));
                }
                text
            }
            None => {
                return Err(Failure::usage("the passphrase comes from a file or a terminal")
                    .fix("give --passphrase-file FILE, or --plain for a backup that is not sealed"));
            }
        };
        let line = text.lines().next().unwrap_or_default();
        if new && line.chars().count() < SHORTEST {
            return Err(Failure::usage(format!("a passphrase has at least {SHORTEST} characters"))
                .fix("make one, for example: `openssl rand -base64 24 > FILE; chmod 600 FILE`"));
        }
        Ok(Zeroizing::new(line.as_bytes().to_vec()))
    }
}

/// The secrets that the configuration names by a path outside its directory.
fn left_out(archive: &Archive, etc: &Path) -> Vec<String> {
    let path = format!("etc/{}.yaml", archive.header.node);
    let text = archive.file(&path).map(String::from_utf8_lossy).unwrap_or_default();
    let Ok(config) = config::parse(&[config::Source { name: path, text: text.into_owned() }]) else {
        return Vec::new();
    };
    let Some(hub) = config.hub() else { return Vec::new() };
    let named = hub.peers.iter().map(|peer| &peer.spec.tcp_md5_key_file);
    let named = named.chain(hub.dynamic_peers.iter().map(|peer| &peer.spec.tcp_md5_key_file));
    let outside = named.flatten().map(config::FilePath::as_path).filter(|path| path.parent() != Some(etc));
    outside.map(|path| path.display().to_string()).collect()
}

/// What is wrong with a backup, and what mends it.
pub fn backup_failed(error: BackupError) -> Failure {
    let fix = match &error {
        BackupError::NotABackup => "name a file that `routerctl backup` wrote",
        BackupError::OtherVersion { .. } => {
            "use the version of routerctl that wrote it, then upgrade the node"
        }
        BackupError::Sealed => "give its passphrase: --passphrase-file FILE",
        BackupError::WrongPassphrase => {
            "give the passphrase that it was made with, or use another copy of it"
        }
        BackupError::Altered(_) => "use another copy of it",
        BackupError::TooLarge => "make the registry smaller: see docs/operations.md, \"Backup\"",
    };
    Failure::bad(error.code(), error.to_string()).fix(fix)
}

/// Why a node could not be read or written.
pub fn copy_failed(error: CopyError) -> Failure {
    let (code, fix) = match &error {
        CopyError::File { .. } | CopyError::Database { .. } => {
            ("file-failed", "run it as root, and check free space and permissions there")
        }
        CopyError::Keys(_) => ("key-file-unsafe", "key files are regular files of mode 0600"),
        CopyError::NoNode { .. } => ("no-node", "name the node's directories with --root DIR"),
        CopyError::Name(_) => ("file-name", "move that file elsewhere"),
        CopyError::Unfit(_) => ("backup-unfit", "use another backup, or a newer version of routerctl"),
        CopyError::Exists(_) => {
            ("node-exists", "restore on a new machine, or put this node aside with --force")
        }
    };
    Failure::bad(code, error.to_string()).fix(fix)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The node that a backup is of.
pub fn node_of(archive: &Archive) -> Result<Node, Failure> {
    [Node::Hub, Node::Leaf].into_iter().find(|node| node.as_str() == archive.header.node).ok_or_else(|| {
        backup_failed(BackupError::Altered(format!("there is no node {:?}", archive.header.node)))
    })
}

/// What a backup contains, for people.
pub fn contents(manifest: &Manifest) -> String {
    let mut table = Table::new(["FILE", "OCTETS", "SHA-256"], "no file");
    for file in &manifest.files {
        let short: String = file.sha256.chars().take(16).collect();
        table.row([file.path.clone(), file.octets.to_string(), short]);
    }
    table.to_string()
}

/// What a registry in a backup holds, in a line.
pub fn registry_line(manifest: &Manifest) -> String {
    manifest.registry.as_ref().map_or_else(
        || "none".into(),
        |r| {
            let (leaves, claims, invites, entries) = (r.leaves.len(), r.claims, r.invites, r.log_entries);
            format!("{leaves} leaves, {claims} claims, {invites} invites, {entries} entries of the log")
        },
    )
}

fn people(report: &BackupReport) -> String {
    let sealed = if report.sealed { "by its passphrase" } else { "no: whoever reads it can be this node" };
    let lines = text::pairs(&[
        ("backup", report.file.clone()),
        (
            "of",
            format!("{}, made {} by version {}", report.node, text::utc(report.created_at), report.software),
        ),
        ("sealed", sealed.into()),
        ("signing key", report.manifest.signing_key.clone()),
        ("registry", registry_line(&report.manifest)),
        ("left out", if report.left_out.is_empty() { "-".into() } else { text::list(&report.left_out) }),
    ]);
    format!("{lines}\n\n{}", contents(&report.manifest))
}
