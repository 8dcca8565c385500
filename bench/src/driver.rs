//! The clients: one thread, one epoll loop, every session of the run.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::judge::{Fault, Held, Judge};
use crate::wire::{self, Restart, kind};
use crate::workload::{self, Workload};

const READ_BYTES: usize = 256 * 1024;
const EVENTS: usize = 256;
const RETRY: Duration = Duration::from_millis(250);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not connected; may be dialled.
    Idle,
    /// TCP is being set up.
    Connecting,
    /// The OPEN is out.
    OpenSent,
    /// OPEN received, KEEPALIVE awaited.
    OpenConfirm,
    /// Established.
    Up,
    /// Ended, for good.
    Ended,
}

/// What becomes of a client whose session ends without its doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// It is a fault.
    Fault,
    /// It dials again and begins from nothing.
    Redial,
    /// It keeps its routes as stale and dials again (RFC 4724 helper).
    Keep,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    socket: Option<Socket>,
    /// Where its session stands.
    pub state: State,
    /// When its session came up, in this session.
    pub up_at: Option<Instant>,
    /// What it holds.
    pub held: Held,
    /// When its End-of-RIB came, in this session.
    pub end_of_rib: Option<Instant>,
    /// Routes that it had to sweep at End-of-RIB.
    pub swept: usize,
    /// The reflector's restart capability, in this session.
    pub restart_heard: Option<Restart>,
    partial: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    wants_write: bool,
    retry_at: Option<Instant>,
}

/// Octets and messages over all clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Octets received.
    pub bytes_in: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// Octets sent.
    pub bytes_out: u64,
}

/// All clients.
pub struct Driver {
    /// The check of what arrives.
    pub judge: Judge,
    /// The clients; those from `workload.clients` on announce nothing.
    pub clients: Vec<Client>,
    /// Sessions that are Established.
    pub up: usize,
    /// Octets and messages.
    pub totals: Totals,
    /// Sessions that had to be dialled again.
    pub redials: u64,
    /// The first thing that went wrong, in words.
    pub note: Option<String>,
    /// Whether arriving data is acknowledged at once.
    pub quick_ack: bool,
    /// What a lost session means.
    pub on_loss: OnLoss,
    /// Whether a client sends its table as soon as its session is up.
    pub announce_when_up: bool,
    /// The graceful restart capability that the clients offer.
    pub restart: Option<Restart>,
    /// The hold time that the clients propose, in seconds.
    pub hold_secs: u16,
    /// A client that reads one octet a second once its session is up.
    pub slow: Option<usize>,
    /// Octets that it has read so.
    pub slow_read: u64,
    slow_at: Instant,
    workload: Workload,
    reflector: SocketAddrV4,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    keepalive_at: Instant,
}

impl Driver {
    /// Clients of a reflector, none connected; `extra` of them announce nothing.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance.
    pub fn new(workload: Workload, extra: usize, reflector: SocketAddrV4) -> io::Result<Driver> {
        let client = |_| Client {
            socket: None,
            state: State::Idle,
            up_at: None,
            held: Held::new(&workload),
            end_of_rib: None,
            swept: 0,
            restart_heard: None,
            partial: Vec::new(),
            out: Vec::new(),
            sent: 0,
            wants_write: false,
            retry_at: None,
        };
        Ok(Driver {
            judge: Judge::new(workload),
            clients: (0..workload.clients + extra).map(client).collect(),
            up: 0,
            totals: Totals::default(),
            redials: 0,
            note: None,
            quick_ack: false,
            on_loss: OnLoss::Fault,
            announce_when_up: false,
            restart: None,
            hold_secs: 180,
            slow: None,
            slow_read: 0,
            slow_at: Instant::now(),
            workload,
            reflector,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            buffer: vec![0; READ_BYTES],
            keepalive_at: Instant::now() + KEEPALIVE_EVERY,
        })
    }

    /// The workload.
    pub fn workload(&self) -> Workload {
        self.workload
    }

    /// Whether something has gone wrong that no waiting mends.
    pub fn broken(&self) -> bool {
        self.judge.faults.of(Fault::Closed) + self.judge.faults.of(Fault::Malformed) > 0
    }

    fn dial(&mut self, at: usize) {
        match connect(at, self.reflector, self.slow == Some(at)) {
            Ok(socket) => {
                let client = &mut self.clients[at];
                let added = epoll::add(
                    &self.epoll,
                    &socket,
                    EventData::new_u64(at as u64),
                    EventFlags::IN | EventFlags::OUT,
                );
                client.socket = Some(socket);
                client.state = State::Connecting;
                client.retry_at = None;
                client.wants_write = true;
                if let Err(error) = added {
                    self.lost(at, &format!("epoll: {error}"));
                }
            }
            Err(error) => {
                self.note.get_or_insert(format!("client {at}: connect: {error}"));
                self.clients[at].retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Ends a client's connection, and what was under way on it.
    fn disconnect(&mut self, at: usize) {
        let client = &mut self.clients[at];
        // Closing the only descriptor of a socket takes it out of the epoll set.
        client.socket = None;
        self.up -= usize::from(client.state == State::Up);
        client.state = State::Idle;
        client.up_at = None;
        client.partial.clear();
        client.out.clear();
        client.sent = 0;
        client.wants_write = false;
        client.end_of_rib = None;
        client.restart_heard = None;
    }

    fn lost(&mut self, at: usize, why: &str) {
        let was_up = self.clients[at].state == State::Up;
        self.disconnect(at);
        let client = &mut self.clients[at];
        match self.on_loss {
            OnLoss::Fault => {
                client.state = State::Ended;
                self.judge.faults.add(Fault::Closed, 1);
            }
            OnLoss::Redial => client.held.clear(),
            OnLoss::Keep if was_up => client.held.mark_stale(),
            OnLoss::Keep => {}
        }
        if self.on_loss != OnLoss::Fault {
            client.retry_at = Some(Instant::now() + RETRY);
            self.redials += 1;
        }
        self.note.get_or_insert(format!("client {at}: {why}"));
    }

    /// Closes one client's TCP as a crash would; it does not come back by itself.
    pub fn kill(&mut self, at: usize) {
        self.disconnect(at);
        self.clients[at].state = State::Ended;
        self.clients[at].held.clear();
    }

    /// Lets an ended client dial again.
    pub fn revive(&mut self, at: usize) {
        if self.clients[at].state == State::Ended {
            self.clients[at].state = State::Idle;
        }
    }

    /// Dials idle clients, so that at most `at_once` are on their way.
    pub fn dial_some(&mut self, who: Range<usize>, at_once: usize) {
        let now = Instant::now();
        let on_the_way =
            |c: &Client| matches!(c.state, State::Connecting | State::OpenSent | State::OpenConfirm);
        let busy = self.clients[who.clone()].iter().filter(|c| on_the_way(c)).count();
        let ready = |c: &Client| c.state == State::Idle && c.retry_at.is_none_or(|t| t <= now);
        let next: Vec<usize> =
            who.filter(|at| ready(&self.clients[*at])).take(at_once.saturating_sub(busy)).collect();
        next.into_iter().for_each(|at| self.dial(at));
    }

    /// Brings clients up, at most `at_once` on their way; false: not all were by the deadline.
    pub fn bring_up(&mut self, who: Range<usize>, at_once: usize, deadline: Instant) -> bool {
        let before = std::mem::replace(&mut self.on_loss, OnLoss::Redial);
        let all_up = |d: &Driver| d.clients[who.clone()].iter().all(|c| c.state == State::Up);
        while !all_up(self) && Instant::now() < deadline {
            self.dial_some(who.clone(), at_once);
            self.poll(Duration::from_millis(20));
        }
        self.on_loss = before;
        all_up(self)
    }

    /// Queues octets for a client and writes what its socket takes.
    pub fn send(&mut self, at: usize, bytes: &[u8]) {
        self.queue(at, bytes);
        self.flush(at);
    }

    /// Queues octets for a client, to be written by [`Driver::flush`].
    pub fn queue(&mut self, at: usize, bytes: &[u8]) {
        let client = &mut self.clients[at];
        if client.sent == client.out.len() {
            client.out.clear();
            client.sent = 0;
        }
        client.out.extend_from_slice(bytes);
    }

    /// Writes what a client's socket takes now.
    pub fn flush(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(mut socket) = client.socket.as_ref() else { return };
        if client.state == State::Connecting {
            return;
        }
        let mut failed = None;
        while client.sent < client.out.len() {
            match socket.write(&client.out[client.sent..]) {
                Ok(n) => {
                    client.sent += n;
                    self.totals.bytes_out += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    failed = Some(format!("write: {error}"));
                    break;
                }
            }
        }
        let wants = client.sent < client.out.len();
        if failed.is_none() && wants != client.wants_write {
            client.wants_write = wants;
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if let Err(error) = epoll::modify(&self.epoll, socket, EventData::new_u64(at as u64), flags) {
                failed = Some(format!("epoll: {error}"));
            }
        }
        if let Some(why) = failed {
            self.lost(at, &why);
        }
    }

    /// Whether a client has written all that was queued.
    pub fn written(&self, at: usize) -> bool {
        self.clients[at].sent == self.clients[at].out.len()
    }

    /// Serves whatever is ready; waits for it at most `wait`.
    pub fn poll(&mut self, wait: Duration) {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        // An interrupted wait is an empty one.
        if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)).is_err() {
            events.clear();
        }
        for event in &events {
            let (at, flags) = (event.data.u64() as usize, event.flags);
            self.serve(at, flags);
        }
        self.events = events;
        let now = Instant::now();
        if let Some(at) = self.slow.filter(|at| now >= self.slow_at && self.clients[*at].state == State::Up) {
            self.slow_at = now + Duration::from_secs(1);
            self.read_one(at);
        }
        if now >= self.keepalive_at {
            self.keepalive_at = now + KEEPALIVE_EVERY;
            for at in 0..self.clients.len() {
                if self.clients[at].state == State::Up && self.written(at) {
                    self.send(at, &wire::keepalive());
                }
            }
        }
    }

    fn serve(&mut self, at: usize, flags: EventFlags) {
        let client = &mut self.clients[at];
        let Some(socket) = &client.socket else { return };
        if client.state == State::Connecting {
            match socket.take_error() {
                Ok(None) => {
                    client.state = State::OpenSent;
                    let id = workload::identifier(at);
                    let open = wire::open(self.workload.asn, self.hold_secs, id, self.restart);
                    self.send(at, &open);
                }
                Ok(Some(error)) | Err(error) => self.lost(at, &format!("connect: {error}")),
            }
            return;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(at);
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(at);
        }
    }

    /// The slow client's octet of this second.
    fn read_one(&mut self, at: usize) {
        let Some(mut socket) = self.clients[at].socket.as_ref() else { return };
        match socket.read(&mut [0]) {
            Ok(0) => self.lost(at, "the reflector closed the slow client's session"),
            Ok(_) => self.slow_read += 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.lost(at, &format!("read: {error}")),
        }
    }

    fn read(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(mut socket) = client.socket.as_ref() else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        let begun = client.partial.len();
        buffer[..begun].copy_from_slice(&client.partial);
        match socket.read(&mut buffer[begun..]) {
            Ok(0) => self.lost(at, "the reflector closed the session"),
            Ok(n) => {
                if self.quick_ack {
                    // Not lasting: the kernel takes it back by itself (tcp(7)), so it is asked for at each read.
                    let _ = socket.set_tcp_quickack(true);
                }
                self.totals.bytes_in += n as u64;
                self.consume(at, &buffer[..begun + n]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.lost(at, &format!("read: {error}")),
        }
        self.buffer = buffer;
    }

    /// Takes whole messages and keeps the rest.
    fn consume(&mut self, at: usize, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            match wire::frame(rest) {
                Ok(Some((message, len))) => {
                    self.message(at, message);
                    rest = &rest[len..];
                }
                Ok(None) => break,
                Err(what) => {
                    self.judge.faults.add(Fault::Malformed, 1);
                    return self.lost(at, what);
                }
            }
            if self.clients[at].socket.is_none() {
                return;
            }
        }
        let partial = &mut self.clients[at].partial;
        partial.clear();
        partial.extend_from_slice(rest);
    }

    fn message(&mut self, at: usize, message: wire::Message<'_>) {
        match message.kind {
            kind::UPDATE => self.update(at, message.body),
            kind::KEEPALIVE => {
                if self.clients[at].state == State::OpenConfirm {
                    self.clients[at].state = State::Up;
                    self.clients[at].up_at = Some(Instant::now());
                    self.up += 1;
                    if self.slow == Some(at)
                        && let Some(socket) = &self.clients[at].socket
                    {
                        // It is not told of what arrives; keepalives still go out.
                        let _ = epoll::delete(&self.epoll, socket);
                    }
                    if self.announce_when_up && at < self.workload.clients {
                        self.announce_table(at);
                    }
                }
            }
            kind::OPEN => {
                self.clients[at].state = State::OpenConfirm;
                self.clients[at].restart_heard = wire::open_restart(message.body);
                self.send(at, &wire::keepalive());
            }
            kind::NOTIFICATION => {
                let code = (message.body.first().copied(), message.body.get(1).copied());
                if self.on_loss == OnLoss::Fault {
                    self.judge.faults.add(Fault::Notification, 1);
                }
                let word = |b: Option<u8>| b.map_or_else(|| "?".to_string(), |b| b.to_string());
                self.lost(at, &format!("NOTIFICATION {}/{}", word(code.0), word(code.1)));
            }
            // A route refresh asks for what this client does not send again: a reflector has no reason to.
            _ => self.judge.faults.add(Fault::Malformed, 1),
        }
    }

    fn update(&mut self, at: usize, body: &[u8]) {
        self.totals.updates_in += 1;
        let client = &mut self.clients[at];
        match wire::split(body) {
            Some(([], [], [])) => {
                client.swept += client.held.sweep();
                client.end_of_rib = Some(Instant::now());
            }
            Some((withdrawn, attributes, nlri)) => {
                self.judge.update(at, &mut client.held, withdrawn, attributes, nlri);
            }
            None => self.judge.faults.add(Fault::Malformed, 1),
        }
    }

    /// Sends a client's whole table, and End-of-RIB when graceful restart is offered.
    pub fn announce_table(&mut self, at: usize) {
        let mut out = self.workload.announcements(at);
        if self.restart.is_some() {
            out.extend_from_slice(&wire::end_of_rib());
        }
        self.send(at, &out);
    }

    /// Serves until a condition holds; false: the deadline came first, or all is lost.
    pub fn until(&mut self, deadline: Instant, mut done: impl FnMut(&mut Driver) -> bool) -> bool {
        while !done(self) {
            if self.broken() || Instant::now() >= deadline {
                return false;
            }
            self.poll(Duration::from_millis(100));
        }
        true
    }

    /// Serves until nothing has arrived for `quiet`, at most for `most`.
    pub fn settle(&mut self, quiet: Duration, most: Duration) {
        let end = Instant::now() + most;
        let (mut seen, mut since) = (self.totals.bytes_in, Instant::now());
        while Instant::now() < end && since.elapsed() < quiet {
            self.poll(Duration::from_millis(10));
            if self.totals.bytes_in != seen {
                (seen, since) = (self.totals.bytes_in, Instant::now());
            }
        }
        self.judge.seen.clear();
    }
}

fn connect(client: usize, reflector: SocketAddrV4, slow: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if slow {
        // What it does not read shall wait at the reflector, not in its own kernel's buffer.
        socket.set_recv_buffer_size(4096)?;
    }
    socket.bind(&SocketAddr::from((workload::source(client), 0)).into())?;
    match socket.connect(&SocketAddr::V4(reflector).into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => Ok(socket),
        Err(error) => Err(error),
    }
}
