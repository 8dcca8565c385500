//! The signed log in SQLite: appended in the same transaction as what it says, read back for `audit` and the other hub.

use super::keys::NodeKeys;
use crate::identity::SigningKey;
use crate::log::{self, Actor, Body, ChainError, Checkpoint, Entry, Fact, Head, Hlc};
use crate::signature::SigningKeyPair;
use crate::view::{AuditEntryView, AuditFault, AuditReport};
use crate::wire::Blob;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tables; `position` is the order in which this hub took the entries in.
pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS log (
  position INTEGER PRIMARY KEY, origin TEXT NOT NULL, seq INTEGER NOT NULL, previous BLOB NOT NULL,
  body BLOB NOT NULL, signature BLOB NOT NULL, UNIQUE (origin, seq)) STRICT;
CREATE TABLE IF NOT EXISTS log_checkpoints (
  origin TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL) STRICT;
";

/// How many entries are kept at least.
pub const KEPT: u64 = 100_000;
/// How many more may gather before the older ones are removed in one go.
const SLACK: u64 = 10_000;
/// At how many entries the older ones go.
pub const LONGEST: u64 = KEPT + SLACK;

/// The ends of all chains in this file, and what signs this hub's.
pub struct Log {
    keys: Arc<NodeKeys>,
    own: SigningKey,
    ends: Ends,
}

/// How far the log goes; kept aside while what follows is not durable.
#[derive(Clone, Default)]
pub struct Ends {
    heads: BTreeMap<SigningKey, Head>,
    clock: Hlc,
    rows: u64,
}

impl Log {
    /// The log of a file whose tables are there.
    pub fn open(db: &Connection, keys: Arc<NodeKeys>) -> rusqlite::Result<Self> {
        let mut heads: BTreeMap<_, _> = checkpoints(db)?.into_iter().map(|c| (c.origin, c.head)).collect();
        let newest = "SELECT origin, seq, previous, body, signature, MAX(seq) FROM log GROUP BY origin";
        let mut clock = Hlc::default();
        for row in db.prepare(newest)?.query_map([], entry)? {
            let entry = row?;
            heads.insert(entry.origin, Head { seq: entry.seq, hash: entry.hash() });
            clock = clock.max(entry.open().map(|body| body.at).unwrap_or_default());
        }
        let rows: i64 = db.query_row("SELECT COUNT(*) FROM log", [], |row| row.get(0))?;
        let own = keys.signing_key();
        let ends = Ends { heads, clock, rows: u64::try_from(rows).unwrap_or(0) };
        Ok(Self { keys, own, ends })
    }

    /// How far it goes.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// What came after these ends was not stored.
    pub fn back_to(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// Writes a decision of this hub as the next entry of its chain; the caller releases the
    /// savepoint, then calls [`Log::took`].
    pub fn append(
        &self,
        tx: &Connection,
        decision: (&Actor, &str),
        facts: &[Fact],
        generation: u64,
        now: u64,
    ) -> rusqlite::Result<Entry> {
        let (actor, operation) = decision;
        let (actor, operation, changes) = (actor.clone(), operation.to_owned(), facts.to_vec());
        let body = Body { at: self.ends.clock.next(now), generation, actor, operation, changes };
        let entry = Entry::sign(self.keys.signing(), &self.head(&self.own), &body);
        insert(tx, &entry)?;
        Ok(entry)
    }

    /// The ends of all chains here.
    pub fn heads(&self) -> &BTreeMap<SigningKey, Head> {
        &self.ends.heads
    }

    /// This hub's keys.
    pub fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    /// What signs this hub's entries.
    pub fn signing(&self) -> &SigningKeyPair {
        self.keys.signing()
    }

    /// All entries were replaced by checkpoints at these ends.
    pub fn restarted(&mut self, heads: BTreeMap<SigningKey, Head>) {
        self.ends.heads = heads;
        self.ends.rows = 0;
    }

    /// The end of a hub's chain here.
    pub fn head(&self, origin: &SigningKey) -> Head {
        self.ends.heads.get(origin).copied().unwrap_or_default()
    }

    /// An entry was written: the chain goes on after it.
    pub fn took(&mut self, entry: &Entry) {
        self.ends.heads.insert(entry.origin, Head { seq: entry.seq, hash: entry.hash() });
        self.ends.clock = self.ends.clock.max(entry.open().map(|body| body.at).unwrap_or_default());
        self.ends.rows += 1;
    }

    /// Whether it is time to remove old entries.
    pub fn is_long(&self) -> bool {
        self.ends.rows >= LONGEST
    }

    /// Removes the oldest entries but for the newest `kept`, leaving a signed checkpoint for each chain. Gives how
    /// many; the caller commits, then calls [`Log::shortened`].
    pub fn compact(&self, tx: &Connection, kept: u64) -> rusqlite::Result<u64> {
        let highest: i64 =
            tx.query_row("SELECT COALESCE(MAX(position), 0) FROM log", [], |row| row.get(0))?;
        let below = highest.saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX));
        let last = "SELECT origin, seq, previous, body, signature, MAX(seq) FROM log WHERE position <= ?1 GROUP BY origin";
        let removed: Vec<Entry> = tx.prepare(last)?.query_map([below], entry)?.collect::<Result<_, _>>()?;
        for entry in removed {
            let head = Head { seq: entry.seq, hash: entry.hash() };
            put_checkpoint(tx, &Checkpoint::sign(self.keys.signing(), entry.origin, head))?;
        }
        Ok(tx.execute("DELETE FROM log WHERE position <= ?1", [below])? as u64)
    }

    /// So many entries are gone for good.
    pub fn shortened(&mut self, count: u64) {
        self.ends.rows = self.ends.rows.saturating_sub(count);
    }
}

/// Writes an entry whose place was checked.
pub fn insert(tx: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO log (origin, seq, previous, body, signature) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let (origin, seq) = (entry.origin.to_string(), signed(entry.seq));
    put.execute(params![origin, seq, entry.previous.0, entry.body.0, entry.signature.0])?;
    Ok(())
}

/// Removes every entry and begins at these checkpoints.
pub fn restart(tx: &Connection, checkpoints: &[Checkpoint]) -> rusqlite::Result<()> {
    tx.execute_batch("DELETE FROM log; DELETE FROM log_checkpoints")?;
    checkpoints.iter().try_for_each(|checkpoint| put_checkpoint(tx, checkpoint))
}

/// The hash of a hub's entry of this number, if it is still kept or a checkpoint stands there.
pub fn hash_at(db: &Connection, origin: &SigningKey, seq: u64) -> rusqlite::Result<Option<[u8; 32]>> {
    let at = params![origin.to_string(), signed(seq)];
    let mut found = db.prepare_cached(
        "SELECT origin, seq, previous, body, signature FROM log WHERE origin = ?1 AND seq = ?2",
    )?;
    let kept = found.query_row(at, entry).optional()?.map(|entry| entry.hash());
    let mut begin = db.prepare_cached("SELECT hash FROM log_checkpoints WHERE origin = ?1 AND seq = ?2")?;
    match kept {
        Some(hash) => Ok(Some(hash)),
        None => begin.query_row(at, |row| row.get(0)).optional(),
    }
}

/// The entries of a hub's chain after a number, at most `limit`, each with its position here.
pub fn after(
    db: &Connection,
    origin: &SigningKey,
    seq: u64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Entry)>> {
    let mut query = db.prepare_cached(
        "SELECT origin, seq, previous, body, signature, position FROM log
         WHERE origin = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query
        .query_map(params![origin.to_string(), signed(seq), limit], |row| Ok((row.get(5)?, entry(row)?)))?;
    rows.collect()
}

fn put_checkpoint(tx: &Connection, checkpoint: &Checkpoint) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO log_checkpoints (origin, seq, hash, signature) VALUES (?1, ?2, ?3, ?4)",
        params![
            checkpoint.origin.to_string(),
            signed(checkpoint.head.seq),
            checkpoint.head.hash,
            checkpoint.signature.0
        ],
    )?;
    Ok(())
}

/// SQLite's integers are signed; numbers of entries stay far below that.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0))
}

fn key(row: &Row<'_>, index: usize) -> rusqlite::Result<SigningKey> {
    // An altered key becomes one that verifies nothing, so that the entry is reported and not skipped.
    Ok(row.get::<_, String>(index)?.parse().unwrap_or(SigningKey([0; 32])))
}

/// Columns origin, seq, previous, body, signature.
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let blob = |index| row.get::<_, Vec<u8>>(index).map(Blob);
    let (origin, seq) = (key(row, 0)?, unsigned(row, 1)?);
    Ok(Entry { origin, seq, previous: blob(2)?, body: blob(3)?, signature: blob(4)? })
}

/// Where the chains begin whose older entries are kept no longer.
pub fn checkpoints(db: &Connection) -> rusqlite::Result<Vec<Checkpoint>> {
    let mut query = db.prepare("SELECT origin, seq, hash, signature FROM log_checkpoints")?;
    let read = |row: &Row<'_>| {
        let head = Head { seq: unsigned(row, 1)?, hash: row.get(2)? };
        Ok(Checkpoint { origin: key(row, 0)?, head, signature: Blob(row.get(3)?) })
    };
    query.query_map([], read)?.collect()
}

/// The newest entries first, at most `limit`.
pub fn list(db: &Connection, limit: u32) -> rusqlite::Result<Vec<AuditEntryView>> {
    let mut query =
        db.prepare("SELECT origin, seq, previous, body, signature FROM log ORDER BY position DESC LIMIT ?1")?;
    let shown = |entry: Entry| {
        let hash = entry.hash().iter().map(|byte| format!("{byte:02x}")).collect();
        let (origin, seq) = (entry.origin, entry.seq);
        match entry.open() {
            Ok(body) => AuditEntryView {
                origin,
                seq,
                at: body.at.secs,
                actor: body.actor.to_string(),
                operation: body.operation,
                changes: body.changes.iter().map(|fact| log::summary(&fact.change)).collect(),
                hash,
            },
            Err(error) => AuditEntryView {
                origin,
                seq,
                at: 0,
                actor: "?".into(),
                operation: "unreadable".into(),
                changes: vec![error.to_string()],
                hash,
            },
        }
    };
    query.query_map([limit], entry)?.map(|entry| entry.map(shown)).collect()
}

/// Follows every chain from its first entry or checkpoint to its end. `hubs` are the keys that may sign; the first is
/// this hub's own.
pub fn verify(db: &Connection, hubs: &[SigningKey]) -> rusqlite::Result<AuditReport> {
    let mut report = AuditReport { entries: 0, hubs: BTreeMap::new(), fault: None };
    let mut heads: BTreeMap<SigningKey, Head> = BTreeMap::new();
    for checkpoint in checkpoints(db)? {
        if !hubs.first().is_some_and(|own| checkpoint.is_by(own)) {
            let (origin, seq) = (checkpoint.origin, checkpoint.head.seq);
            let why = "the checkpoint's signature is not this hub's: it was altered".into();
            report.fault = Some(AuditFault { origin, seq, why });
            return Ok(report);
        }
        heads.insert(checkpoint.origin, checkpoint.head);
    }
    let mut query = db.prepare("SELECT origin, seq, previous, body, signature FROM log ORDER BY position")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let entry = entry(row)?;
        let head = heads.get(&entry.origin).copied().unwrap_or_default();
        let followed = match hubs.contains(&entry.origin) {
            true => entry.follow(&head).and_then(|head| entry.open().map(|_| head)),
            false => Err(ChainError::Signature),
        };
        match followed {
            Ok(head) => drop(heads.insert(entry.origin, head)),
            Err(error) => {
                let (origin, seq) = (entry.origin, entry.seq);
                report.fault = Some(AuditFault { origin, seq, why: error.to_string() });
                break;
            }
        }
        report.entries += 1;
    }
    report.hubs = heads.into_iter().map(|(origin, head)| (origin.to_string(), head.seq)).collect();
    Ok(report)
}

/// Whether the log was begun in this file.
pub fn is_empty(db: &Connection) -> rusqlite::Result<bool> {
    let any = "SELECT 1 FROM log UNION ALL SELECT 1 FROM log_checkpoints LIMIT 1";
    Ok(db.query_row(any, [], |_| Ok(())).optional()?.is_none())
}
