//! How often one address may ask: a bucket of tokens for each, bounded in number.

use std::collections::HashMap;
use std::net::IpAddr;

/// How many addresses are remembered; beyond it those with full buckets are forgotten.
const SOURCES: usize = 4096;

/// Token buckets, one an address.
pub struct Rates {
    buckets: HashMap<IpAddr, (u64, u64)>,
    per_sec: u64,
    burst: u64,
}

impl Rates {
    /// `per_sec` requests a second in the long run, `burst` at once; both at least 1.
    pub fn new(per_sec: u32, burst: u32) -> Self {
        Self { buckets: HashMap::new(), per_sec: u64::from(per_sec.max(1)), burst: u64::from(burst.max(1)) }
    }

    /// Takes one token at `now_ms` (milliseconds of a steady clock), or says in how many seconds there is one.
    pub fn take(&mut self, source: IpAddr, now_ms: u64) -> Result<(), u64> {
        let full = self.burst * 1000;
        if self.buckets.len() >= SOURCES && !self.buckets.contains_key(&source) {
            self.forget_idle(now_ms);
            if self.buckets.len() >= SOURCES {
                return Err(1);
            }
        }
        let (tokens, at) = self.buckets.entry(source).or_insert((full, now_ms));
        let refill = now_ms.saturating_sub(*at).saturating_mul(self.per_sec);
        *tokens = tokens.saturating_add(refill).min(full);
        *at = now_ms;
        if *tokens < 1000 {
            return Err((1000 - *tokens).div_ceil(self.per_sec * 1000).max(1));
        }
        *tokens -= 1000;
        Ok(())
    }

    fn forget_idle(&mut self, now_ms: u64) {
        let (full, per_sec) = (self.burst * 1000, self.per_sec);
        self.buckets.retain(|_, (tokens, at)| {
            tokens.saturating_add(now_ms.saturating_sub(*at).saturating_mul(per_sec)) < full
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst, then the long-run rate; one address's haste is not another's.
    #[test]
    fn burst_then_rate() {
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut rates = Rates::new(10, 5);
        assert_eq!((0..20).filter(|_| rates.take(a, 0).is_ok()).count(), 5);
        assert_eq!(rates.take(a, 0), Err(1));
        assert!(rates.take(b, 0).is_ok());
        assert_eq!((0..1000).filter(|ms| rates.take(a, *ms).is_ok()).count(), 9);
    }

    /// Many addresses do not grow it beyond its bound, and idle ones make room.
    #[test]
    fn sources_are_bounded() {
        let mut rates = Rates::new(10, 5);
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        (0..20_000).for_each(|n| {
            let _ = rates.take(source(n), 0);
        });
        assert_eq!(rates.buckets.len(), SOURCES);
        assert!(rates.take(source(99_999), 10_000).is_ok());
    }
}
