//! The signed log: every decision is in it, and nobody can alter it unseen.

mod common;

use common::*;
use enrollment::io::http::Limits;
use enrollment::wire::{Operation, RenewRequest};
use rusqlite::Connection;
use std::path::PathBuf;

fn database(hub: &Hub) -> PathBuf {
    hub.folder.path().join("registry.sqlite")
}

/// A hub with a few decisions behind it: two leaves, a claim, a revocation.
async fn busy_hub() -> Hub {
    let hub = Hub::start().await;
    for (n, site) in [(1, "aws"), (2, "oci")] {
        let invite = hub.invite(order(site, &["10.81.0.0/16"])).await;
        let challenge = hub.challenge(invite.foyer_address).await;
        let claim = ip(&format!("10.81.10.{n}"));
        let envelope = enroll_envelope(&invite, &keys(n), challenge, &[claim]);
        let (status, _) = hub.post(invite.foyer_address, Operation::Enroll.path(), &json(&envelope)).await;
        assert_eq!(status, 200);
    }
    let source = ip("127.10.0.2");
    let challenge = hub.challenge(source).await;
    let request = RenewRequest { head: head(&name("aws"), hub.keys.signing_key(), challenge, 1) };
    let envelope = enrollment::wire::Envelope::signed(Operation::Renew, &request, keys(1).signing());
    assert_eq!(hub.post(source, Operation::Renew.path(), &json(&envelope)).await.0, 200);
    hub.registry.revoke(name("oci")).await.unwrap();
    hub
}

/// Each decision is one entry with who caused it, the newest first; the chain is whole.
#[tokio::test]
async fn every_decision_is_in_the_log() {
    let hub = busy_hub().await;
    let entries = hub.registry.audit(50).await.unwrap();
    let told: Vec<String> = entries.iter().rev().map(|e| format!("{} {}", e.seq, e.operation)).collect();
    assert_eq!(told, ["1 begun", "2 invite", "3 enroll", "4 invite", "5 enroll", "6 renew", "7 revoke"]);
    assert!(entries[4].actor.starts_with("invite "), "{}", entries[4].actor);
    assert_eq!((entries[1].actor.as_str(), entries[0].actor.as_str()), ("leaf aws", "admin"));
    assert!(entries[0].changes.iter().any(|c| c == "10.81.10.2 no longer owned by oci (revoked)"));
    let report = hub.registry.verify_audit().await.unwrap();
    assert_eq!((report.entries, report.fault), (7, None));
    assert_eq!(report.hubs[&hub.keys.signing_key().to_string()], 7);
}

/// One octet altered in the database, in any column of an entry, or an entry removed: `verify` names the entry.
#[tokio::test]
async fn an_altered_octet_is_named() {
    let hub = busy_hub().await;
    let db = Connection::open(database(&hub)).unwrap();
    for column in ["previous", "body", "signature"] {
        let read = format!("SELECT {column} FROM log WHERE seq = 3");
        let write = format!("UPDATE log SET {column} = ?1 WHERE seq = 3");
        let whole: Vec<u8> = db.query_row(&read, [], |row| row.get(0)).unwrap();
        let mut altered = whole.clone();
        altered[10] ^= 1;
        assert_eq!(db.execute(&write, [altered]).unwrap(), 1);
        let fault = hub.registry.verify_audit().await.unwrap().fault.expect("it was altered");
        assert_eq!((fault.seq, fault.origin), (3, hub.keys.signing_key()), "{column}");
        db.execute(&write, [whole]).unwrap();
        assert_eq!(hub.registry.verify_audit().await.unwrap().fault, None);
    }
    db.execute("DELETE FROM log WHERE seq = 4", []).unwrap();
    let fault = hub.registry.verify_audit().await.unwrap().fault.expect("one is missing");
    assert_eq!((fault.seq, fault.why.as_str()), (5, "its number is 5, and 4 comes next"));
    db.execute("UPDATE log SET origin = ?1 WHERE seq = 1", [keys(77).signing_key().to_string()]).unwrap();
    assert_eq!(hub.registry.verify_audit().await.unwrap().fault.unwrap().seq, 1, "an unknown hub's entry");
}

/// Old entries go, and what is left can still be followed from the signed checkpoint; after a restart too.
#[tokio::test]
async fn a_shortened_log_is_followed_from_its_checkpoint() {
    let hub = busy_hub().await;
    hub.registry.compact_log(2).await.unwrap();
    let report = hub.registry.verify_audit().await.unwrap();
    assert_eq!((report.entries, report.fault), (2, None));
    let (folder, port) = (hub.folder.clone(), hub.port);
    drop(hub);
    let same = |settings: &mut enrollment::policy::HubSettings| settings.api_port = port;
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), same).await;
    hub.registry.revoke(name("aws")).await.unwrap();
    let report = hub.registry.verify_audit().await.unwrap();
    assert_eq!((report.entries, report.fault), (3, None));
    hub.registry.compact_log(0).await.unwrap();
    hub.invite(order("pve", &[])).await;
    assert_eq!(hub.registry.audit(1).await.unwrap()[0].seq, 9, "numbers go on after all entries are gone");
    let db = Connection::open(database(&hub)).unwrap();
    db.execute("UPDATE log_checkpoints SET seq = seq - 1", []).unwrap();
    let fault = hub.registry.verify_audit().await.unwrap().fault.expect("the checkpoint was altered");
    assert!(fault.why.contains("checkpoint"), "{}", fault.why);
}

/// A registry of the version before the log is opened with all that it holds; the log says where it begins.
#[tokio::test]
async fn an_older_registry_is_migrated() {
    let hub = busy_hub().await;
    let (folder, file) = (hub.folder.clone(), database(&hub));
    let before = hub.registry.view().await.unwrap();
    drop(hub);
    let db = Connection::open(file).unwrap();
    db.execute_batch("DROP TABLE log; DROP TABLE log_checkpoints; PRAGMA user_version = 1").unwrap();
    drop(db);
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |_| {}).await;
    let after = hub.registry.view().await.unwrap();
    assert_eq!((after.leaves, after.claims, after.invites), (before.leaves, before.claims, before.invites));
    let entries = hub.registry.audit(9).await.unwrap();
    assert_eq!((entries.len(), entries[0].operation.as_str()), (1, "migrated"));
}
