//! What the tests share: settings, keys, signed requests, and a hub on loopback.
#![allow(dead_code)] // each test file uses its part

pub use scratch_postgres::Cluster;

use enrollment::identity::{InviteId, LeafName, SigningKey};
use enrollment::invite::{Invite, InviteSecret};
use enrollment::io::database::Address;
use enrollment::io::http::{Applied, Limits, Service};
use enrollment::io::keys::NodeKeys;
use enrollment::io::store::{Clock, Registry};
use enrollment::policy::{HubSettings, InviteOrder};
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::wire::{
    Answer, Challenge, ChallengeAnswer, ChallengeRequest, EnrollRequest, Envelope, Head, Operation,
    SignedAnswer,
};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub const NOW: u64 = 1_800_000_000;

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub fn name(text: &str) -> LeafName {
    text.parse().unwrap()
}

/// Keys that follow from a number.
pub fn keys(n: u64) -> NodeKeys {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    NodeKeys::from_private(zeroize::Zeroizing::new(seed), &seed)
}

pub fn secret(n: u64) -> (InviteId, InviteSecret) {
    let mut seed = [2; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    (InviteId(n.to_be_bytes()), InviteSecret::new(seed))
}

/// Settings whose overlay lies in loopback, so that source addresses are real.
pub fn settings(hub: &NodeKeys) -> HubSettings {
    let endpoint = "203.0.113.5:51820".parse().unwrap();
    let prefix = "127.10.0.0/20".parse().unwrap();
    HubSettings::derive(name("hub"), prefix, vec![endpoint], hub.wireguard_key(), hub.signing_key()).unwrap()
}

pub fn order(site: &str, permitted: &[&str]) -> InviteOrder {
    let permitted = permitted.iter().map(|prefix| prefix.parse().unwrap()).collect();
    InviteOrder { permitted, ..InviteOrder::for_site(name(site)) }
}

pub fn enroll_request(
    invite: &Invite,
    keys: &NodeKeys,
    challenge: Challenge,
    claims: &[Ipv4Addr],
) -> EnrollRequest {
    EnrollRequest {
        invite: invite.id,
        hub: invite.hub_signing_key,
        challenge,
        wireguard_key: keys.wireguard_key(),
        signing_key: keys.signing_key(),
        claims: claims.to_vec(),
        replace: false,
    }
}

pub fn enroll_envelope(
    invite: &Invite,
    keys: &NodeKeys,
    challenge: Challenge,
    claims: &[Ipv4Addr],
) -> Envelope {
    let request = enroll_request(invite, keys, challenge, claims);
    Envelope::enroll(&request, &invite.mac_key(), keys.signing())
}

pub fn head(leaf: &LeafName, hub: SigningKey, challenge: Challenge, counter: u64) -> Head {
    Head { leaf: leaf.clone(), hub, challenge, counter }
}

/// Whether these tests are included by `postgres.rs`: the same ones, with the registry in PostgreSQL.
pub fn on_postgres() -> bool {
    module_path!().starts_with("postgres::")
}

/// The address of a registry of its own in a cluster.
pub fn schema(cluster: &Cluster, of: &str) -> Address {
    cluster.schema_url(of).parse().unwrap()
}

/// A hub on loopback with a clock that the test moves.
pub struct Hub {
    pub keys: Arc<NodeKeys>,
    pub registry: Registry,
    pub service: Service,
    pub port: u16,
    pub clock: Arc<AtomicU64>,
    pub folder: Arc<tempfile::TempDir>,
    cluster: Option<Arc<Cluster>>,
    serving: Serving,
}

/// The listener's task; it ends with this.
struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn applied_at_once() -> Applied {
    Arc::new(|_| Box::pin(async {}))
}

impl Hub {
    pub async fn start() -> Self {
        Self::start_with(Limits { per_source_burst: 100_000, ..Limits::default() }, |_| {}).await
    }

    pub async fn start_with(limits: Limits, adjust: impl FnOnce(&mut HubSettings)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::start_in(folder, limits, applied_at_once(), adjust).await
    }

    pub async fn start_in(
        folder: Arc<tempfile::TempDir>,
        limits: Limits,
        applied: Applied,
        adjust: impl FnOnce(&mut HubSettings),
    ) -> Self {
        let cluster = on_postgres().then(Cluster::of_all_tests);
        let database = cluster.as_ref().map(|cluster| schema(cluster, &folder.path().to_string_lossy()));
        Self { cluster, ..Self::start_on(folder, database, limits, applied, adjust).await }
    }

    /// The same with the registry in this database.
    pub async fn start_on(
        folder: Arc<tempfile::TempDir>,
        database: Option<Address>,
        limits: Limits,
        applied: Applied,
        adjust: impl FnOnce(&mut HubSettings),
    ) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let keys = Arc::new(NodeKeys::load_or_create(folder.path()).ok().unwrap());
        let mut settings = settings(&keys);
        settings.api_port = port;
        adjust(&mut settings);
        let clock = Arc::new(AtomicU64::new(NOW));
        let reading = clock.clone();
        let reading: Clock = Arc::new(move || reading.load(Ordering::SeqCst));
        let path = folder.path().join("registry.sqlite");
        let registry = Registry::open_shared(&path, database, settings, keys.clone(), reading).await.unwrap();
        let service = Service::new(registry.clone(), keys.clone(), limits, applied);
        let serving = tokio::spawn(enrollment::io::listener::serve(listener, service.clone()));
        Self { keys, registry, service, port, clock, folder, cluster: None, serving: Serving(serving) }
    }

    pub async fn invite(&self, order: InviteOrder) -> Invite {
        self.registry.create_invite(order).await.ok().unwrap()
    }

    pub fn advance(&self, secs: u64) {
        self.clock.fetch_add(secs, Ordering::SeqCst);
    }

    pub fn at(&self, address: Ipv4Addr) -> SocketAddr {
        SocketAddr::from((address, self.port))
    }

    pub async fn connect(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((source, 0))).unwrap();
        socket.connect(self.at(Ipv4Addr::LOCALHOST)).await.unwrap()
    }

    pub async fn challenge(&self, source: Ipv4Addr) -> Challenge {
        let body = json(&ChallengeRequest { nonce: Challenge([5; 32]) });
        let (_, answer) = self.post(source, Operation::Challenge.path(), &body).await;
        let answer = answer.open::<ChallengeAnswer>(Operation::Challenge, &body, &self.keys.signing_key());
        answer.unwrap().challenge
    }

    pub async fn post(&self, source: Ipv4Addr, path: &str, body: &[u8]) -> (u16, SignedAnswer) {
        let mut stream = self.connect(source).await;
        exchange(&mut stream, "POST", path, body).await
    }

    /// Posts a body and gives the code that comes back, after checking that status, signature and code agree.
    pub async fn code(&self, source: Ipv4Addr, op: Operation, body: &[u8]) -> ReasonCode {
        let (status, answer) = self.post(source, op.path(), body).await;
        let refusal = refusal(op, body, &answer, &self.keys.signing_key());
        assert_eq!(status, refusal.code.http_status(), "{refusal}");
        refusal.code
    }
}

pub fn refusal(op: Operation, body: &[u8], answer: &SignedAnswer, hub: &SigningKey) -> Refusal {
    answer.open::<serde_json::Value>(op, body, hub).expect_err("this must be refused")
}

pub fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// One HTTP exchange on an open connection.
pub async fn exchange<S>(stream: &mut S, method: &str, path: &str, body: &[u8]) -> (u16, SignedAnswer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = format!("{method} {path} HTTP/1.1\r\nhost: hub\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // The hub may refuse before it has read a large body; what cannot be written then does not matter.
    let _ = stream.write_all(body).await;
    read_answer(stream).await
}

pub async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> (u16, SignedAnswer) {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            if let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                let end = split + 4 + length.parse::<usize>().unwrap();
                if bytes.len() >= end {
                    let status = head[9..12].parse().unwrap();
                    return (status, serde_json::from_slice(&bytes[split + 4..end]).unwrap());
                }
            }
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap();
            assert!(count > 0, "connection closed after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&part[..count]);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer within 20 s")
}

/// The answer's content without any check, for tests that alter it.
pub fn content(answer: &SignedAnswer) -> Answer<serde_json::Value> {
    serde_json::from_slice(&answer.payload.0).unwrap()
}

pub fn any_source(address: Ipv4Addr) -> IpAddr {
    IpAddr::V4(address)
}
