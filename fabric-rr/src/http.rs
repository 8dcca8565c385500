//! The hub's administration socket. Handlers translate; the owners decide.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use config::Kind;
use control::explain::RouteAnswer;
use control::server::Refusal;
use control::wire::{
    ApiError, AuditPage, ConfigView, Done, HistoryFilter, InviteAnswer, MoveClaim, NewHubInvite, NewInvite,
    NodeStatus, ResourceView, RouteName,
};
use enrollment::approval::Verdict;
use enrollment::reason::ReasonCode;
use enrollment::view::ClaimHistoryView;

use crate::run::{Enrolled, Hub};
use crate::status;

type Answer<T> = Result<Json<T>, Refusal>;

/// Every route of the administration socket.
pub fn router(hub: Arc<Hub>) -> Router {
    let speaker = hub.speaker.clone();
    let find = Arc::new(move || Some(speaker.clone()));
    Router::new()
        .route("/v1/status", get(node_status))
        .route("/v1/resources/{kind}", get(resources))
        .route("/v1/config", get(configuration))
        .route("/v1/bgp/explain", get(explain))
        .route("/v1/invites", get(invites).post(invite))
        .route("/v1/invites/{id}/revoke", post(revoke_invite))
        .route("/v1/leaves", get(leaves))
        .route("/v1/pending", get(pending))
        .route("/v1/pending/{what}/approve", post(approve))
        .route("/v1/pending/{what}/deny", post(deny))
        .route("/v1/leaves/{name}/revoke", post(revoke))
        .route("/v1/claims", get(claims))
        .route("/v1/hubs/invite", post(invite_hub))
        .route("/v1/hubs/{name}/retire", post(retire_hub))
        .route("/v1/audit", get(audit))
        .route("/v1/audit/verify", get(verify_audit))
        .route("/v1/claims/history", get(history))
        .route("/v1/claims/move", post(move_claim))
        .with_state(hub)
        .merge(control::speaker::router(find, control::mine::no_hubs()))
}

async fn node_status(State(hub): State<Arc<Hub>>) -> Json<NodeStatus> {
    Json(status::node(&hub).await)
}

async fn resources(State(hub): State<Arc<Hub>>, Path(kind): Path<String>) -> Answer<Vec<ResourceView>> {
    let kind =
        Kind::from_name(&kind).ok_or_else(|| Refusal::not_found(format!("there is no Kind {kind}")))?;
    Ok(Json(status::resources(&hub, kind).await))
}

async fn configuration(State(hub): State<Arc<Hub>>) -> Json<ConfigView> {
    Json(ConfigView {
        file: hub.file.display().to_string(),
        effective: hub.effective.to_yaml(),
        static_peers: hub.config.peers.len(),
        // No Kind of a hub can name a client's address: claims live in the registry alone.
        static_claims: hub
            .effective
            .effective()
            .iter()
            .filter(|r| r.kind == Kind::SamEnrollmentClient)
            .count(),
    })
}

async fn explain(State(hub): State<Arc<Hub>>, Query(name): Query<RouteName>) -> Answer<RouteAnswer> {
    let asked = control::server::asked_route(&name)?;
    let bgp = hub.speaker.explain(asked).await.ok_or_else(|| Refusal::internal("the speaker has ended"))?;
    let report = hub.enrolled.as_ref().map(|e| e.dataplane.report().borrow().clone());
    let standing = hub.enrolled.as_ref().zip(report.as_ref()).map(|(e, report)| {
        let (own, overlay) = (e.settings.overlay, e.settings.overlay_prefix);
        control::explain::Standing { own, overlay, report }
    });
    let next_hops = control::explain::next_hops(&bgp, standing);
    let (role, why) = match standing {
        Some(_) => ("hub", "a hub relays overlay packets and needs no client route"),
        None => ("reflector", "a plain reflector installs nothing"),
    };
    let kernel = control::explain::KernelView::not_needed(why);
    Ok(Json(RouteAnswer { role: role.into(), bgp, next_hops, kernel, hub_rejections: Vec::new() }))
}

fn enrolled(hub: &Hub) -> Result<&Enrolled, Refusal> {
    let message = "this is a plain reflector: its configuration has no SAMEnrollmentPolicy";
    hub.enrolled.as_ref().ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "no-enrollment", message))
}

fn policy(hub: &Hub) -> Result<&config::SamEnrollmentPolicy, Refusal> {
    let enrollment = hub.config.enrollment.as_ref();
    enrollment.map(|e| &e.policy.spec).ok_or_else(|| Refusal::internal("the SAMEnrollmentPolicy is gone"))
}

async fn invite(State(hub): State<Arc<Hub>>, Json(wanted): Json<NewInvite>) -> Answer<InviteAnswer> {
    let enrolled = enrolled(&hub)?;
    let site =
        wanted.site.parse().map_err(|e| Refusal::bad_request(format!("site {:?}: {e}", wanted.site)))?;
    let mut order = enrollment::policy::InviteOrder::for_site(site);
    order.permitted = match wanted.permitted.is_empty() {
        true => policy(&hub)?.permitted_prefixes.clone(),
        false => wanted
            .permitted
            .iter()
            .map(|p| p.parse().map_err(|_| Refusal::bad_request(format!("{p:?} is no IPv4 prefix"))))
            .collect::<Result<_, _>>()?,
    };
    order.max_claims = wanted.max_claims.unwrap_or(policy(&hub)?.max_claims);
    order.expires_in_secs = wanted.expires_secs;
    order.uses = wanted.uses;
    order.approve = wanted.approve;
    order.replace = wanted.replace;
    order.sources = wanted
        .sources
        .iter()
        .map(|s| s.parse().map_err(|_| Refusal::bad_request(format!("{s:?} is no prefix"))))
        .collect::<Result<_, _>>()?;
    let invite = enrolled.registry.create_invite(order).await.map_err(refused)?;
    // The invited machine's tunnel must be there before anybody can use the string.
    let generation = enrolled.registry.snapshot().generation;
    enrolled.applied(generation).await;
    Ok(Json(InviteAnswer {
        invite: invite.encode().to_string(),
        id: invite.id.to_string(),
        site: invite.site.to_string(),
        expires_secs: wanted.expires_secs,
    }))
}

async fn invite_hub(State(hub): State<Arc<Hub>>, Json(wanted): Json<NewHubInvite>) -> Answer<InviteAnswer> {
    let enrolled = enrolled(&hub)?;
    let name = wanted.name.parse();
    let name = name.map_err(|e| Refusal::bad_request(format!("name {:?}: {e}", wanted.name)))?;
    let invite = enrolled.registry.create_hub_invite(name, wanted.expires_secs).await.map_err(refused)?;
    enrolled.applied(enrolled.registry.snapshot().generation).await;
    Ok(Json(InviteAnswer {
        invite: invite.encode().to_string(),
        id: invite.id.to_string(),
        site: invite.site.to_string(),
        expires_secs: wanted.expires_secs,
    }))
}

async fn retire_hub(State(hub): State<Arc<Hub>>, Path(name): Path<String>) -> Answer<Done> {
    let enrolled = enrolled(&hub)?;
    let parsed = name.parse().map_err(|e| Refusal::bad_request(format!("hub {name:?}: {e}")))?;
    let generation = enrolled.registry.retire_hub(parsed).await.map_err(refused)?;
    enrolled.applied(generation).await;
    Ok(Json(Done { changed: true, detail: format!("hub {name} is retired; another one can join") }))
}

async fn invites(State(hub): State<Arc<Hub>>) -> Answer<Vec<enrollment::view::InviteView>> {
    Ok(Json(enrolled(&hub)?.registry.view().await.map_err(refused)?.invites))
}

async fn revoke_invite(State(hub): State<Arc<Hub>>, Path(id): Path<String>) -> Answer<Done> {
    let parsed = id.parse().map_err(|e| Refusal::bad_request(format!("invite {id:?}: {e}")))?;
    enrolled(&hub)?.registry.revoke_invite(parsed).await.map_err(refused)?;
    Ok(Json(Done { changed: true, detail: format!("invite {id} is revoked") }))
}

async fn pending(State(hub): State<Arc<Hub>>) -> Answer<Vec<enrollment::view::PendingView>> {
    Ok(Json(enrolled(&hub)?.registry.view().await.map_err(refused)?.pending))
}

async fn approve(hub: State<Arc<Hub>>, what: Path<String>) -> Answer<Done> {
    decide(hub, what, Verdict::Approved, "approved; it goes on by itself").await
}

async fn deny(hub: State<Arc<Hub>>, what: Path<String>) -> Answer<Done> {
    decide(hub, what, Verdict::Denied, "denied").await
}

async fn decide(
    State(hub): State<Arc<Hub>>,
    Path(what): Path<String>,
    verdict: Verdict,
    word: &str,
) -> Answer<Done> {
    let outcome = enrolled(&hub)?.registry.decide_pending(what, verdict).await;
    let (changed, fingerprint) = outcome.map_err(refused)?;
    Ok(Json(Done { changed, detail: format!("{fingerprint} is {word}") }))
}

async fn leaves(State(hub): State<Arc<Hub>>) -> Answer<Vec<enrollment::view::LeafView>> {
    let mut leaves = enrolled(&hub)?.registry.view().await.map_err(refused)?.leaves;
    let peers = hub.speaker.peers().await;
    let states: std::collections::HashMap<_, _> =
        peers.iter().map(|p| (p.address, p.state.clone())).collect();
    for leaf in &mut leaves {
        let state = states.get(&std::net::IpAddr::V4(leaf.overlay)).cloned();
        leaf.session = Some(state.unwrap_or_else(|| "none".into()));
    }
    Ok(Json(leaves))
}

async fn claims(State(hub): State<Arc<Hub>>) -> Answer<Vec<enrollment::view::ClaimView>> {
    Ok(Json(enrolled(&hub)?.registry.view().await.map_err(refused)?.claims))
}

async fn audit(
    State(hub): State<Arc<Hub>>,
    Query(page): Query<AuditPage>,
) -> Answer<Vec<enrollment::view::AuditEntryView>> {
    Ok(Json(enrolled(&hub)?.registry.audit(page.limit).await.map_err(refused)?))
}

async fn verify_audit(State(hub): State<Arc<Hub>>) -> Answer<enrollment::view::AuditReport> {
    Ok(Json(enrolled(&hub)?.registry.verify_audit().await.map_err(refused)?))
}

async fn history(
    State(hub): State<Arc<Hub>>,
    Query(q): Query<HistoryFilter>,
) -> Answer<Vec<ClaimHistoryView>> {
    let limit = q.limit.unwrap_or(100).min(10_000);
    Ok(Json(enrolled(&hub)?.registry.claim_history(q.address, limit).await.map_err(refused)?))
}

async fn move_claim(State(hub): State<Arc<Hub>>, Json(wanted): Json<MoveClaim>) -> Answer<Done> {
    let enrolled = enrolled(&hub)?;
    let MoveClaim { address, to } = wanted;
    let leaf = to.parse().map_err(|e| Refusal::bad_request(format!("leaf {to:?}: {e}")))?;
    let changed = enrolled.registry.move_claim(address, leaf).await.map_err(refused)?;
    let detail = match changed {
        Some(generation) => {
            enrolled.applied(generation).await;
            format!("{address} is {to}'s now; the former owner's route stays until the new one is there")
        }
        None => format!("{address} was {to}'s before"),
    };
    Ok(Json(Done { changed: changed.is_some(), detail }))
}

async fn revoke(State(hub): State<Arc<Hub>>, Path(name): Path<String>) -> Answer<Done> {
    let enrolled = enrolled(&hub)?;
    let leaf: enrollment::identity::LeafName =
        name.parse().map_err(|e| Refusal::bad_request(format!("leaf {name:?}: {e}")))?;
    let generation = enrolled.registry.revoke(leaf).await.map_err(refused)?;
    enrolled.applied(generation).await;
    Ok(Json(Done { changed: true, detail: format!("{name} is revoked") }))
}

/// The registry's refusal, with the code that it has everywhere.
fn refused(refusal: enrollment::reason::Refusal) -> Refusal {
    let code = refusal.code;
    let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // What an operator does about it may differ from what somebody at a leaf does.
    let fix = match code {
        ReasonCode::LeafUnknown => "see `routerctl leaves` for the names of the leaves",
        other => other.fix(),
    };
    let error = ApiError { code: code.as_str().into(), message: refusal.message, fix: Some(fix.into()) };
    Refusal(status, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operator reads the code once, and is not sent to a leaf for a name that he has mistyped.
    #[test]
    fn a_refusal_speaks_to_the_operator() {
        let Refusal(status, error) =
            refused(enrollment::reason::Refusal::new(ReasonCode::LeafUnknown, "there is no leaf awz"));
        assert_eq!((status, error.code.as_str()), (StatusCode::NOT_FOUND, "leaf-unknown"));
        assert_eq!(error.message, "there is no leaf awz");
        assert!(error.fix.is_some_and(|fix| fix.contains("routerctl leaves")));
    }
}
