//! What the registry's owner does with the database: lock and fold before a decision, commit with the batch, catch up
//! after a loss.

use super::address::Address;
use super::session::{Session, Standing, Stored, Trouble};
use crate::exchange::{Heads, Snapshot};
use crate::identity::SigningKey;
use crate::io::log_store;
use crate::io::store::{Owner, failed};
use crate::log::{Actor, Entry};
use crate::reason::{ReasonCode, Refusal};
use crate::registry::Change;
use crate::view::DatabaseView;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a decision tries to get the lock in all, when others have it.
const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// How long a start waits for the database: with a copy of the registry, and without one.
const START_LIMIT: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// How many entries that the database lacks are written in one transaction.
const PUSH: usize = 256;
/// For how long after a loss leases that ran out meanwhile are still good, in seconds: leaves try at least every 30 s.
const RETURN_SECS: u64 = 120;
/// What a snapshot's signature is for.
const SNAPSHOT_DOMAIN: &str = "fabric/1 registry snapshot";

struct Seen {
    state: &'static str,
    since: Instant,
    notifications: bool,
    error: Option<String>,
}

/// What the owner and the watching task tell each other, and people.
pub(in crate::io) struct Line {
    pub(super) address: Address,
    seen: Mutex<Seen>,
    position: AtomicU64,
    /// The owner has no connection any more.
    pub(super) lost: Notify,
    /// The owner has written: the other hubs are to be told.
    pub(super) written: Notify,
}

impl Line {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Only fields are set while it is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &'static str, error: Option<String>) {
        let mut seen = self.seen();
        if seen.state != state {
            (seen.state, seen.since) = (state, Instant::now());
        }
        seen.error = error;
    }

    /// Whether the owner has a connection and all entries.
    pub(super) fn is_attached(&self) -> bool {
        self.seen().state == "in-step"
    }

    pub(super) fn listens(&self, notifications: bool) {
        self.seen().notifications = notifications;
    }

    /// How far the owner is.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// What people are shown.
    pub(in crate::io) fn view(&self) -> DatabaseView {
        let seen = self.seen();
        DatabaseView {
            address: self.address.to_string(),
            state: seen.state.into(),
            since_secs: seen.since.elapsed().as_secs(),
            position: self.position(),
            notifications: seen.notifications,
            tls: self.address.tls.as_str().into(),
            error: seen.error.clone(),
        }
    }
}

/// The owner's side of the database.
pub(in crate::io) struct Shared {
    /// Its own, so that it works whatever the daemon's does; gone only when it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    session: Option<Session>,
    locked: bool,
    /// Something beside entries was written in this transaction.
    dirty: bool,
    /// Up to where the state in memory has everything, and up to where this hub's file has it.
    position: u64,
    kept: u64,
    lowest: u64,
    decided: Vec<Entry>,
    /// Why what was decided in this batch is void.
    void: Option<Refusal>,
    /// Since when the database is away, by the registry's clock, seconds since 1970.
    away: Option<u64>,
    /// Since when it had been away, and when it returned.
    returned: Option<(u64, u64)>,
    /// The database had nothing, and has this hub's registry now.
    pub(in crate::io) populated: bool,
    pub(in crate::io) line: Arc<Line>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a refusal for want of the database begins with.
const LOST: &str = "the registry's database cannot be used: ";

fn lost(why: &str) -> Refusal {
    Refusal::new(ReasonCode::RegistryLost, format!("{LOST}{why}"))
}

impl Shared {
    pub(in crate::io) fn new(address: Address) -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("database").enable_all().build()?;
        let seen = Seen { state: "starting", since: Instant::now(), notifications: false, error: None };
        let (lost, written) = (Notify::new(), Notify::new());
        let line = Line { address, seen: Mutex::new(seen), position: AtomicU64::new(0), lost, written };
        Ok(Self {
            runtime: Some(runtime),
            session: None,
            locked: false,
            dirty: false,
            position: 0,
            kept: 0,
            lowest: 0,
            decided: Vec::new(),
            void: None,
            away: None,
            returned: None,
            populated: false,
            line: Arc::new(line),
        })
    }

    /// Where its tasks run.
    pub(in crate::io) fn handle(&self) -> Option<tokio::runtime::Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// One attempt to connect.
    pub(in crate::io) fn connect(&self) -> Result<Session, Refusal> {
        let Some(runtime) = &self.runtime else { return Err(lost("it stops")) };
        runtime.block_on(Session::open(&self.line.address, None)).map_err(|trouble| {
            let (Trouble::Contended(why) | Trouble::Lost(why)) = trouble;
            self.line.turn("lost", Some(why.clone()));
            lost(&why)
        })
    }

    /// Asks the database something; a loss is noted.
    fn ask<T>(
        &mut self,
        now: u64,
        question: impl AsyncFnOnce(&Session) -> Result<T, Trouble>,
    ) -> Result<T, Refusal> {
        match self.try_ask(question) {
            Ok(answer) => Ok(answer),
            Err(Trouble::Contended(why)) => {
                self.release();
                let message = format!("other hubs decide at the same time: {why}");
                Err(Refusal::new(ReasonCode::HubBusy, message))
            }
            Err(Trouble::Lost(why)) => Err(self.lose(why, now)),
        }
    }

    fn try_ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let gone = || Trouble::Lost(self.line.seen().error.clone().unwrap_or_else(|| "no connection".into()));
        match (&self.runtime, &self.session) {
            (Some(runtime), Some(session)) => runtime.block_on(question(session)),
            _ => Err(gone()),
        }
    }

    /// From now on it is away: what is refused for it is refused at once, until there is a new connection.
    pub(in crate::io) fn lose(&mut self, why: String, now: u64) -> Refusal {
        if self.session.take().is_some() {
            tracing::warn!(database = %self.line.address, why, "the registry's database is lost; served from memory");
        }
        (self.locked, self.dirty) = (false, false);
        self.away.get_or_insert(now);
        let refusal = lost(&why);
        if !std::mem::take(&mut self.decided).is_empty() {
            self.void = Some(refusal.clone());
        }
        self.line.turn("lost", Some(why));
        self.line.lost.notify_one();
        refusal
    }

    fn release(&mut self) {
        (self.dirty, self.locked) = (false, false);
        if !std::mem::take(&mut self.decided).is_empty() {
            let message = "another hub decided at the same time; nothing was changed";
            self.void = Some(Refusal::new(ReasonCode::HubBusy, message));
        }
        if self.session.is_some() {
            // A connection that cannot even do this is found out by the next question.
            let _ = self.try_ask(async |session| session.rollback().await);
        }
    }

    fn lock(&mut self, now: u64) -> Result<Standing, Refusal> {
        let begin = Instant::now();
        let mut wait = Duration::from_millis(5);
        loop {
            match self.try_ask(async |session| session.lock().await) {
                Ok(standing) => {
                    self.locked = true;
                    return Ok(standing);
                }
                Err(Trouble::Contended(_)) if begin.elapsed() < LOCK_LIMIT => {
                    self.release();
                    std::thread::sleep(super::watch::spread(wait));
                    wait = (wait * 2).min(Duration::from_millis(200));
                }
                Err(Trouble::Contended(why)) => {
                    self.release();
                    let message = format!("the database's lock was not got in {LOCK_LIMIT:?}: {why}");
                    return Err(Refusal::new(ReasonCode::HubBusy, message));
                }
                Err(Trouble::Lost(why)) => return Err(self.lose(why, now)),
            }
        }
    }

    /// The time by which leases are judged. While the database is away nobody can renew: time stands still for them,
    /// and for a while after its return.
    pub(in crate::io) fn lease_time(&self, now: u64) -> u64 {
        match (self.away, self.returned) {
            (Some(since), _) => now.min(since),
            (None, Some((since, returned))) if now < returned.saturating_add(RETURN_SECS) => now.min(since),
            _ => now,
        }
    }
}

impl Owner {
    /// The lock and every entry up to now, if the registry is shared and the batch has not got them yet: what is
    /// decided after this rests on all that any hub decided before.
    pub(in crate::io) fn ready(&mut self) -> Result<(), Refusal> {
        let now = (self.clock)();
        let Some(shared) = &mut self.shared else { return Ok(()) };
        if shared.locked {
            return Ok(());
        }
        let standing = shared.lock(now)?;
        self.fold(standing, now)
    }

    /// Takes in what other hubs decided, without deciding anything.
    pub(in crate::io) fn follow(&mut self) -> Result<(), Refusal> {
        let now = (self.clock)();
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let standing = shared.ask(now, async |session| session.standing().await)?;
        self.fold(standing, now)
    }

    fn fold(&mut self, standing: Standing, now: u64) -> Result<(), Refusal> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        shared.lowest = standing.lowest;
        if shared.position > standing.position || shared.position < standing.lowest {
            return Err(shared.lose("its log is not the one that was followed".into(), now));
        }
        while let Some(shared) = &mut self.shared
            && shared.position < standing.position
        {
            let position = shared.position;
            let page = shared.ask(now, async |session| session.after(position).await)?;
            let Some((last, _)) = page.last() else {
                return Err(shared.lose(format!("entries after {position} are missing"), now));
            };
            // It may be beyond what was asked for: others go on while nobody holds the lock.
            let last = *last;
            let entries = page.into_iter().map(|(_, entry)| entry).collect();
            let taken = self.take_entries(entries);
            let Some(shared) = &mut self.shared else { return Ok(()) };
            if let Err(refusal) = taken {
                return Err(shared.lose(refusal.message, now));
            }
            shared.position = last;
        }
        Ok(())
    }

    /// An entry of this hub that goes to the database with the batch.
    pub(in crate::io) fn decided(&mut self, entry: &Entry) -> Result<(), Refusal> {
        match &mut self.shared {
            Some(shared) if shared.locked => shared.decided.push(entry.clone()),
            Some(_) => {
                return Err(Refusal::new(ReasonCode::Internal, "a decision without the database's lock"));
            }
            None => {}
        }
        Ok(())
    }

    /// The batch's entries become durable in the database, before they do in this hub's file.
    pub(in crate::io) fn commit_database(&mut self) -> Result<(), Refusal> {
        let now = (self.clock)();
        let Some(shared) = &mut self.shared else { return Ok(()) };
        if let Some(void) = shared.void.take() {
            return Err(void);
        }
        if !shared.locked {
            return Ok(());
        }
        if shared.decided.is_empty() && !shared.dirty {
            shared.release();
            return Ok(());
        }
        let (entries, position) = (std::mem::take(&mut shared.decided), shared.position);
        // Where an answer to this is lost, the next connection shows what became of it.
        shared.ask(now, async |session| session.commit(position, &entries).await)?;
        (shared.locked, shared.dirty) = (false, false);
        shared.position += entries.len() as u64;
        Ok(())
    }

    /// The batch ended: its entries are in this hub's file too, or they are not.
    pub(in crate::io) fn ended_database(&mut self, durable: bool) {
        let Some(shared) = &mut self.shared else { return };
        if shared.locked {
            shared.release();
        }
        if durable {
            let news = shared.position != shared.kept;
            shared.kept = shared.position;
            shared.line.position.store(shared.kept, Ordering::Release);
            if news {
                shared.line.written.notify_one();
            }
        } else {
            shared.position = shared.kept;
        }
    }

    /// The first connection. Without one, a hub that has a copy of the registry serves from it.
    pub(in crate::io) fn attach(&mut self) -> Result<(), Refusal> {
        let begin = Instant::now();
        loop {
            let Some(shared) = &self.shared else { return Ok(()) };
            let Err(refusal) = shared.connect().and_then(|session| self.adopt(session)) else {
                return Ok(());
            };
            let anew = self.log.heads().is_empty();
            if begin.elapsed() > START_LIMIT[usize::from(anew)] {
                tracing::warn!(%refusal, "started without the registry's database");
                let now = (self.clock)();
                if let Some(shared) = &mut self.shared {
                    shared.away.get_or_insert(now);
                }
                return if anew { Err(refusal) } else { Ok(()) };
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// By which time leases are judged, seconds since 1970.
    pub(in crate::io) fn lease_time(&self, now: u64) -> u64 {
        self.shared.as_ref().map_or(now, |shared| shared.lease_time(now))
    }

    /// Goes on with a new connection: takes in what is lacking here, adds what is lacking there.
    pub(in crate::io) fn adopt(&mut self, session: Session) -> Result<(), Refusal> {
        let now = (self.clock)();
        // Whom to trust comes first: a hub that joined was told.
        self.known_hubs(now)?;
        let Some(shared) = &mut self.shared else { return Ok(()) };
        shared.session = Some(session);
        self.catch_up(now).and_then(|()| self.introduce(now)).inspect_err(|refusal| {
            if let Some(shared) = &mut self.shared {
                let why = refusal.message.strip_prefix(LOST).unwrap_or(&refusal.message);
                shared.lose(why.to_owned(), now);
            }
        })?;
        let Some(shared) = &mut self.shared else { return Ok(()) };
        if let Some(since) = shared.away.take() {
            shared.returned = Some((since, now));
        }
        shared.line.turn("in-step", None);
        tracing::info!(database = %shared.line.address, position = shared.position, "the registry's database is followed");
        Ok(())
    }

    fn catch_up(&mut self, now: u64) -> Result<(), Refusal> {
        loop {
            let Some(shared) = &mut self.shared else { return Ok(()) };
            let standing = shared.lock(now)?;
            let there = shared.ask(now, async |session| session.heads().await)?;
            (shared.position, shared.lowest) = (standing.position, standing.lowest);
            if there.is_empty() {
                return self.populate(now);
            }
            self.same_chains(&there)?;
            if let Some(first) = self.first_lacking(&there, now)? {
                if let Some(shared) = &mut self.shared {
                    shared.position = first - 1;
                }
                self.fold(standing, now)?;
            }
            let entries = self.lacking_there(&there)?;
            let Some(shared) = &mut self.shared else { return Ok(()) };
            if entries.is_empty() {
                shared.release();
                return Ok(());
            }
            let position = shared.position;
            shared.ask(now, async |session| session.commit(position, &entries).await)?;
            tracing::info!(entries = entries.len(), "the database got entries that it lacked");
            shared.locked = false;
        }
    }

    /// An empty database gets what this hub has: its registry may have been in a file until now.
    fn populate(&mut self, now: u64) -> Result<(), Refusal> {
        if self.log.heads().is_empty() {
            if let Some(shared) = &mut self.shared {
                shared.release();
            }
            return Ok(());
        }
        self.put_snapshot(0, now)?;
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let position = shared.position;
        shared.ask(now, async |session| session.commit(position, &[]).await)?;
        (shared.locked, shared.dirty, shared.populated) = (false, false, true);
        Ok(())
    }

    fn put_snapshot(&mut self, lowest: u64, now: u64) -> Result<(), Refusal> {
        let body = crate::wire::bytes_of(&self.snapshot());
        let keys = self.log.signing();
        let signature = keys.sign(SNAPSHOT_DOMAIN, &[&body]);
        let stored = Stored { body, signer: keys.public(), signature };
        let heads = self.log.heads().clone();
        let Some(shared) = &mut self.shared else { return Ok(()) };
        shared.ask(now, async |session| session.put_snapshot(&stored, &heads, lowest).await)?;
        (shared.dirty, shared.lowest) = (true, lowest);
        Ok(())
    }

    /// One number, one entry: else somebody went on from an old copy, and a person decides.
    fn same_chains(&self, there: &Heads) -> Result<(), Refusal> {
        for (origin, head) in there {
            let here = log_store::hash_at(&self.db, origin, head.seq).map_err(failed)?;
            if here.is_some_and(|hash| hash != head.hash) {
                return Err(lost(&format!("forked: hub {origin} went on from an old copy, here or there")));
            }
        }
        Ok(())
    }

    /// The position of the first entry that is lacking here; a snapshot comes first, if it is kept no longer.
    fn first_lacking(&mut self, there: &Heads, now: u64) -> Result<Option<u64>, Refusal> {
        for attempt in 0..2 {
            let behind = there.iter().filter(|(origin, head)| self.log.head(origin).seq < head.seq);
            let next: Vec<(SigningKey, u64)> =
                behind.map(|(origin, _)| (*origin, self.log.head(origin).seq + 1)).collect();
            let mut first: Option<u64> = None;
            let mut whole = true;
            for (origin, seq) in next {
                let Some(shared) = &mut self.shared else { return Ok(None) };
                let found = shared.ask(now, async |session| session.position_of(&origin, seq).await)?;
                whole &= found.is_some();
                first = first.into_iter().chain(found).min();
            }
            if whole {
                return Ok(first);
            }
            if attempt == 0 {
                self.take_snapshot(now)?;
            }
        }
        Err(lost("its snapshot does not reach its first entry"))
    }

    fn take_snapshot(&mut self, now: u64) -> Result<(), Refusal> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let stored = shared.ask(now, async |session| session.snapshot().await)?;
        let stored = stored.ok_or_else(|| lost("entries are lacking, and there is no snapshot"))?;
        let known = self.state.log_keys().contains(&stored.signer);
        if !known || !stored.signer.verify(SNAPSHOT_DOMAIN, &[&stored.body], &stored.signature) {
            return Err(lost("no hub of this fabric signed its snapshot"));
        }
        let snapshot: Snapshot =
            serde_json::from_slice(&stored.body).map_err(|error| lost(&format!("its snapshot: {error}")))?;
        self.replace(snapshot).map(drop)
    }

    /// What this hub has and the database has not, at most [`PUSH`] entries, in this hub's order.
    fn lacking_there(&self, there: &Heads) -> Result<Vec<Entry>, Refusal> {
        let mut entries = Vec::new();
        for (origin, head) in self.log.heads() {
            let from = there.get(origin).map_or(0, |head| head.seq);
            if from < head.seq {
                let after = log_store::after(&self.db, origin, from, PUSH).map_err(failed)?;
                if after.first().is_none_or(|(_, entry)| entry.seq != from + 1) {
                    return Err(lost("it lacks entries that are kept no longer here: it is too old a copy"));
                }
                entries.extend(after);
            }
        }
        entries.sort_by_key(|(position, _)| *position);
        Ok(entries.into_iter().take(PUSH).map(|(_, entry)| entry).collect())
    }

    /// Removes the database's oldest entries but for the newest `kept`; a signed snapshot stands for them.
    pub(in crate::io) fn shorten_database(&mut self, kept: u64) -> Result<(), Refusal> {
        self.ready()?;
        let now = (self.clock)();
        match self.shared.as_ref().map(|shared| shared.position.saturating_sub(kept)) {
            Some(lowest) if lowest > 0 => self.put_snapshot(lowest, now),
            _ => Ok(()),
        }
    }

    /// Whether the database's log has grown so far that it is shortened.
    pub(in crate::io) fn database_is_long(&self) -> bool {
        let shared = self.shared.as_ref();
        shared
            .is_some_and(|shared| shared.position - shared.lowest.min(shared.position) >= log_store::LONGEST)
    }

    /// What waits for approval was this hub's alone while it had no database.
    pub(in crate::io) fn tell_pending(&mut self, now: u64) -> Result<(), Refusal> {
        if self.shared.as_mut().is_some_and(|shared| std::mem::take(&mut shared.populated)) {
            let pending = self.state.pending.values().cloned().map(Change::Pending);
            let pending: Vec<Change> = pending.collect();
            self.commit(&Actor::Hub, "pending", &pending, now)?;
        }
        Ok(())
    }
}
