//! Parts of the table that are only looked at by people.

use super::{NONE, Table};
use crate::message::Address;
use crate::policy::RejectReason;
use crate::store::SourceId;

impl<A: Address> Table<A> {
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
