//! Two registries on disk that exchange their logs.

mod common;

use common::*;
use enrollment::approval::Verdict;
use enrollment::exchange::Batch;
use enrollment::io::http::Limits;
use enrollment::policy::{HubSettings, InviteOrder};
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::registry::HubRecord;
use enrollment::wire::Operation;
use std::sync::Arc;

/// Two hubs on loopback that know each other.
async fn two_hubs() -> (Hub, Hub) {
    let unlimited = || Limits { per_source_burst: 100_000, ..Limits::default() };
    let first = Hub::start_with(unlimited(), |_| {}).await;
    let second = Hub::start_with(unlimited(), |settings| settings.overlay = ip("127.10.0.3")).await;
    let record = |hub: &Hub, index: u8| {
        let node = hub.registry.snapshot().hub.node();
        HubRecord { node, index, joined_at: NOW, version: 2, retired_at: None }
    };
    let hubs = vec![record(&first, 0), record(&second, 1)];
    first.registry.adopt_hubs(hubs.clone()).await.unwrap();
    second.registry.adopt_hubs(hubs).await.unwrap();
    (first, second)
}

async fn fetched(to: &Hub, from: &Hub) -> Batch {
    let have = to.registry.heads().await.unwrap();
    from.registry.batch(to.keys.signing_key(), have).await.unwrap()
}

/// Pulls until nothing is new.
async fn pull(to: &Hub, from: &Hub) -> Result<(), Refusal> {
    for _ in 0..100 {
        let taken = to.registry.take(fetched(to, from).await).await?;
        if taken.entries == 0 && !taken.replaced {
            return Ok(());
        }
    }
    panic!("it does not end");
}

async fn digests(first: &Hub, second: &Hub) -> (String, String) {
    (first.registry.digest().await.unwrap(), second.registry.digest().await.unwrap())
}

async fn enroll(hub: &Hub, invite: &enrollment::invite::Invite, n: u64, claim: &str) -> u16 {
    let invite = enrollment::invite::Invite { hub_signing_key: hub.keys.signing_key(), ..invite.clone() };
    let challenge = hub.challenge(invite.foyer_address).await;
    let envelope = enroll_envelope(&invite, &keys(n), challenge, &[ip(claim)]);
    hub.post(invite.foyer_address, Operation::Enroll.path(), &json(&envelope)).await.0
}

/// Both admit on their own, one name and one address twice; afterwards they are equal, also after both are read from
/// disk again, and both chains can be followed at both.
#[tokio::test]
async fn two_registries_become_equal() {
    let (first, second) = two_hubs().await;
    let shared = first.invite(order("aws", &["10.81.0.0/16"])).await;
    let own = first.invite(order("oci", &["10.81.0.0/16"])).await;
    pull(&second, &first).await.unwrap();
    assert_eq!(enroll(&second, &shared, 1, "10.81.10.1").await, 200, "an invite of the other hub");
    first.advance(5);
    assert_eq!(enroll(&first, &shared, 2, "10.81.10.2").await, 200);
    assert_eq!(enroll(&first, &own, 3, "10.81.10.1").await, 200);
    pull(&second, &first).await.unwrap();
    pull(&first, &second).await.unwrap();
    let (one, other) = digests(&first, &second).await;
    assert_eq!(one, other);
    for hub in [&first, &second] {
        let view = hub.registry.view().await.unwrap();
        let claims: Vec<String> =
            view.claims.iter().map(|c| format!("{} {} {:?}", c.address, c.owner, c.waits)).collect();
        let waits = ["10.81.10.1 oci Some(\"behind aws\")", "10.81.10.2 aws Some(\"for its leaf's name\")"];
        assert_eq!(claims, ["10.81.10.1 aws None", waits[0], waits[1]]);
        let lost: Vec<String> = view.rivals.iter().map(|leaf| leaf.name.to_string()).collect();
        assert_eq!(lost, ["aws"]);
        let waiting: Vec<String> = view
            .waiting
            .iter()
            .map(|claim| format!("{} {} behind {:?}", claim.address, claim.owner, claim.behind))
            .collect();
        let behind = "10.81.10.1 oci behind Some(LeafName(\"aws\"))";
        assert_eq!(waiting, [behind, "10.81.10.2 aws behind None"]);
        let report = hub.registry.verify_audit().await.unwrap();
        assert_eq!((report.fault, report.hubs.len()), (None, 2));
    }
    let history = first.registry.claim_history(Some(ip("10.81.10.1")), 9).await.unwrap();
    assert!(history.iter().any(|entry| entry.leaf == "oci" && entry.step.as_str() == "lost"));
    let (folder, port) = (first.folder.clone(), first.port);
    drop(first);
    let same = |settings: &mut HubSettings| settings.api_port = port;
    let again = Hub::start_in(folder, Limits::default(), applied_at_once(), same).await;
    assert_eq!(again.registry.digest().await.unwrap(), one, "read from disk again");
}

/// A batch with an altered, a foreign or a missing entry is refused whole.
#[tokio::test]
async fn altered_batches_are_refused() {
    let (first, second) = two_hubs().await;
    first.invite(order("aws", &[])).await;
    let before = second.registry.digest().await.unwrap();
    let mut altered = fetched(&second, &first).await;
    altered.entries.last_mut().unwrap().body.0[20] ^= 1;
    assert_eq!(second.registry.take(altered).await.unwrap_err().code, ReasonCode::AnswerInvalid);
    let mut missing = fetched(&second, &first).await;
    missing.entries.remove(0);
    assert!(second.registry.take(missing).await.unwrap_err().message.contains("comes next"));
    let stranger = Hub::start().await;
    stranger.invite(order("pve", &[])).await;
    let foreign = fetched(&second, &stranger).await;
    assert!(second.registry.take(foreign).await.unwrap_err().message.contains("not one of this fabric"));
    assert_eq!(second.registry.digest().await.unwrap(), before, "nothing of them was taken");
    pull(&second, &first).await.unwrap();
    assert_eq!(second.registry.take(fetched(&second, &first).await).await.unwrap().entries, 0);
}

/// A hub that is behind what the other still keeps gets the whole state, loses nothing of its own, and goes on.
#[tokio::test]
async fn a_hub_far_behind_gets_a_snapshot() {
    let (first, second) = two_hubs().await;
    let invite = first.invite(order("aws", &["10.81.0.0/16"])).await;
    pull(&second, &first).await.unwrap();
    enroll(&first, &invite, 1, "10.81.10.1").await;
    first.registry.revoke(name("aws")).await.unwrap();
    second.invite(order("oci", &[])).await;
    first.registry.compact_log(0).await.unwrap();
    let early = fetched(&second, &first).await;
    assert!(early.snapshot.is_none() && early.entries.is_empty(), "first the other's decisions");
    pull(&first, &second).await.unwrap();
    assert!(fetched(&second, &first).await.snapshot.is_some());
    pull(&second, &first).await.unwrap();
    let (one, other) = digests(&first, &second).await;
    assert_eq!(one, other);
    second.invite(order("pve", &[])).await;
    pull(&first, &second).await.unwrap();
    let (one, other) = digests(&first, &second).await;
    assert_eq!(one, other);
    assert_eq!(second.registry.verify_audit().await.unwrap().fault, None);
}

/// A hub that was restored from an old copy and decided since is told apart, and gets back what it had when it did not.
#[tokio::test]
async fn a_restored_hub_is_mended_or_named() {
    let (first, second) = two_hubs().await;
    pull(&second, &first).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    for file in ["registry.sqlite", "registry.sqlite-wal", "signing.key", "wireguard.key"] {
        if first.folder.path().join(file).exists() {
            std::fs::copy(first.folder.path().join(file), copy.path().join(file)).unwrap();
        }
    }
    first.invite(order("aws", &[])).await;
    pull(&second, &first).await.unwrap();
    let wanted = first.registry.digest().await.unwrap();
    let port = first.port;
    drop(first);
    let same = |settings: &mut HubSettings| settings.api_port = port;
    let restored = Hub::start_in(Arc::new(copy), Limits::default(), applied_at_once(), same).await;
    let before = restored.registry.heads().await.unwrap();
    pull(&restored, &second).await.unwrap();
    assert_eq!(restored.registry.digest().await.unwrap(), wanted, "its own entries came back");
    let own = restored.keys.signing_key();
    assert!(restored.registry.heads().await.unwrap()[&own].seq > before[&own].seq);
    // The other way: it goes on with a number that the other has already.
    let mut forked = second.registry.heads().await.unwrap();
    forked.get_mut(&own).unwrap().hash[0] ^= 1;
    let batch = second.registry.batch(own, forked).await.unwrap();
    assert_eq!(batch.forked, Some(own));
}

/// A request for approval is shown at both hubs and can be judged at either; a refusal at one outweighs a consent at
/// the other, in whatever order they hear of each other.
#[tokio::test]
async fn a_request_for_approval_waits_at_both() {
    let (first, second) = two_hubs().await;
    let invite =
        first.invite(InviteOrder { approve: true, uses: 3, ..order("aws", &["10.81.0.0/16"]) }).await;
    assert_ne!(enroll(&first, &invite, 1, "10.81.10.1").await, 200, "it waits");
    pull(&second, &first).await.unwrap();
    let waiting = second.registry.view().await.unwrap().pending;
    assert_eq!(waiting.len(), 1, "shown at the other hub too");
    second.registry.decide_pending(waiting[0].fingerprint.clone(), Verdict::Approved).await.unwrap();
    pull(&first, &second).await.unwrap();
    assert_eq!(enroll(&first, &invite, 1, "10.81.10.1").await, 200, "approved at the other hub");
    pull(&second, &first).await.unwrap();
    assert!(second.registry.view().await.unwrap().pending.is_empty(), "gone at both");

    assert_ne!(enroll(&second, &invite, 2, "10.81.10.2").await, 200);
    pull(&first, &second).await.unwrap();
    let print = first.registry.view().await.unwrap().pending[0].fingerprint.clone();
    first.registry.decide_pending(print.clone(), Verdict::Denied).await.unwrap();
    second.registry.decide_pending(print, Verdict::Approved).await.unwrap();
    pull(&first, &second).await.unwrap();
    pull(&second, &first).await.unwrap();
    for hub in [&first, &second] {
        assert_ne!(enroll(hub, &invite, 2, "10.81.10.2").await, 200, "denied");
    }
    let (one, other) = digests(&first, &second).await;
    assert_eq!(one, other);
}
