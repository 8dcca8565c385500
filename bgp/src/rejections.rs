//! Since when, and how often, each kept rejected route has been rejected: for people who ask why.
//!
//! Only a rejected route costs anything here, and what is noted is bounded: the Adj-RIB-In keeps at most 1,024
//! rejected routes of a source and family, and notes of others are thrown away in bulk.

use std::collections::HashMap;

use ahash::RandomState;

use crate::policy::RejectReason;
use crate::session::Millis;
use crate::store::SourceId;
use crate::types::Prefix;

/// Notes of one source that are kept before those whose route has gone are thrown away.
const NOTES_KEPT: usize = 4096;

/// One rejected route's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Why it is rejected.
    pub reason: RejectReason,
    /// Since when it has been rejected for this reason, without a break.
    pub since: Millis,
    /// How often it was announced and rejected since then.
    pub count: u64,
}

type Notes = HashMap<(Prefix, u32), Note, RandomState>;

/// What is known of every source's rejected routes of one family.
#[derive(Debug, Default)]
pub struct Rejections {
    by_source: HashMap<SourceId, Notes, RandomState>,
}

impl Rejections {
    /// A route is rejected. `held`: what the Adj-RIB-In said of it before; anything but the same reason begins anew.
    pub fn note(
        &mut self,
        source: SourceId,
        route: (Prefix, u32),
        reason: RejectReason,
        held: Option<RejectReason>,
        now: Millis,
    ) {
        let notes = self.by_source.entry(source).or_default();
        let fresh = Note { reason, since: now, count: 0 };
        let note = notes.entry(route).or_insert(fresh);
        if held != Some(reason) || note.reason != reason {
            *note = fresh;
        }
        note.count += 1;
    }

    /// Makes room: forgets the notes of a source that `held` does not know any more.
    pub fn prune(&mut self, source: SourceId, held: impl Fn(Prefix, u32) -> bool) {
        if let Some(notes) = self.by_source.get_mut(&source)
            && notes.len() >= NOTES_KEPT
        {
            notes.retain(|(prefix, path_id), _| held(*prefix, *path_id));
        }
    }

    /// The source's number is about to be used for another.
    pub fn forget(&mut self, source: SourceId) {
        self.by_source.remove(&source);
    }

    /// What is known of a route that is rejected now.
    pub fn of(&self, source: SourceId, prefix: Prefix, path_id: u32) -> Option<Note> {
        self.by_source.get(&source)?.get(&(prefix, path_id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeats count, and a break or another reason begins anew.
    #[test]
    fn since_and_count() {
        let mut all = Rejections::default();
        let (source, route) = (SourceId(3), ("10.0.0.1/32".parse().unwrap(), 0));
        let of = |all: &Rejections| all.of(source, route.0, 0).map(|n| (n.reason, n.since, n.count));
        let (own, hop) = (RejectReason::NotOwned, RejectReason::ForeignNextHop);
        all.note(source, route, own, None, 10);
        all.note(source, route, own, Some(own), 20);
        assert_eq!(of(&all), Some((own, 10, 2)));
        all.note(source, route, hop, Some(own), 30);
        assert_eq!(of(&all), Some((hop, 30, 1)));
        all.note(source, route, hop, None, 40);
        assert_eq!(of(&all), Some((hop, 40, 1)), "withdrawn in between");
        all.forget(source);
        assert_eq!(of(&all), None);
    }

    /// However many routes come and go, the notes stay bounded.
    #[test]
    fn notes_are_bounded() {
        let mut all = Rejections::default();
        for n in 0..100_000u32 {
            let prefix = Prefix::host(std::net::Ipv4Addr::from(n).into());
            all.prune(SourceId(1), |_, _| false);
            all.note(SourceId(1), (prefix, 0), RejectReason::NotOwned, None, 0);
        }
        assert!(all.by_source[&SourceId(1)].len() <= NOTES_KEPT);
    }
}
