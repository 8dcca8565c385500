//! What more than one sending thread could win: the sends of a reflector and nothing else, by one thread and by two.
//!
//! There is no table, no decision and no encoding here: the octets stand ready, and every session is sent all of
//! them. So what two threads win here is the most that a reflector could win by sending from two.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::process::Awake;
use crate::reflector::{ASN, CLUSTER_ID};
use crate::scenarios::quantile;
use crate::workload::{self, Workload};

/// Slices of one write, as the reflector gathers them.
const SLICES: usize = 64;
/// The longest that anything here may take.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Calm before each single change.
const CALM: Duration = Duration::from_millis(2);

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Sessions.
    pub clients: usize,
    /// Routes of each in the large convergence.
    pub routes: usize,
    /// Pairs of runs, by one thread and by two.
    pub pairs: usize,
    /// Single changes in each run.
    pub changes: usize,
}

/// One run.
#[derive(Debug, Clone, Default)]
struct Run {
    /// Seconds until the last octet of the convergence was read.
    bulk_s: f64,
    /// CPU time of all senders in it, in seconds.
    sender_s: f64,
    /// CPU time of the reader in it, in seconds.
    reader_s: f64,
    /// Microseconds from each change to its last octet's being read.
    change_us: Vec<f64>,
}

/// Runs the pairs in alternating order, and says what was found.
///
/// # Errors
/// When the machine gives no sockets or threads.
pub fn egress(options: &Options) -> io::Result<Vec<String>> {
    let awake = Awake::start().ok();
    let mut runs: [Vec<Run>; 2] = Default::default();
    for pair in 0..options.pairs {
        for two in [pair % 2 == 1, pair % 2 == 0] {
            runs[usize::from(two)].push(run(options, 1 + usize::from(two))?);
        }
    }
    drop(awake);
    let mut lines = vec![
        format!(
            "| {} sessions, {} pairs | one thread | two threads | one / two |",
            options.clients, options.pairs
        ),
        "| --- | ---: | ---: | ---: |".to_string(),
    ];
    let mut row = |what: &str, of: &dyn Fn(&Run) -> f64| {
        let [one, two] = [0, 1].map(|at| quantile(&mut runs[at].iter().map(of).collect::<Vec<_>>(), 0.5));
        lines.push(format!("| {what} | {one:.1} | {two:.1} | {:.2} |", one / two));
    };
    let size = options.routes;
    row(&format!("{size} routes of each to all others, ms"), &|r| r.bulk_s * 1e3);
    row("CPU of the senders in it, ms", &|r| r.sender_s * 1e3);
    row("CPU of the reader in it, ms", &|r| r.reader_s * 1e3);
    row("one change to all, p50, us", &|r| quantile(&mut r.change_us.clone(), 0.5));
    row("one change to all, p99, us", &|r| quantile(&mut r.change_us.clone(), 0.99));
    Ok(lines)
}

/// The CPU time of the calling thread, in seconds.
fn thread_cpu_s() -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0.0, |u| seconds(u.user_time()) + seconds(u.system_time()))
}

/// What a sender is told.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// Everything to everyone.
    Bulk,
    /// One change to everyone.
    Change,
}

/// What stands ready to be sent.
struct Octets {
    /// Each client's table, as it is passed on.
    chunks: Vec<Vec<u8>>,
    change: Vec<u8>,
}

impl Octets {
    fn new(options: &Options) -> Octets {
        let (clients, routes) = (options.clients, options.routes);
        let workload = Workload { clients, routes, slots: 1, asn: ASN, cluster_id: CLUSTER_ID.into() };
        let mut change = Vec::new();
        workload.change(&mut change, &workload.encoded(0), 0, 1);
        Octets { chunks: (0..clients).map(|c| workload.announcements(c)).collect(), change }
    }

    /// What all sessions together read of the convergence: everybody's but their own.
    fn bulk_len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum::<usize>() * (self.chunks.len() - 1)
    }
}

/// A sender: how it is told, and its thread.
type Sender = (mpsc::Sender<Task>, JoinHandle<io::Result<()>>);

fn run(options: &Options, threads: usize) -> io::Result<Run> {
    let octets = Arc::new(Octets::new(options));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut readers = Vec::new();
    let mut shares: Vec<Vec<(usize, TcpStream)>> = (0..threads).map(|_| Vec::new()).collect();
    for client in 0..options.clients {
        let (reader, writer) = connection(&listener, client)?;
        readers.push(reader);
        shares[client % threads].push((client, writer));
    }
    let (done, used) = mpsc::channel();
    let start_one = |share| {
        let (tell, told) = mpsc::channel();
        let (octets, done) = (Arc::clone(&octets), done.clone());
        (tell, thread::spawn(move || send(share, &octets, &told, &done)))
    };
    let senders: Vec<Sender> = shares.into_iter().map(start_one).collect();
    let mut reader = Reader::new(readers)?;
    thread::sleep(50 * CALM);
    let mut result = Run::default();
    let (cpu, start) = (thread_cpu_s(), Instant::now());
    tell(&senders, Task::Bulk)?;
    reader.until(octets.bulk_len())?;
    (result.bulk_s, result.reader_s) = (start.elapsed().as_secs_f64(), thread_cpu_s() - cpu);
    for _ in 0..threads {
        result.sender_s += used.recv_timeout(GIVE_UP).map_err(io::Error::other)?;
    }
    for _ in 0..options.changes {
        thread::sleep(CALM);
        let start = Instant::now();
        // The reader wakes them all, which one of them would have to do in a reflector.
        tell(&senders, Task::Change)?;
        reader.until(octets.change.len() * options.clients)?;
        result.change_us.push(start.elapsed().as_secs_f64() * 1e6);
    }
    for (tell, sender) in senders {
        drop(tell);
        sender.join().map_err(|_| io::Error::other("a sender panicked"))??;
    }
    Ok(result)
}

fn tell(senders: &[Sender], task: Task) -> io::Result<()> {
    senders.iter().try_for_each(|(tell, _)| tell.send(task).map_err(io::Error::other))
}

/// A connection from the client's own address: the client's end, and the reflector's.
fn connection(listener: &TcpListener, client: usize) -> io::Result<(TcpStream, TcpStream)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddrV4::new(workload::source(client), 0).into())?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
    socket.connect_timeout(&to.into(), GIVE_UP)?;
    let (writer, _) = listener.accept()?;
    writer.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    Ok((socket.into(), writer))
}

/// A sender's thread: does what it is told until nobody tells it any more.
fn send(
    mut share: Vec<(usize, TcpStream)>,
    octets: &Octets,
    told: &mpsc::Receiver<Task>,
    done: &mpsc::Sender<f64>,
) -> io::Result<()> {
    while let Ok(task) = told.recv() {
        match task {
            Task::Change => {
                for (_, socket) in &mut share {
                    socket.write_all(&octets.change)?;
                }
            }
            Task::Bulk => {
                let cpu = thread_cpu_s();
                bulk(&share, octets)?;
                done.send(thread_cpu_s() - cpu).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// Everybody's table to every session of the share; a session that takes no more lets the others have their turn.
fn bulk(share: &[(usize, TcpStream)], octets: &Octets) -> io::Result<()> {
    // Where each session stands: the chunk, and how much of it is out.
    let mut under_way: Vec<(usize, &TcpStream, usize, usize)> =
        share.iter().map(|(client, socket)| (*client, socket, 0, 0)).collect();
    let deadline = Instant::now() + GIVE_UP;
    while !under_way.is_empty() {
        let mut sent = 0;
        for (client, socket, chunk, out) in &mut under_way {
            sent += some(*client, socket, octets, chunk, out)?;
        }
        under_way.retain(|(_, _, chunk, _)| *chunk < octets.chunks.len());
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        if sent == 0 && !under_way.is_empty() {
            let mut fds: Vec<_> =
                under_way.iter().map(|(_, socket, ..)| PollFd::new(*socket, PollFlags::OUT)).collect();
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
        }
    }
    Ok(())
}

/// One gathered write to a session; returns how many octets it took.
fn some(
    client: usize,
    mut socket: &TcpStream,
    octets: &Octets,
    chunk: &mut usize,
    out: &mut usize,
) -> io::Result<usize> {
    let mut begun = *out;
    let rest = octets.chunks.iter().enumerate().skip(*chunk).filter(|(source, _)| *source != client);
    let slices: Vec<IoSlice<'_>> =
        rest.take(SLICES).map(|(_, bytes)| IoSlice::new(&bytes[std::mem::take(&mut begun)..])).collect();
    let written = match socket.write_vectored(&slices) {
        Ok(written) => written,
        Err(error) if error.kind() == ErrorKind::WouldBlock && !slices.is_empty() => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut left = written;
    while *chunk < octets.chunks.len() {
        let of_chunk = if *chunk == client { 0 } else { octets.chunks[*chunk].len() - *out };
        if left < of_chunk {
            *out += left;
            break;
        }
        left -= of_chunk;
        (*chunk, *out) = (*chunk + 1, 0);
    }
    Ok(written)
}

/// The clients' ends: one thread reads them all, as the load generator does.
struct Reader {
    sockets: Vec<TcpStream>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(sockets: Vec<TcpStream>) -> io::Result<Reader> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (at, socket) in sockets.iter().enumerate() {
            epoll::add(&epoll, socket, EventData::new_u64(at as u64), EventFlags::IN)?;
        }
        Ok(Reader { sockets, epoll, events: Vec::with_capacity(256), buffer: vec![0; 256 * 1024] })
    }

    /// Reads until so many octets have come.
    fn until(&mut self, mut octets: usize) -> io::Result<()> {
        let deadline = Instant::now() + GIVE_UP;
        while octets > 0 {
            self.events.clear();
            let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait))?;
            for event in &self.events {
                match self.sockets[event.data.u64() as usize].read(&mut self.buffer) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(read) => octets = octets.checked_sub(read).ok_or(ErrorKind::InvalidData)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every octet arrives, by one sender and by two; more or fewer than there are would be an error.
    #[test]
    fn both_ways_send_everything() {
        let options = Options { clients: 5, routes: 20_000, pairs: 1, changes: 3 };
        for threads in [1, 2] {
            let run = run(&options, threads).expect("a run");
            assert_eq!(run.change_us.len(), 3);
            assert!(run.bulk_s > 0.0);
        }
    }

    /// A session is sent everybody's chunk but its own, whatever its socket takes at a time.
    #[test]
    fn a_session_is_sent_all_but_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (mut reader, writer) = connection(&listener, 1).expect("a connection");
        let chunks = [b'a', b'b', b'c'].map(|octet| vec![octet; 3_000_000]).to_vec();
        let octets = Octets { chunks, change: Vec::new() };
        let sender = thread::spawn(move || bulk(&[(1, writer)], &octets));
        reader.set_nonblocking(false).expect("ours");
        let mut got = Vec::new();
        reader.read_to_end(&mut got).expect("its end");
        sender.join().expect("no panic").expect("all sent");
        let (first, second) = got.split_at(3_000_000);
        assert!(first.iter().all(|o| *o == b'a') && second.iter().all(|o| *o == b'c'));
        assert_eq!(second.len(), 3_000_000);
    }
}
