//! The leaf-facing API: challenge, enroll, renew, claims, topology, and nothing else.
//!
//! From a foyer address, and over TLS on the underlay, only challenge and enroll are served. Every answer is signed and bound to the request's body,
//! but for refusals that come before the body is read ([`ReasonCode::is_unsigned`]).

use super::keys::NodeKeys;
use super::store::{Granted, Registry};
use crate::admit::{Door, Origin};
use crate::challenge::{Challenges, VALID_SECS};
use crate::identity::WireguardKey;
use crate::rate::Rates;
use crate::reason::{ReasonCode, Refusal, Side};
use crate::wire::{
    self, Answer, Challenge, ChallengeAnswer, ChallengeRequest, EnrollRequest, Envelope, MAX_REQUEST_BYTES,
    Operation, RejectedAnswer, SignedAnswer,
};
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Waits until a generation of the admissions has reached the dataplane; the service gives it one second.
pub type Applied = Arc<dyn Fn(u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Tells the underlay address behind a foyer peer, where it can.
pub type Underlay =
    Arc<dyn Fn(WireguardKey) -> Pin<Box<dyn Future<Output = Option<IpAddr>> + Send>> + Send + Sync>;

/// Tells what the speaker rejects of the leaf with this overlay address.
pub type Rejected =
    Arc<dyn Fn(Ipv4Addr) -> Pin<Box<dyn Future<Output = RejectedAnswer> + Send>> + Send + Sync>;

/// How long the service waits for [`Applied`] and for [`Rejected`].
const APPLIED_WAIT: Duration = Duration::from_secs(1);

/// The bounds of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second from one address in the long run (default 20).
    pub per_source_per_sec: u32,
    /// Requests at once from one address (default 200).
    pub per_source_burst: u32,
    /// Requests being served at once (default 256).
    pub in_flight: usize,
    /// Open challenges of one address (default 64).
    pub challenges_per_source: usize,
    /// Open challenges in all (default 4096).
    pub challenges: usize,
    /// For how long a body may take to arrive (default 5 s).
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_source_per_sec: 20,
            per_source_burst: 200,
            in_flight: 256,
            challenges_per_source: 64,
            challenges: 4096,
            body_timeout: Duration::from_secs(5),
        }
    }
}

struct Inner {
    registry: Registry,
    keys: Arc<NodeKeys>,
    limits: Limits,
    applied: Applied,
    underlay: Underlay,
    rejected: OnceLock<Rejected>,
    started: Instant,
    challenges: Mutex<Challenges>,
    rates: Mutex<Rates>,
    in_flight: Semaphore,
    granted: [AtomicU64; Operation::ALL.len()],
    refused: Vec<AtomicU64>,
    handshakes_failed: AtomicU64,
}

/// Where a request came in.
#[derive(Clone, Copy)]
struct Caller {
    source: IpAddr,
    door: Door,
}

/// What serves the API; clones share everything.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

impl Service {
    /// A service over a registry, answering with the hub's keys. `applied` is awaited (at most 1 s) before the answer
    /// to a request that changed who or what is admitted, so that the way is open when the leaf reads it.
    pub fn new(registry: Registry, keys: Arc<NodeKeys>, limits: Limits, applied: Applied) -> Self {
        Self::with_underlay(registry, keys, limits, applied, Arc::new(|_| Box::pin(async { None })))
    }

    /// The same, where the underlay address behind a foyer peer can be told: it is asked for by invites that hold for
    /// some sources only or need approval.
    pub fn with_underlay(
        registry: Registry,
        keys: Arc<NodeKeys>,
        limits: Limits,
        applied: Applied,
        underlay: Underlay,
    ) -> Self {
        Self(Arc::new(Inner {
            challenges: Mutex::new(Challenges::new(limits.challenges, limits.challenges_per_source)),
            rates: Mutex::new(Rates::new(limits.per_source_per_sec, limits.per_source_burst)),
            in_flight: Semaphore::new(limits.in_flight),
            granted: Default::default(),
            refused: ReasonCode::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            handshakes_failed: AtomicU64::new(0),
            started: Instant::now(),
            registry,
            keys,
            limits,
            applied,
            underlay,
            rejected: OnceLock::new(),
        }))
    }

    /// From now on leaves are told what is rejected of them; without this it is nothing. The first call counts.
    pub fn tell_rejected(&self, rejected: Rejected) {
        let _ = self.0.rejected.set(rejected);
    }

    /// How often each code was given since the start, for the metrics; only codes of the hub.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let counts = ReasonCode::ALL.iter().zip(&self.0.refused);
        let own = counts.filter(|(code, _)| code.side() == Side::Hub);
        own.map(|(code, count)| (code.as_str(), count.load(Ordering::Relaxed))).collect()
    }

    /// How often each operation was granted since the start, by path.
    pub fn grants(&self) -> BTreeMap<&'static str, u64> {
        let counts = Operation::ALL.iter().zip(&self.0.granted);
        counts.map(|(op, count)| (op.path(), count.load(Ordering::Relaxed))).collect()
    }

    /// Handshakes of TLS that failed since the start.
    pub fn handshakes_failed(&self) -> u64 {
        self.0.handshakes_failed.load(Ordering::Relaxed)
    }

    pub(super) fn handshake_failed(&self, from: SocketAddr, why: &str) {
        self.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%from, why, "a TLS handshake failed");
    }

    /// Takes a token for a connection, before TLS costs anything; a refusal is counted as a request's.
    pub(super) fn may_connect(&self, source: IpAddr) -> bool {
        let token = self.token(source);
        if let Err(refusal) = &token {
            self.count(Operation::Challenge, source, refusal);
        }
        token.is_ok()
    }

    fn token(&self, source: IpAddr) -> Result<(), Refusal> {
        let elapsed = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        lock(&self.0.rates).take(source, elapsed).map_err(|secs| {
            let mut refusal = Refusal::of(ReasonCode::RateLimited);
            refusal.retry_after_secs = Some(secs);
            refusal
        })
    }

    async fn serve(self, op: Operation, from: Caller, body: Body) -> Response {
        let source = from.source;
        let Ok(_permit) = self.0.in_flight.try_acquire() else {
            return self.refuse_unread(op, source, Refusal::of(ReasonCode::HubBusy));
        };
        if let Err(refusal) = self.token(source) {
            return self.refuse_unread(op, source, refusal);
        }
        let body = match self.read(body).await {
            Ok(body) => body,
            Err(refusal) => return self.refuse_unread(op, source, refusal),
        };
        match op {
            Operation::Challenge => {
                let answer = self.challenge(from, &body);
                self.answer(op, source, &body, answer)
            }
            Operation::Rejected => {
                let answer = self.rejected(from, &body).await;
                self.answer(op, source, &body, answer)
            }
            _ => {
                let answer = self.request(op, from, &body).await;
                self.answer(op, source, &body, answer)
            }
        }
    }

    async fn read(&self, body: Body) -> Result<axum::body::Bytes, Refusal> {
        let whole = axum::body::to_bytes(body, MAX_REQUEST_BYTES);
        match tokio::time::timeout(self.0.limits.body_timeout, whole).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(Refusal::of(ReasonCode::RequestTooLarge)),
            Err(_) => Err(Refusal::of(ReasonCode::RequestTimeout)),
        }
    }

    /// The foyer only enrolls, the underlay only over TLS and only that too, and nobody else outside the overlay is
    /// served at all.
    fn check_source(&self, op: Operation, Caller { source, door }: Caller) -> Result<(), Refusal> {
        let hub = self.0.registry.snapshot().hub.clone();
        let forbidden = |why: String| Err(Refusal::new(ReasonCode::SourceForbidden, why));
        if door == Door::Tls {
            let within = |prefix: &ipnet::Ipv4Net| matches!(source, IpAddr::V4(ip) if prefix.contains(&ip));
            return match op {
                _ if within(&hub.overlay_prefix) || within(&hub.foyer_prefix) => {
                    forbidden(format!("{source} came through a tunnel; its API is there"))
                }
                Operation::Challenge | Operation::Enroll => Ok(()),
                _ => forbidden("on the underlay a leaf can only enroll; the rest is in its tunnel".into()),
            };
        }
        let IpAddr::V4(source) = source else {
            return forbidden(format!("{source} is outside the overlay"));
        };
        if hub.foyer_prefix.contains(&source) {
            return match op {
                Operation::Challenge | Operation::Enroll => Ok(()),
                _ => forbidden(format!("{source} is a foyer address; it can only enroll")),
            };
        }
        if hub.overlay_prefix.contains(&source) {
            return Ok(());
        }
        forbidden(format!("{source} is outside the overlay"))
    }

    /// The underlay address behind a foyer address, if the invite there cares, or behind a leaf's own.
    async fn underlay(&self, Caller { source, door }: Caller) -> Option<IpAddr> {
        if door == Door::Tls {
            return Some(source);
        }
        let admissions = self.0.registry.snapshot();
        if let Some(peer) = admissions.foyer.iter().find(|peer| IpAddr::V4(peer.address) == source) {
            return if peer.underlay_matters { (self.0.underlay)(peer.public_key).await } else { None };
        }
        // A machine that enrolls again, or replaces itself, does so through its own tunnel.
        (self.0.underlay)(self.own_key(source)?).await
    }

    /// The WireGuard key through which a leaf asks; none in the foyer.
    fn own_key(&self, source: IpAddr) -> Option<WireguardKey> {
        let admissions = self.0.registry.snapshot();
        let foyer = matches!(source, IpAddr::V4(ip) if admissions.hub.foyer_prefix.contains(&ip));
        if foyer { None } else { admissions.at(source).map(|leaf| leaf.wireguard_key) }
    }

    fn challenge(&self, from: Caller, body: &[u8]) -> Result<ChallengeAnswer, Refusal> {
        self.check_source(Operation::Challenge, from)?;
        let _: ChallengeRequest = serde_json::from_slice(body).map_err(|e| wire::malformed(&e))?;
        let random = super::keys::random().map_err(|e| Refusal::new(ReasonCode::Internal, e.to_string()))?;
        let challenge = Challenge(random);
        lock(&self.0.challenges).issue(challenge, from.source, self.0.started.elapsed().as_secs());
        Ok(ChallengeAnswer { challenge, valid_secs: VALID_SECS })
    }

    /// Only of the leaf that asks, which has proved who it is as for every other request.
    async fn rejected(&self, from: Caller, body: &[u8]) -> Result<RejectedAnswer, Refusal> {
        let admission = self.request(Operation::Rejected, from, body).await?;
        let Some(rejected) = self.0.rejected.get() else { return Ok(RejectedAnswer::default()) };
        let answer = tokio::time::timeout(APPLIED_WAIT, rejected(admission.overlay)).await;
        answer.map_err(|_| Refusal::new(ReasonCode::Internal, "the BGP speaker does not answer"))
    }

    async fn request(
        &self,
        op: Operation,
        from: Caller,
        body: &[u8],
    ) -> Result<crate::topology::Admission, Refusal> {
        self.check_source(op, from)?;
        let Caller { source, door } = from;
        let envelope: Envelope = serde_json::from_slice(body).map_err(|e| wire::malformed(&e))?;
        let challenge = challenge_of(op, &envelope)?;
        lock(&self.0.challenges).take(&challenge, source, self.0.started.elapsed().as_secs())?;
        let Granted { admission, changed } = match op {
            Operation::Enroll => {
                let underlay = self.underlay(from).await;
                self.0.registry.enroll(envelope, Origin { source, underlay, door }).await?
            }
            _ => self.0.registry.leaf_request(op, envelope, source).await?,
        };
        // A leaf that leaves must hear the answer while its tunnel is there. One that takes fresh keys changes when it has
        // heard the answer, and the hub must be ready for that; so must another hub, which it asks for its topology.
        let waits = match op {
            Operation::Renew | Operation::Leave => None,
            Operation::Topology => Some(self.0.registry.snapshot().generation),
            _ => changed,
        };
        if let Some(generation) = changed.filter(|_| waits.is_some()) {
            tracing::info!(leaf = %admission.leaf, op = op.path(), generation, "admission changed");
        }
        if let Some(generation) = waits
            && tokio::time::timeout(APPLIED_WAIT, (self.0.applied)(generation)).await.is_err()
        {
            tracing::warn!(generation, "answered before the dataplane had this generation");
        }
        Ok(admission)
    }

    fn answer<T: Serialize>(
        &self,
        op: Operation,
        source: IpAddr,
        body: &[u8],
        outcome: Result<T, Refusal>,
    ) -> Response {
        let (status, answer) = match outcome {
            Ok(content) => {
                self.0.granted[op as usize].fetch_add(1, Ordering::Relaxed);
                (200, Answer::Granted(content))
            }
            Err(refusal) => {
                self.count(op, source, &refusal);
                (refusal.code.http_status(), Answer::Refused(refusal))
            }
        };
        reply(status, None, &SignedAnswer::sign(op, body, &answer, self.0.keys.signing()))
    }

    fn refuse_unread(&self, op: Operation, source: IpAddr, refusal: Refusal) -> Response {
        self.count(op, source, &refusal);
        let (status, retry) = (refusal.code.http_status(), refusal.retry_after_secs);
        let mut response = reply(status, retry, &SignedAnswer::unsigned(refusal));
        // What was not read is not waited for.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn count(&self, op: Operation, source: IpAddr, refusal: &Refusal) {
        if let Some(count) = self.0.refused.get(refusal.code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        tracing::debug!(%source, op = op.path(), code = %refusal.code, message = refusal.message, "request refused");
    }
}

/// The challenge inside the payload, whatever the payload is; the rest is judged with the signature.
fn challenge_of(op: Operation, envelope: &Envelope) -> Result<Challenge, Refusal> {
    #[derive(Deserialize)]
    struct HasHead {
        head: wire::Head,
    }
    match op {
        Operation::Enroll => envelope.open::<EnrollRequest>().map(|request| request.challenge),
        _ => envelope.open::<HasHead>().map(|request| request.head.challenge),
    }
}

fn reply(status: u16, retry_after: Option<u64>, answer: &SignedAnswer) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, wire::bytes_of(answer)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(secs) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

/// A poisoned lock only means that a holder panicked between two plain map operations.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The router. Serve it with connection information ([`super::listener::serve`] does).
pub fn router(service: Service) -> axum::Router {
    let mut router = axum::Router::new();
    for op in Operation::ALL {
        let serve = move |State(service): State<Service>,
                          ConnectInfo(from): ConnectInfo<SocketAddr>,
                          request: Request| {
            let door = request.extensions().get::<Door>().copied().unwrap_or(Door::Tunnel);
            service.serve(op, Caller { source: from.ip().to_canonical(), door }, request.into_body())
        };
        router = router.route(op.path(), post(serve));
    }
    let unknown = |State(service): State<Service>, ConnectInfo(from): ConnectInfo<SocketAddr>| async move {
        let refusal = Refusal::of(ReasonCode::EndpointUnknown);
        service.refuse_unread(Operation::Challenge, from.ip().to_canonical(), refusal)
    };
    router.fallback(unknown).method_not_allowed_fallback(unknown).with_state(service)
}
