//! Connections that are out of use and hear their last octets: a NOTIFICATION is worth little if nobody reads it.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

/// How long a last message may take to be taken by the peer.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end of the speaker waits for its last messages to be taken.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);
/// What a peer may still send while it hears them; of one that floods no more is read.
const FAREWELL_BYTES: usize = 1 << 20;
/// How long one that floods keeps its connection then, unread, before the close that resets it: a reset overtakes
/// what the peer's kernel has not taken yet, so without this a flooder seldom learns why it was cut.
const FLOODER_GRACE: Duration = Duration::from_millis(250);
/// Refused connections that may hear why at once; more are closed without a word, lest a storm of them take every
/// file descriptor.
pub(super) const REFUSALS_AT_ONCE: usize = 256;
/// The same for connections that were ours, storms from an admitted address included.
pub(super) const FAREWELLS_AT_ONCE: usize = 4096;

/// How many there are; each has a task of its own, which ends by itself.
#[derive(Debug, Default)]
pub(super) struct Leaving(Rc<Cell<usize>>);

impl Leaving {
    /// Lets a connection hear its last octets, unless `at_once` others do.
    pub(super) fn see_off(&self, stream: Rc<TcpStream>, last: Vec<u8>, at_once: usize) {
        if self.0.get() >= at_once {
            return;
        }
        self.0.set(self.0.get() + 1);
        let count = Rc::clone(&self.0);
        spawn_local(async move {
            farewell(stream, last).await;
            count.set(count.get() - 1);
        });
    }

    /// Waits until all have gone, most of them when the peer closes, and no longer than [`SHUTDOWN_TIMEOUT`].
    pub(super) async fn have_gone(&self) {
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while self.0.get() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Writes the last octets and waits a little for the peer's end, lest a reset destroy them under way.
async fn farewell(stream: Rc<TcpStream>, last: Vec<u8>) {
    let talk = async {
        let mut rest = &last[..];
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        // The connection's own task has ended or is about to: nobody else holds the socket then.
        let mut stream = stream;
        let mut tries = 0;
        let mut owned = loop {
            match Rc::try_unwrap(stream) {
                Ok(owned) => break owned,
                Err(_) if tries > 100 => return Ok(()),
                Err(shared) => stream = shared,
            }
            tries += 1;
            tokio::task::yield_now().await;
        };
        owned.shutdown().await?;
        let mut sink = [0; 4096];
        let mut read = 0;
        while read < FAREWELL_BYTES {
            match owned.read(&mut sink).await? {
                0 => return Ok(()),
                n => read += n,
            }
        }
        tokio::time::sleep(FLOODER_GRACE).await;
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, talk).await;
}
