//! Group commit: whatever waits for the registry's owner is judged one after the other, written in one transaction,
//! made durable by one sync, published once, and only then answered. While the disk syncs the next batch gathers.

use super::log_store::Ends;
use super::schema;
use super::store::{Owner, failed};
use crate::reason::{ReasonCode, Refusal};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How many requests share one transaction at most: none of them is answered before the last is judged.
const SHARE: usize = 128;

/// What the owner is asked to do.
pub(super) type Job = Box<dyn FnOnce(&mut Owner) -> Answer + Send>;

/// Sends what a job came to, or why it could not be stored.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// The transaction that is open, if one is.
#[derive(Default)]
pub(super) struct Batch {
    /// Where the log ended before it.
    open: Option<Ends>,
    /// SQLite took it back by itself (a full disk does that): nothing in it is stored.
    lost: bool,
    /// There is something to publish.
    publishes: bool,
}

impl Batch {
    /// What is published is no longer all.
    pub(super) fn publishes(&mut self) {
        self.publishes = true;
    }
}

impl Owner {
    /// Serves until the last handle is dropped.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let now = (self.clock)();
            // The wall clock may be set: look again at least every 30 s.
            let wait = self.state.next_deadline(now).map_or(30, |at| at.saturating_sub(now).clamp(1, 30));
            match queue.recv_timeout(Duration::from_secs(wait)) {
                Ok(job) => self.serve(job, queue),
                Err(RecvTimeoutError::Timeout) => {
                    self.time_passed();
                    // What was not stored is tried again when more time has passed.
                    let _ = self.finish();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One batch: this job and those that wait behind it.
    fn serve(&mut self, first: Job, queue: &Receiver<Job>) {
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            let answer = job(self);
            // What was judged before anything was written rests on what is durable.
            answers.push((answer, self.batch.open.is_some()));
            next = if answers.len() < SHARE && !self.batch.lost { queue.try_recv().ok() } else { None };
        }
        let durable = self.finish();
        for (answer, rests_on_it) in answers {
            answer(if rests_on_it { durable.clone() } else { Ok(()) });
        }
    }

    /// Opens the batch's transaction, if it is not open yet.
    pub(super) fn begin(&mut self, now: u64) -> Result<(), Refusal> {
        self.mended(now)?;
        if self.batch.open.is_none() {
            self.db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            self.batch.open = Some(self.log.ends().clone());
        }
        match self.batch.lost {
            true => Err(Refusal::of(ReasonCode::Internal)),
            false => Ok(()),
        }
    }

    /// Makes the batch durable and publishes it, or takes it back and says why.
    pub(super) fn finish(&mut self) -> Result<(), Refusal> {
        let now = (self.clock)();
        let durable = match self.batch.open.take() {
            Some(before) => self.end(before),
            None => self.commit_database(),
        };
        self.ended_database(durable.is_ok());
        // Most often the disk is full, which reading survives; else it is tried again when time passes.
        if self.batch.publishes && self.mended(now).is_ok() {
            self.batch.publishes = false;
            self.publish_now(now);
        }
        durable
    }

    fn end(&mut self, before: Ends) -> Result<(), Refusal> {
        self.batch.publishes = true;
        let lost = std::mem::take(&mut self.batch.lost);
        let durable = match lost {
            true => Err(Refusal::of(ReasonCode::Internal)),
            // With a database this is the moment of truth; this hub's file can be filled from it again.
            false => self.commit_database().and_then(|()| self.db.execute_batch("COMMIT").map_err(failed)),
        };
        if durable.is_err() {
            if !self.db.is_autocommit()
                && let Err(error) = self.db.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "the registry's transaction could not be taken back");
            }
            self.log.back_to(before);
            self.damaged = true;
        }
        durable
    }

    /// A request whose writing failed leaves nothing: SQLite took its savepoint back, and the state is read again.
    pub(super) fn stored<T>(&mut self, written: rusqlite::Result<T>, now: u64) -> Result<T, Refusal> {
        written.map_err(|error| {
            self.damaged = true;
            self.batch.lost |= self.batch.open.is_some() && self.db.is_autocommit();
            let _ = self.mended(now);
            failed(error)
        })
    }

    /// Reads the state again where it holds what could not be stored.
    pub(super) fn mended(&mut self, now: u64) -> Result<(), Refusal> {
        if self.damaged {
            let settings = self.state.settings.clone();
            self.state = schema::load(&self.db, settings, now).map_err(failed)?;
            self.damaged = false;
        }
        Ok(())
    }

    pub(super) fn publish_now(&mut self, now: u64) {
        self.state.settle(self.lease_time(now));
        self.publish.send_replace(Arc::new(self.state.admissions()));
    }
}
