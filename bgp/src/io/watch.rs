//! The handle's questions that people ask: each a short look, or many short ones with routes passing in between.

use super::handle::{Command, Speaker};
use crate::explain::{Asked, Explanation};
use crate::session::Millis;

impl Speaker {
    /// Has the speaker answer a question on its own thread.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut crate::speaker::Speaker, Millis) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask(|done| {
            Command::Look(Box::new(move |speaker, now| {
                // Who asked may have gone; that is no fault.
                let _ = done.send(question(speaker, now));
            }))
        })
        .await
    }

    /// Everything that is known of a prefix; `None` once the speaker has been shut down.
    pub async fn explain(&self, asked: Asked) -> Option<Explanation> {
        self.look(move |speaker, now| {
            speaker.flush();
            speaker.explain(asked, now)
        })
        .await
    }
}
