//! All sessions: whom a packet is for, what is refused, what has changed. Pure: the time comes with each call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::packet::{LEN, Packet, State};
use crate::session::{Change, Fall, Micros, Session};
use crate::settings::Settings;
use crate::view::{BfdView, SessionView};

/// Between which addresses, and how far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// Whether routers may lie between.
    pub multihop: bool,
}

/// A session, for as long as it lives; no other one ever gets the same while it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u32);

/// A datagram on one of our ports.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// To and from which address, and on which of the two ports.
    pub key: Key,
    /// Its TTL or hop limit; `None`: the kernel did not say.
    pub ttl: Option<u8>,
    /// What it carries.
    pub octets: &'a [u8],
}

/// A datagram to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Whose it is.
    pub id: SessionId,
    /// From and to which address, and to which of the two ports.
    pub key: Key,
    /// What it carries.
    pub octets: [u8; LEN],
}

/// What has become of a session since its owner was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// Which session.
    pub id: SessionId,
    /// Its peer.
    pub key: Key,
    /// Its state now.
    pub state: State,
    /// Its first fall from Up since; it may have come Up again.
    pub fell: Option<Fall>,
}

/// There are as many sessions as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} BFD sessions already")]
pub struct Full(pub usize);

#[derive(Debug)]
struct Entry {
    key: Key,
    session: Session,
    /// It was removed, and says so until then.
    leaving: Option<Micros>,
    deadline: Micros,
    fell: Option<Fall>,
    since: Micros,
    ups: u64,
    downs: u64,
    packets_in: u64,
    packets_out: u64,
    error: Option<String>,
}

/// The sessions.
#[derive(Debug)]
pub struct Sessions {
    hasher: RandomState,
    made: u64,
    limit: usize,
    entries: HashMap<u32, Entry>,
    by_key: HashMap<Key, u32>,
    deadlines: BTreeSet<(Micros, u32)>,
    /// Sessions that have changed since their owner was told.
    fresh: BTreeSet<u32>,
    revision: u64,
    dropped: BTreeMap<&'static str, u64>,
    refused: u64,
}

impl Sessions {
    /// No sessions, `limit` of them at most. The hasher makes the discriminators: they cannot be guessed.
    pub fn new(hasher: RandomState, limit: usize) -> Sessions {
        Sessions {
            hasher,
            made: 0,
            limit,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            deadlines: BTreeSet::new(),
            fresh: BTreeSet::new(),
            revision: 0,
            dropped: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Adds a session, or gives the one that is there these settings.
    pub fn add(&mut self, key: Key, settings: Settings, now: Micros) -> Result<SessionId, Full> {
        let settings = Settings { multihop: key.multihop, ..settings };
        if let Some(&id) = self.by_key.get(&key) {
            if let Some(entry) = self.entries.get_mut(&id).filter(|e| e.leaving.is_none()) {
                entry.session.set(settings, now);
                self.settle(id);
                return Ok(SessionId(id));
            }
            self.forget(id);
        }
        if self.entries.len() >= self.limit {
            self.refused += 1;
            return Err(Full(self.limit));
        }
        let (id, luck) = self.discriminator();
        let session = Session::new(settings, id, luck, now);
        let entry = Entry {
            key,
            session,
            leaving: None,
            deadline: Micros::MAX,
            fell: None,
            since: now,
            ups: 0,
            downs: 0,
            packets_in: 0,
            packets_out: 0,
            error: None,
        };
        self.entries.insert(id, entry);
        self.by_key.insert(key, id);
        self.revision += 1;
        self.settle(id);
        Ok(SessionId(id))
    }

    /// A discriminator that no session has, never 0, and a number for its jitter.
    fn discriminator(&mut self) -> (u32, u64) {
        loop {
            self.made += 1;
            let luck = self.hasher.hash_one(self.made);
            let id = (luck >> 32) as u32;
            if id != 0 && !self.entries.contains_key(&id) {
                return (id, luck);
            }
        }
    }

    /// Removes a session: it tells its peer for as long as the peer would wait for it (RFC 5880 section 6.8.16).
    pub fn remove(&mut self, id: SessionId, now: Micros) {
        if let Some(entry) = self.entries.get_mut(&id.0).filter(|e| e.leaving.is_none()) {
            let patience = entry.session.peer_detection_time();
            entry.session.disable(now);
            entry.leaving = Some(now + patience);
            entry.fell = None;
            self.fresh.remove(&id.0);
            self.settle(id.0);
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.deadlines.remove(&(entry.deadline, id));
            self.by_key.remove(&entry.key);
            self.fresh.remove(&id);
            self.revision += 1;
        }
    }

    /// Files a session under its deadline.
    fn settle(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let deadline = entry.session.deadline().min(entry.leaving.unwrap_or(Micros::MAX));
            if deadline != entry.deadline {
                self.deadlines.remove(&(entry.deadline, id));
                self.deadlines.insert((deadline, id));
                entry.deadline = deadline;
            }
        }
    }

    /// Whom a datagram is for (RFC 5880 section 6.8.6, RFC 5881 section 5).
    fn addressee(&self, arrival: &Arrival<'_>) -> Result<(u32, Packet), &'static str> {
        // On one hop only a packet that no router has touched is from the neighbour (RFC 5082).
        if !arrival.key.multihop && arrival.ttl != Some(255) {
            return Err("ttl");
        }
        let packet = Packet::decode(arrival.octets).map_err(|why| why.as_str())?;
        if packet.your_discriminator != 0 {
            let entry = self.entries.get(&packet.your_discriminator).ok_or("unknown-discriminator")?;
            // Peers are known by address: a discriminator alone opens nothing, nor does the port without TTL check.
            if entry.key != arrival.key {
                return Err("wrong-address");
            }
            Ok((packet.your_discriminator, packet))
        } else if matches!(packet.state, State::Down | State::AdminDown) {
            let id = self.by_key.get(&arrival.key).ok_or("unknown-source")?;
            Ok((*id, packet))
        } else {
            Err("discriminator-missing")
        }
    }

    /// Takes a datagram; what must be answered at once is pushed to `out`.
    pub fn receive(&mut self, arrival: &Arrival<'_>, now: Micros, out: &mut Vec<Departure>) {
        let (id, packet) = match self.addressee(arrival) {
            Ok(found) => found,
            Err(why) => return *self.dropped.entry(why).or_default() += 1,
        };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.packets_in += 1;
        let mut packets = Vec::new();
        let before = entry.session.state();
        let change = entry.session.receive(&packet, now, &mut packets);
        if entry.note(before, change, now) {
            self.fresh.insert(id);
        }
        entry.post(id, &packets, out);
        self.settle(id);
    }

    /// Does what the time demands.
    pub fn tick(&mut self, now: Micros, out: &mut Vec<Departure>) {
        let mut packets = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            let Some(entry) = self.entries.get_mut(&id) else {
                self.deadlines.remove(&(deadline, id));
                continue;
            };
            if entry.leaving.is_some_and(|until| until <= now) {
                self.forget(id);
                continue;
            }
            packets.clear();
            let before = entry.session.state();
            let change = entry.session.tick(now, &mut packets);
            if entry.note(before, change, now) {
                self.fresh.insert(id);
            }
            entry.post(id, &packets, out);
            self.settle(id);
        }
    }

    /// When [`Sessions::tick`] is due; [`Micros::MAX`]: never.
    pub fn deadline(&self) -> Micros {
        self.deadlines.first().map_or(Micros::MAX, |(at, _)| *at)
    }

    /// Whether [`Sessions::take_news`] has something.
    pub fn has_news(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// What has changed since the last time; each session occurs once at most.
    pub fn take_news(&mut self) -> Vec<News> {
        let tell = |id: u32| {
            let entry = self.entries.get_mut(&id)?;
            let (state, fell) = (entry.session.state(), entry.fell.take());
            Some(News { id: SessionId(id), key: entry.key, state, fell })
        };
        std::mem::take(&mut self.fresh).into_iter().filter_map(tell).collect()
    }

    /// Rises whenever a session was added or is gone.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The sessions and their addresses, those that are leaving included.
    pub fn keys(&self) -> impl Iterator<Item = (SessionId, Key)> {
        self.entries.iter().map(|(id, e)| (SessionId(*id), e.key))
    }

    /// Notes why packets of a session cannot be sent or received; `None`: they can.
    pub fn set_error(&mut self, id: SessionId, error: Option<String>) {
        if let Some(entry) = self.entries.get_mut(&id.0) {
            entry.error = error;
        }
    }

    /// Counts a datagram that the sockets dropped.
    pub fn count_drop(&mut self, why: &'static str) {
        *self.dropped.entry(why).or_default() += 1;
    }

    /// Everything, for people; sessions that were removed are not shown.
    pub fn view(&self, now: Micros) -> BfdView {
        let mut sessions: Vec<SessionView> =
            self.entries.values().filter(|e| e.leaving.is_none()).map(|e| e.view(now)).collect();
        sessions.sort_by_key(|s| (s.peer, s.local, s.multihop));
        let dropped = self.dropped.iter().map(|(why, n)| (why.to_string(), *n)).collect();
        BfdView { sessions, dropped, refused: self.refused }
    }
}

impl Entry {
    /// Remembers what its owner and people want to know; returns whether the owner shall be told.
    fn note(&mut self, before: State, change: Change, now: Micros) -> bool {
        let changed = self.session.state() != before;
        if changed {
            self.since = now;
        }
        match change {
            Change::None => {}
            Change::Up => self.ups += 1,
            Change::Fell(fall) => {
                self.downs += 1;
                self.fell = self.fell.or(Some(fall));
            }
        }
        changed && self.leaving.is_none()
    }

    fn post(&mut self, id: u32, packets: &[Packet], out: &mut Vec<Departure>) {
        self.packets_out += packets.len() as u64;
        let depart = |p: &Packet| Departure { id: SessionId(id), key: self.key, octets: p.encode() };
        out.extend(packets.iter().map(depart));
    }

    fn view(&self, now: Micros) -> SessionView {
        let (session, remote) = (&self.session, self.session.remote());
        SessionView {
            peer: self.key.remote,
            local: self.key.local,
            multihop: self.key.multihop,
            state: session.state().to_string(),
            since_secs: now.saturating_sub(self.since) / 1_000_000,
            remote_state: remote.state.to_string(),
            diagnostic: session.diagnostic().to_string(),
            remote_diagnostic: remote.diagnostic.to_string(),
            discriminator: session.discriminator(),
            remote_discriminator: remote.discriminator,
            tx_interval_millis: u64::from(session.tx_interval()).div_ceil(1000),
            detection_time_millis: session.detection_time().div_ceil(1000),
            ups: self.ups,
            downs: self.downs,
            packets_in: self.packets_in,
            packets_out: self.packets_out,
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
