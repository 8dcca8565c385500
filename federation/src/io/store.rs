//! Events on disk: SQLite in WAL mode, one transaction a change.

use std::net::Ipv4Addr;
use std::path::Path;

use rusqlite::{Connection, Row, params};

use crate::event::{Event, EventType};

/// The version of the tables; a file of a newer one is refused.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS federation_events (
  id TEXT PRIMARY KEY, group_name TEXT NOT NULL, source_node TEXT NOT NULL, type TEXT NOT NULL,
  subject TEXT NOT NULL, dedupe_key TEXT NOT NULL, payload TEXT NOT NULL,
  observed_at INTEGER NOT NULL, expires_at INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS federation_events_observed ON federation_events (observed_at, id);
CREATE INDEX IF NOT EXISTS federation_events_type ON federation_events (group_name, type, observed_at);
";

const COLUMNS: &str =
    "id, group_name, source_node, type, subject, dedupe_key, payload, observed_at, expires_at";

/// How many events one transaction prunes, so that none waits long.
const PRUNE_BATCH: u64 = 1000;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made or its mode set.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refuses it.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version of the software wrote it.
    #[error("{path} was written by a newer version (tables {found}, known {VERSION})")]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
    },
    /// The owner's thread could not be started.
    #[error("the federation's thread could not be started")]
    Thread,
}

/// Which events are listed, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this type only.
    pub event_type: Option<EventType>,
    /// With a subject that begins so.
    pub subject_prefix: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// How many events went, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Older than the retention age.
    pub by_age: u64,
    /// Beyond the retention count.
    pub by_count: u64,
}

pub(crate) struct Store {
    db: Connection,
}

impl Store {
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let shown = || path.display().to_string();
        make_private(path).map_err(|source| OpenError::File { path: shown(), source })?;
        let database = |source| OpenError::Database { path: shown(), source };
        let db = Connection::open(path).map_err(database)?;
        let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
        if found > VERSION {
            return Err(OpenError::Newer { path: shown(), found });
        }
        prepare(&db).map_err(database)?;
        Ok(Store { db })
    }

    /// Whether an event of that id is stored.
    pub fn knows(&self, id: &str) -> rusqlite::Result<bool> {
        let mut query = self.db.prepare_cached("SELECT 1 FROM federation_events WHERE id = ?1")?;
        query.exists([id])
    }

    /// Stores an event; it is durable when this returns. `false` means that it was known.
    pub fn insert(&mut self, event: &Event) -> rusqlite::Result<bool> {
        let mut insert = self.db.prepare_cached(
            "INSERT INTO federation_events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        )?;
        let payload = event.payload.to_string();
        let changed = insert.execute(params![
            event.id,
            event.group,
            event.source_node,
            event.event_type.as_str(),
            event.subject,
            event.dedupe_key,
            payload,
            signed(event.observed_at),
            signed(event.expires_at),
        ])?;
        Ok(changed == 1)
    }

    /// The events of a group that a filter lets through, the newest first.
    pub fn list(&self, group: &str, filter: &Filter) -> rusqlite::Result<Vec<Event>> {
        let mut query = self.db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM federation_events WHERE group_name = ?1 AND (?2 IS NULL OR type = ?2) \
             AND (?3 IS NULL OR substr(subject, 1, length(?3)) = ?3) ORDER BY observed_at DESC, id DESC LIMIT ?4"
        ))?;
        let event_type = filter.event_type.map(EventType::as_str);
        let found =
            query.query_map(params![group, event_type, filter.subject_prefix, filter.limit], event)?;
        found.collect()
    }

    /// Hands every client event of a group to `take`.
    pub fn client_events(&self, group: &str, mut take: impl FnMut(&Event)) -> rusqlite::Result<()> {
        let mut query = self.db.prepare(&format!(
            "SELECT {COLUMNS} FROM federation_events WHERE group_name = ?1 AND type IN (?2, ?3)"
        ))?;
        let (observed, expired) = (EventType::ClientObserved.as_str(), EventType::ClientExpired.as_str());
        let mut rows = query.query(params![group, observed, expired])?;
        while let Some(row) = rows.next()? {
            take(&event(row)?);
        }
        Ok(())
    }

    pub fn count(&self) -> rusqlite::Result<u64> {
        let count: i64 = self.db.query_row("SELECT count(*) FROM federation_events", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// Prunes what was observed before a time, then the oldest beyond a count; `holds` keeps what a claim
    /// rests on, however old it is.
    pub fn prune(
        &mut self,
        before: u64,
        keep: u64,
        holds: impl Fn(&str, Ipv4Addr) -> bool,
    ) -> rusqlite::Result<Pruned> {
        let mut pruned = Pruned::default();
        let beyond =
            |pruned: &Pruned, count: u64| count.saturating_sub(keep + pruned.by_age + pruned.by_count);
        let count = self.count()?;
        let mut after: (i64, String) = (i64::MIN, String::new());
        loop {
            let batch = self.oldest(&after)?;
            let Some(last) = batch.last() else { return Ok(pruned) };
            after = (last.observed_at, last.id.clone());
            let transaction = self.db.transaction()?;
            for old in batch {
                let aged = old.observed_at < signed(before);
                if !aged && beyond(&pruned, count) == 0 {
                    transaction.commit()?;
                    return Ok(pruned);
                }
                if old.client.is_some_and(|client| holds(&old.id, client)) {
                    continue;
                }
                transaction
                    .prepare_cached("DELETE FROM federation_events WHERE id = ?1")?
                    .execute([&old.id])?;
                *(if aged { &mut pruned.by_age } else { &mut pruned.by_count }) += 1;
            }
            transaction.commit()?;
        }
    }

    fn oldest(&self, after: &(i64, String)) -> rusqlite::Result<Vec<Old>> {
        let mut query = self.db.prepare_cached(
            "SELECT id, type, subject, observed_at FROM federation_events \
             WHERE (observed_at, id) > (?1, ?2) ORDER BY observed_at, id LIMIT ?3",
        )?;
        let found = query.query_map(params![after.0, after.1, signed(PRUNE_BATCH)], |row| {
            let (event_type, subject): (String, String) = (row.get(1)?, row.get(2)?);
            let client = event_type.parse::<EventType>().ok().filter(|known| known.is_client());
            Ok(Old {
                id: row.get(0)?,
                client: client.and_then(|_| subject.parse().ok()),
                observed_at: row.get(3)?,
            })
        })?;
        found.collect()
    }
}

/// A candidate for pruning.
struct Old {
    id: String,
    client: Option<Ipv4Addr>,
    observed_at: i64,
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(2))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(TABLES)?;
    db.pragma_update(None, "user_version", VERSION)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let text = |index: usize| row.get::<_, String>(index);
    let failed = |index, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error)
    };
    let time = |index: usize| row.get::<_, i64>(index).map(|time| u64::try_from(time).unwrap_or(0));
    Ok(Event {
        id: text(0)?,
        group: text(1)?,
        source_node: text(2)?,
        event_type: text(3)?.parse().map_err(|error| failed(3, Box::new(error)))?,
        subject: text(4)?,
        dedupe_key: text(5)?,
        payload: serde_json::from_str(&text(6)?).map_err(|error| failed(6, error.into()))?,
        observed_at: time(7)?,
        expires_at: time(8)?,
    })
}

/// SQLite has signed numbers; a time beyond them is the end of time.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Payloads say what runs at a site: only the file's owner may read them. SQLite gives its companions the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}
