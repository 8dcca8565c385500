//! Parts of the table that are only looked at by people.

use super::{NONE, Table};
use crate::message::Address;
use crate::policy::RejectReason;
use crate::store::SourceId;

impl<A: Address> Table<A> {
    /// The prefixes that wait for [`Table::flush`].
    pub fn marked(&self) -> impl Iterator<Item = (A, u8)> + '_ {
        self.dirty.iter().map(|i| (self.nets[*i as usize].addr, self.nets[*i as usize].len))
    }

    /// Marks every prefix with more than one path: what the decision goes by has changed.
    pub fn mark_contested(&mut self) {
        for i in 0..self.nets.len() {
            let contested = self.entry(i).is_some() && self.chain(self.nets[i].head).nth(1).is_some();
            if contested {
                self.mark(i as u32);
            }
        }
    }

    /// The prefix under a number below [`Table::scan_bound`], if it has any path.
    pub fn entry(&self, at: usize) -> Option<(A, u8)> {
        let net = self.nets.get(at)?;
        // A free entry's head leads to another free one: only what the index finds is an entry.
        let live = net.head != NONE && self.find(net.addr, net.len) == Some(at as u32);
        live.then_some((net.addr, net.len))
    }

    /// Whether the prefix has any path.
    pub fn has(&self, addr: A, len: u8) -> bool {
        self.find(addr, len).is_some_and(|i| self.nets[i as usize].head != NONE)
    }

    /// What is said of a source's path: the outer `None` if it has none, the inner if it is accepted.
    pub fn verdict_of(
        &self,
        source: SourceId,
        (addr, len, path_id): (A, u8, u32),
    ) -> Option<Option<RejectReason>> {
        let mut at = self.nets[self.find(addr, len)? as usize].head;
        while at != NONE {
            let path = &self.paths[at as usize];
            if path.source == source && path.path_id == path_id {
                return Some(RejectReason::from_code(path.verdict));
            }
            at = path.next;
        }
        None
    }
}
