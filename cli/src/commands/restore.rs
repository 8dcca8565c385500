//! `routerctl restore`: makes a node out of a backup.

use std::path::PathBuf;

use clap::Args;
use control::wire::NodeStatus;
use control::{Client, ClientError, Node};
use enrollment::backup::Archive;
use enrollment::endpoint::Endpoint;
use enrollment::identity::LeafName;
use enrollment::io::backup::Places;
use enrollment::io::restore::{self, Order};
use enrollment::io::restored::Note;
use serde::Serialize;

use super::backup::{self, PassphraseArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::io::starter::{self, Started};
use crate::output::Answer;
use crate::text;

/// Words of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    routerctl restore /root/hub.backup --passphrase-file /root/backup.pass --dry-run\n  \
    routerctl restore /root/hub.backup --passphrase-file /root/backup.pass\n  \
    routerctl restore /root/hub.backup --passphrase-file /root/backup.pass --endpoint 203.0.113.20 --revoke aws\n\n\
    The old machine must never run again: two hubs with one key disturb each other. A restored hub closes every open\n\
    invite, because it cannot know which were used after the backup, and does not know of leaves that joined, were\n\
    revoked or took fresh keys since: invite them again, and name those to be revoked with --revoke.")]
pub struct RestoreArgs {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Checks everything, shows what would be restored, writes nothing
    #[arg(long)]
    dry_run: bool,
    /// Puts the node that is here aside (into a folder of its state directory)
    #[arg(long)]
    force: bool,
    /// Where leaves reach the hub from now on, in place of the backup's endpoints; may be repeated [port: as before]
    #[arg(long, value_name = "IP_OR_NAME[:PORT]", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// Leaf that is revoked before anybody is served; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    revoke: Vec<String>,
    /// Leaves open invites open: only where the old hub decided nothing after the backup
    #[arg(long)]
    keep_invites: bool,
    /// The other hub is lost too: this one decides alone, without asking it for what was decided since
    #[arg(long)]
    alone: bool,
    /// Only writes; the daemon is started by somebody else
    #[arg(long)]
    no_start: bool,
}

/// What was restored.
#[derive(Debug, Serialize)]
struct RestoreReport {
    /// The backup.
    file: String,
    /// `hub` or `leaf`.
    node: String,
    /// When the backup was made, seconds since 1970.
    created_at: u64,
    /// The public half of its signing key: unchanged.
    signing_key: String,
    /// What its registry holds.
    registry: Option<enrollment::backup::RegistrySummary>,
    /// The files, in their places.
    files: Vec<String>,
    /// What is there already; it is put aside with `--force`.
    present: Vec<String>,
    /// Where that went.
    aside: Option<String>,
    /// Whether anything was written.
    changed: bool,
    /// How the daemon runs; none with `--no-start` and `--dry-run`.
    daemon: Option<Started>,
}

/// Runs the verb.
pub async fn run(context: &Context, args: RestoreArgs) -> Result<Answer, Failure> {
    let (archive, _) = backup::open(&args.file, &args.passphrase)?;
    let node = backup::node_of(&archive)?;
    if context.node.is_some_and(|named| named != node) {
        return Err(
            Failure::usage(format!("this is the backup of a {}", node.as_str())).fix("leave --node out")
        );
    }
    let places = Places { etc: &context.paths.etc, state: &context.paths.state };
    let order = order(&args, node, &archive)?;
    let present = restore::present(&archive, places).map_err(backup::copy_failed)?;
    let mut report = RestoreReport {
        file: args.file.display().to_string(),
        node: node.as_str().into(),
        created_at: archive.header.created_at,
        signing_key: archive.manifest.signing_key.clone(),
        registry: archive.manifest.registry.clone(),
        files: archive.manifest.files.iter().map(|file| file.path.clone()).collect(),
        present,
        aside: None,
        changed: false,
        daemon: None,
    };
    if args.dry_run {
        restore::check(&archive, places.state).map_err(backup::copy_failed)?;
        return context.answer(&report, people);
    }
    silent(context).await?;
    let aside = restore::install(&archive, places, &order, backup::now()).map_err(backup::copy_failed)?;
    report.aside = aside.map(|path| path.display().to_string());
    report.changed = true;
    if !args.no_start {
        report.daemon = Some(starter::ensure(context, node).await?);
    }
    context.answer(&report, people)
}

/// Nothing is written under a daemon that runs.
async fn silent(context: &Context) -> Result<(), Failure> {
    for node in [Node::Hub, Node::Leaf] {
        match Client::new(&context.paths, node).get::<NodeStatus>("/v1/status").await {
            Err(ClientError::Unreachable { .. }) => {}
            _ => {
                let daemon = node.daemon();
                return Err(Failure::bad("daemon-running", format!("{daemon} runs here"))
                    .fix(format!("stop it: `systemctl stop {daemon}`, then run this again")));
            }
        }
    }
    Ok(())
}

fn order(args: &RestoreArgs, node: Node, archive: &Archive) -> Result<Order, Failure> {
    let for_hub = !args.endpoint.is_empty() || !args.revoke.is_empty() || args.keep_invites || args.alone;
    if node == Node::Leaf {
        return match for_hub {
            true => {
                Err(Failure::usage("--endpoint, --revoke, --keep-invites and --alone are for a hub's backup"))
            }
            false => Ok(Order { force: args.force, ..Order::default() }),
        };
    }
    let known = archive.manifest.registry.as_ref().map(|r| r.leaves.as_slice()).unwrap_or_default();
    let revoke = args.revoke.iter().map(|name| {
        let leaf: Option<LeafName> = name.parse().ok().filter(|_| known.contains(name));
        let what = format!("the backup knows no leaf {name:?}, only {}", text::list(known));
        leaf.ok_or_else(|| Failure::bad("leaf-unknown", what).fix("name a leaf of the list, or leave it out"))
    });
    let note = Note {
        backup_at: archive.header.created_at,
        revoke: revoke.collect::<Result<_, _>>()?,
        keep_invites: args.keep_invites,
        alone: args.alone,
    };
    let config = match args.endpoint.is_empty() {
        true => None,
        false => Some(moved(archive, &args.endpoint)?),
    };
    Ok(Order { force: args.force, config, note: Some(note) })
}

/// The hub's configuration with other endpoints and everything else as it was, to the letter.
fn moved(archive: &Archive, wanted: &[String]) -> Result<String, Failure> {
    let by_hand = |why: &str| {
        let fix = "restore with --no-start, edit endpoints in hub.yaml, then start fabric-rr";
        Failure::bad("endpoint-by-hand", format!("the endpoints in hub.yaml cannot be replaced: {why}"))
            .fix(fix)
    };
    let text = archive.file("etc/hub.yaml").and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| by_hand("it is no text"))?;
    let before = endpoints(text).ok_or_else(|| by_hand("it cannot be read"))?;
    let port = before.first().and_then(|first| first.rsplit(':').next()?.parse().ok()).unwrap_or(51820);
    let new: Vec<String> = wanted.iter().map(|word| address(word, port)).collect::<Result<_, _>>()?;
    let list = new.iter().map(|endpoint| format!("\"{endpoint}\"")).collect::<Vec<_>>().join(", ");
    let start = text.find("endpoints: [").ok_or_else(|| by_hand("they are no list in one line"))?;
    let open = start + "endpoints: [".len();
    // An IPv6 address in quotes has brackets of its own.
    let length = text[open..].find("\"]").map(|at| at + 1).or_else(|| text[open..].find(']'));
    let end = open + length.ok_or_else(|| by_hand("the list has no end"))?;
    let edited = format!("{}{list}{}", &text[..open], &text[end..]);
    match endpoints(&edited) {
        Some(found) if found == new => Ok(edited),
        _ => Err(by_hand("what came of it says something else")),
    }
}

fn endpoints(text: &str) -> Option<Vec<String>> {
    let source = config::Source { name: "hub.yaml".into(), text: text.into() };
    let config = config::parse(&[source]).ok()?;
    let policy = &config.hub()?.enrollment.as_ref()?.policy;
    Some(policy.spec.endpoints.iter().map(ToString::to_string).collect())
}

fn address(word: &str, port: u16) -> Result<String, Failure> {
    let found = Endpoint::with_default_port(word, port);
    found.map(|at| at.to_string()).map_err(|bad| {
        Failure::usage(format!("--endpoint {word}: {bad}")).fix("write for example 203.0.113.20")
    })
}

fn people(report: &RestoreReport) -> String {
    let daemon = match report.daemon {
        None => "not started",
        Some(Started::Running) => "runs already",
        Some(Started::Systemd) => "started by systemd",
        Some(Started::Process) => "started",
    };
    let registry = report.registry.as_ref().map_or_else(
        || "none".into(),
        |r| format!("{} leaves ({}), {} claims", r.leaves.len(), text::list(&r.leaves), r.claims),
    );
    let lines = text::pairs(&[
        (if report.changed { "restored" } else { "would restore" }, report.file.clone()),
        ("as", format!("{}, as it was {}", report.node, text::utc(report.created_at))),
        ("signing key", report.signing_key.clone()),
        ("registry", registry),
        ("files", text::list(&report.files)),
        (
            "in the way",
            if report.present.is_empty() { "nothing".into() } else { text::list(&report.present) },
        ),
        ("put aside in", report.aside.clone().unwrap_or_else(|| "-".into())),
        ("daemon", daemon.into()),
    ]);
    match (report.changed, report.node.as_str()) {
        (true, "hub") => format!(
            "{lines}\n\nOpen invites were closed unless --keep-invites was given. Leaves that joined, were revoked or \
             took fresh keys after the backup are not known here: invite or revoke them again."
        ),
        _ => lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enrollment::backup::{Manifest, entry, header};

    fn archive(text: &str) -> Archive {
        let files = vec![entry("etc/hub.yaml".into(), text.as_bytes())];
        let (wireguard_key, signing_key) = (String::new(), String::new());
        let manifest = Manifest { wireguard_key, signing_key, registry: None, files };
        Archive { header: header("hub", "x", 0), manifest, contents: vec![text.as_bytes().to_vec().into()] }
    }

    /// Other endpoints change these and nothing else; a file in which they cannot be found is left to a person.
    #[test]
    fn endpoints_are_replaced_to_the_letter() {
        let head = "# mine\n{apiVersion: net.routerd.net/v1alpha1, kind: BGPRouter, metadata: {name: fabric}, spec: {}}\n---\n\
            {apiVersion: net.routerd.net/v1alpha1, kind: WireGuardInterface, metadata: {name: fab-wg}, spec: {}}\n---\n";
        let policy = "{apiVersion: mobility.routerd.net/v1alpha1, kind: SAMEnrollmentPolicy, metadata: {name: fabric}, \
            spec: {endpoints: [LIST], asn: 1}}\n".replace(", asn: 1", "");
        let with = |list: &str| format!("{head}{}", policy.replace("LIST", list));
        let before = archive(&with("\"203.0.113.10:4500\", \"[2001:db8::1]:4500\""));
        let wanted = ["203.0.113.20".to_string(), "2001:db8::2".to_string()];
        let after = moved(&before, &wanted).unwrap();
        assert_eq!(after, with("\"203.0.113.20:4500\", \"[2001:db8::2]:4500\""));
        let block = with("x").replace("endpoints: [x]", "permittedPrefixes: [10.0.0.0/8]");
        assert_eq!(moved(&archive(&block), &wanted).unwrap_err().code, "endpoint-by-hand");
        assert!(moved(&before, &["hub_1.example.net".into()]).is_err());
        let named = moved(&before, &["hub.example.net".into()]).unwrap();
        assert!(named.contains("endpoints: [\"hub.example.net:"), "{named}");
    }
}
