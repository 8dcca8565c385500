//! Keeps the registry's owner connected to the database, and tells it when other hubs have decided something.

use super::owner::Line;
use super::session::{Session, Trouble};
use crate::io::batch::Job;
use crate::io::log_store;
use crate::io::store::ask;
use crate::reason::Refusal;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How often the database is looked at where it tells of changes, and where it cannot.
const POLL: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(250)];

/// Between half of a wait and all of it, so that hubs do not try in step.
pub(super) fn spread(wait: Duration) -> Duration {
    let random = crate::io::keys::random::<1>().map_or(128, |[byte]| byte);
    wait / 2 + wait.mul_f64(f64::from(random) / 510.0)
}

/// Runs until it is aborted.
pub(in crate::io) async fn watch(line: Arc<Line>, jobs: SyncSender<Job>) {
    let mut wait = FIRST_WAIT;
    loop {
        let begin = Instant::now();
        let Err(why) = attached(&line, &jobs).await;
        let lose = move |owner: &mut crate::io::store::Owner| {
            let now = (owner.clock)();
            if let Some(shared) = &mut owner.shared {
                shared.lose(why, now);
            }
            Ok(())
        };
        // An owner that is too busy to hear it finds out by itself.
        let _ = ask(&jobs, lose).await;
        wait = if begin.elapsed() > LONGEST_WAIT { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
        tokio::time::sleep(spread(wait)).await;
    }
}

fn said(trouble: Trouble) -> String {
    let (Trouble::Contended(why) | Trouble::Lost(why)) = trouble;
    why
}

/// Ends with what went wrong.
async fn attached(line: &Arc<Line>, jobs: &SyncSender<Job>) -> Result<std::convert::Infallible, String> {
    let refused = |refusal: Refusal| refusal.message;
    if !line.is_attached() {
        let session = Session::open(&line.address, None).await.map_err(said)?;
        ask(jobs, move |owner| owner.adopt(session)).await.map_err(refused)?;
    }
    let told = Arc::new(Notify::new());
    let ear = Session::open(&line.address, Some(told.clone())).await.map_err(said)?;
    let listens = ear.listen().await;
    line.listens(listens);
    let poll = if listens { POLL[0] } else { POLL[1] };
    loop {
        tokio::select! {
            () = line.lost.notified() => {}
            () = line.written.notified(), if listens => ear.notify().await.map_err(said)?,
            () = told.notified() => {}
            () = tokio::time::sleep(poll) => {}
        }
        if !line.is_attached() {
            return Err(line.view().error.unwrap_or_else(|| "the connection was lost".into()));
        }
        if ear.standing().await.map_err(said)?.position != line.position() {
            let follow = |owner: &mut crate::io::store::Owner| {
                owner.follow()?;
                if owner.database_is_long() { owner.shorten_database(log_store::KEPT) } else { Ok(()) }
            };
            ask(jobs, follow).await.map_err(refused)?;
        }
    }
}
