//! What hubs serve to and ask of each other: HTTP on the overlay address (joining: in the foyer), signed both ways.

use super::keys::{self, NodeKeys};
use super::store::Registry;
use crate::endpoint::Endpoint;
use crate::exchange::Batch;
use crate::exchange::{
    HOLD_SECS, Heads, JOIN_PATH, JoinAnswer, JoinRequest, MAX_ANSWER, MAX_REQUEST, PULL_PATH, Pull, Signed,
};
use crate::identity::SigningKey;
use crate::invite::Invite;
use crate::reason::{ReasonCode, Refusal};
use crate::topology::HubNode;
use crate::wire::{Answer, Blob, bytes_of};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

/// Requests of hubs that are served at once; a held one counts.
const IN_FLIGHT: usize = 8;
/// For how long a request's body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(5);
/// For how long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// For how long an answer may take beyond the time that it may be held.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What serves the other hub; clones share everything.
#[derive(Clone)]
pub struct HubService {
    registry: Registry,
    keys: Arc<NodeKeys>,
    applied: super::http::Applied,
    in_flight: Arc<Semaphore>,
}

impl HubService {
    /// A service over a registry, answering with the hub's keys. `applied` is awaited before a hub that joined is
    /// answered, so that its tunnel is there.
    pub fn new(registry: Registry, keys: Arc<NodeKeys>, applied: super::http::Applied) -> Self {
        Self { registry, keys, applied, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) }
    }

    async fn body(&self, body: Body) -> Option<Bytes> {
        let whole = axum::body::to_bytes(body, MAX_REQUEST);
        tokio::time::timeout(BODY_LIMIT, whole).await.ok()?.ok()
    }

    async fn pull(self, source: IpAddr, body: Body) -> Response {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "busy").into_response();
        };
        let Some(body) = self.body(body).await else {
            return (StatusCode::BAD_REQUEST, "no whole request").into_response();
        };
        let pull = serde_json::from_slice::<Signed>(&body).ok().and_then(|signed| signed.open_pull());
        let Some(pull) = pull.filter(|pull| self.may_pull(pull, source)) else {
            tracing::debug!(%source, "a pull of no hub of this fabric was refused");
            return (StatusCode::FORBIDDEN, "not a hub of this fabric").into_response();
        };
        match self.batch(&pull).await {
            Ok(batch) => {
                let answer = Signed::answer(&batch, &body, self.keys.signing());
                (StatusCode::OK, bytes_of(&answer)).into_response()
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "the other hub's request could not be answered");
                (StatusCode::INTERNAL_SERVER_ERROR, "failed").into_response()
            }
        }
    }

    /// A hub that is not retired, from its own overlay address, about this hub.
    fn may_pull(&self, pull: &Pull, source: IpAddr) -> bool {
        let admissions = self.registry.snapshot();
        let known = |hub: &HubNode| hub.signing_key == pull.from && IpAddr::V4(hub.overlay) == source;
        pull.to == admissions.hub.signing_key && admissions.hubs.iter().any(known)
    }

    /// What the other lacks; held until there is something, for a while.
    async fn batch(&self, pull: &Pull) -> Result<Batch, Refusal> {
        let mut changed = self.registry.watch();
        changed.mark_unchanged();
        let batch = self.registry.batch(pull.from, pull.have.clone()).await?;
        let empty = batch.entries.is_empty() && batch.snapshot.is_none() && batch.forked.is_none();
        if !(empty && pull.hold) {
            return Ok(batch);
        }
        // An error means that the hub stops.
        let _ = tokio::time::timeout(Duration::from_secs(HOLD_SECS), changed.changed()).await;
        self.registry.batch(pull.from, pull.have.clone()).await
    }

    async fn join(self, source: IpAddr, body: Body) -> Response {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "busy").into_response();
        };
        let Some(body) = self.body(body).await else {
            return (StatusCode::BAD_REQUEST, "no whole request").into_response();
        };
        let outcome = match serde_json::from_slice::<Signed>(&body) {
            Ok(signed) => self.registry.join_hub(signed, source).await,
            Err(error) => Err(crate::wire::malformed(&error)),
        };
        let answer = match outcome {
            Ok((answer, generation)) => {
                let applied = (self.applied)(generation);
                if tokio::time::timeout(Duration::from_secs(1), applied).await.is_err() {
                    tracing::warn!(generation, "answered before the dataplane had the new hub");
                }
                Answer::Granted(answer)
            }
            Err(refusal) => {
                tracing::warn!(%source, %refusal, "a hub was not let in");
                Answer::Refused(refusal)
            }
        };
        (StatusCode::OK, bytes_of(&Signed::answer(&answer, &body, self.keys.signing()))).into_response()
    }
}

/// The routes for hubs; to be merged with the leaf API's.
pub fn router(service: HubService) -> axum::Router {
    let pull = |State(service): State<HubService>,
                ConnectInfo(from): ConnectInfo<SocketAddr>,
                request: Request| service.pull(from.ip().to_canonical(), request.into_body());
    let join = |State(service): State<HubService>,
                ConnectInfo(from): ConnectInfo<SocketAddr>,
                request: Request| service.join(from.ip().to_canonical(), request.into_body());
    axum::Router::new().route(PULL_PATH, post(pull)).route(JOIN_PATH, post(join)).with_state(service)
}

fn silent(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(ReasonCode::HubSilent, why.to_string())
}

/// Asks another hub for what this one lacks.
pub async fn pull(
    keys: &NodeKeys,
    from: Ipv4Addr,
    hub: &HubNode,
    have: Heads,
    hold: bool,
) -> Result<Batch, Refusal> {
    let nonce = Blob(keys::random::<16>().map_err(Refusal::from)?.to_vec());
    let pull = Pull { to: hub.signing_key, from: keys.signing_key(), nonce, have, hold };
    let body = bytes_of(&Signed::pull(&pull, keys.signing()));
    let limit = ANSWER_LIMIT + Duration::from_secs(if hold { HOLD_SECS } else { 0 });
    let address = SocketAddr::from((hub.overlay, hub.api_port));
    ask(address, from.into(), PULL_PATH, body, limit, &hub.signing_key).await
}

/// Asks to join as a hub, by an invite, through its foyer.
pub async fn join(invite: &Invite, keys: &NodeKeys, endpoints: Vec<Endpoint>) -> Result<JoinAnswer, Refusal> {
    let request = JoinRequest {
        invite: invite.id,
        to: invite.hub_signing_key,
        wireguard_key: keys.wireguard_key(),
        signing_key: keys.signing_key(),
        endpoints,
    };
    let body = bytes_of(&Signed::join(&request, &invite.mac_key(), keys.signing()));
    let (address, bind) = (invite.api_address(), invite.foyer_address.into());
    match ask(address, bind, JOIN_PATH, body, ANSWER_LIMIT, &invite.hub_signing_key).await? {
        Answer::Granted(answer) => Ok(answer),
        Answer::Refused(refusal) => Err(refusal),
    }
}

/// One request on a connection of its own; the answer of the pinned hub.
async fn ask<T: serde::de::DeserializeOwned>(
    address: SocketAddr,
    bind: IpAddr,
    path: &str,
    body: Vec<u8>,
    limit: Duration,
    hub: &SigningKey,
) -> Result<T, Refusal> {
    let connecting = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(bind, 0))?;
        socket2::SockRef::from(&socket).set_tcp_keepalive(&super::client::keepalive())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    let stream = stream.map_err(|_| silent("no connection in time"))?.map_err(silent)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(silent)?;
    let driver = tokio::spawn(async move { drop(connection.await) });
    let exchange = async {
        let request = hyper::Request::post(path)
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.clone())))
            .map_err(silent)?;
        let response = sender.send_request(request).await.map_err(silent)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let answer = answer.map_err(silent)?.to_bytes();
        if status != StatusCode::OK {
            let text: String = String::from_utf8_lossy(&answer).chars().take(100).collect();
            return Err(silent(format!("{status}: {text}")));
        }
        Ok(answer)
    };
    let answer = tokio::time::timeout(limit, exchange).await;
    driver.abort();
    let answer = answer.map_err(|_| silent("no answer in time"))??;
    let signed = serde_json::from_slice::<Signed>(&answer).ok();
    signed.and_then(|signed| signed.open_answer(&body, hub)).ok_or_else(|| {
        let why = "the answer is not signed by that hub for this request";
        Refusal::new(ReasonCode::AnswerInvalid, why)
    })
}
