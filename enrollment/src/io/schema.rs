//! The registry's tables and how records become rows. A row that cannot be read is reported and blocks no other.

use crate::approval::Pending;
use crate::claim::{Claim, ClaimStep, Move};
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::log::StoredInvite;
use crate::policy::HubSettings;
use crate::registry::{
    BadRecord, Change, Contender, HubRecord, InviteRecord, Leaf, Merged, RevokedKey, State,
};
use crate::signature::MacKey;
use crate::view::ClaimHistoryView;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The version of the tables; a file of a newer one is refused.
pub const VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS leaves (name TEXT PRIMARY KEY, overlay TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS claims (
  address TEXT PRIMARY KEY, leaf TEXT NOT NULL, generation INTEGER NOT NULL, since INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS claim_history (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, address TEXT NOT NULL, leaf TEXT NOT NULL,
  generation INTEGER NOT NULL, step TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS claim_history_address ON claim_history (address, seq);
CREATE TABLE IF NOT EXISTS invites (id TEXT PRIMARY KEY, mac_key BLOB NOT NULL, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS revoked_keys (
  key TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('wireguard', 'signing')), leaf TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS pending (signing_key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS moves (address TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rivals (
  name TEXT NOT NULL, machine TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (name, machine)) STRICT;
CREATE TABLE IF NOT EXISTS waiting (
  address TEXT NOT NULL, generation INTEGER NOT NULL, since INTEGER NOT NULL, leaf TEXT NOT NULL, machine TEXT,
  PRIMARY KEY (address, generation)) STRICT;
CREATE TABLE IF NOT EXISTS forgotten (id TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS gone_machines (key TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS hubs (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
";

/// How many entries of the claims' history are kept.
const HISTORY_ROWS: i64 = 100_000;

/// Makes the connection durable and the tables present.
pub fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(2))?;
    db.set_prepared_statement_cache_capacity(64);
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.execute_batch(TABLES)?;
    db.execute_batch(super::log_store::TABLES)?;
    db.pragma_update(None, "user_version", VERSION)?;
    db.execute(
        "DELETE FROM claim_history WHERE seq <= (SELECT MAX(seq) FROM claim_history) - ?1",
        [HISTORY_ROWS],
    )?;
    Ok(())
}

/// Removes every record but the claims' history; the log is not touched.
pub fn empty(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch(
        "DELETE FROM leaves; DELETE FROM claims; DELETE FROM invites; DELETE FROM revoked_keys;
         DELETE FROM rivals; DELETE FROM waiting; DELETE FROM forgotten; DELETE FROM hubs; DELETE FROM moves;
         DELETE FROM gone_machines;",
    )
}

/// The version of the tables in a file; 0 in a new one.
pub fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The state that the tables hold.
pub fn load(db: &Connection, settings: Arc<HubSettings>, now: u64) -> rusqlite::Result<State> {
    let mut state = State::new(settings);
    let meta = |key: &str| -> rusqlite::Result<u64> {
        let mut query = db.prepare("SELECT value FROM meta WHERE key = ?1")?;
        let found = query.query_map([key], |row| row.get::<_, i64>(0))?.next().transpose()?;
        Ok(u64::try_from(found.unwrap_or(0)).unwrap_or(0))
    };
    state.generation = meta("generation")?;
    state.claim_generation = meta("claim_generation")?;
    load_invites(db, &mut state, now)?;
    load_revoked_keys(db, &mut state)?;
    load_leaves(db, &mut state, now)?;
    load_claims(db, &mut state, now)?;
    load_pending(db, &mut state, now)?;
    load_moves(db, &mut state, now)?;
    load_others(db, &mut state, now)?;
    state.settle(now);
    Ok(state)
}

fn bad(table: &str, key: &str, why: impl ToString) -> BadRecord {
    BadRecord { table: table.into(), key: key.into(), why: why.to_string() }
}

fn load_invites(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT id, mac_key, record FROM invites")?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match read_invite(row) {
            Ok(invite) => found.push(invite),
            Err(why) => state.reserve(bad("invites", &text(row, 0), why), None, None),
        }
    }
    found.sort_by_key(|invite| invite.created_generation);
    found.into_iter().for_each(|invite| state.apply_one(&Change::Invite(Arc::new(invite)), now));
    Ok(())
}

fn read_invite(row: &Row<'_>) -> Result<InviteRecord, String> {
    let id: InviteId = text(row, 0).parse().map_err(|e| format!("{e}"))?;
    let mac_key: [u8; 32] = row.get(1).map_err(|e| e.to_string())?;
    let stored: StoredInvite = serde_json::from_str(&text(row, 2)).map_err(|e| e.to_string())?;
    Ok(stored.with(id, MacKey::new(mac_key)))
}

fn load_pending(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT signing_key, record FROM pending")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match serde_json::from_str::<Pending>(&text(row, 1)) {
            Ok(pending) => state.apply_one(&Change::Pending(Arc::new(pending)), now),
            Err(why) => state.reserve(bad("pending", &text(row, 0), why), None, None),
        }
    }
    Ok(())
}

fn load_moves(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT address, record FROM moves")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match (text(row, 0).parse::<Ipv4Addr>(), serde_json::from_str::<Move>(&text(row, 1))) {
            (Ok(address), Ok(moving)) => state.resume_move(address, moving, now),
            _ => state.reserve(bad("moves", &text(row, 0), "it cannot be read"), None, None),
        }
    }
    Ok(())
}

fn load_revoked_keys(db: &Connection, state: &mut State) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT key, kind, leaf FROM revoked_keys")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (key, kind) = (text(row, 0), text(row, 1));
        match (key.parse::<WireguardKey>(), text(row, 2).parse::<LeafName>()) {
            (Ok(WireguardKey(bytes)), Ok(leaf)) => {
                let signing = (kind == "signing").then_some(SigningKey(bytes));
                state.restore_revoked_key(bytes, RevokedKey { leaf, signing });
            }
            _ => state.reserve(bad("revoked_keys", &key, "neither key nor name can be read"), None, None),
        }
    }
    Ok(())
}

fn load_leaves(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT name, overlay, record FROM leaves")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (name, overlay) = (text(row, 0), text(row, 1).parse::<Ipv4Addr>().ok());
        let leaf = serde_json::from_str::<Leaf>(&text(row, 2)).map_err(|e| e.to_string());
        let leaf = leaf.and_then(|leaf| {
            let whole = leaf.name.as_str() == name && Some(leaf.overlay) == overlay;
            let own =
                state.leaf_of_key(&leaf.wireguard_key.0).or(state.leaf_of_key(&leaf.signing_key.0)).is_none();
            match (whole, own) {
                (true, true) => Ok(leaf),
                (false, _) => Err("name or overlay address is not that of its row".to_owned()),
                (_, false) => Err("it has a key of another leaf".to_owned()),
            }
        });
        match leaf {
            Ok(leaf) => {
                state.restore(Ok(leaf.clone()));
                state.apply_one(&Change::Leaf(Arc::new(leaf)), now);
            }
            Err(why) => state.reserve(bad("leaves", &name, why), Some(&name), overlay),
        }
    }
    Ok(())
}

fn load_claims(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT address, leaf, generation, since FROM claims")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (address, owner) = (text(row, 0), text(row, 1));
        let Ok(parsed) = address.parse::<Ipv4Addr>() else {
            state.reserve(bad("claims", &address, "this is no address"), None, None);
            continue;
        };
        // An address whose owner cannot be read stays owned: nobody else gets it.
        let leaf = owner.parse().unwrap_or_else(|_| {
            state.reserve(bad("claims", &address, "its owner is no name"), Some("unreadable"), None);
            "unreadable".parse().expect("this is a name")
        });
        let number = |index| u64::try_from(row.get::<_, i64>(index).unwrap_or(0)).unwrap_or(0);
        let claim = Claim { generation: number(2), since: number(3) };
        let machine = state.leaf(&leaf).map(|leaf| leaf.machine());
        let contender = Contender { leaf: LeafName::clone(&leaf), machine, claim };
        state.restore(Err((parsed, contender)));
        state.apply_one(&Change::ClaimAdded { address: parsed, leaf, claim }, now);
    }
    Ok(())
}

/// What is known beside what is shown: rivals, waiting claims, forgotten invites, hubs.
fn load_others(db: &Connection, state: &mut State, now: u64) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT name, record FROM rivals")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match serde_json::from_str::<Leaf>(&text(row, 1)) {
            Ok(leaf) => state.restore(Ok(leaf)),
            Err(why) => state.reserve(bad("rivals", &text(row, 0), why), None, None),
        }
    }
    let mut query = db.prepare("SELECT address, leaf, machine, generation, since FROM waiting")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let number = |index| u64::try_from(row.get::<_, i64>(index).unwrap_or(0)).unwrap_or(0);
        let claim = Claim { generation: number(3), since: number(4) };
        let machine = text(row, 2).parse().ok();
        match (text(row, 0).parse(), text(row, 1).parse()) {
            (Ok(address), Ok(leaf)) => state.restore(Err((address, Contender { leaf, machine, claim }))),
            _ => state.reserve(bad("waiting", &text(row, 0), "neither address nor name"), None, None),
        }
    }
    let mut query = db.prepare("SELECT id FROM forgotten")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match text(row, 0).parse() {
            Ok(id) => state.restore_forgotten(id),
            Err(why) => state.reserve(bad("forgotten", &text(row, 0), why), None, None),
        }
    }
    let mut query = db.prepare("SELECT key FROM gone_machines")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match text(row, 0).parse() {
            Ok(key) => state.restore_gone(key),
            Err(why) => state.reserve(bad("gone_machines", &text(row, 0), why), None, None),
        }
    }
    let mut query = db.prepare("SELECT key, record FROM hubs")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match serde_json::from_str::<HubRecord>(&text(row, 1)) {
            Ok(hub) => state.apply_one(&Change::Hub(Arc::new(hub)), now),
            Err(why) => state.reserve(bad("hubs", &text(row, 0), why), None, None),
        }
    }
    Ok(())
}

/// A column as text; empty if it is something else.
fn text(row: &Row<'_>, index: usize) -> String {
    row.get(index).unwrap_or_default()
}

/// SQLite's integers are signed; times and generations stay far below that.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Writes what merging changed: the shown rows, and the rivals and waiting claims of every name and address touched.
pub fn write_merged(
    tx: &Connection,
    state: &State,
    merged: &Merged,
    generation: u64,
    now: u64,
) -> rusqlite::Result<()> {
    write(tx, &merged.shown, generation, now)?;
    for name in &merged.names {
        tx.prepare_cached("DELETE FROM rivals WHERE name = ?1")?.execute([name.as_str()])?;
        for leaf in state.rivals(name) {
            let mut put =
                tx.prepare_cached("INSERT INTO rivals (name, machine, record) VALUES (?1, ?2, ?3)")?;
            put.execute(params![name.as_str(), leaf.machine().to_string(), json(&**leaf)?])?;
        }
    }
    if merged.machines_gone {
        for key in state.gone_machines() {
            let mut put = tx.prepare_cached("INSERT OR IGNORE INTO gone_machines (key) VALUES (?1)")?;
            put.execute([key.to_string()])?;
        }
    }
    for address in &merged.addresses {
        tx.prepare_cached("DELETE FROM waiting WHERE address = ?1")?.execute([address.to_string()])?;
        for Contender { leaf, machine, claim } in state.waiting(address) {
            let mut put = tx.prepare_cached(
                "INSERT INTO waiting (address, generation, since, leaf, machine) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            let (generation, since) = (signed(claim.generation), signed(claim.since));
            let machine = machine.map(|key| key.to_string());
            put.execute(params![address.to_string(), generation, since, leaf.as_str(), machine])?;
        }
    }
    Ok(())
}

/// Makes the generations go on from here even if no claim says so.
pub fn put_generations(db: &Connection, generation: u64, claim_generation: u64) -> rusqlite::Result<()> {
    let mut put = db.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = MAX(value, ?2)",
    )?;
    put.execute(params!["generation", signed(generation)])?;
    put.execute(params!["claim_generation", signed(claim_generation)])?;
    Ok(())
}

/// Writes one request's changes and the generations that follow from them.
fn write(tx: &Connection, changes: &[Change], generation: u64, now: u64) -> rusqlite::Result<()> {
    for change in changes {
        write_one(tx, change, now)?;
    }
    let mut put = tx.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = MAX(value, ?2)",
    )?;
    put.execute(params!["generation", signed(generation)])?;
    let claims = changes.iter().filter_map(|change| match change {
        Change::ClaimAdded { claim, .. } | Change::ClaimMoved { claim, .. } => Some(claim.generation),
        _ => None,
    });
    if let Some(highest) = claims.max() {
        put.execute(params!["claim_generation", signed(highest)])?;
    }
    Ok(())
}

fn write_one(tx: &Connection, change: &Change, now: u64) -> rusqlite::Result<()> {
    match change {
        Change::Leaf(leaf) => {
            let mut put = tx.prepare_cached(
                "INSERT INTO leaves (name, overlay, record) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET overlay = ?2, record = ?3",
            )?;
            put.execute(params![leaf.name.as_str(), leaf.overlay.to_string(), json(&**leaf)?])?;
        }
        Change::Invite(invite) => write_invite(tx, invite)?,
        Change::InviteForgotten(id) => {
            tx.execute("DELETE FROM invites WHERE id = ?1", [id.to_string()])?;
            tx.execute("INSERT OR IGNORE INTO forgotten (id) VALUES (?1)", [id.to_string()])?;
        }
        Change::ClaimAdded { address, leaf, claim } => {
            // Not "or replace": two owners of one address must fail here even if the judgement were wrong.
            let mut put = tx.prepare_cached(
                "INSERT INTO claims (address, leaf, generation, since) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let (generation, since) = (signed(claim.generation), signed(claim.since));
            put.execute(params![address.to_string(), leaf.as_str(), generation, since])?;
            write_history(tx, address, leaf, claim, ClaimStep::Added, now)?;
        }
        Change::ClaimRemoved { address, leaf, claim, step } => {
            let mut delete = tx.prepare_cached("DELETE FROM claims WHERE address = ?1 AND leaf = ?2")?;
            delete.execute(params![address.to_string(), leaf.as_str()])?;
            write_history(tx, address, leaf, claim, *step, now)?;
        }
        Change::Hub(hub) => {
            let mut put = tx.prepare_cached("INSERT OR REPLACE INTO hubs (key, record) VALUES (?1, ?2)")?;
            put.execute(params![hub.node.signing_key.to_string(), json(&**hub)?])?;
        }
        Change::KeysRevoked { leaf, wireguard_key, signing_key } => {
            let mut put = tx
                .prepare_cached("INSERT OR IGNORE INTO revoked_keys (key, kind, leaf) VALUES (?1, ?2, ?3)")?;
            put.execute(params![wireguard_key.to_string(), "wireguard", leaf.as_str()])?;
            put.execute(params![signing_key.to_string(), "signing", leaf.as_str()])?;
        }
        Change::Pending(pending) => {
            let mut put = tx.prepare_cached(
                "INSERT INTO pending (signing_key, record) VALUES (?1, ?2)
                 ON CONFLICT (signing_key) DO UPDATE SET record = ?2",
            )?;
            put.execute(params![pending.signing_key.to_string(), json(&**pending)?])?;
        }
        Change::PendingGone(key) => {
            tx.execute("DELETE FROM pending WHERE signing_key = ?1", [key.to_string()])?;
        }
        Change::ClaimMoved { address, moving, claim } => write_move(tx, address, moving, claim, now)?,
        Change::MoveDone(address) => {
            tx.execute("DELETE FROM moves WHERE address = ?1", [address.to_string()])?;
        }
        Change::LeafForgotten(name) => {
            tx.execute("DELETE FROM leaves WHERE name = ?1", [name.as_str()])?;
        }
    }
    Ok(())
}

fn write_move(
    tx: &Connection,
    address: &Ipv4Addr,
    moving: &Move,
    claim: &Claim,
    now: u64,
) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "UPDATE claims SET leaf = ?2, generation = ?3, since = ?4 WHERE address = ?1 AND leaf = ?5",
    )?;
    let (generation, since) = (signed(claim.generation), signed(claim.since));
    let (from, to) = (moving.from.as_str(), moving.to.as_str());
    put.execute(params![address.to_string(), to, generation, since, from])?;
    let mut put = tx.prepare_cached(
        "INSERT INTO moves (address, record) VALUES (?1, ?2) ON CONFLICT (address) DO UPDATE SET record = ?2",
    )?;
    put.execute(params![address.to_string(), json(moving)?])?;
    write_history(tx, address, &moving.from, &moving.former, ClaimStep::Moved, now)?;
    write_history(tx, address, &moving.to, claim, ClaimStep::Added, now)
}

fn write_invite(tx: &Connection, invite: &InviteRecord) -> rusqlite::Result<()> {
    let stored = StoredInvite::of(invite);
    let mut put = tx.prepare_cached(
        "INSERT INTO invites (id, mac_key, record) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET record = ?3",
    )?;
    put.execute(params![invite.id.to_string(), invite.mac_key.0, json(&stored)?])?;
    Ok(())
}

fn write_history(
    tx: &Connection,
    address: &Ipv4Addr,
    leaf: &LeafName,
    claim: &Claim,
    step: ClaimStep,
    now: u64,
) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO claim_history (at, address, leaf, generation, step) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let (now, generation) = (signed(now), signed(claim.generation));
    put.execute(params![now, address.to_string(), leaf.as_str(), generation, step.as_str()])?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

/// The newest entries of the claims' history first, at most `limit`; of one address or of all.
pub fn history(
    db: &Connection,
    address: Option<Ipv4Addr>,
    limit: u32,
) -> rusqlite::Result<Vec<ClaimHistoryView>> {
    let mut query = db.prepare_cached(
        "SELECT at, address, leaf, generation, step FROM claim_history
         WHERE ?1 IS NULL OR address = ?1 ORDER BY seq DESC LIMIT ?2",
    )?;
    let rows = query.query_map(params![address.map(|a| a.to_string()), limit], |row| {
        let number = |index| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0));
        let word = text(row, 4);
        let step = ClaimStep::ALL.into_iter().find(|step| step.as_str() == word);
        let step = step.unwrap_or(ClaimStep::Revoked);
        let address = text(row, 1).parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(ClaimHistoryView { at: number(0)?, address, leaf: text(row, 2), generation: number(3)?, step })
    })?;
    rows.collect()
}
