//! The registry on disk: one thread owns SQLite and the state; it decides, stores, applies, publishes, answers.

use super::batch::{Batch, Job};
use super::database::owner::Shared;
use super::database::{self, Address};
use super::keys::{self, NodeKeys};
use super::log_store::{self, Log};
use super::schema;
use crate::admit::{self, Decision, Door, Origin};
use crate::approval::{self, Verdict};
use crate::identity::{InviteId, LeafName};
use crate::invite::{Invite, InviteSecret};
use crate::life;
use crate::log::Actor;
use crate::policy::{HubSettings, InviteOrder};
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Admissions, Change, State};
use crate::signature::MacKey;
use crate::topology::Admission;
use crate::view::{self, AuditEntryView, AuditReport, ClaimHistoryView, DatabaseView, RegistryView};
use crate::wire::{EnrollRequest, Envelope, Operation};
use rusqlite::Connection;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

pub use super::leaf_state::LeafState;

/// How many requests may wait for the owner; further ones are refused as `hub-busy`.
const QUEUE: usize = 1024;

/// Closed invites are forgotten after this time, unless a leaf joined by them (30 days).
const FORGET_INVITES_SECS: u64 = 30 * 24 * 3600;

/// Seconds since 1970. The registry's only clock; tests give their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()))
}

/// Why a registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made or its mode set.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refuses it.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version of the software wrote it.
    #[error("{path} was written by a newer version (tables {found}, known {})", schema::VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The database cannot be reached, and this hub has nothing in its own file yet.
    #[error("{refusal}; this hub has no copy of the registry yet")]
    Shared {
        /// What is wrong.
        refusal: Refusal,
    },
    /// The owner's thread could not be started.
    #[error("the registry's thread could not be started")]
    Thread,
}

/// What a leaf's request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The answer.
    pub admission: Admission,
    /// The generation that the change made; `None` if nothing changed.
    pub changed: Option<u64>,
}

pub(super) struct Owner {
    pub(super) db: Connection,
    pub(super) state: State,
    pub(super) log: Log,
    /// What is written and not durable yet.
    pub(super) batch: Batch,
    /// The database that all hubs share, if there is one.
    pub(super) shared: Option<Shared>,
    /// An older version made this file, which had no log.
    pub(super) older: bool,
    /// The state in memory holds what could not be stored.
    pub(super) damaged: bool,
    pub(super) clock: Clock,
    pub(super) publish: watch::Sender<Arc<Admissions>>,
}

/// The registry. Clones share one owner; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Registry {
    jobs: SyncSender<Job>,
    admissions: watch::Receiver<Arc<Admissions>>,
    path: PathBuf,
    database: Option<Arc<Watched>>,
}

/// The task that keeps the database connected, and what it shows; it ends with the last handle.
struct Watched(Arc<database::owner::Line>, tokio::task::AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Registry {
    /// Opens (or makes, mode 0600) the registry's file; the hub's keys sign its log.
    pub async fn open(path: &Path, settings: HubSettings, keys: Arc<NodeKeys>) -> Result<Self, OpenError> {
        Self::open_with_clock(path, settings, keys, system_clock()).await
    }

    /// The same with another clock.
    pub async fn open_with_clock(
        path: &Path,
        settings: HubSettings,
        keys: Arc<NodeKeys>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        Self::open_shared(path, None, settings, keys, clock).await
    }

    /// Opens a registry that hubs share in a database, where one is given; the file holds this hub's copy of it.
    pub async fn open_shared(
        path: &Path,
        database: Option<Address>,
        mut settings: HubSettings,
        keys: Arc<NodeKeys>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        settings.one_registry = database.is_some();
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let (opened, outcome) = oneshot::channel();
        let (path, file) = (path.to_owned(), path.to_owned());
        let body = move || match Owner::open(&file, database, settings, keys, clock) {
            Ok((owner, admissions)) => {
                let shared = owner.shared.as_ref().map(|shared| (shared.line.clone(), shared.handle()));
                let _ = opened.send(Ok((admissions, shared)));
                owner.run(&queue);
            }
            Err(e) => drop(opened.send(Err(e))),
        };
        let thread = std::thread::Builder::new().name("registry".into()).spawn(body);
        thread.map_err(|_| OpenError::Thread)?;
        let (admissions, shared) = outcome.await.map_err(|_| OpenError::Thread)??;
        let database = shared.and_then(|(line, runtime)| {
            let task = runtime?.spawn(database::watch::watch(line.clone(), jobs.clone()));
            Some(Arc::new(Watched(line, task.abort_handle())))
        });
        Ok(Self { jobs, admissions, path, database })
    }

    /// What is published now.
    pub fn snapshot(&self) -> Arc<Admissions> {
        self.admissions.borrow().clone()
    }

    /// Follows what is published, after each durable change and when leases run out.
    pub fn watch(&self) -> watch::Receiver<Arc<Admissions>> {
        self.admissions.clone()
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        ask(&self.jobs, job).await
    }

    /// The same for what decides: in a database that hubs share, on a state that nobody else changes meanwhile.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.call(move |owner| owner.ready().and_then(|()| job(owner))).await
    }

    /// How this hub stands with the database that hubs share; none: the registry is in its own file.
    pub fn database(&self) -> Option<DatabaseView> {
        self.database.as_ref().map(|watched| watched.0.view())
    }

    /// Removes the oldest entries of the database's log but for the newest `kept`; a signed snapshot stands for them.
    /// It happens by itself when there are more than 110,000.
    pub async fn compact_database(&self, kept: u64) -> Result<(), Refusal> {
        self.call(move |owner| owner.shorten_database(kept)).await
    }

    /// Makes an invite. The string that it encodes to is the only copy of its secret.
    pub async fn create_invite(&self, order: InviteOrder) -> Result<Invite, Refusal> {
        self.make_invite(order, false).await
    }

    pub(super) async fn make_invite(&self, order: InviteOrder, for_hub: bool) -> Result<Invite, Refusal> {
        self.change(move |owner| {
            let random = |_| Refusal::new(ReasonCode::Internal, "the system gave no random bytes");
            let id = InviteId(keys::random().map_err(random)?);
            let secret = InviteSecret::new(keys::random().map_err(random)?);
            let now = (owner.clock)();
            let (mut invite, mut change) = admit::invite(&owner.state, order, id, secret, now)?;
            if let Change::Invite(record) = &mut change {
                Arc::make_mut(record).for_hub = for_hub;
            }
            if for_hub {
                // A hub joins through the foyer alone.
                invite.tls = None;
            }
            owner.commit(&Actor::Admin, "invite", &[change], now)?;
            tracing::info!(invite = %id, site = %invite.site, "invite made");
            Ok(invite)
        })
        .await
    }

    /// Withdraws an invite.
    pub async fn revoke_invite(&self, id: InviteId) -> Result<(), Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let changes = admit::revoke_invite(&owner.state, &id, now)?;
            owner.commit(&Actor::Admin, "invite/revoke", &changes, now).map(drop)
        })
        .await
    }

    /// Judges a first request; what it changes is durable when this returns.
    pub async fn enroll(&self, envelope: Envelope, origin: impl Into<Origin>) -> Result<Granted, Refusal> {
        let origin = origin.into();
        self.change(move |owner| {
            let id = envelope.open::<EnrollRequest>()?.invite;
            owner.check_door(&envelope, &id, origin)?;
            let actor = Actor::Invited(id);
            owner.decide(Some(actor), Operation::Enroll, |state, now| {
                admit::enroll(state, &envelope, origin, now)
            })
        })
        .await
    }

    /// Judges a later request of any kind; what it changes is durable when this returns.
    pub async fn leaf_request(
        &self,
        op: Operation,
        envelope: Envelope,
        source: IpAddr,
    ) -> Result<Granted, Refusal> {
        self.change(move |owner| {
            let judge = |state: &State, now| admit::leaf_request(state, op, &envelope, source, now);
            owner.decide(None, op, judge)
        })
        .await
    }

    /// Revokes a leaf; the published admissions have lost it when this returns. Gives their generation.
    pub async fn revoke(&self, leaf: LeafName) -> Result<u64, Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let decision = life::revoke(&owner.state, &leaf, now)?;
            tracing::info!(%leaf, "leaf revoked");
            owner.commit(&Actor::Admin, "revoke", &decision.changes, now)?;
            Ok(owner.state.generation())
        })
        .await
    }

    /// Stores the operator's word on a machine that waits, named by its fingerprint or its site. Says whether that
    /// changed anything, and the fingerprint.
    pub async fn decide_pending(&self, what: String, verdict: Verdict) -> Result<(bool, String), Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let (pending, changes) = approval::decide(&owner.state, &what, verdict, now)?;
            let fingerprint = pending.fingerprint();
            tracing::info!(site = %pending.site, fingerprint, ?verdict, "request for approval judged");
            Ok((owner.commit(&Actor::Admin, "pending/decide", &changes, now)?.is_some(), fingerprint))
        })
        .await
    }

    /// Gives an owned address to another leaf. Gives the generation, or `None` if nothing changed.
    pub async fn move_claim(&self, address: Ipv4Addr, to: LeafName) -> Result<Option<u64>, Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let changes = life::move_claim(&owner.state, address, &to, now)?;
            owner.commit(&Actor::Admin, "claims/move", &changes, now)
        })
        .await
    }

    /// Ends a move: the new owner's route is there.
    pub async fn move_done(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let under_way = owner.state.moves.contains_key(&address);
            let changes = if under_way { vec![Change::MoveDone(address)] } else { Vec::new() };
            owner.commit(&Actor::Hub, "claims/moved", &changes, now).map(drop)
        })
        .await
    }

    /// All leaves, claims, invites and bad records.
    pub async fn view(&self) -> Result<RegistryView, Refusal> {
        self.call(|owner| Ok(view::registry(&owner.state, (owner.clock)()))).await
    }

    /// The newest entries of the claims' history first, at most `limit`; of one address or of all.
    pub async fn claim_history(
        &self,
        address: Option<Ipv4Addr>,
        limit: u32,
    ) -> Result<Vec<ClaimHistoryView>, Refusal> {
        self.call(move |owner| schema::history(&owner.db, address, limit).map_err(failed)).await
    }

    /// The newest entries of the log first, at most `limit`.
    pub async fn audit(&self, limit: u32) -> Result<Vec<AuditEntryView>, Refusal> {
        self.call(move |owner| log_store::list(&owner.db, limit).map_err(failed)).await
    }

    /// Removes the oldest entries of the log but for the newest `kept`, leaving signed checkpoints. It happens by
    /// itself when there are more than 110,000.
    pub async fn compact_log(&self, kept: u64) -> Result<(), Refusal> {
        self.call(move |owner| owner.compact(kept)).await
    }

    /// Follows every chain of the log, on a connection of its own: it takes seconds, and nobody waits for it.
    pub async fn verify_audit(&self) -> Result<AuditReport, Refusal> {
        let path = self.path.clone();
        let hubs = self.call(|owner| Ok(owner.state.log_keys())).await?;
        let follow = move || {
            let db = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            db.busy_timeout(Duration::from_secs(2))?;
            log_store::verify(&db, &hubs)
        };
        let followed = tokio::task::spawn_blocking(follow).await;
        followed.map_err(|_| Refusal::of(ReasonCode::Internal))?.map_err(failed)
    }

    /// Writes this hub's own record where it is another than before; for one that was to hear others first.
    pub async fn introduce(&self) -> Result<(), Refusal> {
        self.change(|owner| {
            let now = (owner.clock)();
            owner.introduce(now)
        })
        .await
    }

    /// Replaces the hub's constants (its endpoints changed, for example) and publishes.
    pub async fn set_settings(&self, settings: HubSettings) -> Result<(), Refusal> {
        self.change(move |owner| {
            owner.state.set_settings(Arc::new(settings));
            let now = (owner.clock)();
            owner.store(&Actor::Hub, "settings", &[], now)
        })
        .await
    }

    /// Lets time do its work at once (leases, tombstones) instead of at the next deadline; for a clock that jumped.
    pub async fn tick(&self) -> Result<(), Refusal> {
        self.call(|owner| {
            owner.time_passed();
            Ok(())
        })
        .await
    }
}

impl Owner {
    fn open(
        path: &Path,
        database: Option<Address>,
        settings: HubSettings,
        keys: Arc<NodeKeys>,
        clock: Clock,
    ) -> Result<(Self, watch::Receiver<Arc<Admissions>>), OpenError> {
        make_private(path).map_err(|source| OpenError::File { path: path.into(), source })?;
        let unreadable = |source| OpenError::Database { path: path.into(), source };
        let db = Connection::open(path).map_err(unreadable)?;
        let found = schema::version(&db).map_err(unreadable)?;
        if found > schema::VERSION {
            return Err(OpenError::Newer { path: path.into(), found });
        }
        schema::prepare(&db).map_err(unreadable)?;
        let now = clock();
        let state = schema::load(&db, Arc::new(settings), now).map_err(unreadable)?;
        for record in &state.bad {
            tracing::error!(
                table = record.table,
                key = record.key,
                why = record.why,
                "stored record left out"
            );
        }
        let log = Log::open(&db, keys).map_err(unreadable)?;
        let (publish, admissions) = watch::channel(Arc::new(state.admissions()));
        let batch = Batch::default();
        let shared = match database {
            Some(address) => Some(Shared::new(address).map_err(|_| OpenError::Thread)?),
            None => None,
        };
        let hears_first = state.settings.hears_first;
        let mut owner =
            Self { db, state, log, batch, shared, older: found == 1, damaged: false, clock, publish };
        if owner.shared.is_some() {
            owner.attach().map_err(|refusal| OpenError::Shared { refusal })?;
        } else if !hears_first && let Err(refusal) = owner.introduce(now) {
            tracing::error!(%refusal, "this hub's record could not be stored");
        }
        // What could not be stored was said; reading goes on.
        let _ = owner.finish();
        owner.publish_now(now);
        Ok((owner, admissions))
    }

    /// Begins the log, or brings this hub's record in it up to date; nothing to do most of the time.
    pub(super) fn introduce(&mut self, now: u64) -> Result<(), Refusal> {
        self.ready()?;
        let own = self.known_hubs(now)?;
        if log_store::is_empty(&self.db).map_err(failed)? {
            let operation = if self.older { "migrated" } else { "begun" };
            self.begin_log(operation, own, now)?;
        } else if let Some(own) = own {
            self.commit(&Actor::Hub, "hub", &[own], now)?;
        }
        self.tell_pending(now)?;
        let old = self.state.forgettable_invites(FORGET_INVITES_SECS, now);
        self.commit(&Actor::Hub, "forget", &old, now).map(drop)
    }

    /// What is there is what the log begins with.
    fn begin_log(&mut self, operation: &str, own: Option<Change>, now: u64) -> Result<(), Refusal> {
        let mut changes: Vec<Change> = self.state.snapshot().into_iter().map(|fact| fact.change).collect();
        changes.extend(own);
        self.store(&Actor::Hub, operation, &changes, now)
    }

    /// Lets time do its work; the caller ends the batch.
    pub(super) fn time_passed(&mut self) {
        let now = (self.clock)();
        let due = |state: &State| {
            let mut changes = life::overdue_moves(state, now);
            changes.extend(life::forgettable_leaves(state, now));
            changes.extend(approval::forgettable(state, now));
            changes
        };
        // Another hub may have ended it meanwhile: what is written is judged again on all that is known.
        let ended = match due(&self.state).is_empty() {
            true => Ok(None),
            false => self.ready().and_then(|()| self.commit(&Actor::Hub, "time", &due(&self.state), now)),
        };
        if let Err(refusal) = ended {
            tracing::warn!(%refusal, "what time has ended was not stored; it is tried again");
        }
        if self.state.settle(self.lease_time(now)) {
            self.state.generation += 1;
            self.batch.publishes();
        }
    }

    /// Who enrolls over TLS proves what a handshake in the foyer proves.
    fn check_door(&self, envelope: &Envelope, id: &InviteId, origin: Origin) -> Result<(), Refusal> {
        // An invite that is not known is refused by the judgement.
        let (Door::Tls, Some(invite)) = (origin.door, self.state.invite(id)) else { return Ok(()) };
        let key = MacKey::shared(&self.log.keys().wireguard_private_key(), &invite.wireguard_key);
        match envelope.came_through_door(&key) {
            true => Ok(()),
            false => Err(Refusal::new(
                ReasonCode::SignatureInvalid,
                "over TLS a request proves that its sender holds the invite's WireGuard key; this one does not",
            )),
        }
    }

    /// Without an actor it is the leaf that the decision is about.
    fn decide(
        &mut self,
        actor: Option<Actor>,
        op: Operation,
        judge: impl FnOnce(&State, u64) -> Result<Decision, Refusal>,
    ) -> Result<Granted, Refusal> {
        let now = (self.clock)();
        let decision = judge(&self.state, now)?;
        let actor = actor.unwrap_or_else(|| Actor::Leaf(decision.leaf.clone()));
        let operation = op.path().trim_start_matches("/v1/");
        let changed = self.commit(&actor, operation, &decision.changes, now)?;
        if let Some(refusal) = decision.refusal {
            return Err(refusal);
        }
        let admission = self.state.admission(&decision.leaf, now);
        let admission = admission.ok_or_else(|| Refusal::of(ReasonCode::LeafUnknown))?;
        Ok(Granted { admission, changed })
    }

    /// Merges and writes; it is durable and published when the batch ends, which is before anybody is answered.
    pub(super) fn commit(
        &mut self,
        actor: &Actor,
        operation: &str,
        changes: &[Change],
        now: u64,
    ) -> Result<Option<u64>, Refusal> {
        if changes.is_empty() {
            return Ok(None);
        }
        self.store(actor, operation, changes, now)?;
        Ok(Some(self.state.generation()))
    }

    /// The changes and the entry that says so, both or neither.
    fn store(&mut self, actor: &Actor, operation: &str, changes: &[Change], now: u64) -> Result<(), Refusal> {
        self.begin(now)?;
        let generation = self.state.generation() + 1;
        let facts = self.state.facts(changes, now);
        let merged = self.state.merge(&facts, now);
        let written = self.db.savepoint().and_then(|tx| {
            schema::write_merged(&tx, &self.state, &merged, generation, now)?;
            let entry = self.log.append(&tx, (actor, operation), &facts, generation, now)?;
            tx.commit().map(|()| entry)
        });
        let entry = self.stored(written, now)?;
        self.state.generation = generation;
        self.log.took(&entry);
        self.decided(&entry)?;
        if self.log.is_long()
            && let Err(refusal) = self.compact(log_store::KEPT)
        {
            // It is tried again with the next entry.
            tracing::warn!(%refusal, "old entries of the log were not removed");
        }
        Ok(())
    }

    fn compact(&mut self, kept: u64) -> Result<(), Refusal> {
        self.begin((self.clock)())?;
        let tx = self.db.savepoint().map_err(failed)?;
        let count = self.log.compact(&tx, kept).map_err(failed)?;
        tx.commit().map_err(failed)?;
        self.log.shortened(count);
        Ok(())
    }
}

/// Puts a question to the owner.
pub(super) async fn ask<T: Send + 'static>(
    jobs: &SyncSender<Job>,
    job: impl FnOnce(&mut Owner) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |owner| {
        let outcome = job(owner);
        Box::new(move |durable: Result<(), Refusal>| drop(reply.send(durable.and(outcome))))
    });
    jobs.try_send(job).map_err(|e| match e {
        TrySendError::Full(_) => Refusal::of(ReasonCode::HubBusy),
        TrySendError::Disconnected(_) => Refusal::of(ReasonCode::Internal),
    })?;
    answer.await.map_err(|_| Refusal::of(ReasonCode::Internal))?
}

pub(super) fn failed(error: rusqlite::Error) -> Refusal {
    tracing::error!(%error, "the registry could not be read or written");
    Refusal::of(ReasonCode::Internal)
}

/// The file holds what verifies invites: only its owner may read it. SQLite gives its companions the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}
