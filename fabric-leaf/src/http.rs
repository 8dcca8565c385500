//! The leaf's administration socket. Handlers translate; the owners decide.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use config::Kind;
use control::explain::RouteAnswer;
use control::server::Refusal;
use control::wire::{
    ApiError, ClaimWord, ConfigView, Done, EnrollProgress, EnrollRequest, EventAnswer, NewEvent, NodeStatus,
    ResourceView, RouteName,
};
use enrollment::view::ClaimView;
use federation::io::Filter;
use federation::view::EventView;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::enroll::api_error;
use crate::membership::{Ask, unix_now};
use crate::run::Leaf;
use crate::words::{Reply, Word};
use crate::{explained, settings, status};

/// How long an enrollment that somebody follows waits for approval; then it goes on in the background.
const APPROVAL_PATIENCE: Duration = Duration::from_secs(90);
/// Steps of an enrollment that may wait for a slow reader.
const PROGRESS_QUEUE: usize = 64;

type Answer<T> = Result<Json<T>, Refusal>;

/// Every route of the administration socket.
pub fn router(leaf: Arc<Leaf>) -> Router {
    let speaker = leaf.speaker.clone();
    let find = Arc::new(move || speaker.borrow().clone());
    let hubs = hubs_reject(&leaf);
    Router::new()
        .route("/v1/status", get(node_status))
        .route("/v1/resources/{kind}", get(resources))
        .route("/v1/config", get(configuration))
        .route("/v1/bgp/explain", get(explain))
        .route("/v1/claims", get(claims))
        .route("/v1/claims/add", post(add_claim))
        .route("/v1/claims/release", post(release_claim))
        .route("/v1/rotate", post(rotate))
        .route("/v1/leave", post(leave))
        .route("/v1/enroll", post(enroll))
        .route("/v1/events", get(events).post(emit))
        .with_state(leaf)
        .merge(control::speaker::router(find, hubs))
}

/// What the hubs say that they reject of this leaf.
fn hubs_reject(leaf: &Leaf) -> control::mine::Rejects {
    let hubs = leaf.hubs.clone();
    Arc::new(move || {
        let hubs = hubs.clone();
        Box::pin(async move { hubs.now().await })
    })
}

async fn node_status(State(leaf): State<Arc<Leaf>>) -> Json<NodeStatus> {
    Json(status::node(&leaf).await)
}

fn config(leaf: &Leaf) -> Result<config::Config, Refusal> {
    let config = settings::load(&leaf.file).map_err(Refusal::internal)?;
    Ok(config::Config::Leaf(Box::new(config)))
}

async fn resources(State(leaf): State<Arc<Leaf>>, Path(kind): Path<String>) -> Answer<Vec<ResourceView>> {
    let kind =
        Kind::from_name(&kind).ok_or_else(|| Refusal::not_found(format!("there is no Kind {kind}")))?;
    Ok(Json(status::resources(&leaf, &config(&leaf)?, kind).await))
}

async fn configuration(State(leaf): State<Arc<Leaf>>) -> Answer<ConfigView> {
    let config = config(&leaf)?;
    let leaf_config = config.leaf();
    Ok(Json(ConfigView {
        file: leaf.file.display().to_string(),
        effective: config.to_yaml(),
        static_peers: leaf_config.map_or(0, |l| l.peers.len()),
        static_claims: leaf_config.map_or(0, |l| l.client.spec.clients.len()),
    }))
}

async fn explain(State(leaf): State<Arc<Leaf>>, Query(name): Query<RouteName>) -> Answer<RouteAnswer> {
    let asked = control::server::asked_route(&name)?;
    Ok(Json(explained::answer(&leaf, asked).await?))
}

async fn claims(State(leaf): State<Arc<Leaf>>) -> Json<Vec<ClaimView>> {
    let state = leaf.membership.borrow().state.clone();
    let now = unix_now();
    let claims = state.iter().flat_map(|s| {
        s.admission.claims.iter().map(|(&address, claim)| ClaimView {
            address,
            owner: s.admission.leaf.clone(),
            generation: claim.generation,
            age_secs: now.saturating_sub(claim.since),
            moving_from: None,
            waits: None,
        })
    });
    Json(claims.collect())
}

fn busy() -> Refusal {
    let message = "other requests to this leaf are under way; wait for them";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "hub-busy", message)
}

/// Hands a word to its owner and waits for the outcome.
async fn told(leaf: &Leaf, word: impl FnOnce(Reply) -> Word) -> Answer<Done> {
    let (reply, outcome) = oneshot::channel();
    leaf.words.try_send(word(reply)).map_err(|_| busy())?;
    let outcome = outcome.await.map_err(|_| Refusal::internal("the leaf is stopping"))?;
    let detail = outcome.map_err(|refusal| {
        let status = StatusCode::from_u16(refusal.code.http_status());
        Refusal(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), api_error(&refusal))
    })?;
    Ok(Json(Done { changed: true, detail }))
}

async fn add_claim(State(leaf): State<Arc<Leaf>>, Json(word): Json<ClaimWord>) -> Answer<Done> {
    told(&leaf, |reply| Word::Claim(word.address, reply)).await
}

async fn release_claim(State(leaf): State<Arc<Leaf>>, Json(word): Json<ClaimWord>) -> Answer<Done> {
    told(&leaf, |reply| Word::Release(word.address, reply)).await
}

async fn rotate(State(leaf): State<Arc<Leaf>>) -> Answer<Done> {
    told(&leaf, Word::Rotate).await
}

async fn leave(State(leaf): State<Arc<Leaf>>) -> Answer<Done> {
    told(&leaf, Word::Leave).await
}

async fn enroll(State(leaf): State<Arc<Leaf>>, Json(request): Json<EnrollRequest>) -> Response {
    let (progress, lines) = mpsc::channel(PROGRESS_QUEUE);
    let ask = Ask { request, progress, patience: APPROVAL_PATIENCE };
    if leaf.words.try_send(Word::Enroll(ask)).is_err() {
        return busy().into_response();
    }
    let lines = futures_util::stream::unfold(lines, |mut lines| async {
        let line: EnrollProgress = lines.recv().await?;
        let text = serde_json::to_string(&line).map(|text| Bytes::from(text + "\n"));
        Some((text, lines))
    });
    Body::from_stream(lines).into_response()
}

async fn emit(State(leaf): State<Arc<Leaf>>, Json(event): Json<NewEvent>) -> Answer<EventAnswer> {
    let source = match leaf.membership.borrow().state.as_ref() {
        Some(state) => state.admission.leaf.to_string(),
        None => return Err(Refusal::new(StatusCode::CONFLICT, "not-enrolled", "this leaf is not enrolled")),
    };
    let new = federation::io::NewEvent {
        source_node: source,
        event_type: event.event_type,
        subject: event.subject,
        payload: event.payload,
        id: event.id,
        expires_secs: event.expires_secs,
    };
    let refused = |refusal| event_refused(StatusCode::UNPROCESSABLE_ENTITY, refusal);
    let emitted = leaf.federation.emit(new).await.map_err(refused)?;
    Ok(Json(EventAnswer { id: emitted.id, outcome: emitted.outcome.as_str().into() }))
}

/// An event, or a question about events, that is refused: with its code and what to do about it.
fn event_refused(status: StatusCode, refusal: federation::reason::Refusal) -> Refusal {
    let (code, fix) = (refusal.code().to_string(), Some(refusal.fix().to_string()));
    Refusal(status, ApiError { code, message: refusal.to_string(), fix })
}

/// Narrows the list of events.
#[derive(Debug, Deserialize)]
struct EventQuery {
    #[serde(rename = "type")]
    event_type: Option<String>,
    limit: Option<u32>,
}

async fn events(State(leaf): State<Arc<Leaf>>, Query(query): Query<EventQuery>) -> Answer<Vec<EventView>> {
    let limit = query.limit.unwrap_or(100).min(10_000);
    let refused = |refusal| event_refused(StatusCode::BAD_REQUEST, refusal);
    let event_type = query.event_type.as_deref().map(str::parse).transpose().map_err(refused)?;
    let found = leaf.federation.list(Filter { event_type, limit, ..Filter::default() }).await;
    Ok(Json(found.map_err(refused)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who asks with a type that does not exist is told so with the event's code and its fix.
    #[test]
    fn a_refused_event_is_told_with_its_fix() {
        let unknown = "routerd.client.ipv9".parse::<federation::event::EventType>().unwrap_err();
        let Refusal(status, told) = event_refused(StatusCode::BAD_REQUEST, unknown);
        assert_eq!((status, told.code.as_str()), (StatusCode::BAD_REQUEST, "event-type-unknown"));
        assert!(told.message.contains("routerd.client.ipv9"), "{}", told.message);
        assert_eq!(told.fix.as_deref(), Some(federation::reason::ReasonCode::TypeUnknown.fix()));
    }
}
