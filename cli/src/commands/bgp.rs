//! `routerctl bgp`: sessions, routes, and what policy keeps out.

use std::net::IpAddr;

use ::bgp::view::{PeerView, RejectedView, RouteView};
use clap::{Args, Subcommand};

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::output::Answer;
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
        after_help = "Examples:\n  routerctl bgp routes\n  routerctl bgp routes 10.81.10.20 --peer 10.255.0.2"
    )]
    Routes {
        /// Only this prefix, or the address' /32
        #[arg(value_parser = prefix)]
        prefix: Option<String>,
        /// Only routes of the neighbour with this address
        #[arg(long, value_name = "ADDRESS")]
        peer: Option<IpAddr>,
    },
    /// Shows the routes that policy keeps out, each with its reason
    #[command(after_help = "Example: routerctl bgp rejected")]
    Rejected,
}

/// Runs the verb.
pub async fn run(context: &Context, args: BgpArgs) -> Result<Answer, Failure> {
    let client = context.client()?;
    match args.verb {
        BgpVerb::Peers => {
            let peers: Vec<PeerView> = client.get("/v1/bgp/peers").await?;
            context.answer(&peers, |peers| peers_table(peers))
        }
        BgpVerb::Routes { prefix, peer } => {
            let path =
                with_query("/v1/bgp/routes", &[("prefix", prefix), ("peer", peer.map(|p| p.to_string()))]);
            let routes: Vec<RouteView> = client.get(&path).await?;
            context.answer(&routes, |routes| routes_table(routes))
        }
        BgpVerb::Rejected => {
            let rejected: Vec<RejectedView> = client.get("/v1/bgp/rejected").await?;
            context.answer(&rejected, |rejected| rejected_table(rejected))
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
            peer.prefixes_accepted.to_string(),
            peer.prefixes_rejected.to_string(),
            peer.prefixes_sent.to_string(),
            text::or_dash(&peer.last_error),
        ]);
    }
    table.to_string()
}

fn routes_table(routes: &[RouteView]) -> String {
    let head = ["", "PREFIX", "NEXT HOP", "PEER", "ORIGINATOR", "CLUSTERS", "PREF", "REASON"];
    let mut table = Table::new(head, "No routes");
    for route in routes {
        let mark = match (route.best, route.accepted) {
            (true, _) => "*",
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
            format!("{}{}", route.reason, if route.stale { " (stale)" } else { "" }),
        ]);
    }
    table.to_string()
}

fn rejected_table(rejected: &[RejectedView]) -> String {
    let mut table = Table::new(["PREFIX", "PEER", "ADDRESS", "NEXT HOP", "REASON"], "No route is kept out");
    for route in rejected {
        table.row([
            route.prefix.to_string(),
            route.peer.clone(),
            text::or_dash(&route.peer_address),
            route.next_hop.to_string(),
            route.reason.as_str().to_string(),
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
