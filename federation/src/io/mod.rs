//! The owner of a node's events: one thread with the store, the claim table, the clock and a timer.

mod store;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::claims::{ClaimTable, ClaimedClients};
use crate::event::{Event, EventType};
use crate::reason::{ReasonCode, Refusal};
use crate::view::StatusView;
use store::Store;
pub use store::{Filter, OpenError, Pruned};

/// How many requests may wait for the owner; further ones are refused as `event-store-busy`.
const QUEUE: usize = 1024;
/// How often the owner prunes, and looks whether the clock was set.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Milliseconds since 1970. The federation's only clock; tests give their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// How long events and what follows from them hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node's group.
    pub group: String,
    /// Life of an event that does not say its own.
    pub observation: Duration,
    /// How long a claim outlives its last observation.
    pub grace: Duration,
    /// How long a client must then still be gone before its claim is withdrawn.
    pub debounce: Duration,
    /// Age at which events are pruned.
    pub retention: Duration,
    /// How many events are kept.
    pub retention_events: u64,
}

/// An observation to be stored as an event of this node.
#[derive(Clone, Debug, Default)]
pub struct NewEvent {
    /// This node's name.
    pub source_node: String,
    /// The type as written, for example `routerd.client.ipv4.observed`.
    pub event_type: String,
    /// For client events the client's IPv4 address.
    pub subject: String,
    /// Any JSON.
    pub payload: Value,
    /// The same id twice is one event; none: a fresh one.
    pub id: Option<String>,
    /// Seconds that it holds; none: [`Settings::observation`].
    pub expires_secs: Option<u64>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable, and claims follow it already.
    Stored,
    /// Its id was known; nothing changed.
    Known,
    /// It had expired before it came; nothing changed.
    Expired,
}

impl Outcome {
    /// `stored`, `known` or `expired`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Stored => "stored",
            Outcome::Known => "known",
            Outcome::Expired => "expired",
        }
    }
}

/// An event's id and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Given or fresh.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
}

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// A node's events. Clones share one owner; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Federation {
    jobs: SyncSender<Job>,
    claims: watch::Receiver<Arc<ClaimedClients>>,
}

impl Federation {
    /// Opens (or makes, mode 0600) the store; the claims of its events stand when this returns.
    pub async fn open(path: &Path, settings: Settings) -> Result<Federation, OpenError> {
        Self::open_with_clock(path, settings, system_clock()).await
    }

    /// The same with another clock.
    pub async fn open_with_clock(
        path: &Path,
        settings: Settings,
        clock: Clock,
    ) -> Result<Federation, OpenError> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let (opened, outcome) = oneshot::channel();
        let path: PathBuf = path.to_owned();
        let body = move || match Owner::open(&path, settings, clock) {
            Ok((owner, claims)) => {
                // Whoever opens may have gone away; the queue then says so too.
                let _ = opened.send(Ok(claims));
                owner.run(&queue);
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("federation".into()).spawn(body);
        thread.map_err(|_| OpenError::Thread)?;
        let claims = outcome.await.map_err(|_| OpenError::Thread)??;
        Ok(Federation { jobs, claims })
    }

    /// Stores an event of this node; it is durable, and [`Federation::claims`] follows it, when this returns.
    pub async fn emit(&self, new: NewEvent) -> Result<Emitted, Refusal> {
        self.call(move |owner| owner.emit(new)).await?
    }

    /// Lists events of the node's group, the newest first.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Event>, Refusal> {
        self.call(move |owner| {
            let found = owner.store.list(&owner.settings.group, &filter);
            owner.noted(found)
        })
        .await?
    }

    /// The clients that the node claims by its events, from now on.
    pub fn claims(&self) -> watch::Receiver<Arc<ClaimedClients>> {
        self.claims.clone()
    }

    /// Replaces the set of addresses that the node captures for other sites: it claims none of them, and
    /// refuses observations of them.
    pub async fn set_captured(&self, captured: BTreeSet<Ipv4Addr>) -> Result<(), Refusal> {
        self.call(move |owner| {
            owner.table.set_captured(captured);
            owner.publish();
        })
        .await
    }

    /// Prunes by age and count at once instead of at the next minute.
    pub async fn prune(&self) -> Result<Pruned, Refusal> {
        self.call(|owner| owner.prune()).await?
    }

    /// The node's events in numbers, and what it claims by them.
    pub async fn status(&self) -> Result<StatusView, Refusal> {
        self.call(|owner| owner.status()).await?
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        // Whoever asks may have gone away; the job is done all the same.
        let job: Job = Box::new(move |owner| drop(reply.send(job(owner))));
        let gone = || Refusal::new(ReasonCode::StoreFailed, "the federation has ended");
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::new(ReasonCode::Busy, "too many requests wait for the store"),
            TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())
    }
}

struct Owner {
    store: Store,
    settings: Settings,
    clock: Clock,
    table: ClaimTable,
    tell: watch::Sender<Arc<ClaimedClients>>,
    pruned: Pruned,
    last_error: Option<String>,
}

impl Owner {
    fn open(
        path: &Path,
        settings: Settings,
        clock: Clock,
    ) -> Result<(Owner, watch::Receiver<Arc<ClaimedClients>>), OpenError> {
        let store = Store::open(path)?;
        let mut table = ClaimTable::new(settings.grace, settings.debounce);
        store
            .client_events(&settings.group, |event| table.apply(event))
            .map_err(|source| OpenError::Database { path: path.display().to_string(), source })?;
        let (tell, claims) = watch::channel(Arc::new(table.claimed(clock())));
        let (pruned, last_error) = (Pruned::default(), None);
        Ok((Owner { store, settings, clock, table, tell, pruned, last_error }, claims))
    }

    fn run(mut self, queue: &Receiver<Job>) {
        let mut next_prune = (self.clock)();
        let mut deadline = None;
        loop {
            let now = (self.clock)();
            if deadline.is_some_and(|at| at <= now) {
                self.publish();
            }
            // A clock that was set back must not put pruning off for long.
            if now >= next_prune || next_prune - now > millis(HOUSEKEEPING) {
                next_prune = now.saturating_add(millis(HOUSEKEEPING));
                // A failure is noted in the status, and tried again in a minute.
                let _ = self.prune();
            }
            deadline = self.table.next_deadline(now);
            let wait = deadline.map_or(HOUSEKEEPING, |at| Duration::from_millis(at.saturating_sub(now)));
            match queue.recv_timeout(wait.min(HOUSEKEEPING)) {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Tells what is claimed now, if that is new.
    fn publish(&mut self) {
        let claimed = self.table.claimed((self.clock)());
        self.tell.send_if_modified(|before| {
            let differs = **before != claimed;
            if differs {
                *before = Arc::new(claimed);
            }
            differs
        });
    }

    fn emit(&mut self, new: NewEvent) -> Result<Emitted, Refusal> {
        let now = (self.clock)();
        let event = self.event(new, now)?;
        event.check()?;
        let known = self.store.knows(&event.id);
        if self.noted(known)? {
            return Ok(Emitted { id: event.id, outcome: Outcome::Known });
        }
        if event.expires_at <= now {
            return Ok(Emitted { id: event.id, outcome: Outcome::Expired });
        }
        if let (EventType::ClientObserved, Some(client)) = (event.event_type, event.client())
            && self.table.captures(client)
        {
            let detail = format!("this node captures {client} for another site, so it is not a client here");
            return Err(Refusal::new(ReasonCode::AddressCaptured, detail));
        }
        let stored = self.store.insert(&event);
        self.noted(stored)?;
        self.table.apply(&event);
        self.publish();
        tracing::info!(id = %event.id, event_type = %event.event_type, subject = %event.subject, "event stored");
        Ok(Emitted { id: event.id, outcome: Outcome::Stored })
    }

    /// An event of this node, now. Where the clock was set back, it is still observed after the one before it.
    fn event(&self, new: NewEvent, now: u64) -> Result<Event, Refusal> {
        let event_type: EventType = new.event_type.parse()?;
        let life =
            new.expires_secs.map_or(millis(self.settings.observation), |secs| secs.saturating_mul(1000));
        let mut event = Event {
            id: new.id.map_or_else(fresh_id, Ok)?,
            group: self.settings.group.clone(),
            source_node: new.source_node,
            event_type,
            dedupe_key: format!("{event_type}/{}", new.subject).chars().take(200).collect(),
            subject: new.subject,
            payload: new.payload,
            observed_at: now,
            expires_at: now.saturating_add(life),
        };
        let before = event.client().and_then(|client| self.table.last_observed_at(client));
        event.observed_at = before.map_or(now, |before| now.max(before.saturating_add(1)));
        Ok(event)
    }

    fn prune(&mut self) -> Result<Pruned, Refusal> {
        let now = (self.clock)();
        let before = now.saturating_sub(millis(self.settings.retention));
        let table = &self.table;
        let holds = |id: &str, client: Ipv4Addr| table.rests_on(id, client, now);
        let pruned = self.store.prune(before, self.settings.retention_events, holds);
        let pruned = self.noted(pruned)?;
        self.table.forget(before, now);
        if pruned != Pruned::default() {
            tracing::info!(by_age = pruned.by_age, by_count = pruned.by_count, "events pruned");
        }
        self.pruned.by_age += pruned.by_age;
        self.pruned.by_count += pruned.by_count;
        Ok(pruned)
    }

    fn status(&mut self) -> Result<StatusView, Refusal> {
        let counted = self.store.count();
        let last_error = self.last_error.clone();
        Ok(StatusView {
            group: self.settings.group.clone(),
            events: self.noted(counted)?,
            pruned_by_age: self.pruned.by_age,
            pruned_by_count: self.pruned.by_count,
            last_error,
            claimed: self.table.view((self.clock)()),
        })
    }

    /// Remembers how the store fared.
    fn noted<T>(&mut self, result: rusqlite::Result<T>) -> Result<T, Refusal> {
        match result {
            Ok(value) => {
                self.last_error = None;
                Ok(value)
            }
            Err(error) => {
                tracing::error!(%error, "the store of events could not be read or written");
                self.last_error = Some(error.to_string());
                Err(Refusal::new(ReasonCode::StoreFailed, format!("the store of events failed: {error}")))
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// 128 random bits in hexadecimal.
fn fresh_id() -> Result<String, Refusal> {
    let mut bytes = [0u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Refusal::new(ReasonCode::StoreFailed, "the system gave no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
