//! The thread: waits for packets and for the next deadline, and does nothing else.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::Shared;
use super::sockets::{Sockets, receive};
use crate::packet::LEN;
use crate::session::Micros;
use crate::sessions::{Arrival, Departure, Key, SessionId};

/// What is read from one socket before the others and the timers get their turn. What does not fit into the
/// socket's buffer in between is dropped by the kernel.
const READ_AT_ONCE: usize = 64;
/// A packet is at most this long: 24 octets, and what an authentication section may add.
const LONGEST: usize = LEN + 64;

/// Runs until the last handle is gone.
pub(super) fn run(shared: &Shared) {
    let mut sockets = Sockets::new();
    let mut known = 0;
    let mut out = Vec::new();
    loop {
        let now = shared.now();
        let deadline;
        {
            let mut inner = shared.lock();
            if inner.stop {
                return farewell(inner.sessions.keys().collect(), &mut inner, &sockets, now);
            }
            if inner.sessions.revision() != known || now >= sockets.retry_at() {
                known = inner.sessions.revision();
                let wanted: Vec<(SessionId, Key)> = inner.sessions.keys().collect();
                for (id, error) in sockets.follow(&wanted, now) {
                    inner.sessions.set_error(id, error);
                }
            }
            inner.sessions.tick(now, &mut out);
            deadline = inner.sessions.deadline().min(sockets.retry_at());
        }
        tell(shared);
        depart(shared, &sockets, &mut out);
        wait(shared, &sockets, deadline);
        arrive(shared, &sockets, &mut out);
        depart(shared, &sockets, &mut out);
    }
}

/// Sleeps until a packet comes, a handle calls, or it is time.
fn wait(shared: &Shared, sockets: &Sockets, deadline: Micros) {
    let mut fds = vec![PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN)];
    fds.extend(sockets.receivers().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
    let left = deadline.saturating_sub(shared.now());
    let timeout = (deadline != Micros::MAX).then(|| TimeSpec::from(Duration::from_micros(left)));
    // An interrupted wait is a short one.
    let _ = ppoll(&mut fds, timeout, None);
    let _ = shared.wake.read();
}

fn arrive(shared: &Shared, sockets: &Sockets, out: &mut Vec<Departure>) {
    let mut buffer = [0; LONGEST];
    for (place, socket) in sockets.receivers() {
        for _ in 0..READ_AT_ONCE {
            let Some(got) = receive(place, socket, &mut buffer) else { break };
            let arrival = Arrival { key: got.key, ttl: got.ttl, octets: &buffer[..got.length] };
            let now = shared.now();
            shared.lock().sessions.receive(&arrival, now, out);
        }
    }
    tell(shared);
}

/// Wakes whoever waits for news, if there are some.
fn tell(shared: &Shared) {
    if shared.lock().sessions.has_news() {
        shared.news.notify_one();
    }
}

fn depart(shared: &Shared, sockets: &Sockets, out: &mut Vec<Departure>) {
    for departure in out.drain(..) {
        if let Err(error) = sockets.send(&departure) {
            tracing::debug!(peer = %departure.key.remote, "BFD packet not sent: {error}");
            shared.lock().sessions.count_drop("not-sent");
        }
    }
}

/// The last word to every peer: AdminDown, so that none takes the end for a failure.
fn farewell(keys: Vec<(SessionId, Key)>, inner: &mut super::Inner, sockets: &Sockets, now: Micros) {
    keys.into_iter().for_each(|(id, _)| inner.sessions.remove(id, now));
    let mut out = Vec::new();
    inner.sessions.tick(now, &mut out);
    for departure in &out {
        // Who does not get it finds out by its detection time.
        let _ = sockets.send(departure);
    }
}
