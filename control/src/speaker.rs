//! What both daemons answer of their BGP speaker on the administration socket.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bgp::io::{Speaker, TableDump};
use bgp::speaker::{OperateError, RefreshError, TEXT_MAX};
use bgp::types::Prefix;
use bgp::view::{OperatedView, PeerView, RefreshView, RejectedView, RoutePage, RouteQuery, StationView};

use crate::mine::Rejects;
use crate::server::Refusal;
use crate::wire::{OperatePeer, PeerRoutes, RefreshPeer, RouteFilter};

/// Finds the speaker of now; none before a leaf is enrolled.
pub type Find = Arc<dyn Fn() -> Option<Speaker> + Send + Sync>;

type Answer<T> = Result<Json<T>, Refusal>;

/// Routes that an answer holds unless a limit is given.
const LIMIT: usize = 1_000;
/// Routes that an answer holds at most.
const MAX_LIMIT: usize = 100_000;

/// The part of the administration socket that is about the speaker.
pub fn router(find: Find, hubs: Rejects) -> Router {
    let rejected = get(move |State(find): State<Find>| rejected(find, hubs.clone()));
    Router::new()
        .route("/v1/bgp/peers", get(peers))
        .route("/v1/bgp/routes", get(routes))
        .route("/v1/bgp/received", get(received))
        .route("/v1/bgp/advertised", get(advertised))
        .route("/v1/bgp/rejected", rejected)
        .route("/v1/bgp/refresh", post(refresh))
        .route("/v1/bgp/shutdown", post(shutdown))
        .route("/v1/bgp/enable", post(enable))
        .route("/v1/bgp/reset", post(reset))
        .route("/v1/bgp/mrt", get(mrt))
        .route("/v1/bgp/stations", get(stations))
        .with_state(find)
}

fn there(find: &Find) -> Result<Speaker, Refusal> {
    let message = "there is no BGP speaker yet: this leaf is not enrolled";
    find().ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "not-enrolled", message))
}

async fn peers(State(find): State<Find>) -> Json<Vec<PeerView>> {
    Json(match find() {
        Some(speaker) => speaker.peers().await,
        None => Vec::new(),
    })
}

async fn routes(State(find): State<Find>, Query(filter): Query<RouteFilter>) -> Answer<RoutePage> {
    let query = route_query(filter).map_err(Refusal::bad_request)?;
    let Some(speaker) = find() else { return Ok(Json(RoutePage::default())) };
    if let Some(peer) = &query.peer {
        known(&speaker, peer).await?;
    }
    Ok(Json(speaker.routes(query).await))
}

async fn received(State(find): State<Find>, Query(asked): Query<PeerRoutes>) -> Answer<RoutePage> {
    let speaker = there(&find)?;
    known(&speaker, &asked.peer).await?;
    Ok(Json(speaker.received(asked.peer, limit(asked.limit)).await))
}

async fn advertised(State(find): State<Find>, Query(asked): Query<PeerRoutes>) -> Answer<RoutePage> {
    let speaker = there(&find)?;
    known(&speaker, &asked.peer).await?;
    Ok(Json(speaker.advertised(asked.peer, limit(asked.limit)).await))
}

/// Asks a neighbour for its routes again.
async fn refresh(State(find): State<Find>, Json(asked): Json<RefreshPeer>) -> Answer<RefreshView> {
    match there(&find)?.refresh(asked.peer.clone()).await {
        Some(Ok(view)) => Ok(Json(view)),
        Some(Err(why @ RefreshError::Unknown)) => Err(unknown(&asked.peer, why)),
        Some(Err(why)) => {
            Err(Refusal::new(StatusCode::CONFLICT, "not-refreshable", format!("{}: {why}", asked.peer)))
        }
        None => Err(stopping()),
    }
}

/// Keeps a neighbour down until it is let back or this daemon starts again.
async fn shutdown(State(find): State<Find>, Json(asked): Json<OperatePeer>) -> Answer<OperatedView> {
    let OperatePeer { peer, text } = told(asked)?;
    let done = operated(&peer, there(&find)?.keep_down(peer.clone(), text.clone()).await)?;
    tracing::info!(neighbour = done.peer, address = %done.address, text, "kept down by the operator");
    Ok(Json(done))
}

async fn enable(State(find): State<Find>, Json(asked): Json<OperatePeer>) -> Answer<OperatedView> {
    let done = operated(&asked.peer, there(&find)?.enable(asked.peer.clone()).await)?;
    tracing::info!(neighbour = done.peer, address = %done.address, "let back by the operator");
    Ok(Json(done))
}

async fn reset(State(find): State<Find>, Json(asked): Json<OperatePeer>) -> Answer<OperatedView> {
    let OperatePeer { peer, text } = told(asked)?;
    let done = operated(&peer, there(&find)?.reset(peer.clone(), text.clone()).await)?;
    tracing::info!(neighbour = done.peer, address = %done.address, text, "session reset by the operator");
    Ok(Json(done))
}

/// A text that would be cut on its way is refused.
fn told(asked: OperatePeer) -> Result<OperatePeer, Refusal> {
    match asked.text.len() {
        0..=TEXT_MAX => Ok(asked),
        octets => {
            let what = format!("the text has {octets} octets; a neighbour can be told {TEXT_MAX} (RFC 9003)");
            Err(Refusal::bad_request(what).fix("say it shorter"))
        }
    }
}

fn operated(
    peer: &str,
    outcome: Option<Result<OperatedView, OperateError>>,
) -> Result<OperatedView, Refusal> {
    match outcome {
        Some(Ok(view)) => Ok(view),
        Some(Err(why @ OperateError::Unknown)) => Err(unknown(peer, why)),
        Some(Err(why @ OperateError::NoSession)) => {
            let refusal = Refusal::new(StatusCode::CONFLICT, "no-session", format!("{peer}: {why}"));
            Err(refusal.fix("see `routerctl bgp peers` for its state and its last error"))
        }
        None => Err(stopping()),
    }
}

fn unknown(peer: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::not_found(format!("{peer}: {why}")).fix("see `routerctl bgp peers` for names and addresses")
}

fn stopping() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "shutting-down", "the BGP speaker is shutting down")
}

async fn known(speaker: &Speaker, peer: &str) -> Result<(), Refusal> {
    // Our own routes are listed under this name.
    if peer == "local" || speaker.knows(peer.into()).await {
        return Ok(());
    }
    Err(unknown(peer, OperateError::Unknown))
}

/// What this node keeps out, and after that what its hubs keep out of what it has sent.
async fn rejected(find: Find, hubs: Rejects) -> Json<Vec<RejectedView>> {
    let mut all = match find() {
        Some(speaker) => speaker.rejected().await,
        None => Vec::new(),
    };
    all.extend(hubs().await);
    Json(all)
}

/// The table as MRT, sent piece by piece as fast as the reader takes it.
async fn mrt(State(find): State<Find>) -> Result<Response, Refusal> {
    let dump: TableDump = there(&find)?.dump().await;
    let pieces = futures_util::stream::unfold(dump, |mut dump| async {
        let piece = dump.next().await?;
        Some((std::io::Result::Ok(Bytes::from(piece)), dump))
    });
    Ok(([("content-type", "application/octet-stream")], Body::from_stream(pieces)).into_response())
}

async fn stations(State(find): State<Find>) -> Json<Vec<StationView>> {
    Json(find().map(|speaker| speaker.stations()).unwrap_or_default())
}

fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(LIMIT).clamp(1, MAX_LIMIT)
}

/// The speaker's query for a filter; an address stands for its host route.
fn route_query(filter: RouteFilter) -> Result<RouteQuery, String> {
    let prefix = match &filter.prefix {
        None => None,
        Some(text) => match (text.parse(), text.parse()) {
            (Ok(prefix), _) => Some(prefix),
            (_, Ok(address)) => Some(Prefix::host(address)),
            _ => return Err(format!("{text:?} is neither a prefix nor an address")),
        },
    };
    let (peer, longer) = (filter.peer, filter.longer.unwrap_or(false));
    Ok(RouteQuery { prefix, peer, longer, rejected: true, limit: limit(filter.limit), ..Default::default() })
}
