//! How long this machine stood still while something was measured. A time of a second that packets or daemons are given
//! is theirs only where the machine lets them run: what it took from everybody meanwhile is added to the limit.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// Those who have to run one after the other for one effect: a sender, a leaf, a hub, another leaf, the one who looks.
const IN_TURN: f64 = 4.0;
/// The most that is ever added, seconds: beyond it nothing can be said of the fabric.
const MOST: f64 = 8.0;

/// Starts a program that does nothing, again and again, until it is dropped.
#[derive(Debug)]
pub struct Stalls {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<f64>>,
}

impl Stalls {
    /// Begins to measure.
    pub fn watch() -> Stalls {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let (mut longest, mut usual) = (0f64, f64::MAX);
            while !ended.load(Ordering::Relaxed) {
                let begin = Instant::now();
                std::thread::sleep(PAUSE);
                // Where it cannot be started the pause alone is measured.
                let _ = Command::new("true").stdin(Stdio::null()).status();
                let took = begin.elapsed().as_secs_f64();
                (longest, usual) = (longest.max(took), usual.min(took));
            }
            (longest - usual).max(0.0)
        });
        Stalls { over, thread: Some(thread) }
    }

    /// Ends it; `limit` and what this machine took meanwhile, seconds.
    pub fn allow(mut self, limit: f64) -> f64 {
        limit + (self.end() * IN_TURN).min(MOST)
    }

    fn end(&mut self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine that runs, next to nothing is added, and never more than the bound.
    #[test]
    fn little_is_added() {
        let stalls = Stalls::watch();
        std::thread::sleep(Duration::from_millis(300));
        assert!((1.0..=1.0 + MOST).contains(&stalls.allow(1.0)));
        assert_eq!(Stalls { over: Arc::default(), thread: None }.allow(1.0), 1.0);
    }
}
