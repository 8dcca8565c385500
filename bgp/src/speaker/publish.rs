//! The best paths, for whoever installs them: what changed goes into a copy that shares the rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Speaker;
use crate::message::Address;
use crate::rib::Table;
use crate::routes::Routes;
use crate::session::State;
use crate::store::SourceId;
use crate::types::Prefix;
use crate::view::{BestPath, BestPaths};

/// Changed prefixes beyond which the view is made anew: then that is no more work.
const NOTED: usize = 65_536;

/// What was published last, and what changed since.
#[derive(Debug, Default)]
pub(super) struct Published {
    last: Arc<BestPaths>,
    changed: Vec<Prefix>,
    /// Too much changed to be noted.
    overflow: bool,
}

/// Takes note of changes, where anybody wants to know.
pub(super) struct Notes<'a>(Option<&'a mut Published>);

impl Published {
    /// What was published last.
    #[cfg(test)]
    pub(super) fn last(&self) -> Arc<BestPaths> {
        Arc::clone(&self.last)
    }

    /// For the changes of one flush.
    pub(super) fn notes(&mut self, wanted: bool) -> Notes<'_> {
        Notes(wanted.then_some(self))
    }
}

impl Notes<'_> {
    /// The best path of this prefix is another one now.
    pub(super) fn note<A: Address>(&mut self, addr: A, len: u8) {
        if let Some(published) = &mut self.0 {
            match published.changed.len() {
                NOTED.. => published.overflow = true,
                _ => published.changed.push(addr.prefix(len)),
            }
        }
    }
}

impl Speaker {
    /// The best paths, if they changed since the last call and are wanted.
    pub fn take_best_paths(&mut self) -> Option<Arc<BestPaths>> {
        let all = std::mem::take(&mut self.publish);
        // A reflector that nobody asks makes no view at all: this is called after each flush.
        let changed = all || self.published.overflow || !self.published.changed.is_empty();
        if !self.config.publish_best_paths || !changed {
            return None;
        }
        let mut published = std::mem::take(&mut self.published);
        // A stale path turns live, and back, without becoming another path: while there are any, all are looked at.
        let mut any_stale = false;
        let mut set = |routes: &mut Routes, prefix| {
            let best = self.best(prefix);
            any_stale |= best.as_ref().is_some_and(|b| b.stale);
            routes.set(prefix, best);
        };
        let mut routes = Routes::default();
        if all || published.overflow || published.last.stale {
            self.prefixes().for_each(|prefix| set(&mut routes, prefix));
        } else {
            routes.clone_from(&published.last.routes);
            published.changed.drain(..).for_each(|prefix| set(&mut routes, prefix));
        }
        self.generation += 1;
        let up = |c: &super::Conn| c.session.state() == State::Established;
        let nobody = !self.peers.is_empty() && !self.conns.iter().flatten().any(up);
        let stale = nobody || any_stale;
        let whole = self.conns.iter().flatten().filter(|c| c.source.is_some() && c.ended == [true; 2]);
        let whole_from: BTreeSet<_> = whole.filter_map(|c| Some(self.peers.get(&c.peer)?.address)).collect();
        let whole = !whole_from.is_empty();
        let paths = Arc::new(BestPaths { generation: self.generation, routes, stale, whole, whole_from });
        self.published = Published { last: Arc::clone(&paths), ..Published::default() };
        Some(paths)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let v4 = self.v4.prefixes().map(|(addr, len)| addr.prefix(len));
        v4.chain(self.v6.prefixes().map(|(addr, len)| addr.prefix(len)))
    }

    pub(super) fn best(&self, prefix: Prefix) -> Option<BestPath> {
        match prefix {
            Prefix::V4(p) => self.best_in(&self.v4, p.bits(), p.prefix_len()),
            Prefix::V6(p) => self.best_in(&self.v6, p.bits(), p.prefix_len()),
        }
    }

    fn best_in<A: Address>(&self, table: &Table<A>, addr: A, len: u8) -> Option<BestPath> {
        let mut infos = table.explain(addr, len, &self.store, &self.sources);
        self.mark_equal(&mut infos);
        let best = infos.iter().find(|i| i.best)?;
        let a = self.store.get(best.attr)?;
        Some(BestPath {
            next_hop: a.next_hop.to_canonical(),
            others: self.equal_next_hops(&infos),
            originator: a.originator.0,
            communities: a.communities().into(),
            local_pref: a.local_pref,
            local: best.source == SourceId::LOCAL,
            stale: best.stale,
            from: self.sources.get(best.source).filter(|s| !s.is_local()).map(|s| s.address),
        })
    }
}
