//! `routerctl bgp`: sessions, routes, and what policy keeps out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::bgp::view::{OperatedView, PeerView, RefreshView, RejectedView, RoutePage, RouteView, StationView};
use clap::{Args, Subcommand};
use control::Client;
use control::wire::{OperatePeer, RefreshPeer};
use serde::Serialize;

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::io::files::Growing;
use crate::output::{self, Answer};
use crate::text::{self, Table};

/// Words of `bgp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl bgp peers\n  routerctl bgp routes 10.81.10.20")]
pub struct BgpArgs {
    #[command(subcommand)]
    verb: BgpVerb,
}

#[derive(Debug, Subcommand)]
enum BgpVerb {
    /// Shows the sessions
    #[command(after_help = "Example: routerctl bgp peers -o json")]
    Peers,
    /// Shows the routes, which are best and why
    #[command(
        after_help = "Examples:\n  routerctl bgp routes\n  routerctl bgp routes 10.81.10.20 --received-from aws\n  \
        routerctl bgp routes 10.81.0.0/16 --longer --limit 100000"
    )]
    Routes {
        /// Only this prefix, or the address' /32
        #[arg(value_parser = prefix)]
        prefix: Option<String>,
        /// Also the prefixes inside it
        #[arg(long, requires = "prefix")]
        longer: bool,
        /// Only paths received from this neighbour, by name or address; `local` means our own
        #[arg(long, value_name = "NEIGHBOUR", visible_alias = "peer")]
        received_from: Option<String>,
        /// At most so many paths, the first by prefix
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = limit())]
        limit: u64,
    },
    /// Shows what a neighbour has sent, before and after policy: what was accepted, what rejected and why
    #[command(after_help = "Example: routerctl bgp received aws")]
    Received(PeerArgs),
    /// Shows what a neighbour has been told
    #[command(after_help = "Example: routerctl bgp advertised 10.255.0.2")]
    Advertised(PeerArgs),
    /// Asks a neighbour to send all its routes again, without a new session
    #[command(after_help = "Example: routerctl bgp refresh aws")]
    Refresh {
        /// The neighbour, by name or address
        neighbour: String,
    },
    /// Ends a neighbour's session and keeps it down, until `bgp enable` or the daemon's next start
    #[command(
        after_help = "Examples:\n  routerctl bgp shutdown aws\n  routerctl bgp shutdown 192.0.2.7 --text maintenance\n\n\
        Its routes go at once, here and (RFC 8538) there; those of a hub are kept by a leaf as after any lost \
        session (fail static)."
    )]
    Shutdown {
        /// The neighbour, by name or address
        neighbour: String,
        /// What it is told (RFC 9003), at most 255 octets
        #[arg(long, default_value = "", hide_default_value = true)]
        text: String,
    },
    /// Lets a neighbour back that was shut down
    #[command(after_help = "Example: routerctl bgp enable aws")]
    Enable {
        /// The neighbour, by name or address
        neighbour: String,
    },
    /// Has a neighbour's session begin afresh
    #[command(after_help = "Example: routerctl bgp reset aws\n\n\
        For its routes alone `bgp refresh` is enough. Where both ends keep routes over NOTIFICATIONs (RFC 8538) \
        none goes meanwhile.")]
    Reset {
        /// The neighbour, by name or address
        neighbour: String,
        /// What it is told (RFC 9003), at most 255 octets
        #[arg(long, default_value = "", hide_default_value = true)]
        text: String,
    },
    /// Shows the routes that policy keeps out, each with its reason; on a leaf also what the hub keeps out
    #[command(after_help = "Example: routerctl bgp rejected")]
    Rejected,
    /// Shows the BMP stations and how far they are
    #[command(after_help = "Example: routerctl bgp stations")]
    Stations,
    /// Writes the table to a file that bgpdump and other tools read
    #[command(after_help = "Example: routerctl bgp dump --mrt table.mrt")]
    Dump {
        /// The file, in the format MRT TABLE_DUMP_V2 (RFC 6396)
        #[arg(long, value_name = "FILE")]
        mrt: PathBuf,
    },
}

/// Whose routes, and how many.
#[derive(Debug, Args)]
struct PeerArgs {
    /// The neighbour, by name or address
    neighbour: String,
    /// At most so many routes, the first by prefix
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = limit())]
    limit: u64,
}

fn limit() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=100_000)
}

/// Longest time that a dump may take.
const DUMP_LIMIT: Duration = Duration::from_secs(600);

/// Runs the verb.
pub async fn run(context: &Context, args: BgpArgs) -> Result<Answer, Failure> {
    let client = context.client()?;
    match args.verb {
        BgpVerb::Peers => {
            let peers: Vec<PeerView> = client.get("/v1/bgp/peers").await?;
            context.answer(&peers, |peers| peers_table(peers))
        }
        BgpVerb::Routes { prefix, longer, received_from, limit } => {
            let longer = longer.then(|| "true".to_string());
            let pairs = [
                ("prefix", prefix),
                ("longer", longer),
                ("peer", received_from),
                ("limit", Some(limit.to_string())),
            ];
            page(context, client.get(&with_query("/v1/bgp/routes", &pairs)).await?)
        }
        BgpVerb::Received(peer) => page(context, client.get(&peer.path("/v1/bgp/received")).await?),
        BgpVerb::Advertised(peer) => page(context, client.get(&peer.path("/v1/bgp/advertised")).await?),
        BgpVerb::Refresh { neighbour } => {
            let asked: RefreshView = client.post("/v1/bgp/refresh", &RefreshPeer { peer: neighbour }).await?;
            context.answer(&asked, refreshed)
        }
        BgpVerb::Shutdown { neighbour, text } => {
            let asked = OperatePeer { peer: neighbour, text };
            let done: OperatedView = client.post("/v1/bgp/shutdown", &asked).await?;
            context.answer(&done, |done| {
                let word = if done.changed { "is" } else { "was already" };
                format!(
                    "{} ({}) {word} kept down; `routerctl bgp enable {}` lets it back",
                    done.peer, done.address, done.peer
                )
            })
        }
        BgpVerb::Enable { neighbour } => {
            let asked = OperatePeer { peer: neighbour, text: String::new() };
            let done: OperatedView = client.post("/v1/bgp/enable", &asked).await?;
            context.answer(&done, |done| match done.changed {
                true => format!("{} ({}) may come back", done.peer, done.address),
                false => format!("{} ({}) was not kept down", done.peer, done.address),
            })
        }
        BgpVerb::Reset { neighbour, text } => {
            let asked = OperatePeer { peer: neighbour, text };
            let done: OperatedView = client.post("/v1/bgp/reset", &asked).await?;
            context.answer(&done, |done| {
                format!("the session with {} ({}) begins afresh", done.peer, done.address)
            })
        }
        BgpVerb::Rejected => {
            let rejected: Vec<RejectedView> = client.get("/v1/bgp/rejected").await?;
            context.answer(&rejected, |rejected| rejected_table(rejected))
        }
        BgpVerb::Stations => {
            let stations: Vec<StationView> = client.get("/v1/bgp/stations").await?;
            context.answer(&stations, |stations| stations_table(stations))
        }
        BgpVerb::Dump { mrt } => dump(context, &client, &mrt).await,
    }
}

impl PeerArgs {
    fn path(&self, path: &str) -> String {
        let (peer, limit) = (Some(self.neighbour.clone()), Some(self.limit.to_string()));
        with_query(path, &[("peer", peer), ("limit", limit)])
    }
}

fn refreshed(asked: &RefreshView) -> String {
    let sweep = match asked.enhanced {
        true => "what it does not repeat goes when it has ended (RFC 7313)",
        false => "it does not mark the end, so that what it does not repeat stays",
    };
    let RefreshView { peer, address, families, .. } = asked;
    format!("{peer} ({address}) is asked for {}; {sweep}", families.join(" and "))
}

/// The routes of a page; what the limit left out is remarked beside them.
fn page(context: &Context, page: RoutePage) -> Result<Answer, Failure> {
    if page.total > page.routes.len() {
        let (shown, total) = (page.routes.len(), page.total);
        output::remark(&format!("the first {shown} of {total}; --limit N shows more"));
    }
    context.answer(&page.routes, |routes| routes_table(routes))
}

/// What a dump wrote.
#[derive(Debug, Serialize)]
struct Dumped {
    file: String,
    octets: u64,
}

async fn dump(context: &Context, client: &Client, path: &Path) -> Result<Answer, Failure> {
    let mut file = Growing::start(path)?;
    match client.get_octets("/v1/bgp/mrt", DUMP_LIMIT, |octets| file.append(octets)).await {
        Ok(()) => {
            let dumped = Dumped { file: path.display().to_string(), octets: file.finish()? };
            context.answer(&dumped, |d| format!("{} octets written to {}", d.octets, d.file))
        }
        Err(error) => {
            file.discard();
            Err(error.into())
        }
    }
}

/// A prefix, or an address as its host route.
fn prefix(text: &str) -> Result<String, String> {
    let whole =
        |address: IpAddr| if address.is_ipv4() { format!("{address}/32") } else { format!("{address}/128") };
    match (text.parse::<IpAddr>(), text.parse::<ipnet::IpNet>()) {
        (Ok(address), _) => Ok(whole(address)),
        (_, Ok(net)) => Ok(net.trunc().to_string()),
        _ => Err("no address or prefix; write for example 10.81.10.20 or 10.81.10.20/32".into()),
    }
}

fn peers_table(peers: &[PeerView]) -> String {
    let head = [
        "NAME",
        "ADDRESS",
        "AS",
        "STATE",
        "FOR",
        "BFD",
        "DYNAMIC PEER",
        "ACCEPTED",
        "REJECTED",
        "SENT",
        "LAST ERROR",
    ];
    let mut table = Table::new(head, "No BGP neighbours");
    for peer in peers {
        table.row([
            peer.name.clone(),
            peer.address.to_string(),
            peer.remote_asn.to_string(),
            peer.state.clone(),
            text::seconds(peer.since_secs),
            text::or_dash(&peer.bfd.as_ref().map(|b| b.state.clone())),
            text::or_dash(&peer.dynamic),
            accepted(peer),
            peer.prefixes_rejected.to_string(),
            peer.prefixes_sent.to_string(),
            text::or_dash(&peer.last_error),
        ]);
    }
    table.to_string()
}

/// Accepted prefixes; with the limit, marked when a neighbour is near it.
fn accepted(peer: &PeerView) -> String {
    match peer.prefix_limit {
        Some(limit) if peer.near_prefix_limit => format!("{} of {limit} !", peer.prefixes_accepted),
        _ => peer.prefixes_accepted.to_string(),
    }
}

/// Whether a path is kept from a session that was lost, here or at whoever passed it on.
fn kept(route: &RouteView) -> &'static str {
    match (route.long_lived_stale, route.stale) {
        (true, true) => " (long-lived stale)",
        (true, false) => " (long-lived stale at its sender)",
        (false, true) => " (stale)",
        (false, false) => "",
    }
}

fn routes_table(routes: &[RouteView]) -> String {
    let head = ["", "PREFIX", "NEXT HOP", "PEER", "ORIGINATOR", "CLUSTERS", "PREF", "REASON"];
    let mut table = Table::new(head, "No routes");
    for route in routes {
        let mark = match (route.best, route.accepted) {
            (true, _) => "*",
            _ if route.equal => "=",
            (false, true) => "",
            (false, false) => "x",
        };
        table.row([
            mark.to_string(),
            route.prefix.to_string(),
            route.next_hop.to_string(),
            route.peer.clone(),
            route.originator_id.to_string(),
            text::list(&route.cluster_list),
            route.local_pref.to_string(),
            format!("{}{}", route.reason, kept(route)),
        ]);
    }
    table.to_string()
}

fn rejected_table(rejected: &[RejectedView]) -> String {
    let mut table = Table::new(
        ["PREFIX", "PEER", "ADDRESS", "NEXT HOP", "REASON", "REJECTED BY", "WHY"],
        "No route is kept out",
    );
    for route in rejected {
        table.row([
            route.prefix.to_string(),
            route.peer.clone(),
            text::or_dash(&route.peer_address),
            route.next_hop.to_string(),
            route.reason.as_str().to_string(),
            route.by.clone().unwrap_or_else(|| "this node".into()),
            route.reason.sentence().to_string(),
        ]);
    }
    table.to_string()
}

fn stations_table(stations: &[StationView]) -> String {
    let head =
        ["STATION", "STATE", "SESSIONS", "SENT", "OCTETS", "WAITING", "DROPPED", "OVERFLOWS", "LAST ERROR"];
    let mut table = Table::new(head, "No BMP station is configured");
    for station in stations {
        table.row([
            station.address.to_string(),
            station.state.clone(),
            station.sessions.to_string(),
            station.messages_sent.to_string(),
            text::octets(station.bytes_sent),
            text::octets(station.queued_bytes),
            station.messages_dropped.to_string(),
            station.overflows.to_string(),
            text::or_dash(&station.last_error),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address means its host route; host bits are cut; words are refused.
    #[test]
    fn prefixes() {
        assert_eq!(prefix("10.81.10.20"), Ok("10.81.10.20/32".into()));
        assert_eq!(prefix("10.81.10.20/24"), Ok("10.81.10.0/24".into()));
        assert_eq!(prefix("2001:db8::1"), Ok("2001:db8::1/128".into()));
        assert!(prefix("aws").is_err());
    }

    /// The three tables of the sessions' page, as people see them.
    #[test]
    fn snapshots() {
        let peer: PeerView = serde_json::from_str(include_str!("../../tests/golden/peer.json")).unwrap();
        let route: RouteView = serde_json::from_str(include_str!("../../tests/golden/route.json")).unwrap();
        assert_eq!(peers_table(&[peer]), include_str!("../../tests/golden/peers.txt").trim_end());
        assert_eq!(routes_table(&[route]), include_str!("../../tests/golden/routes.txt").trim_end());
        assert_eq!(rejected_table(&[]), "No route is kept out");
    }
}
