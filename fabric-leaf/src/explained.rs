//! `routerctl route explain` on a leaf: the speaker's part, the tunnels' part, and the kernel's own word.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::http::StatusCode;
use bgp::explain::{Asked, CandidateView, Explanation, Verdict};
use bgp::types::Prefix;
use control::explain::{HubRejection, Installed, KernelView, RouteAnswer, Standing, next_hops};
use control::server::Refusal;
use dataplane::view::{Carrier, KernelRouteView, Report};
use enrollment::topology::Admission;

use crate::leaf;
use crate::run::Leaf;

/// Longest wait for the kernel's answer.
const KERNEL_LIMIT: Duration = Duration::from_secs(5);

/// The leaf's answer about one route.
pub async fn answer(leaf: &Leaf, asked: Asked) -> Result<RouteAnswer, Refusal> {
    let not_enrolled = || Refusal::new(StatusCode::CONFLICT, "not-enrolled", "this leaf is not enrolled");
    let speaker = leaf.speaker.borrow().clone().ok_or_else(not_enrolled)?;
    let state = leaf.membership.borrow().state.clone().ok_or_else(not_enrolled)?;
    let bgp = speaker.explain(asked).await.ok_or_else(|| Refusal::internal("the speaker has ended"))?;
    let report = leaf.dataplane.report().borrow().clone();
    let admission = &state.admission;
    let overlay = admission.topology.overlay_prefix;
    let standing = Standing { own: admission.overlay, overlay, report: &report };
    let next_hops = next_hops(&bgp, Some(standing));
    let routes = match bgp.prefix.addr() {
        IpAddr::V4(address) => kernel_routes(address).await,
        IpAddr::V6(_) => Ok(Vec::new()),
    };
    let kernel = match routes {
        Ok(routes) => kernel(&bgp, admission, &report, routes),
        Err(error) => KernelView::of(Installed::No, format!("the kernel's routes cannot be read: {error}")),
    };
    let own = bgp.candidates.iter().any(|c| c.path.peer == "local");
    let said = if own { leaf.hubs.now().await } else { Vec::new() };
    let hub_rejections = HubRejection::about(bgp.prefix, &said);
    Ok(RouteAnswer { role: "leaf".into(), bgp, next_hops, kernel, hub_rejections })
}

async fn kernel_routes(address: Ipv4Addr) -> std::io::Result<Vec<KernelRouteView>> {
    let asked = tokio::time::timeout(KERNEL_LIMIT, dataplane::io::kernel_routes(address)).await;
    asked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// What the kernel has for the prefix, beside what it should have.
pub fn kernel(
    bgp: &Explanation,
    admission: &Admission,
    report: &Report,
    routes: Vec<KernelRouteView>,
) -> KernelView {
    let (state, why) = judge(bgp, admission, report, &routes);
    let in_process = report.dataplane == Carrier::InProcess && state == Installed::Yes;
    let ours = report.routes.iter().find(|r| same(r.prefix, bgp.prefix));
    let ours = ours.filter(|_| in_process);
    let wrapped_to = ours.and_then(|r| r.owner);
    let wrapped_also = ours.map(|r| r.owners_also.clone()).unwrap_or_default();
    KernelView { state, why, routes, wrapped_to, wrapped_also }
}

/// Whether the dataplane's prefix is BGP's.
fn same(net: ipnet::Ipv4Net, prefix: Prefix) -> bool {
    prefix.addr() == IpAddr::V4(net.network()) && prefix.prefix_len() == net.prefix_len()
}

fn judge(
    bgp: &Explanation,
    admission: &Admission,
    report: &Report,
    routes: &[KernelRouteView],
) -> (Installed, String) {
    let Some(best) = bgp.candidates.iter().find(|c| c.verdict == Verdict::Chosen) else {
        return (Installed::NotNeeded, "no path is chosen".into());
    };
    if best.path.peer == "local" {
        return (Installed::NotNeeded, "an own client: the site's own routing delivers".into());
    }
    if let Some(why) = unwanted(bgp.prefix, best, admission) {
        return (Installed::Refused, why.into());
    }
    let same = |net| same(net, bgp.prefix);
    if let Some(rejected) = report.routes_rejected.iter().find(|r| same(r.prefix)) {
        let why = format!("it would cover {}, which is protected ({})", rejected.protects, rejected.reason);
        return (Installed::Refused, why);
    }
    match routes.first() {
        Some(first) if first.ours && same(first.prefix) => {
            (Installed::Yes, format!("carried by the {} dataplane", report.dataplane))
        }
        _ if routes.iter().any(|r| r.ours && same(r.prefix)) => {
            (Installed::No, "our route is there, but another one is preferred".into())
        }
        _ => {
            let error = report.last_error.as_deref().unwrap_or("the dataplane is about to install it");
            (Installed::No, format!("absent: {error}"))
        }
    }
}

/// Why the best path makes no route here.
fn unwanted(prefix: Prefix, best: &CandidateView, admission: &Admission) -> Option<&'static str> {
    leaf::unwanted(admission, prefix, best.path.next_hop.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::tests::admission;
    use bgp::settings::{Originated, SpeakerConfig};
    use bgp::speaker::Speaker;
    use dataplane::view::RejectedRouteView;

    fn explained(prefix: &str, next_hop: [u8; 4]) -> Explanation {
        let mut speaker = Speaker::new(SpeakerConfig::new(64512, Ipv4Addr::new(10, 255, 0, 2)), 1, 0);
        let prefix: Prefix = prefix.parse().unwrap();
        speaker.originate(vec![Originated::new(prefix, next_hop.into())]);
        speaker.flush();
        let mut all = speaker.explain(Asked::Prefix(prefix), 0);
        // As if a neighbour had sent it.
        all.candidates[0].path.peer = "hub".into();
        all
    }

    fn route(prefix: &str, ours: bool) -> KernelRouteView {
        KernelRouteView {
            prefix: prefix.parse().unwrap(),
            device: Some("fab-tun".into()),
            gateway: None,
            tunnel_to: None,
            tunnel_also: Vec::new(),
            source: None,
            mtu: 0,
            advmss: 0,
            metric: 0,
            protocol: if ours { 84 } else { 2 },
            ours,
        }
    }

    /// The kernel's word counts: a missing route, a hidden one, a refused one and one that makes no route differ.
    #[test]
    fn the_kernels_word_counts() {
        let admission = admission(&[Ipv4Addr::new(10, 81, 10, 20)]);
        let prefix = "10.82.10.20/32";
        let bgp = explained(prefix, [10, 255, 0, 3]);
        let state = |report: &Report, routes: &[KernelRouteView]| {
            kernel(&bgp, &admission, report, routes.to_vec()).state
        };
        let report = Report::default();
        assert_eq!(state(&report, &[route(prefix, true), route("0.0.0.0/0", false)]), Installed::Yes);
        assert_eq!(state(&report, &[route(prefix, false), route(prefix, true)]), Installed::No, "hidden");
        assert_eq!(state(&report, &[route("0.0.0.0/0", false)]), Installed::No, "absent");
        let reason = dataplane::route::ProtectedPrefix::Endpoint;
        let rejected =
            RejectedRouteView { prefix: prefix.parse().unwrap(), reason, protects: prefix.parse().unwrap() };
        let protected = Report { routes_rejected: vec![rejected], ..Report::default() };
        assert_eq!(state(&protected, &[]), Installed::Refused);
        for (prefix, next_hop) in [
            ("10.82.0.0/24", [10, 255, 0, 3]),
            ("10.81.10.20/32", [10, 255, 0, 3]),
            ("10.82.10.20/32", [192, 0, 2, 1]),
            ("10.82.10.20/32", [10, 255, 0, 2]),
        ] {
            let found = kernel(&explained(prefix, next_hop), &admission, &report, Vec::new());
            assert_eq!(found.state, Installed::Refused, "{prefix} {next_hop:?}: {}", found.why);
        }
    }
}
