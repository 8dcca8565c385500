//! `routerctl hub`: makes a hub out of this machine.

use std::fmt::Write;
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use control::Node;
use control::wire::{Done, InviteAnswer, NewHubInvite};
use enrollment::endpoint::{BadEndpoint, Endpoint};
use enrollment::io::keys::NodeKeys;
use enrollment::io::private_file;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::context::{Context, escape};
use crate::failure::Failure;
use crate::io::files::{self, Written};
use crate::io::starter::{self, Started};
use crate::output::Answer;
use crate::text;

/// UDP port of WireGuard where an endpoint names none.
const WIREGUARD_PORT: u16 = 51820;

/// Words of `hub`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl hub init --endpoint 203.0.113.10:51820")]
pub struct HubArgs {
    #[command(subcommand)]
    verb: HubVerb,
}

#[derive(Debug, Subcommand)]
enum HubVerb {
    /// Makes keys and hub.yaml, and starts the daemon; what is there already stays
    #[command(after_help = "Examples:\n  \
        routerctl hub init --endpoint 203.0.113.10\n  \
        routerctl hub init --endpoint 203.0.113.20 --join STRING\n  \
        routerctl hub init --endpoint 10.0.0.5 --http-listen 10.0.0.5\n  \
        routerctl hub init --endpoint 203.0.113.10:51820 --permit 10.81.0.0/16 --permit 10.82.0.0/16 --no-start\n\n\
        Running it again changes nothing. A hub.yaml that says something else is shown and left alone.")]
    Init(InitArgs),
    /// Prints the one string by which a second hub joins
    #[command(after_help = "Example: routerctl hub invite --name hub-2\n\n\
        The second machine takes it by the verb `hub init` with --join.")]
    Invite {
        /// The second hub's name
        #[arg(long, default_value = "hub-2")]
        name: String,
        /// How long the string holds, for example 30m, 1h, 2d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = text::parse_seconds)]
        expires: u64,
    },
    /// Takes the other hub out for good, so that another machine can join in its place
    #[command(after_help = "Example: routerctl hub retire hub-2")]
    Retire {
        /// The other hub's name, as `routerctl status` shows it
        name: String,
    },
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Where leaves reach this hub's WireGuard, tried in this order; a name is looked up by them, again whenever the hub
    /// is silent; may be repeated [port: 51820]
    #[arg(long, value_name = "IP_OR_NAME[:PORT]", value_parser = endpoint, required = true, value_delimiter = ',')]
    endpoint: Vec<Endpoint>,
    /// Prefix of the nodes' own addresses [default: 10.255.0.0/20]
    #[arg(long, value_name = "PREFIX", value_parser = text::parse_prefix4)]
    overlay_prefix: Option<Ipv4Net>,
    /// Prefix in which leaves may claim addresses; may be repeated [default: the private ones of RFC 1918]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = text::parse_prefix4)]
    permit: Vec<Ipv4Net>,
    /// Autonomous system number of the fabric [default: 64512]
    #[arg(long, value_name = "N")]
    asn: Option<u32>,
    /// Serves enrollment over TLS there too, for leaves on a private underlay; invites carry the address and pin its key
    /// [port: 8443]
    #[arg(long, value_name = "IP[:PORT]", value_parser = tls_endpoint)]
    http_listen: Option<SocketAddr>,
    /// Permits an address of --http-listen that the Internet can reach
    #[arg(long, requires = "http_listen")]
    yes_expose: bool,
    /// Joins the fabric of another hub as its second one, by the string of its `routerctl hub invite`; - reads it
    /// from standard input
    #[arg(long, value_name = "STRING")]
    join: Option<String>,
    /// Only writes; the daemon is started by somebody else
    #[arg(long)]
    no_start: bool,
}

/// What `hub init` did.
#[derive(Debug, Serialize)]
struct InitReport {
    /// The configuration file.
    config: String,
    /// Whether the configuration file was written now.
    config_made: bool,
    /// Whether keys were made now.
    keys_made: bool,
    /// The public half of the WireGuard key.
    wireguard_key: String,
    /// The public half of the signing key.
    signing_key: String,
    /// Where leaves reach the hub.
    endpoints: Vec<Endpoint>,
    /// How the daemon runs; none with `--no-start`.
    daemon: Option<Started>,
    /// Whether anything changed.
    changed: bool,
}

/// Runs the verb.
pub async fn run(context: &Context, args: HubArgs) -> Result<Answer, Failure> {
    let args = match args.verb {
        HubVerb::Init(args) => args,
        HubVerb::Invite { name, expires } => {
            let wanted = NewHubInvite { name, expires_secs: expires };
            let answer: InviteAnswer = context.only(Node::Hub)?.post("/v1/hubs/invite", &wanted).await?;
            return context.answer(&answer, |answer| answer.invite.clone());
        }
        HubVerb::Retire { name } => {
            let path = format!("/v1/hubs/{}/retire", escape(&name));
            let done: Done = context.only(Node::Hub)?.post(&path, &()).await?;
            return context.answer(&done, |done| text::plain(&done.detail));
        }
    };
    init(context, args).await
}

async fn init(context: &Context, args: InitArgs) -> Result<Answer, Failure> {
    if context.node == Some(Node::Leaf) {
        return Err(Failure::usage("a hub is no leaf").fix("leave --node out"));
    }
    let file = context.paths.config(Node::Hub);
    let content = configuration(&args);
    let source = config::Source { name: file.display().to_string(), text: content.clone() };
    config::parse(&[source]).map_err(|mistakes| {
        Failure::usage(format!("these options make no hub:\n{mistakes}"))
            .fix("change the option that is named above")
    })?;
    let config_made = match files::write_new(&file, &content)? {
        Written::Made => true,
        Written::Same => false,
        Written::Differs(lines) => {
            let what =
                format!("{} says something else and was left alone:\n{}", file.display(), lines.join("\n"));
            let fix = format!(
                "edit {} (check it: `routerctl validate`), or move it away and run this again",
                file.display()
            );
            return Err(Failure::bad("config-differs", what).fix(fix));
        }
    };
    let keys_there = context.paths.wireguard_key().exists() && context.paths.signing_key().exists();
    let keys = NodeKeys::load_or_create(&context.paths.state).map_err(|error| {
        let path = context.paths.state.display();
        Failure::bad("key-file-unsafe", format!("the keys cannot be made: {error}"))
            .fix(format!("check free space and owner of {path}; key files have mode 0600"))
    })?;
    let joins = leave_join_string(context, args.join.as_deref())?;
    let daemon = match args.no_start {
        true => None,
        false => Some(starter::ensure(context, Node::Hub).await?),
    };
    let started = daemon.is_some_and(|started| started != Started::Running);
    let report = InitReport {
        config: file.display().to_string(),
        config_made,
        keys_made: !keys_there,
        wireguard_key: keys.wireguard_key().to_string(),
        signing_key: keys.signing_key().to_string(),
        endpoints: args.endpoint,
        daemon,
        changed: config_made || !keys_there || joins || started,
    };
    context.answer(&report, people)
}

/// Puts the string to join by where the daemon finds it, mode 0600. A hub that has a registry has joined already, or
/// is a first one.
fn leave_join_string(context: &Context, join: Option<&str>) -> Result<bool, Failure> {
    let Some(join) = join else { return Ok(false) };
    if context.paths.registry().exists() {
        return match context.paths.state.join("joined.json").exists() {
            true => Ok(false),
            false => Err(Failure::bad("config-differs", "this machine is the first hub of a fabric already")
                .fix("join with a machine that is no hub yet, or remove this hub's state first")),
        };
    }
    let join = match join {
        "-" => super::enroll::from_stdin()?,
        join => join.to_string(),
    };
    enrollment::invite::Invite::decode(&join)
        .map_err(|refusal| Failure::bad(refusal.code.as_str(), refusal.message.clone()).fix(refusal.fix()))?;
    let path = context.paths.join_string();
    private_file::write(&path, join.trim().as_bytes()).map_err(|error| {
        Failure::bad("state-file-failed", format!("the string cannot be kept: {error}"))
            .fix("check free space and permissions of the state directory")
    })?;
    Ok(true)
}

/// An address or a name, with or without its port.
fn endpoint(text: &str) -> Result<Endpoint, BadEndpoint> {
    Endpoint::with_default_port(text, WIREGUARD_PORT)
}

/// An address for enrollment over TLS, with or without its port.
fn tls_endpoint(text: &str) -> Result<SocketAddr, String> {
    let bare = |address| SocketAddr::new(address, enrollment::policy::API_PORT);
    text.parse().or_else(|_| text.parse().map(bare)).map_err(|_| {
        "no address; write for example 10.0.0.5 or 10.0.0.5:8443 (a private address of this machine)".into()
    })
}

/// The hub's configuration file: one line a resource, and nothing that could be derived.
fn configuration(args: &InitArgs) -> String {
    let list = |values: Vec<String>| {
        format!("[{}]", values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", "))
    };
    let mut policy = format!("endpoints: {}", list(args.endpoint.iter().map(ToString::to_string).collect()));
    if let Some(prefix) = args.overlay_prefix {
        // Writing into a String cannot fail, here and below.
        let _ = write!(policy, ", overlayPrefix: {prefix}");
    }
    if !args.permit.is_empty() {
        let permitted = args.permit.iter().map(|p| p.trunc().to_string()).collect();
        let _ = write!(policy, ", permittedPrefixes: {}", list(permitted));
    }
    if let Some(at) = args.http_listen {
        let _ = write!(policy, ", httpListen: \"{at}\"");
    }
    if args.yes_expose {
        policy += ", httpPublic: true";
    }
    let asn = args.asn.map(|asn| format!("asn: {asn}")).unwrap_or_default();
    let port = match args.endpoint.first().map(Endpoint::port) {
        Some(port) if port != WIREGUARD_PORT => format!("listenPort: {port}"),
        _ => String::new(),
    };
    let documents = [
        ("net.routerd.net", "BGPRouter", "fabric", asn),
        ("net.routerd.net", "BGPDynamicPeer", "fullmesh-leaves", String::new()),
        ("net.routerd.net", "WireGuardInterface", "fab-wg", port),
        ("mobility.routerd.net", "SAMEnrollmentPolicy", "fabric", policy),
    ];
    let document = |(group, kind, name, spec): (&str, &str, &str, String)| {
        format!(
            "{{apiVersion: {group}/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
        )
    };
    let head = "# A hub of the fabric. Leaves, claims and invites are in the registry; none of them is ever written here.\n\
                # Every key and its default: routerctl schema, docs/reference/kinds.md.\n";
    head.to_string() + &documents.map(document).join("---\n")
}

fn people(report: &InitReport) -> String {
    let made = |made: bool| if made { "made" } else { "there already" };
    let daemon = match report.daemon {
        None => "not started (--no-start)",
        Some(Started::Running) => "runs already",
        Some(Started::Systemd) => "started by systemd",
        Some(Started::Process) => "started",
    };
    let lines = text::pairs(&[
        ("configuration", format!("{} ({})", report.config, made(report.config_made))),
        ("keys", made(report.keys_made).to_string()),
        ("wireguard key", report.wireguard_key.clone()),
        ("endpoints", text::list(&report.endpoints)),
        ("fabric-rr", daemon.to_string()),
    ]);
    format!("{lines}\n\nNext: routerctl invite --site NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> InitArgs {
        InitArgs {
            endpoint: vec!["203.0.113.10:51820".parse().unwrap()],
            overlay_prefix: None,
            permit: vec![],
            asn: None,
            http_listen: None,
            yes_expose: false,
            join: None,
            no_start: true,
        }
    }

    fn parsed(args: &InitArgs) -> config::Hub {
        let source = config::Source { name: "hub.yaml".into(), text: configuration(args) };
        config::parse(&[source]).unwrap().hub().unwrap().clone()
    }

    /// The smallest hub file has under ten meaningful lines, no claim, no per-leaf peer, and the named dynamic peer.
    #[test]
    fn smallest_hub_file() {
        let text = configuration(&args());
        assert!(text.lines().filter(|line| !line.starts_with('#')).count() < 10, "{text}");
        let hub = parsed(&args());
        assert_eq!(hub.dynamic_peers[0].name.as_str(), "fullmesh-leaves");
        assert!(hub.peers.is_empty());
        assert_eq!(hub.router.spec.asn, 64512);
    }

    /// Every option reaches the configuration, IPv6 endpoints too.
    #[test]
    fn every_option_counts() {
        let mut args = args();
        args.endpoint = vec!["[2001:db8::1]:4500".parse().unwrap(), "10.82.10.5:4500".parse().unwrap()];
        args.overlay_prefix = Some("10.250.0.0/20".parse().unwrap());
        args.permit = vec!["10.81.0.0/16".parse().unwrap()];
        args.asn = Some(65000);
        args.http_listen = Some(tls_endpoint("203.0.113.10").unwrap());
        args.yes_expose = true;
        let hub = parsed(&args);
        let enrollment = hub.enrollment.unwrap();
        assert_eq!(enrollment.policy.spec.http_listen, Some("203.0.113.10:8443".parse().unwrap()));
        assert_eq!(hub.router.spec.asn, 65000);
        assert_eq!(enrollment.wireguard.spec.listen_port, 4500);
        assert_eq!(enrollment.policy.spec.overlay_prefix, args.overlay_prefix.unwrap());
        assert_eq!(enrollment.policy.spec.permitted_prefixes, args.permit);
        let endpoints: Vec<String> =
            enrollment.policy.spec.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["[2001:db8::1]:4500", "10.82.10.5:4500"]);
    }

    /// An address or a name alone gets WireGuard's port; what is neither is told so.
    #[test]
    fn endpoints() {
        assert_eq!(endpoint("192.0.2.1"), Ok("192.0.2.1:51820".parse().unwrap()));
        assert_eq!(endpoint("2001:db8::1"), Ok("[2001:db8::1]:51820".parse().unwrap()));
        assert_eq!(endpoint("hub.example.net").unwrap().to_string(), "hub.example.net:51820");
        let told = endpoint("hub_1.example.net").unwrap_err().to_string();
        assert!(told.contains("neither an address nor a name") && told.contains("hub.example.net"), "{told}");
    }
}
