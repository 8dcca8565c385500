//! A hub that is backed up, goes on, is lost, and comes back out of the backup: safe, and no honest leaf is locked out.

mod common;

use common::*;
use enrollment::backup::{self, Archive};
use enrollment::io::backup::{CopyError, Places, gather};
use enrollment::io::client::{self, HubApi};
use enrollment::io::http::Limits;
use enrollment::io::restore::{self, Order};
use enrollment::io::restored::{self, Note};
use enrollment::policy::InviteOrder;
use enrollment::reason::ReasonCode;
use enrollment::topology::Admission;
use enrollment::view::LeafPhase;
use enrollment::wire::{Envelope, Operation, RenewRequest};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const DAY: u64 = 24 * 3600;

fn places<'a>(etc: &'a Path, state: &'a Path) -> Places<'a> {
    Places { etc, state }
}

/// Its leaf API on this hub, whatever port the former one had.
fn api(hub: &Hub, admission: &Admission) -> HubApi {
    let mut api = HubApi::of_admission(admission).unwrap();
    api.address.set_port(hub.port);
    api
}

async fn written(hub: &Hub, etc: &Path) -> Archive {
    std::fs::write(etc.join("hub.yaml"), "# a hub\n").unwrap();
    // Others decide while the copy is made.
    let registry = hub.registry.clone();
    let busy = tokio::spawn(async move {
        for n in 0..40 {
            registry.create_invite(order(&format!("busy-{n}"), &[])).await.unwrap();
        }
    });
    let (etc, state) = (etc.to_owned(), hub.folder.path().to_owned());
    let made = tokio::task::spawn_blocking(move || gather(places(&etc, &state), "hub", "0.1.0", NOW));
    let archive = made.await.unwrap().unwrap();
    busy.await.unwrap();
    let octets = backup::encode(&archive, None).unwrap();
    backup::decode(&octets, None).unwrap()
}

/// Leaves whose counters went on and whose leases ran out are served as before; a request from before is not taken
/// again; the revoked stay revoked, by the backup and by the operator's word; invites, spent or open, admit nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restored_hub_is_safe_and_locks_nobody_out() {
    let hub = Hub::start().await;
    let invite = hub.invite(order("aws", &["10.81.0.0/16"])).await;
    let spent = invite.clone();
    let aws =
        client::enroll(&HubApi::of_invite(&invite), &invite, &keys(1), &[ip("10.81.10.20")]).await.unwrap();
    let invite = hub.invite(order("azure", &["10.82.0.0/16"])).await;
    let azure = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(2), &[]).await.unwrap();
    hub.registry.revoke(azure.leaf.clone()).await.unwrap();
    let invite = hub.invite(order("oci", &["10.83.0.0/16"])).await;
    let oci = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(3), &[]).await.unwrap();
    let open = hub.invite(InviteOrder { expires_in_secs: 7 * DAY, ..order("late", &[]) }).await;
    let etc = tempfile::tempdir().unwrap();
    let archive = written(&hub, etc.path()).await;
    let summary = archive.manifest.registry.clone().unwrap();
    assert_eq!((summary.leaves.len(), summary.claims), (3, 1));

    // After the backup: the counter goes on, a claim is made, and somebody keeps a copy of a request.
    let mut last = client::renew(&api(&hub, &aws), &keys(1), &aws).await.unwrap();
    last = client::add_claim(&api(&hub, &aws), &keys(1), &last, ip("10.81.10.21")).await.unwrap();
    let lost = last.claims[&ip("10.81.10.21")].generation;
    let head = head(&aws.leaf, hub.keys.signing_key(), hub.challenge(aws.overlay).await, last.counter + 1);
    let kept = json(&Envelope::signed(Operation::Renew, &RenewRequest { head }, keys(1).signing()));
    assert_eq!(
        exchange(&mut hub.connect(aws.overlay).await, "POST", Operation::Renew.path(), &kept).await.0,
        200
    );
    last.counter += 1;
    drop(hub);

    let (machine, etc) = (Arc::new(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
    let note = Note { backup_at: NOW, revoke: vec![name("oci")], keep_invites: false, alone: false };
    let order = Order { note: Some(note), ..Order::default() };
    restore::install(&archive, places(etc.path(), machine.path()), &order, NOW).unwrap();
    let hub = Hub::start_in(machine.clone(), Limits::default(), applied_at_once(), |_| {}).await;
    hub.clock.store(NOW + 3 * DAY, Ordering::SeqCst);
    hub.registry.tick().await.unwrap();
    assert!(restored::settle(&hub.registry, machine.path()).await.unwrap().is_some());
    assert!(restored::settle(&hub.registry, machine.path()).await.unwrap().is_none(), "settled once");

    let view = hub.registry.view().await.unwrap();
    let phase = |leaf: &str| view.leaves.iter().find(|l| l.name == name(leaf)).unwrap().phase;
    assert_eq!(phase("aws"), LeafPhase::Admitted, "its lease holds before it could renew it");
    assert_eq!((phase("azure"), phase("oci")), (LeafPhase::Revoked, LeafPhase::Revoked));
    let code = hub.code(aws.overlay, Operation::Renew, &kept).await;
    assert_eq!(code, ReasonCode::ChallengeInvalid, "a request of the former life");
    let now = client::renew(&api(&hub, &aws), &keys(1), &last).await.unwrap();
    assert_eq!((now.overlay, &now.leaf), (aws.overlay, &aws.leaf));
    let now = client::add_claim(&api(&hub, &aws), &keys(1), &now, ip("10.81.10.21")).await.unwrap();
    assert!(now.claims[&ip("10.81.10.21")].generation > lost, "no number is given twice");
    for (n, leaf) in [(2, &azure), (3, &oci)] {
        let refusal = client::renew(&api(&hub, leaf), &keys(n), leaf).await.unwrap_err();
        assert_eq!(refusal.code, ReasonCode::LeaseRevoked, "{}", leaf.leaf);
    }
    for (invite, code) in [(&spent, ReasonCode::InviteSpent), (&open, ReasonCode::InviteRevoked)] {
        let mut foyer = HubApi::of_invite(invite);
        foyer.address.set_port(hub.port);
        let refusal = client::enroll(&foyer, invite, &keys(77), &[]).await.unwrap_err();
        assert_eq!(refusal.code, code);
    }
    assert!(hub.registry.verify_audit().await.unwrap().fault.is_none());
    let log = hub.registry.audit(50).await.unwrap();
    assert!(log.iter().any(|entry| entry.operation == "restored"), "the log says so");
}

/// A node that is there is not touched without the operator's word, and is kept aside with it; a dry run writes
/// nothing; what contradicts itself or is newer is refused before anything is written.
#[tokio::test]
async fn nothing_is_overwritten_or_half_written() {
    let hub = Hub::start().await;
    let etc = tempfile::tempdir().unwrap();
    let archive = written(&hub, etc.path()).await;
    let here = places(etc.path(), hub.folder.path());
    let refused = restore::install(&archive, here, &Order::default(), NOW);
    assert!(matches!(refused, Err(CopyError::Exists(_))), "{:?}", refused.err());

    let empty = tempfile::tempdir().unwrap();
    let (new_etc, state) = (empty.path().join("etc"), empty.path().join("state"));
    restore::check(&archive, &state).unwrap();
    assert!(!new_etc.exists() && !state.exists(), "a dry run leaves nothing");
    let mut torn = archive.clone();
    torn.manifest.signing_key = keys(5).signing_key().to_string();
    let refused = restore::install(&torn, places(&new_etc, &state), &Order::default(), NOW);
    assert!(matches!(refused, Err(CopyError::Unfit(_))));
    let mut newer = archive.clone();
    let place = newer.manifest.files.iter().position(|f| f.path == "state/registry.sqlite").unwrap();
    // The version of SQLite's file header that programs may set (user_version), big endian.
    newer.contents[place][60..64].copy_from_slice(&99u32.to_be_bytes());
    let refused = restore::install(&newer, places(&new_etc, &state), &Order::default(), NOW);
    assert!(refused.err().unwrap().to_string().contains("tables 99"));
    assert!(!new_etc.exists() && std::fs::read_dir(&state).unwrap().next().is_none());

    let force = Order { force: true, ..Order::default() };
    restore::install(&archive, places(&new_etc, &state), &Order::default(), NOW).unwrap();
    std::fs::write(new_etc.join("hub.yaml"), "# another hub\n").unwrap();
    let aside = restore::install(&archive, places(&new_etc, &state), &force, NOW + 1).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(aside.join("etc-hub.yaml")).unwrap(), "# another hub\n");
    assert!(aside.join("registry.sqlite").exists() && aside.join("signing.key").exists());
    assert_eq!(std::fs::read_to_string(new_etc.join("hub.yaml")).unwrap(), "# a hub\n");
    let hidden = std::fs::read_dir(&state).unwrap().flatten();
    let hidden: Vec<_> = hidden.filter(|e| e.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty() && !state.join("restoring").exists(), "{hidden:?}");
}
