//! Enrollment over TLS on the underlay, with a real server and real handshakes: who holds the pinned key is believed,
//! nobody else, and what a slow or hostile client can hold up there is bounded.

mod common;

use common::*;
use enrollment::invite::{Invite, KeyPin, TlsDoor};
use enrollment::io::client::{self, HubApi};
use enrollment::io::http::Limits;
use enrollment::io::listener::serve_tls;
use enrollment::io::tls_door::{FILE, ServerKey};
use enrollment::policy::InviteOrder;
use enrollment::reason::ReasonCode;
use enrollment::signature::MacKey;
use enrollment::wire::{Challenge, ChallengeAnswer, ChallengeRequest, Operation};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// A hub with a door.
struct House {
    hub: Hub,
    at: SocketAddr,
    door: tokio::task::JoinHandle<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.door.abort();
    }
}

async fn house(limits: Limits) -> House {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let key = ServerKey::load_or_create(folder.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let told = TlsDoor { endpoints: vec![at.into()], pin: key.pin() };
    let hub = Hub::start_in(folder, limits, applied_at_once(), |s| s.tls = Some(told)).await;
    let service = hub.service.clone();
    let door = tokio::spawn(async move { serve_tls(listener, service, &key).await });
    House { hub, at, door }
}

fn door(invite: &Invite) -> HubApi {
    let door = invite.tls.as_ref().expect("the invite names the door");
    HubApi::of_door(invite, door.endpoints[0].address().unwrap(), door.pin)
}

async fn connect(house: &House, source: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip(source), 0))).unwrap();
    socket.connect(house.at).await.unwrap()
}

/// A leaf joins by the string alone, over TLS, and is then served in its tunnel as any other; over TLS it can do
/// nothing but join, and nobody comes in there out of a tunnel.
#[tokio::test]
async fn a_leaf_joins_over_tls() {
    let house = house(Limits::default()).await;
    let invite = house.hub.invite(order("aws", &["10.81.0.0/16"])).await;
    let invite = Invite::decode(&invite.encode()).ok().unwrap();
    let admission = client::enroll(&door(&invite), &invite, &keys(1), &[ip("10.81.10.20")]).await.unwrap();
    assert_eq!((admission.leaf.as_str(), admission.claims.len()), ("aws", 1));
    let again = client::enroll(&door(&invite), &invite, &keys(1), &[]).await.unwrap();
    assert_eq!(again.overlay, admission.overlay, "the same machine again changes nothing");
    assert_eq!(
        client::enroll(&door(&invite), &invite, &keys(2), &[]).await.unwrap_err().code,
        ReasonCode::InviteSpent
    );

    client::renew(&HubApi::of_admission(&admission).unwrap(), &keys(1), &admission).await.unwrap();
    let refused = client::renew(&door(&invite), &keys(1), &admission).await.unwrap_err();
    assert_eq!(refused.code, ReasonCode::SourceForbidden, "{refused}");
    for source in [admission.overlay, ip("127.10.15.9")] {
        let inside = HubApi { bind: Some(source.into()), ..door(&invite) };
        let refused = client::enroll(&inside, &invite, &keys(1), &[]).await.unwrap_err();
        assert_eq!(refused.code, ReasonCode::SourceForbidden, "{source}: {refused}");
    }
    // Without TLS the same port says nothing.
    let plain = HubApi { tls: None, answer_timeout: Duration::from_secs(1), ..door(&invite) };
    assert_eq!(client::enroll(&plain, &invite, &keys(1), &[]).await.unwrap_err().code, ReasonCode::HubSilent);
    // A string for a hub names no door: hubs join through the foyer.
    assert!(house.hub.registry.create_hub_invite(name("hub-2"), 60).await.ok().unwrap().tls.is_none());
}

/// Who has read the registry has what verifies an open invite, and can sign by it. Over TLS that opens nothing, as it
/// opens no foyer tunnel: the proof of the invite's WireGuard key is missing, and none of another key will do.
#[tokio::test]
async fn a_stolen_registry_opens_no_door() {
    let house = house(Limits::default()).await;
    let invite = house.hub.invite(order("aws", &[])).await;
    let other = house.hub.invite(order("oci", &[])).await;
    // All that the registry has of it: the verifier, and the public half of its WireGuard key.
    let stolen = |challenge| enroll_envelope(&invite, &keys(1), challenge, &[]);
    let wrong = MacKey::shared(&keys(1).wireguard_private_key(), &invite.hub_wireguard_key);
    for proof in [None, Some(wrong), Some(other.door_key()), Some(MacKey::new([0; 32]))] {
        let mut stream = tls(&house).await;
        let body = json(&ChallengeRequest { nonce: Challenge([5; 32]) });
        let (_, answer) = exchange(&mut stream, "POST", Operation::Challenge.path(), &body).await;
        let told = answer.open::<ChallengeAnswer>(Operation::Challenge, &body, &house.hub.keys.signing_key());
        let envelope = stolen(told.unwrap().challenge);
        let body = json(&proof.iter().fold(envelope, |envelope, key| envelope.through_door(key)));
        let (status, answer) = exchange(&mut stream, "POST", Operation::Enroll.path(), &body).await;
        let refusal = refusal(Operation::Enroll, &body, &answer, &house.hub.keys.signing_key());
        assert_eq!((status, refusal.code), (401, ReasonCode::SignatureInvalid), "{refusal}");
    }
    client::enroll(&door(&invite), &invite, &keys(1), &[]).await.unwrap();
}

/// The address on the underlay is known for sure there: an invite for other sources is not good.
#[tokio::test]
async fn sources_hold_over_tls() {
    let house = house(Limits::default()).await;
    let sources = |prefix: &str| vec![prefix.parse().unwrap()];
    let from = |invite: &Invite, source: &str| HubApi { bind: Some(ip(source).into()), ..door(invite) };
    let elsewhere = InviteOrder { sources: sources("127.55.0.0/16"), ..order("aws", &[]) };
    let invite = house.hub.invite(elsewhere).await;
    let refused = client::enroll(&from(&invite, "127.56.0.1"), &invite, &keys(1), &[]).await.unwrap_err();
    assert_eq!(refused.code, ReasonCode::UnderlayForbidden);
    client::enroll(&from(&invite, "127.55.0.1"), &invite, &keys(1), &[]).await.unwrap();
    // What a person approves has the right source in it.
    let asks = house.hub.invite(InviteOrder { approve: true, ..order("oci", &[]) }).await;
    let refused = client::enroll(&from(&asks, "127.57.0.1"), &asks, &keys(2), &[]).await.unwrap_err();
    assert_eq!(refused.code, ReasonCode::ApprovalPending);
    let shown = serde_json::to_string(&house.hub.registry.view().await.ok().unwrap().pending).unwrap();
    assert!(shown.contains("127.57.0.1"), "{shown}");
}

/// Another key than the pinned one is refused before anything is said; so is the right certificate in the hands of
/// somebody who has not its key, and any certificate that is not even one.
#[tokio::test]
async fn another_key_is_refused() {
    let house = house(Limits::default()).await;
    let invite = house.hub.invite(order("aws", &[])).await;
    let door_of = |pin: KeyPin| HubApi { tls: Some(pin), ..door(&invite) };
    let refused = client::enroll(&door_of(KeyPin([7; 32])), &invite, &keys(1), &[]).await.unwrap_err();
    assert_eq!(refused.code, ReasonCode::PinMismatch, "{refused}");
    // What the client ends with an alert, the server counts when it reads it.
    let begin = Instant::now();
    while house.hub.service.handshakes_failed() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(house.hub.service.grants()["/v1/challenge"], 0, "nothing was said");

    // A server of another hub that knows this invite's address: its own key, made by itself.
    let folder = tempfile::tempdir().unwrap();
    let other = ServerKey::load_or_create(folder.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let service = house.hub.service.clone();
    let task = tokio::spawn(async move { serve_tls(listener, service, &other).await });
    let api = HubApi { address: at, ..door(&invite) };
    assert_eq!(client::enroll(&api, &invite, &keys(1), &[]).await.unwrap_err().code, ReasonCode::PinMismatch);
    task.abort();
    // The right certificate beside another private key is no key file at all.
    let mixed = stolen_certificate(house.hub.folder.path(), folder.path());
    assert!(ServerKey::load_or_create(mixed.path()).is_err());
    client::enroll(&door(&invite), &invite, &keys(1), &[]).await.unwrap();
}

/// One folder's certificate with the other's key.
fn stolen_certificate(certificate: &Path, key: &Path) -> tempfile::TempDir {
    let part = |folder: &Path, number: usize| {
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        let end = "-----END PRIVATE KEY-----\n";
        let (key, certificate) = text.split_once(end).unwrap();
        [format!("{key}{end}"), certificate.to_owned()][number].clone()
    };
    let mixed = tempfile::tempdir().unwrap();
    let text = part(key, 0) + &part(certificate, 1);
    enrollment::io::private_file::write(&mixed.path().join(FILE), text.as_bytes()).unwrap();
    mixed
}

/// Reads until the other side ends the connection; says how long that took.
async fn ended(mut stream: TcpStream, writes: Option<Vec<u8>>, pause: Duration) -> Duration {
    let begin = Instant::now();
    let mut answer = [0; 4096];
    loop {
        if let Some(bytes) = &writes
            && stream.write_all(bytes).await.is_err()
        {
            return begin.elapsed();
        }
        match tokio::time::timeout(pause, stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return begin.elapsed(),
            _ if begin.elapsed() > Duration::from_secs(20) => return begin.elapsed(),
            _ => {}
        }
    }
}

/// Clients that say nothing, that send their greeting octet by octet, that greet without end, and that send a body
/// without end inside TLS: each is gone in its time, 64 connections of one address are all that it gets, and a leaf
/// from another address joins meanwhile as if nobody else were there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_and_endless_clients_hold_up_nobody() {
    let house = house(Limits { body_timeout: Duration::from_secs(1), ..Limits::default() }).await;
    let invite = house.hub.invite(order("aws", &[])).await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..80 {
        tries.spawn(ended(connect(&house, "127.60.0.1").await, None, Duration::from_secs(20)));
    }
    // A record of TLS of type handshake that says it is 16 KiB long and comes an octet at a time.
    let mut slow = connect(&house, "127.60.0.2").await;
    slow.write_all(&[22, 3, 1, 0x40, 0]).await.unwrap();
    tries.spawn(ended(slow, Some(vec![1]), Duration::from_millis(50)));
    // The greeting of TLS says that it is 16 MiB long, and record follows record.
    let mut endless = connect(&house, "127.60.0.3").await;
    endless.write_all(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]).await.unwrap();
    let mut record = vec![0; 0x4000 - 4];
    record.extend([22, 3, 1, 0x40, 0, 0, 0, 0, 0]);
    tries.spawn(ended(endless, Some(record), Duration::from_millis(1)));

    let begin = Instant::now();
    client::enroll(&door(&invite), &invite, &keys(1), &[]).await.unwrap();
    // Held up, it would wait for the five seconds that a handshake may take.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let times = tries.join_all().await;
    assert!(times.iter().all(|took| *took < Duration::from_secs(15)), "{times:?}");
    let at_once = times.iter().filter(|took| **took < Duration::from_secs(4)).count();
    assert!(at_once >= 16, "beyond 64 connections of one address each is ended at once: {at_once}");
    assert!(house.hub.service.handshakes_failed() >= 60, "{}", house.hub.service.handshakes_failed());
}

/// A connection costs its source as much as a request, before any handshake: beyond its rate an address is sent away
/// unheard, and another one is not.
#[tokio::test]
async fn connections_are_rated() {
    let house = house(Limits { per_source_burst: 5, per_source_per_sec: 1, ..Limits::default() }).await;
    let invite = house.hub.invite(order("aws", &[])).await;
    for _ in 0..20 {
        drop(connect(&house, "127.61.0.1").await);
    }
    let flooded = HubApi { bind: Some(ip("127.61.0.1").into()), ..door(&invite) };
    let refused = client::enroll(&flooded, &invite, &keys(1), &[]).await.unwrap_err();
    assert_eq!(refused.code, ReasonCode::HubSilent, "{refused}");
    assert!(house.hub.service.refusals()["rate-limited"] > 10);
    client::enroll(&door(&invite), &invite, &keys(1), &[]).await.unwrap();
}

/// Inside TLS the limits are those of every door: a body that is too long, one that never ends, and one that does not
/// come whole are refused with their codes.
#[tokio::test]
async fn bodies_inside_tls_are_bounded() {
    let house = house(Limits { body_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    let head = "POST /v1/enroll HTTP/1.1\r\nhost: hub\r\n";
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(64));
    let cases = [
        (format!("{head}content-length: 20000\r\n\r\n{}", "x".repeat(20_000)), "413"),
        (endless, "413"),
        (format!("{head}content-length: 100\r\n\r\n "), "408"),
    ];
    for (request, status) in cases {
        let mut stream = tls(&house).await;
        // The hub may answer and close before it has read all of it.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer[9..12]), Ok(status));
    }
}

/// A client of TLS that believes anybody, so that what is sent is the test's alone.
async fn tls(house: &House) -> tokio_rustls::client::TlsStream<TcpStream> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::IpAddress(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    connector.connect(name, connect(house, "127.0.0.1").await).await.unwrap()
}

/// Checks nothing.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
