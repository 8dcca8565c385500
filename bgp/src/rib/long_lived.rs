//! Paths that are kept beyond the restart time (RFC 9494 section 4.2).

use super::{Kept, NONE, Table};
use crate::message::Address;
use crate::store::{AttrId, SourceId, Store};

impl<A: Address> Table<A> {
    /// Keeps the stale paths of a source beyond the restart time: each gets the attributes that `mark` makes of its
    /// own, or goes where that makes none. Those kept so already stay as they are.
    pub fn keep_long(
        &mut self,
        store: &mut Store,
        source: SourceId,
        mut mark: impl FnMut(&mut Store, AttrId) -> Option<AttrId>,
    ) {
        let mut at = self.held(source).first;
        while at != NONE {
            let path = self.paths[at as usize];
            let i = std::mem::replace(&mut at, path.after);
            if path.kept != Kept::Stale {
                continue;
            }
            let Some(attr) = mark(store, path.attr) else {
                self.remove(store, i);
                continue;
            };
            store.acquire(attr);
            store.release(path.attr);
            self.held[source.index()].long_lived += 1;
            let path = &mut self.paths[i as usize];
            (path.attr, path.kept) = (attr, Kept::LongLived);
            let net = path.net;
            self.ranks.changed(i);
            self.mark(net);
        }
    }

    /// Removes the paths of a source that are kept beyond the restart time.
    pub fn purge_long(&mut self, store: &mut Store, source: SourceId) {
        let held = self.held(source);
        let mut at = if held.long_lived == 0 { NONE } else { held.first };
        while at != NONE {
            let path = self.paths[at as usize];
            if path.kept == Kept::LongLived {
                self.remove(store, at);
            }
            at = path.after;
        }
    }
}
