//! A connection to the database and all the SQL there is. Plain tables and one row lock: no extension, nothing that
//! PostgreSQL alone has.

use super::address::Address;
use super::tls::Connector;
use crate::exchange::Heads;
use crate::identity::SigningKey;
use crate::io::private_file;
use crate::log::{Entry, Head};
use crate::wire::Blob;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Row};
use zeroize::Zeroizing;

/// How long anything that is asked of the database may take.
const LIMIT: Duration = Duration::from_secs(3);
/// The version of the tables; those of a newer one are refused.
const VERSION: i64 = 1;
/// How many entries one question brings at most.
const PAGE: i64 = 256;
/// How large a part of a snapshot is, in octets.
const PART: usize = 256 * 1024;
/// The channel that other hubs listen on.
const CHANNEL: &str = "fabric_registry";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS fabric_registry (
  id BIGINT PRIMARY KEY, version BIGINT NOT NULL, position BIGINT NOT NULL, lowest BIGINT NOT NULL,
  snapshot_heads BYTEA, snapshot_signer TEXT, snapshot_signature BYTEA);
CREATE TABLE IF NOT EXISTS fabric_log (
  position BIGINT PRIMARY KEY, origin TEXT NOT NULL, seq BIGINT NOT NULL, previous BYTEA NOT NULL,
  body BYTEA NOT NULL, signature BYTEA NOT NULL, UNIQUE (origin, seq));
CREATE TABLE IF NOT EXISTS fabric_snapshot (part BIGINT PRIMARY KEY, body BYTEA NOT NULL);
";

/// What went wrong with the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Another hub was first; nothing was changed, and the same can be tried again.
    Contended(String),
    /// It does not answer, or not as it should; whether the last change was made is not known.
    Lost(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let why = match (error.as_db_error(), std::error::Error::source(&error)) {
            (Some(told), _) => told.message().to_owned(),
            (None, Some(source)) => format!("{error}: {source}"),
            (None, None) => error.to_string(),
        };
        let contended = error.code().is_some_and(|code| {
            // Serialization failure and deadlock; a lock not got in time; another hub took the same position.
            code.code().starts_with("40")
                || *code == SqlState::LOCK_NOT_AVAILABLE
                || *code == SqlState::UNIQUE_VIOLATION
        });
        if contended { Trouble::Contended(why) } else { Trouble::Lost(why) }
    }
}

async fn limited<T>(asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::Lost(format!("it did not answer within {LIMIT:?}"))),
    }
}

/// Where the database's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The position of the last entry.
    pub position: u64,
    /// The entries up to this one are kept no longer; a snapshot stands for them.
    pub lowest: u64,
}

/// A snapshot's octets and who signed them.
pub struct Stored {
    /// JSON.
    pub body: Vec<u8>,
    /// The hub that made it.
    pub signer: SigningKey,
    /// Its signature.
    pub signature: Vec<u8>,
}

/// An open connection.
pub struct Session {
    client: Client,
}

impl Address {
    /// The password, read anew for each connection: it may have been changed.
    fn password(&self) -> Result<Option<Zeroizing<String>>, Trouble> {
        let read = |path: &std::path::Path| match private_file::read(path) {
            Ok(Some(bytes)) => Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())),
            Ok(None) => Err(Trouble::Lost(format!("{}: there is no such file", path.display()))),
            Err(error) => Err(Trouble::Lost(error.to_string())),
        };
        if let Some(path) = &self.password_file {
            let text = read(path)?;
            return Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())));
        }
        match std::env::var_os("PGPASSFILE") {
            Some(path) => Ok(self.password_in(&read(path.as_ref())?).map(Zeroizing::new)),
            None => Ok(None),
        }
    }
}

impl Session {
    /// Connects and makes the tables where they are absent. `told` hears of notifications, if it is given.
    pub async fn open(address: &Address, told: Option<Arc<Notify>>) -> Result<Self, Trouble> {
        let mut config = address.client(LIMIT);
        if let Some(password) = address.password()? {
            config.password(password.as_bytes());
        }
        let connector = Connector::read(address).map_err(|error| Trouble::Lost(error.to_string()))?;
        let (client, mut connection) = limited(config.connect(connector)).await?;
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let (AsyncMessage::Notification(_), Some(told)) = (message, &told) {
                    told.notify_one();
                }
            }
        });
        let session = Self { client };
        // A hub that stops in the middle of a decision gives the lock back when the database sees it silent.
        let limits = "SET statement_timeout = 5000; SET lock_timeout = 2000;
            SET idle_in_transaction_session_timeout = 5000";
        limited(session.client.batch_execute(limits)).await?;
        session.durable().await?;
        session.tables().await?;
        Ok(session)
    }

    /// Answers are given after commits: a role that has `synchronous_commit` off would make them promises.
    async fn durable(&self) -> Result<(), Trouble> {
        let asked = limited(self.client.query_typed_opt("SHOW synchronous_commit", &[])).await;
        // Not everything that speaks the protocol knows the word; all of that is durable.
        let off =
            matches!(&asked, Ok(Some(row)) if row.try_get::<_, String>(0).is_ok_and(|word| word == "off"));
        if off { limited(self.client.batch_execute("SET synchronous_commit = on")).await } else { Ok(()) }
    }

    async fn tables(&self) -> Result<(), Trouble> {
        let version = "SELECT version FROM fabric_registry WHERE id = 1";
        let found = match limited(self.client.query_typed_opt(version, &[])).await {
            Ok(Some(row)) => row.try_get::<_, i64>(0)?,
            // Only who may make tables needs to, once.
            _ => {
                limited(self.client.batch_execute(TABLES)).await?;
                let first = "INSERT INTO fabric_registry (id, version, position, lowest) VALUES (1, 1, 0, 0)
                    ON CONFLICT (id) DO NOTHING";
                limited(self.client.batch_execute(first)).await?;
                VERSION
            }
        };
        match found {
            found if found > VERSION => {
                let why = format!("its tables were made by a newer version ({found}, known {VERSION})");
                Err(Trouble::Lost(why))
            }
            _ => Ok(()),
        }
    }

    /// Begins a transaction that no other hub's overlaps.
    pub async fn lock(&self) -> Result<Standing, Trouble> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
        let lock = "SELECT position, lowest FROM fabric_registry WHERE id = 1 FOR UPDATE";
        // Both are sent at once, and answered in order.
        let both = async { tokio::try_join!(begin, self.client.query_typed_one(lock, &[])) };
        let (_, row) = limited(both).await?;
        standing(&row)
    }

    /// Where the log stands, without a lock.
    pub async fn standing(&self) -> Result<Standing, Trouble> {
        let ask = "SELECT position, lowest FROM fabric_registry WHERE id = 1";
        standing(&limited(self.client.query_typed_one(ask, &[])).await?)
    }

    /// The next entries after a position, in order, each with its own.
    pub async fn after(&self, position: u64) -> Result<Vec<(u64, Entry)>, Trouble> {
        let ask = "SELECT position, origin, seq, previous, body, signature FROM fabric_log
            WHERE position > $1 ORDER BY position LIMIT $2";
        let position = signed(position);
        let told: [(&(dyn ToSql + Sync), Type); 2] = [(&position, Type::INT8), (&PAGE, Type::INT8)];
        limited(self.client.query_typed(ask, &told))
            .await?
            .iter()
            .map(|row| Ok((unsigned(row, 0)?, entry(row)?)))
            .collect()
    }

    /// The position of an entry.
    pub async fn position_of(&self, origin: &SigningKey, seq: u64) -> Result<Option<u64>, Trouble> {
        let ask = "SELECT position FROM fabric_log WHERE origin = $1 AND seq = $2";
        let (origin, seq) = (origin.to_string(), signed(seq));
        let told: [(&(dyn ToSql + Sync), Type); 2] = [(&origin, Type::TEXT), (&seq, Type::INT8)];
        limited(self.client.query_typed_opt(ask, &told)).await?.map(|row| unsigned(&row, 0)).transpose()
    }

    /// The ends of all chains.
    pub async fn heads(&self) -> Result<Heads, Trouble> {
        let ask = "SELECT snapshot_heads FROM fabric_registry WHERE id = 1";
        let row = limited(self.client.query_typed_one(ask, &[])).await?;
        let mut heads = match row.try_get::<_, Option<Vec<u8>>>(0)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| Trouble::Lost(e.to_string()))?,
            None => Heads::new(),
        };
        let ask = "SELECT l.position, l.origin, l.seq, l.previous, l.body, l.signature FROM fabric_log l
            JOIN (SELECT origin, MAX(seq) AS seq FROM fabric_log GROUP BY origin) newest
            ON l.origin = newest.origin AND l.seq = newest.seq";
        for row in limited(self.client.query_typed(ask, &[])).await? {
            let entry = entry(&row)?;
            heads.insert(entry.origin, Head { seq: entry.seq, hash: entry.hash() });
        }
        Ok(heads)
    }

    /// Writes entries after a position and ends the transaction: all of it, or nothing.
    pub async fn commit(&self, position: u64, entries: &[Entry]) -> Result<(), Trouble> {
        let mut text = String::new();
        for (position, entry) in (position + 1..).zip(entries) {
            // Numbers, Base64 and hexadecimal digits only: there is nothing to escape.
            let (previous, body) = (hex(&entry.previous.0), hex(&entry.body.0));
            let signature = hex(&entry.signature.0);
            let _ = write!(
                text,
                "INSERT INTO fabric_log (position, origin, seq, previous, body, signature) VALUES ({position}, \
                 '{}', {}, decode('{previous}', 'hex'), decode('{body}', 'hex'), decode('{signature}', 'hex'));",
                entry.origin, entry.seq,
            );
        }
        let position = position + entries.len() as u64;
        let _ = write!(text, "UPDATE fabric_registry SET position = {position} WHERE id = 1;COMMIT");
        limited(self.client.batch_execute(&text)).await
    }

    /// Ends the transaction without a change.
    pub async fn rollback(&self) -> Result<(), Trouble> {
        limited(self.client.batch_execute("ROLLBACK")).await
    }

    /// Replaces the snapshot and removes the entries up to `lowest`, in the transaction that is open.
    pub async fn put_snapshot(&self, stored: &Stored, heads: &Heads, lowest: u64) -> Result<(), Trouble> {
        limited(self.client.batch_execute("DELETE FROM fabric_snapshot")).await?;
        for (part, body) in (0i64..).zip(stored.body.chunks(PART)) {
            let put = "INSERT INTO fabric_snapshot (part, body) VALUES ($1, $2)";
            limited(self.client.execute_typed(put, &[(&part, Type::INT8), (&body, Type::BYTEA)])).await?;
        }
        let put = "UPDATE fabric_registry SET lowest = $1, snapshot_heads = $2, snapshot_signer = $3,
            snapshot_signature = $4 WHERE id = 1";
        let (heads, signer) = (crate::wire::bytes_of(heads), stored.signer.to_string());
        let (below, signature) = (signed(lowest), &stored.signature);
        let told: [(&(dyn ToSql + Sync), Type); 4] =
            [(&below, Type::INT8), (&heads, Type::BYTEA), (&signer, Type::TEXT), (signature, Type::BYTEA)];
        limited(self.client.execute_typed(put, &told)).await?;
        let remove = "DELETE FROM fabric_log WHERE position <= $1";
        limited(self.client.execute_typed(remove, &[(&signed(lowest), Type::INT8)])).await.map(drop)
    }

    /// The snapshot, if there is one.
    pub async fn snapshot(&self) -> Result<Option<Stored>, Trouble> {
        let ask = "SELECT snapshot_signer, snapshot_signature FROM fabric_registry WHERE id = 1";
        let row = limited(self.client.query_typed_one(ask, &[])).await?;
        let (Some(signer), Some(signature)) =
            (row.try_get::<_, Option<String>>(0)?, row.try_get::<_, Option<Vec<u8>>>(1)?)
        else {
            return Ok(None);
        };
        let signer = signer.parse().map_err(|_| Trouble::Lost("a snapshot without a signer".into()))?;
        let mut parts = BTreeMap::new();
        for number in 0i64.. {
            let ask = "SELECT body FROM fabric_snapshot WHERE part = $1";
            match limited(self.client.query_typed_opt(ask, &[(&number, Type::INT8)])).await? {
                Some(row) => parts.insert(number, row.try_get::<_, Vec<u8>>(0)?),
                None => break,
            };
        }
        Ok(Some(Stored { body: parts.into_values().flatten().collect(), signer, signature }))
    }

    /// Asks to be told of other hubs' decisions. Says whether this database can.
    pub async fn listen(&self) -> bool {
        limited(self.client.batch_execute(&format!("LISTEN {CHANNEL}"))).await.is_ok()
    }

    /// Tells the other hubs of a decision; they would see it a little later without.
    pub async fn notify(&self) -> Result<(), Trouble> {
        limited(self.client.batch_execute(&format!("NOTIFY {CHANNEL}"))).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SQL's integers are signed; numbers of entries stay far below that.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row, index: usize) -> Result<u64, Trouble> {
    Ok(u64::try_from(row.try_get::<_, i64>(index)?).unwrap_or(0))
}

fn standing(row: &Row) -> Result<Standing, Trouble> {
    Ok(Standing { position: unsigned(row, 0)?, lowest: unsigned(row, 1)? })
}

/// Columns position, origin, seq, previous, body, signature.
fn entry(row: &Row) -> Result<Entry, Trouble> {
    let blob = |index| row.try_get::<_, Vec<u8>>(index).map(Blob);
    let origin = row.try_get::<_, String>(1)?.parse();
    // An altered key becomes one that verifies nothing, so that the entry is refused and not skipped.
    let origin = origin.unwrap_or(SigningKey([0; 32]));
    Ok(Entry { origin, seq: unsigned(row, 2)?, previous: blob(3)?, body: blob(4)?, signature: blob(5)? })
}
