//! Challenges that the hub has issued: each good once, from one address, for a short time, and bounded in number.

use crate::reason::{ReasonCode, Refusal};
use crate::wire::Challenge;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// For how long a challenge is good, in seconds.
pub const VALID_SECS: u64 = 30;

/// The open challenges. When a bound is reached the oldest goes: first the same address's, then anybody's.
pub struct Challenges {
    open: HashMap<Challenge, (IpAddr, u64)>,
    by_source: HashMap<IpAddr, VecDeque<Challenge>>,
    order: VecDeque<(u64, Challenge)>,
    limit: usize,
    per_source: usize,
}

impl Challenges {
    /// At most `limit` challenges in all and `per_source` for one address; both at least 1.
    pub fn new(limit: usize, per_source: usize) -> Self {
        let (open, by_source, order) = Default::default();
        Self { open, by_source, order, limit: limit.max(1), per_source: per_source.max(1) }
    }

    /// Remembers a fresh random challenge for an address; `now` in seconds of any steady clock.
    pub fn issue(&mut self, challenge: Challenge, source: IpAddr, now: u64) {
        self.forget_old(now);
        let own = self.by_source.entry(source).or_default();
        let surplus = if own.len() >= self.per_source { own.front().copied() } else { None };
        if let Some(oldest) = surplus {
            self.forget(&oldest);
        }
        if self.open.len() >= self.limit
            && let Some(oldest) = self.oldest()
        {
            self.forget(&oldest);
        }
        self.open.insert(challenge, (source, now + VALID_SECS));
        self.by_source.entry(source).or_default().push_back(challenge);
        self.order.push_back((now + VALID_SECS, challenge));
    }

    /// Uses a challenge up: fine once, from the address that asked for it, in time; else `challenge-invalid`.
    pub fn take(&mut self, challenge: &Challenge, source: IpAddr, now: u64) -> Result<(), Refusal> {
        let good = match self.open.get(challenge) {
            Some((owner, until)) => *owner == source && now < *until,
            None => false,
        };
        if !good {
            return Err(Refusal::of(ReasonCode::ChallengeInvalid));
        }
        self.forget(challenge);
        Ok(())
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn oldest(&mut self) -> Option<Challenge> {
        while let Some((_, challenge)) = self.order.front() {
            if self.open.contains_key(challenge) {
                return Some(*challenge);
            }
            self.order.pop_front();
        }
        None
    }

    fn forget_old(&mut self, now: u64) {
        while let Some((until, challenge)) = self.order.front().copied() {
            if until > now && self.open.contains_key(&challenge) {
                break;
            }
            self.order.pop_front();
            self.forget(&challenge);
        }
        // Used ones leave gaps in the middle; they are swept when they outnumber the open ones.
        if self.order.len() > 2 * self.open.len() + 64 {
            let open = &self.open;
            self.order.retain(|(_, challenge)| open.contains_key(challenge));
        }
    }

    fn forget(&mut self, challenge: &Challenge) {
        let Some((source, _)) = self.open.remove(challenge) else { return };
        if let Some(own) = self.by_source.get_mut(&source) {
            own.retain(|other| other != challenge);
            if own.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 255, 0, 2));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 255, 0, 3));

    fn challenge(n: u32) -> Challenge {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Challenge(bytes)
    }

    /// Once, from its address, in time; anything else is refused and uses nothing up.
    #[test]
    fn good_once() {
        let mut store = Challenges::new(10, 10);
        store.issue(challenge(1), A, 100);
        assert!(store.take(&challenge(1), B, 101).is_err());
        assert!(store.take(&challenge(2), A, 101).is_err());
        assert!(store.take(&challenge(1), A, 100 + VALID_SECS).is_err());
        assert!(store.take(&challenge(1), A, 101).is_ok());
        assert!(store.take(&challenge(1), A, 101).is_err());
    }

    /// Whoever floods pushes out its own first, and memory stays bounded whatever comes.
    #[test]
    fn floods_are_bounded() {
        let mut store = Challenges::new(100, 10);
        store.issue(challenge(0), B, 0);
        for n in 1..10_000 {
            store.issue(challenge(n), A, 0);
        }
        assert_eq!(store.len(), 11);
        assert!(store.order.len() < 200);
        assert!(store.take(&challenge(0), B, 1).is_ok());
        for n in 0..1000 {
            store.issue(challenge(20_000 + n), IpAddr::from([10, 9, (n / 256) as u8, n as u8]), 2);
        }
        assert_eq!(store.len(), 100);
        store.issue(challenge(1), A, 1000);
        assert_eq!((store.len(), store.by_source.len()), (1, 1));
    }
}
