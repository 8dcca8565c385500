//! The leaf's side: the codes that it gives by itself, and its state over a reboot.

mod common;

use common::*;
use enrollment::invite::Invite;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::{NodeKeys, SIGNING_FILE};
use enrollment::io::store::LeafState;
use enrollment::policy::InviteOrder;
use enrollment::reason::{ReasonCode, Refusal, Side};
use enrollment::view::{ClientPhase, ClientView};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The leaf daemon's own codes, about what comes after admission: configuration, dataplane, session and probe. They are
/// made and tested in `fabric-leaf`.
const OF_THE_DAEMON: [ReasonCode; 6] = [
    ReasonCode::NameUnresolved,
    ReasonCode::ClaimWished,
    ReasonCode::ConfigDiffers,
    ReasonCode::DataplaneFailed,
    ReasonCode::SessionDown,
    ReasonCode::ProbeFailed,
];

/// An API on a port of loopback that answers with these bytes, or stays silent.
async fn impostor(answer: Option<&'static str>) -> (HubApi, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut api = HubApi::new(listener.local_addr().unwrap(), None, keys(1000).signing_key());
    api.answer_timeout = Duration::from_millis(200);
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(body) = answer {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
            held.push(stream);
        }
    });
    (api, task)
}

/// Every code that this crate gives on the leaf or to the operator is produced by something.
#[tokio::test]
async fn every_code_of_leaf_and_operator() {
    let mut seen = BTreeSet::new();
    seen.insert(Invite::decode("fabric1-abc").err().unwrap().code);

    let hub = Hub::start().await;
    let invite = hub.invite(order("aws", &[])).await;
    let (api, silent) = impostor(None).await;
    let refusal = client::enroll(&api, &invite, &keys(1), &[]).await.unwrap_err();
    assert_eq!(refusal.code, ReasonCode::HubSilent);
    silent.abort();
    let _ = silent.await;
    assert_eq!(client::enroll(&api, &invite, &keys(1), &[]).await.unwrap_err().code, ReasonCode::HubSilent);
    seen.insert(refusal.code);
    // Neither nonsense nor an unsigned "revoked" or "granted" from somebody in between is believed.
    let unsigned = r#"{"payload":"eyJyZWZ1c2VkIjp7ImNvZGUiOiJsZWFzZS1yZXZva2VkIiwibWVzc2FnZSI6IngifX0=","signature":null}"#;
    for answer in ["<html>", "{}", unsigned] {
        let (api, task) = impostor(Some(answer)).await;
        let refusal = client::enroll(&api, &invite, &keys(1), &[]).await.unwrap_err();
        assert_eq!(refusal.code, ReasonCode::AnswerInvalid, "{answer}");
        seen.insert(refusal.code);
        task.abort();
    }

    // A TLS server that holds another key than the pinned one.
    let folder = tempfile::tempdir().unwrap();
    let key = enrollment::io::tls_door::ServerKey::load_or_create(folder.path()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = hub.service.clone();
    let task =
        tokio::spawn(async move { enrollment::io::listener::serve_tls(listener, service, &key).await });
    let api = HubApi::of_door(&invite, address, enrollment::invite::KeyPin([7; 32]));
    seen.insert(client::enroll(&api, &invite, &keys(1), &[]).await.unwrap_err().code);
    task.abort();

    NodeKeys::load_or_create(folder.path()).ok().unwrap();
    let path = folder.path().join(SIGNING_FILE);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    seen.insert(Refusal::from(NodeKeys::load(folder.path()).err().unwrap()).code);
    std::fs::write(&path, "{").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    seen.insert(LeafState::load(&path).unwrap_err().code);

    let bad = InviteOrder { uses: 0, ..order("pve", &[]) };
    seen.insert(hub.registry.create_invite(bad).await.err().unwrap().code);
    seen.insert(hub.registry.revoke_invite(secret(77).0).await.unwrap_err().code);
    let approved =
        hub.registry.decide_pending("nobody".into(), enrollment::approval::Verdict::Approved).await;
    seen.insert(approved.unwrap_err().code);
    assert_eq!(hub.registry.revoke(name("nobody")).await.unwrap_err().code, ReasonCode::LeafUnknown);
    let tiny = |settings: &mut enrollment::policy::HubSettings| {
        settings.foyer_prefix = "127.10.15.0/30".parse().unwrap()
    };
    let hub = Hub::start_with(Default::default(), tiny).await;
    hub.invite(order("one", &[])).await;
    seen.insert(hub.registry.create_invite(order("two", &[])).await.err().unwrap().code);

    let own = |code: &ReasonCode| code.side() != Side::Hub && !OF_THE_DAEMON.contains(code);
    assert_eq!(seen, ReasonCode::ALL.iter().copied().filter(own).collect());
}

/// The leaf's state survives a reboot as it was, its file is private, and time since the last answer is its own.
#[tokio::test]
async fn state_over_a_reboot() {
    let hub = Hub::start().await;
    let invite = hub.invite(order("aws", &["10.0.0.0/8"])).await;
    let claims = [Ipv4Addr::new(10, 81, 10, 20)];
    let admission = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(1), &claims).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admission.json");
    assert_eq!(LeafState::load(&path), Ok(None));
    let state = LeafState { admission, answered_at: 1000, revoked: false };
    state.save(&path).unwrap();
    assert_eq!(LeafState::load(&path), Ok(Some(state.clone())));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((state.silent_secs(1720), state.silent_secs(10)), (720, 0));

    let seen = |silent| ClientPhase::of(Some(&state.admission), state.revoked, silent, 60);
    assert_eq!(
        (seen(30), seen(720), seen(50_000)),
        (ClientPhase::Ready, ClientPhase::Stale, ClientPhase::Expired)
    );
    assert_eq!(ClientPhase::of(None, false, 0, 60), ClientPhase::Pending);
    assert_eq!(ClientPhase::of(Some(&state.admission), true, 0, 60), ClientPhase::Revoked);
    let view = ClientView::of(Some(&state.admission), seen(720), Some(720));
    assert_eq!(view.phase_text, "Stale 00:12/12:00");
    assert_eq!((view.claims.as_slice(), view.hub), (&claims[..], Some(hub.registry.snapshot().hub.overlay)));
}
