//! Accepts the API's connections: bounded in number and in time, so that a slow or silent client holds nothing up.

use super::http::{Service, router};
use super::tls_door::ServerKey;
use crate::admit::Door;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once.
const CONNECTIONS: usize = 512;
/// Connections at once from one address.
const PER_SOURCE: usize = 64;
/// For how long the head of a request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long the handshake of TLS may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection lives at most.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

type Sources = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Serves the API on a listener until the task is dropped or aborted.
pub async fn serve(listener: TcpListener, service: Service) {
    serve_router(listener, router(service)).await;
}

/// The same for any router, such as the leaf API's with that of the hubs.
pub async fn serve_router(listener: TcpListener, router: axum::Router) {
    accept(listener, router, None).await;
}

/// Serves enrollment over TLS on the underlay. A connection costs its source as much as a request, before any
/// arithmetic is done for it.
pub async fn serve_tls(listener: TcpListener, service: Service, key: &ServerKey) {
    let tls = Tls { acceptor: TlsAcceptor::from(key.config()), service: service.clone() };
    accept(listener, router(service), Some(tls)).await;
}

/// What a TLS listener has beside any other.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    service: Service,
}

async fn accept(listener: TcpListener, router: axum::Router, tls: Option<Tls>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let sources = Sources::default();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client went away meanwhile: the listener itself is fine.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let source = from.ip().to_canonical();
        if tls.as_ref().is_some_and(|tls| !tls.service.may_connect(source)) {
            continue;
        }
        let Some(place) = Place::take(&sources, source) else { continue };
        let (router, tls) = (router.clone(), tls.clone());
        connections.spawn(async move {
            let _held = (slot, place);
            let _ = stream.set_nodelay(true);
            let served = async {
                match tls {
                    None => connection(stream, from, Door::Tunnel, router).await,
                    Some(tls) => encrypted(stream, from, router, tls).await,
                }
            };
            let _ = tokio::time::timeout(CONNECTION_LIFE, served).await;
        });
    }
}

async fn encrypted(stream: TcpStream, from: SocketAddr, router: axum::Router, tls: Tls) {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, from, Door::Tls, router).await,
        Ok(Err(error)) => tls.service.handshake_failed(from, &error.to_string()),
        Err(_) => tls.service.handshake_failed(from, "it took too long"),
    }
}

async fn connection<S>(stream: S, from: SocketAddr, door: Door, router: axum::Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        request.extensions_mut().insert(door);
        inner.call(request)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(32 * 1024);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%from, %error, "connection ended");
    }
}

/// One of an address's connections; given back when dropped.
struct Place(Sources, IpAddr);

impl Place {
    fn take(sources: &Sources, source: IpAddr) -> Option<Self> {
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_insert(0);
        if *count >= PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Self(sources.clone(), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
