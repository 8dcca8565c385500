//! Sockets, clock and thread of the sessions. Everything that decides is pure and lives above.

mod driver;
mod sockets;

use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::Notify;

pub use crate::sessions::{Full, Key, News, SessionId};
pub use crate::settings::Settings;
pub use crate::view::{BfdView, SessionView};

use crate::session::Micros;
use crate::sessions::Sessions;

/// What the handles and the thread share. The lock is held for a few microseconds at a time.
struct Shared {
    inner: Mutex<Inner>,
    started: Instant,
    wake: EventFd,
    news: Notify,
}

struct Inner {
    sessions: Sessions,
    stop: bool,
}

impl Shared {
    fn now(&self) -> Micros {
        self.started.elapsed().as_micros() as Micros
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is half done between two statements there, whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full counter wakes as well as one more would.
        let _ = self.wake.write(1);
    }
}

/// Ends the thread with the last handle.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.wake();
    }
}

/// Running BFD: cheap to clone, safe to share. The last handle's drop ends its sessions and its thread.
#[derive(Clone)]
pub struct Bfd(Arc<Owner>);

impl Bfd {
    /// Starts the thread; `limit` sessions at most. No socket is open before the first session.
    pub fn start(limit: usize) -> std::io::Result<Bfd> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let sessions = Sessions::new(RandomState::new(), limit);
        let inner = Mutex::new(Inner { sessions, stop: false });
        let shared = Arc::new(Shared { inner, started: Instant::now(), wake, news: Notify::new() });
        let owner = Owner(Arc::clone(&shared));
        std::thread::Builder::new().name("bfd".into()).spawn(move || driver::run(&shared))?;
        Ok(Bfd(Arc::new(owner)))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Adds a session, or gives the one between these addresses other settings without an interruption.
    pub fn add(&self, key: Key, settings: Settings) -> Result<SessionId, Full> {
        let now = self.shared().now();
        let added = self.shared().lock().sessions.add(key, settings, now);
        self.shared().wake();
        added
    }

    /// Removes a session; its peer is told AdminDown.
    pub fn remove(&self, id: SessionId) {
        let now = self.shared().now();
        self.shared().lock().sessions.remove(id, now);
        self.shared().wake();
    }

    /// Waits until sessions have changed, and says how: each session once, with its first fall since the last time.
    pub async fn news(&self) -> Vec<News> {
        loop {
            let news = self.shared().lock().sessions.take_news();
            if !news.is_empty() {
                return news;
            }
            self.shared().news.notified().await;
        }
    }

    /// Everything, for people.
    pub fn view(&self) -> BfdView {
        let now = self.shared().now();
        self.shared().lock().sessions.view(now)
    }
}
