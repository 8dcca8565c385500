//! The thread that owns the speaker, and every socket with it.
//!
//! One event loop reads, decides and writes, so that a route passes through without changing threads. Each
//! connection is a task that reads what is there and hands it to the speaker; one more task, woken by these and
//! queued behind whichever of them are ready, then flushes once and writes to everybody. Nothing waits for a timer
//! to gather changes, and nothing is flushed twice that could be flushed once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};

use super::farewell::{FAREWELLS_AT_ONCE, Leaving, REFUSALS_AT_ONCE};
use super::guard::{self, Dropped, Keys};
use super::handle::{Command, Publish, StartError};
use super::liveness;
use crate::egress::SLICES;
use crate::session::Millis;
use crate::settings::{Guard, SpeakerConfig};
use crate::speaker::{Action, ConnId, Direction, Speaker};
use crate::types::PeerKey;

/// Connections that the kernel may hold for us; it cuts this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// What one read takes at most.
const READ_BYTES: usize = 256 << 10;
/// What one turn writes to one connection at most, before others get theirs.
const WRITE_BYTES: usize = 4 << 20;
/// Pieces of a connection's first write in a turn.
const FEW: usize = 4;
/// How long a dial waits for an answer before it calls again; after the last it has failed. A hub may hear of a leaf
/// a moment after the leaf calls it for the first time, and TCP by itself calls again after 1 s and after 3 s only.
const DIAL_TRIES_MS: [u64; 5] = [250, 250, 500, 1000, 3000];
/// How long a dial waits for its own address to be there, and how often it looks.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
const ADDRESS_LOOK: Duration = Duration::from_millis(5);
/// Opens the listening sockets and starts the thread.
pub(super) async fn start(
    config: SpeakerConfig,
    listen: Vec<SocketAddr>,
    inbox: mpsc::Receiver<Command>,
    publish: Publish,
) -> Result<Vec<SocketAddr>, StartError> {
    let mut sockets = Vec::new();
    let mut listening = Vec::new();
    for address in listen {
        let fail = |source| StartError::Listen { address, source };
        let socket = listen_on(address).map_err(fail)?;
        listening.push(socket.local_addr().map_err(fail)?);
        sockets.push(socket);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let run = move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, run(config, sockets, inbox, publish));
        runtime.shutdown_timeout(Duration::ZERO);
    };
    std::thread::Builder::new().name("bgp".into()).spawn(run).map_err(StartError::Thread)?;
    Ok(listening)
}

fn listen_on(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    guard::prepare_listener(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection's socket, as the flusher sees it.
pub(super) struct Wire {
    pub(super) id: ConnId,
    pub(super) stream: Rc<TcpStream>,
    /// Its BFD session.
    pub(super) bfd: Option<(bfd::io::SessionId, bfd::io::Key)>,
    /// The socket took no more; its task waits for it.
    blocked: bool,
    /// Wakes the connection's task.
    waker: Option<Waker>,
}

pub(super) struct Inner {
    speaker: Speaker,
    /// By [`ConnId::slot`].
    pub(super) wires: Vec<Option<Wire>>,
    /// Started with the first session that has it.
    pub(super) bfd: Option<bfd::io::Bfd>,
    pub(super) session_limit: usize,
    buffer: Box<[u8]>,
    publish: Publish,
    listeners: Vec<Rc<TcpListener>>,
    keys: Keys,
    /// What the kernel had dropped before we started.
    dropped_before: Dropped,
}

/// What all tasks of the thread share. No borrow of `inner` lasts over an await.
pub(super) struct Shared {
    pub(super) inner: RefCell<Inner>,
    started: Instant,
    flush: Notify,
    timer: Notify,
    /// Connections that are out of use and hear their last octets.
    leaving: Leaving,
}

impl Shared {
    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// After anything was told to the speaker: does its actions, and has the rest done behind what is ready.
    fn settle(self: &Rc<Self>, inner: &mut Inner, timer_was: Millis) {
        while let Some(action) = inner.speaker.next_action() {
            match action {
                Action::Close(id, last) => close(self, inner, id, last),
                Action::Warn { peer, held, limit } => {
                    tracing::warn!(%peer, held, limit, "near its prefix limit; one more than that ends the session");
                }
                Action::Watch(id, settings) => liveness::watch(self, inner, id, settings),
                Action::Dial { peer, to, from, guard } => {
                    spawn_local(dial(Rc::clone(self), peer, to, from, guard));
                }
            }
        }
        if inner.speaker.deadline() < timer_was {
            self.timer.notify_one();
        }
        self.flush.notify_one();
    }

    /// Tells the speaker something.
    pub(super) fn tell<T>(self: &Rc<Self>, what: impl FnOnce(&mut Speaker, Millis) -> T) -> T {
        let mut inner = self.inner.borrow_mut();
        let timer_was = inner.speaker.deadline();
        let answer = what(&mut inner.speaker, self.now());
        self.settle(&mut inner, timer_was);
        answer
    }
}

async fn run(
    config: SpeakerConfig,
    sockets: Vec<std::net::TcpListener>,
    mut inbox: mpsc::Receiver<Command>,
    publish: Publish,
) {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let session_limit = config.session_limit;
    let inner = Inner {
        bfd: None,
        session_limit,
        speaker: Speaker::new(config, seed, 0),
        wires: Vec::new(),
        buffer: vec![0; READ_BYTES].into(),
        publish,
        listeners: Vec::new(),
        keys: Keys::default(),
        dropped_before: Dropped::ever(),
    };
    let shared = Rc::new(Shared {
        inner: RefCell::new(inner),
        started: Instant::now(),
        flush: Notify::new(),
        timer: Notify::new(),
        leaving: Leaving::default(),
    });
    let mut background =
        vec![spawn_local(flusher(Rc::clone(&shared))), spawn_local(timer(Rc::clone(&shared)))];
    for socket in sockets {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                let listener = Rc::new(listener);
                shared.inner.borrow_mut().listeners.push(Rc::clone(&listener));
                background.push(spawn_local(accept(Rc::clone(&shared), listener)));
            }
            Err(e) => tracing::error!("listening socket lost: {e}"),
        }
    }
    let mut done = None;
    let mut reason = String::new();
    while let Some(command) = inbox.recv().await {
        if let Command::Shutdown(why, answer) = command {
            (reason, done) = (why, Some(answer));
            break;
        }
        obey(&shared, command);
    }
    // First no new connections, so that the address is free when the first peer hears of the end.
    for task in background {
        task.abort();
        let _ = task.await;
    }
    shared.inner.borrow_mut().listeners.clear();
    flush_and_write(&shared, &mut shared.inner.borrow_mut());
    shared.tell(|s, now| s.shutdown(&reason, now));
    shared.leaving.have_gone().await;
    drop(inbox);
    if let Some(answer) = done {
        let _ = answer.send(());
    }
}

fn obey(shared: &Rc<Shared>, command: Command) {
    // Who asked may have gone; that is no fault.
    match command {
        Command::SetDynamicPeers(peers, done) => {
            shared.tell(|s, now| s.set_dynamic_peers(peers, now));
            renew_keys(shared);
            let _ = done.send(());
        }
        Command::SetNeighbors(neighbors, done) => {
            shared.tell(|s, now| s.set_neighbors(neighbors, now));
            renew_keys(shared);
            let _ = done.send(());
        }
        Command::SetLiveness(wished, done) => {
            shared.tell(|s, _| s.set_liveness(wished));
            let _ = done.send(());
        }
        Command::Originate(routes, done) => {
            shared.tell(|s, _| s.originate(routes));
            let _ = done.send(());
        }
        Command::Peers(done) => {
            let bfd = shared.inner.borrow().bfd.clone();
            drop(done.send(shared.tell(|s, now| liveness::peers(s, bfd.as_ref(), now))));
        }
        Command::Rejected(done) => drop(done.send(shared.tell(|s, _| s.rejected()))),
        Command::Look(look) => shared.tell(look),
        Command::Remembered(done) => drop(done.send(shared.tell(|s, _| s.remembered()))),
        Command::Summary(done) => {
            let mut view = shared.tell(|s, now| s.summary(now));
            let inner = shared.inner.borrow();
            let dropped = Dropped::ever().since(&inner.dropped_before);
            (view.md5_dropped, view.ttl_dropped) = (dropped.md5, dropped.ttl);
            view.findings = inner.keys.findings();
            let _ = done.send(view);
        }
        Command::Shutdown(..) => {}
    }
}

/// Gives the listening sockets the keys that hold now.
fn renew_keys(shared: &Rc<Shared>) {
    let mut guard = shared.inner.borrow_mut();
    let inner = &mut *guard;
    inner.keys.wish(&inner.listeners, inner.speaker.md5_keys());
}

async fn timer(shared: Rc<Shared>) {
    loop {
        let deadline = shared.inner.borrow().speaker.deadline();
        let now = shared.now();
        if deadline <= now {
            shared.tell(Speaker::tick);
            continue;
        }
        let wait = tokio::time::sleep(Duration::from_millis(deadline.min(now + 3_600_000) - now));
        tokio::select! {
            () = wait => {}
            () = shared.timer.notified() => {}
        }
    }
}

async fn accept(shared: Rc<Shared>, listener: Rc<TcpListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => adopt(&shared, stream, remote.ip(), Direction::In),
            Err(e) => {
                // No descriptors or no memory: others may give some back.
                tracing::warn!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Binds to our own address. A leaf begins to dial when its tunnel is about to be made: it waits a little for the
/// tunnel's address instead of failing and coming back after a whole retry.
async fn bind(socket: &TcpSocket, from: IpAddr) -> std::io::Result<()> {
    let deadline = Instant::now() + ADDRESS_TIMEOUT;
    loop {
        match socket.bind(SocketAddr::new(from, 0)) {
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                tokio::time::sleep(ADDRESS_LOOK).await;
            }
            outcome => {
                return outcome.map_err(|e| std::io::Error::new(e.kind(), format!("from {from}: {e}")));
            }
        }
    }
}

/// Calls until there is an answer, or [`DIAL_TRIES_MS`] are over.
async fn connect(to: SocketAddr, from: Option<IpAddr>, guard: &Guard) -> std::io::Result<TcpStream> {
    for patience in DIAL_TRIES_MS.map(Duration::from_millis) {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        guard::prepare_dial(&socket, to, guard)?;
        if let Some(from) = from {
            bind(&socket, from).await?;
        }
        if let Ok(outcome) = tokio::time::timeout(patience, socket.connect(to)).await {
            return outcome;
        }
    }
    Err(ErrorKind::TimedOut.into())
}

async fn dial(shared: Rc<Shared>, peer: PeerKey, to: SocketAddr, from: Option<IpAddr>, guard: Guard) {
    match connect(to, from, &guard).await {
        Ok(stream) => adopt(&shared, stream, to.ip(), Direction::Out(peer)),
        Err(e) => {
            let silent = e.kind() == ErrorKind::TimedOut;
            let hint = if silent { guard.hint() } else { String::new() };
            shared.tell(|s, now| s.dial_failed(&peer, &format!("connect to {to}: {e}{hint}"), now));
        }
    }
}

/// Makes a new connection the speaker's, or sends it away.
fn adopt(shared: &Rc<Shared>, stream: TcpStream, remote: IpAddr, direction: Direction) {
    // Without this, a second change within 40 ms would wait for the peer's delayed ACK.
    let _ = stream.set_nodelay(true);
    if direction == Direction::In
        && let Err(why) = guarded(shared, &stream, remote)
    {
        return shared.tell(|s, _| s.count_refused(why));
    }
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    let stream = Rc::new(stream);
    let verdict = shared.tell(|s, now| {
        let verdict = s.connected(remote, direction, now);
        if let (Ok(id), Some((local, remote))) = (&verdict, ends) {
            s.name_ends(*id, local, remote);
        }
        verdict
    });
    match verdict {
        Ok(id) => {
            let mut inner = shared.inner.borrow_mut();
            if inner.wires.len() <= id.slot() {
                inner.wires.resize_with(id.slot() + 1, || None);
            }
            let wire = Wire { id, stream: Rc::clone(&stream), bfd: None, blocked: false, waker: None };
            inner.wires[id.slot()] = Some(wire);
            spawn_local(serve(Rc::clone(shared), id, stream));
        }
        Err(refusal) => {
            shared.leaving.see_off(stream, refusal, REFUSALS_AT_ONCE);
        }
    }
}

/// Guards a connection that came in; one that cannot be guarded as told is not taken.
fn guarded(shared: &Rc<Shared>, stream: &TcpStream, remote: IpAddr) -> Result<(), &'static str> {
    let inner = shared.inner.borrow();
    if inner.keys.lacks(remote.to_canonical()) {
        return Err("tcp-md5-key-not-set");
    }
    guard::guard_accepted(stream, &inner.speaker.guard_of(remote)).map_err(|error| {
        tracing::error!(%remote, %error, "the smallest TTL could not be set");
        "ttl-not-set"
    })
}

/// Takes a connection out of use; its last octets go out by a task of their own.
fn close(shared: &Rc<Shared>, inner: &mut Inner, id: ConnId, last: Vec<u8>) {
    let Some(slot) = inner.wires.get_mut(id.slot()) else { return };
    if let Some(wire) = slot.take_if(|w| w.id == id) {
        if let Some(waker) = wire.waker {
            waker.wake();
        }
        if let (Some((session, _)), Some(bfd)) = (wire.bfd, &inner.bfd) {
            bfd.remove(session);
        }
        shared.leaving.see_off(wire.stream, last, FAREWELLS_AT_ONCE);
    }
}

/// Why a connection's task ends.
enum Over {
    /// The socket says so.
    Broken(String),
    /// The speaker has closed it.
    Closed,
}

/// One connection: reads whenever there is something, writes when a full socket has room again.
async fn serve(shared: Rc<Shared>, id: ConnId, stream: Rc<TcpStream>) {
    match poll_fn(|cx| ready(&shared, id, &stream, cx)).await {
        Over::Closed => {}
        Over::Broken(how) => shared.tell(|s, now| s.closed(id, &how, now)),
    }
}

/// Reads once if there is something, hands it over, and writes on if the socket was full.
fn ready(shared: &Rc<Shared>, id: ConnId, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<Over> {
    let mut guard = shared.inner.borrow_mut();
    let inner = &mut *guard;
    let Some(wire) = inner.wires.get_mut(id.slot()).and_then(Option::as_mut).filter(|w| w.id == id) else {
        return Poll::Ready(Over::Closed);
    };
    if !wire.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        wire.waker = Some(cx.waker().clone());
    }
    if wire.blocked
        && let Poll::Ready(Ok(())) = stream.poll_write_ready(cx)
    {
        wire.blocked = false;
        if let Err(how) = write(&mut inner.speaker, wire, shared.now()) {
            return Poll::Ready(Over::Broken(how));
        }
        // Registers for the next time that there is room; or there is, and others may write first.
        if wire.blocked && stream.poll_write_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
    if let Poll::Ready(outcome) = stream.poll_read_ready(cx) {
        match outcome.and_then(|()| stream.try_read(&mut inner.buffer)) {
            Ok(0) => return Poll::Ready(Over::Broken("the peer closed the connection".into())),
            Ok(n) => {
                let timer_was = inner.speaker.deadline();
                inner.speaker.received(id, &inner.buffer[..n], shared.now());
                if n < inner.buffer.len() {
                    // A short read has emptied the socket: no need to be told so by another one.
                    let empty = || std::io::Result::<()>::Err(ErrorKind::WouldBlock.into());
                    let _ = stream.try_io(Interest::READABLE, empty);
                }
                shared.settle(inner, timer_was);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Poll::Ready(Over::Broken(e.to_string())),
        }
        // Registers for what comes next; what is there already waits until others had their turn.
        if stream.poll_read_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
    Poll::Pending
}

/// Writes what the speaker has for a connection, until there is no more, or the socket is full; returns whether that
/// is so.
fn write(speaker: &mut Speaker, wire: &mut Wire, now: Millis) -> Result<bool, String> {
    // One change is one piece for nearly everybody: laying out room for many takes longer than handing it over.
    let mut sum = 0;
    let mut took = write_once::<FEW>(speaker, wire, now)?;
    while let Some(n) = took
        && speaker.has_output(wire.id)
    {
        sum += n;
        if sum >= WRITE_BYTES {
            return Ok(false);
        }
        took = write_once::<SLICES>(speaker, wire, now)?;
    }
    Ok(true)
}

/// One write of `N` pieces at most; returns how many octets the socket took, unless there is nothing or it is full.
fn write_once<const N: usize>(
    speaker: &mut Speaker,
    wire: &mut Wire,
    now: Millis,
) -> Result<Option<usize>, String> {
    let mut slices = [IoSlice::new(&[]); N];
    let written = match speaker.gather(wire.id, &mut slices) {
        0 => return Ok(None),
        1 => wire.stream.try_write(&slices[0]),
        n => wire.stream.try_write_vectored(&slices[..n]),
    };
    match written {
        Ok(n) => {
            speaker.wrote(wire.id, n, now);
            Ok(Some(n))
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            wire.blocked = true;
            if let Some(waker) = &wire.waker {
                waker.wake_by_ref();
            }
            Ok(None)
        }
        Err(e) => Err(e.to_string()),
    }
}

async fn flusher(shared: Rc<Shared>) {
    loop {
        shared.flush.notified().await;
        let more = flush_and_write(&shared, &mut shared.inner.borrow_mut());
        if more {
            shared.flush.notify_one();
            tokio::task::yield_now().await;
        }
    }
}

/// One flush, and everybody's writes; returns whether somebody has more to write.
fn flush_and_write(shared: &Rc<Shared>, inner: &mut Inner) -> bool {
    let timer_was = inner.speaker.deadline();
    inner.speaker.flush();
    let now = shared.now();
    let mut more = false;
    let mut broken = Vec::new();
    let mut slot = 0;
    while let Some(id) = inner.speaker.next_with_output(slot) {
        slot = id.slot() + 1;
        let wire =
            inner.wires.get_mut(id.slot()).and_then(Option::as_mut).filter(|w| w.id == id && !w.blocked);
        let Some(wire) = wire else { continue };
        match write(&mut inner.speaker, wire, now) {
            Ok(done) => more |= !done,
            Err(how) => broken.push((id, how)),
        }
    }
    inner.speaker.trim_log();
    if inner.speaker.deadline() < timer_was {
        shared.timer.notify_one();
    }
    for (id, how) in &broken {
        inner.speaker.closed(*id, how, now);
    }
    if !broken.is_empty() {
        shared.settle(inner, timer_was);
    }
    if let Some(paths) = inner.speaker.take_best_paths() {
        inner.publish.best_paths.send_replace(paths);
    }
    let version = inner.speaker.remembered_version();
    inner.publish.remember.send_if_modified(|told| std::mem::replace(told, version) != version);
    more
}
