//! `routerctl route explain`: one route from its source to the kernel.

use std::net::IpAddr;

use ::bgp::explain::{CandidateView, StepView, Verdict};
use clap::{Args, Subcommand};
use control::explain::{Installed, KernelView, NextHopView, Resolution, RouteAnswer};
use dataplane::view::KernelRouteView;

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

#[cfg(test)]
mod tests;

/// Words of `route`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl route explain 10.81.10.20")]
pub struct RouteArgs {
    #[command(subcommand)]
    verb: RouteVerb,
}

#[derive(Debug, Subcommand)]
enum RouteVerb {
    /// Says where a route came from, which path was chosen by which step, who is told, and what the kernel has
    #[command(
        after_help = "Examples:\n  routerctl route explain 10.81.10.20\n  routerctl route explain 10.81.10.20/32 -o json\n\n\
        An address means the most specific prefix that covers it.\n\
        Exit code 1 when no path is chosen, its next hop does not resolve, the kernel has no such route, or a hub\n\
        rejects a leaf's own route."
    )]
    Explain {
        /// A prefix, or an address
        #[arg(value_name = "PREFIX|ADDRESS", value_parser = prefix_or_address)]
        route: String,
    },
}

/// Runs the verb.
pub async fn run(context: &Context, args: RouteArgs) -> Result<Answer, Failure> {
    let RouteVerb::Explain { route } = args.verb;
    let path = with_query("/v1/bgp/explain", &[("prefix", Some(route))]);
    let answer: RouteAnswer = context.client()?.get(&path).await?;
    context.judged(answer.good(), &answer, people)
}

fn prefix_or_address(text: &str) -> Result<String, String> {
    match (text.parse::<IpAddr>(), text.parse::<ipnet::IpNet>()) {
        (Ok(address), _) => Ok(address.to_string()),
        (_, Ok(net)) => Ok(net.trunc().to_string()),
        _ => Err("no address or prefix; write for example 10.81.10.20 or 10.81.10.20/32".into()),
    }
}

/// The answer as a page.
fn people(answer: &RouteAnswer) -> String {
    let bgp = &answer.bgp;
    let mut pairs = vec![("route", bgp.prefix.to_string()), ("outcome", bgp.outcome.clone())];
    if let Some(step) = &bgp.decided_by {
        pairs.push((
            "decided by",
            format!("{}: {} before {}, {}", step.step, step.had, step.against, step.rule),
        ));
    }
    if bgp.candidates.iter().any(|c| c.verdict == Verdict::Chosen) {
        pairs.push(("told", text::list(&bgp.advertised_to)));
    }
    for withheld in &bgp.withheld_from {
        pairs.push(("not told", format!("{}: {}", withheld.peer, withheld.why)));
    }
    pairs.extend(answer.next_hops.iter().map(|n| ("next hop", next_hop(n))));
    pairs.push(("kernel", kernel(&answer.kernel)));
    for rejection in &answer.hub_rejections {
        let said = format!("{} rejects it: {} ({})", rejection.hub, rejection.why, rejection.reason.as_str());
        pairs.push(("at the hub", said));
    }
    let mut parts = vec![text::pairs(&pairs)];
    if !bgp.candidates.is_empty() {
        parts.push(candidates(&bgp.candidates));
    }
    if !answer.kernel.routes.is_empty() {
        parts.push(kernel_routes(&answer.kernel.routes));
    }
    parts.join("\n\n")
}

fn candidates(all: &[CandidateView]) -> String {
    let head = [
        "",
        "FROM",
        "NEXT HOP",
        "ORIGINATOR",
        "CLUSTERS",
        "PREF",
        "MED",
        "ORIGIN",
        "AS PATH",
        "COMMUNITIES",
        "VERDICT",
    ];
    let mut table = Table::new(head, "No path");
    for candidate in all {
        let path = &candidate.path;
        let mark = match candidate.verdict {
            Verdict::Chosen => "*",
            Verdict::Equal => "=",
            Verdict::Lost => "",
            Verdict::Rejected => "x",
        };
        let from = path.peer_address.map_or(path.peer.clone(), |a| match path.peer == a.to_string() {
            true => path.peer.clone(),
            false => format!("{} ({a})", path.peer),
        });
        table.row([
            mark.into(),
            from,
            path.next_hop.to_string(),
            path.originator_id.to_string(),
            text::list(&path.cluster_list),
            path.local_pref.to_string(),
            text::or_dash(&path.med),
            path.origin.clone(),
            if path.as_path.is_empty() { "-".into() } else { path.as_path.clone() },
            text::list(&path.communities),
            verdict(candidate),
        ]);
    }
    table.to_string()
}

fn verdict(candidate: &CandidateView) -> String {
    let stale = match (candidate.path.long_lived_stale, candidate.path.stale) {
        (true, true) => " (long-lived stale: kept beyond the restart time)",
        (true, false) => " (long-lived stale: its sender keeps it from a lost session)",
        (false, true) => " (stale: kept from a lost session)",
        (false, false) => "",
    };
    let text = match (&candidate.rejected, &candidate.lost_at) {
        (Some(r), _) => {
            let times = if r.count == 1 { "once".into() } else { format!("{} times", r.count) };
            format!("rejected {times} in {}: {} ({})", text::seconds(r.since_secs), r.why, r.reason.as_str())
        }
        (_, Some(StepView { step, .. })) if candidate.verdict == Verdict::Equal => {
            format!("equal, used beside the chosen one (not the {step})")
        }
        (_, Some(StepView { step, rule, had, against })) => {
            format!("lost at {step}: {had} against {against} ({rule})")
        }
        _ => "chosen".into(),
    };
    text + stale
}

fn next_hop(view: &NextHopView) -> String {
    let state = match view.state {
        Resolution::Own => "this node itself",
        Resolution::Resolved => "resolves",
        Resolution::Unresolved => "does not resolve",
        Resolution::NotAsked => "not asked",
    };
    let through = view.through.as_ref().map(|t| {
        let endpoint = t.endpoint.map(|e| format!(" at {e}")).unwrap_or_default();
        let handshake = t.handshake_secs.map(|s| format!(", handshake {} ago", text::seconds(s)));
        let handshake = handshake.unwrap_or_default();
        format!(" through {} peer {}{endpoint} ({}{handshake})", t.device, t.peer, t.prefix)
    });
    let why = view.why.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
    format!("{} {state}{}{why}", view.next_hop, through.unwrap_or_default())
}

fn kernel(view: &KernelView) -> String {
    let state = match view.state {
        Installed::Yes => "installed",
        Installed::No => "missing",
        Installed::Refused => "refused",
        Installed::NotNeeded => "nothing to install",
    };
    let all: Vec<_> = view.wrapped_to.iter().chain(&view.wrapped_also).collect();
    let wrapped = (!all.is_empty()).then(|| format!("; this process wraps packets to {}", text::list(&all)));
    format!("{state}: {}{}", view.why, wrapped.unwrap_or_default())
}

fn kernel_routes(routes: &[KernelRouteView]) -> String {
    let head =
        ["", "KERNEL ROUTE", "DEVICE", "VIA", "IPIP TO", "SOURCE", "MTU", "ADVMSS", "METRIC", "PROTOCOL"];
    let mut table = Table::new(head, "No route");
    let number = |n: u32| if n == 0 { "-".to_string() } else { n.to_string() };
    for (n, route) in routes.iter().enumerate() {
        table.row([
            if n == 0 { "*" } else { "" }.into(),
            route.prefix.to_string(),
            text::or_dash(&route.device),
            text::or_dash(&route.gateway),
            text::list(route.tunnel_to.iter().chain(&route.tunnel_also).collect::<Vec<_>>()),
            text::or_dash(&route.source),
            number(route.mtu),
            number(route.advmss),
            route.metric.to_string(),
            if route.ours { "fabric".into() } else { route.protocol.to_string() },
        ]);
    }
    table.to_string()
}
