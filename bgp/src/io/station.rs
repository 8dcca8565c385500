//! BMP stations: one task each, which dials the station, brings it up to date, and then passes on what happens.
//!
//! A station has a queue of its own, bounded in octets. One that does not read fast enough loses its session, not the
//! speaker its time: what was in the queue is dropped and counted, and after a pause the station starts afresh with
//! the tables of then, so that it never has a picture with holes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::{Command, Speaker};
use crate::bmp::{TerminationReason, put_initiation, put_termination};
use crate::session::Millis;
use crate::speaker::Cursor;
use crate::view::StationView;

/// A dial that has no answer by then has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A station that takes nothing for so long has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before the first new attempt; it doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Chunks that wait for a station at most, beside the limit in octets.
const QUEUE_CHUNKS: usize = 65_536;

/// A BMP station. Start from [`Station::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    /// Where it listens.
    pub address: SocketAddr,
    /// Our name, as it is shown there (sysName).
    pub name: String,
    /// What we are (sysDescr).
    pub description: String,
    /// Seconds between Statistics Reports; 0: none.
    pub statistics_secs: u32,
    /// Octets that may wait for it; beyond that it starts afresh. Default 16 MiB.
    pub queue_bytes: usize,
}

impl Station {
    /// A station with every default: reports every 60 s.
    pub fn new(address: SocketAddr, name: impl Into<String>) -> Station {
        let description = concat!("fabric BGP speaker ", env!("CARGO_PKG_VERSION")).into();
        Station { address, name: name.into(), description, statistics_secs: 60, queue_bytes: 16 << 20 }
    }
}

impl Speaker {
    /// Tells a station of everything from now on, until the speaker ends. The task runs on the caller's runtime, not
    /// on the speaker's thread.
    pub fn monitor(&self, station: Station) {
        let (tell, seen) = watch::channel(StationView {
            address: station.address,
            state: "connecting".into(),
            ..StationView::default()
        });
        self.stations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seen);
        tokio::spawn(Task { station, commands: self.commands.downgrade(), tell }.run());
    }

    /// How every station stands.
    pub fn stations(&self) -> Vec<StationView> {
        let all = self.stations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.iter().map(|seen| seen.borrow().clone()).collect()
    }
}

/// Why a session with a station is over.
enum Over {
    /// The speaker has ended.
    Speaker,
    /// The station or the connection is at fault.
    Broken(String),
    /// The queue was full.
    Overflow,
}

/// The speaker's end of a station's queue.
#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    overflow: AtomicBool,
    dropped: AtomicU64,
}

struct Task {
    station: Station,
    commands: mpsc::WeakSender<Command>,
    tell: watch::Sender<StationView>,
}

impl Task {
    async fn run(self) {
        let mut pause = FIRST_RETRY;
        loop {
            let begin = Instant::now();
            let why = match self.session().await {
                Over::Speaker => return self.tell.send_modify(|v| v.state = "ended".into()),
                Over::Broken(why) => why,
                Over::Overflow => format!("more than {} octets waited for it", self.station.queue_bytes),
            };
            tracing::info!(station = %self.station.address, why, "BMP session ended");
            self.tell.send_modify(|v| {
                v.state = "waiting".into();
                v.last_error = Some(why);
            });
            if begin.elapsed() > LAST_RETRY {
                pause = FIRST_RETRY;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.speaker_ended() => return,
            }
            pause = (pause * 2).min(LAST_RETRY);
        }
    }

    async fn speaker_ended(&self) {
        // Holding a sender would keep the speaker alive: look now and then instead.
        while self.commands.upgrade().is_some_and(|c| !c.is_closed()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Has the speaker do something on its own thread.
    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut crate::speaker::Speaker, Millis) -> T + Send + 'static,
    ) -> Result<T, Over> {
        let commands = self.commands.upgrade().ok_or(Over::Speaker)?;
        let (done, answer) = oneshot::channel();
        let look = Command::Look(Box::new(move |speaker, now| {
            // The task may have ended; that is no fault.
            let _ = done.send(question(speaker, now));
        }));
        commands.send(look).await.map_err(|_| Over::Speaker)?;
        drop(commands);
        answer.await.map_err(|_| Over::Speaker)
    }

    /// One session, from the dial to its end.
    async fn session(&self) -> Over {
        self.tell.send_modify(|v| v.state = "connecting".into());
        let stream = match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(self.station.address)).await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Over::Broken(format!("connect: {error}")),
            Err(_) => return Over::Broken("connect: no answer".into()),
        };
        let (mut read, mut write) = stream.into_split();
        let queue = Arc::new(Queue::default());
        let (sender, mut chunks) = mpsc::channel(QUEUE_CHUNKS);
        let over = match self.talk(&mut read, &mut write, sender, &mut chunks, &queue).await {
            Err(over) => over,
            Ok(never) => match never {},
        };
        let reason = match over {
            Over::Overflow => TerminationReason::OutOfResources,
            Over::Speaker | Over::Broken(_) => TerminationReason::AdministrativelyClosed,
        };
        let mut last = Vec::new();
        put_termination(&mut last, reason);
        // Best effort: a station that does not read does not read this either.
        let _ = tokio::time::timeout(Duration::from_secs(1), write.write_all(&last)).await;
        chunks.close();
        let mut dropped = queue.dropped.load(Ordering::Relaxed);
        while let Ok(chunk) = chunks.try_recv() {
            dropped += messages(&chunk);
        }
        self.tell.send_modify(|v| {
            v.messages_dropped += dropped;
            v.queued_bytes = 0;
            v.overflows += u64::from(matches!(over, Over::Overflow));
        });
        over
    }

    async fn talk(
        &self,
        read: &mut tokio::net::tcp::OwnedReadHalf,
        write: &mut OwnedWriteHalf,
        sender: mpsc::Sender<Bytes>,
        chunks: &mut mpsc::Receiver<Bytes>,
        queue: &Arc<Queue>,
    ) -> Result<std::convert::Infallible, Over> {
        let mut first = Vec::new();
        put_initiation(&mut first, &self.station.name, &self.station.description);
        self.write(write, &Bytes::from(first), queue).await?;
        let sink = sink(sender, Arc::clone(queue), self.station.queue_bytes);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let id = self.look(move |s, now| s.bmp_add(Box::new(sink), now, unix_ms)).await?;
        self.tell.send_modify(|v| {
            v.state = "synchronizing".into();
            v.sessions += 1;
        });
        let mut next = Some(Cursor::START);
        while let Some(from) = next {
            next = self.look(move |s, now| s.bmp_table(id, from, now)).await?;
            while let Ok(chunk) = chunks.try_recv() {
                self.send(write, &chunk, queue).await?;
            }
            if queue.overflow.load(Ordering::Relaxed) {
                return Err(Over::Overflow);
            }
        }
        self.tell.send_modify(|v| v.state = "monitoring".into());
        let every = Duration::from_secs(u64::from(self.station.statistics_secs.max(1)));
        let mut report = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let mut nothing = [0; 256];
        loop {
            tokio::select! {
                chunk = chunks.recv() => match chunk {
                    Some(chunk) => self.send(write, &chunk, queue).await?,
                    None if queue.overflow.load(Ordering::Relaxed) => return Err(Over::Overflow),
                    None => return Err(Over::Speaker),
                },
                _ = report.tick(), if self.station.statistics_secs > 0 => {
                    self.look(move |s, now| s.bmp_statistics(id, now)).await?;
                }
                // A station says nothing (RFC 7854 section 3.2): only its end is heard here.
                heard = read.read(&mut nothing) => match heard {
                    Ok(0) => return Err(Over::Broken("the station closed the connection".into())),
                    Ok(_) => {}
                    Err(error) => return Err(Over::Broken(error.to_string())),
                },
            }
        }
    }

    async fn send(&self, write: &mut OwnedWriteHalf, chunk: &Bytes, queue: &Queue) -> Result<(), Over> {
        let written = self.write(write, chunk, queue).await;
        let before = queue.bytes.fetch_sub(chunk.len(), Ordering::Relaxed);
        self.tell.send_modify(|v| v.queued_bytes = (before - chunk.len()) as u64);
        written?;
        if queue.overflow.load(Ordering::Relaxed) { Err(Over::Overflow) } else { Ok(()) }
    }

    async fn write(&self, write: &mut OwnedWriteHalf, chunk: &Bytes, queue: &Queue) -> Result<(), Over> {
        let broken = |why: String| match queue.overflow.load(Ordering::Relaxed) {
            true => Over::Overflow,
            false => Over::Broken(why),
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write.write_all(chunk)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Err(_) => return Err(broken(format!("it took nothing for {WRITE_TIMEOUT:?}"))),
        }
        self.tell.send_modify(|v| {
            v.messages_sent += messages(chunk);
            v.bytes_sent += chunk.len() as u64;
        });
        Ok(())
    }
}

/// What the speaker calls with every chunk: it never waits.
fn sink(sender: mpsc::Sender<Bytes>, queue: Arc<Queue>, limit: usize) -> impl FnMut(&Bytes) -> bool + Send {
    move |chunk| {
        let fits = queue.bytes.load(Ordering::Relaxed) + chunk.len() <= limit;
        if fits {
            queue.bytes.fetch_add(chunk.len(), Ordering::Relaxed);
            match sender.try_send(chunk.clone()) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        queue.dropped.fetch_add(messages(chunk), Ordering::Relaxed);
        queue.overflow.store(true, Ordering::Relaxed);
        false
    }
}

/// How many BMP messages a chunk holds.
fn messages(chunk: &[u8]) -> u64 {
    let (mut rest, mut n) = (chunk, 0);
    while let Some(&[_, a, b, c, d]) = rest.first_chunk::<5>() {
        n += 1;
        rest = rest.get(u32::from_be_bytes([a, b, c, d]).max(6) as usize..).unwrap_or_default();
    }
    n
}
