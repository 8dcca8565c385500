//! What a malformed path attribute costs (RFC 7606): itself, the routes of its UPDATE, or the session.
//!
//! One walk over the attribute section of an UPDATE judges every attribute that this speaker knows and sorts out
//! what remains to be used. The action is the strongest that any attribute calls for (section 3 h) and never a
//! stronger one; an attribute that we do not know is never judged by its value. docs/reference/rfc7606.md lists
//! every rule with the test that holds it.

use crate::attributes::{Raw, Walk, code};
use crate::message::Notification;

/// UPDATE error subcodes (RFC 4271 section 6.3).
mod subcode {
    pub const ATTRIBUTE_LIST: u8 = 1;
    pub const UNKNOWN_WELL_KNOWN: u8 = 2;
    pub const FLAGS: u8 = 4;
    pub const LENGTH: u8 = 5;
    pub const ORIGIN: u8 = 6;
    pub const NEXT_HOP: u8 = 8;
    pub const OPTIONAL: u8 = 9;
    pub const AS_PATH: u8 = 11;
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;

/// Why the routes of an UPDATE count as withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The attribute's type code; 0 if the section as a whole is at fault.
    pub attribute: u8,
    /// The subcode that RFC 4271 section 6.3 has for it.
    pub subcode: u8,
    /// What is wrong, in words.
    pub what: &'static str,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.attribute {
            0 => write!(f, "3/{}: {}", self.subcode, self.what),
            attribute => write!(f, "3/{} in attribute {attribute}: {}", self.subcode, self.what),
        }
    }
}

impl Fault {
    /// The NOTIFICATION for a case where there is no route to withdraw (RFC 7606 section 5.2).
    pub fn notification(&self) -> Notification {
        Notification::new(3, self.subcode, Vec::new())
    }
}

/// An attribute section, judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section<'a> {
    /// MP_REACH_NLRI.
    pub reach: Option<&'a [u8]>,
    /// MP_UNREACH_NLRI.
    pub unreach: Option<&'a [u8]>,
    /// The octets of all other attributes that are to be used, each type once.
    pub rest: Vec<u8>,
    /// Attributes that were discarded (RFC 7606 section 2), later ones of the same type among them.
    pub discarded: u64,
    /// Whether the routes count as withdrawn, and why: the first fault of that weight.
    pub withdraw: Option<Fault>,
    /// Whether its end could not be read.
    cut: bool,
}

impl<'a> Section<'a> {
    /// Walks and judges. `Err`: the session must end with this.
    pub fn read(section: &'a [u8]) -> Result<Section<'a>, Notification> {
        let mut read = Section { rest: Vec::with_capacity(section.len()), ..Section::default() };
        let mut seen = [false; 256];
        let mut at = section;
        let mut walk = Walk(at);
        while let Some(a) = walk.next() {
            let whole = &at[..at.len() - walk.0.len()];
            at = walk.0;
            let again = std::mem::replace(&mut seen[usize::from(a.code)], true);
            read.take(a, whole, again)?;
        }
        if !at.is_empty() {
            read.cut = true;
            // Section 4: an attribute overruns the section, or its header does. The routes are still found.
            let (attribute, subcode) = (at.get(1).copied().unwrap_or(0), subcode::ATTRIBUTE_LIST);
            read.fault(Fault { attribute, subcode, what: "it ends behind the attributes" });
        }
        Ok(read)
    }

    fn take(&mut self, a: Raw<'a>, whole: &[u8], again: bool) -> Result<(), Notification> {
        if again {
            // Section 3 g: two of these leave open which routes are meant; of any other type the first counts.
            if matches!(a.code, code::MP_REACH | code::MP_UNREACH) {
                return Err(Notification::new(3, subcode::ATTRIBUTE_LIST, Vec::new()));
            }
            self.discarded += 1;
            return Ok(());
        }
        match judge(&a) {
            Verdict::Good => {}
            Verdict::Discard => {
                self.discarded += 1;
                return Ok(());
            }
            Verdict::Withdraw(subcode, what) => self.fault(Fault { attribute: a.code, subcode, what }),
            Verdict::Reset(subcode) => return Err(Notification::new(3, subcode, whole.to_vec())),
        }
        match a.code {
            code::MP_REACH => self.reach = Some(a.value),
            code::MP_UNREACH => self.unreach = Some(a.value),
            _ => self.rest.extend_from_slice(whole),
        }
        Ok(())
    }

    fn fault(&mut self, fault: Fault) {
        self.withdraw.get_or_insert(fault);
    }

    /// Whether there is nothing but MP_UNREACH_NLRI: the form of End-of-RIB (RFC 4724 section 2).
    pub fn only_unreach(&self) -> bool {
        self.unreach.is_some()
            && self.reach.is_none()
            && self.rest.is_empty()
            && self.discarded == 0
            && !self.cut
    }
}

enum Verdict {
    Good,
    Discard,
    Withdraw(u8, &'static str),
    Reset(u8),
}

/// Judges one attribute from an internal peer with four-octet AS numbers.
fn judge(a: &Raw<'_>) -> Verdict {
    use Verdict::{Discard, Good, Reset, Withdraw};
    let class = a.flags & (OPTIONAL | TRANSITIVE);
    match registered_class(a.code) {
        // Whatever it is: where AS numbers have four octets it must not be there (RFC 6793 section 6).
        _ if matches!(a.code, code::AS4_PATH | code::AS4_AGGREGATOR) => return Discard,
        Some(registered) if registered != class => return Withdraw(subcode::FLAGS, "its flags"),
        Some(_) => {}
        // RFC 4271 section 6.3, which RFC 7606 leaves as it is.
        None if class & OPTIONAL == 0 => return Reset(subcode::UNKNOWN_WELL_KNOWN),
        None => return Good,
    }
    let len = a.value.len();
    let multiple_of =
        |n| if len > 0 && len.is_multiple_of(n) { Good } else { Withdraw(subcode::OPTIONAL, "its length") };
    match (a.code, a.value) {
        (code::ORIGIN, [0..=2]) => Good,
        (code::ORIGIN, [_]) => Withdraw(subcode::ORIGIN, "no such origin"),
        (code::AS_PATH, path) => as_path(path),
        (code::NEXT_HOP, &[a, b, c, d]) if is_host([a, b, c, d]) => Good,
        (code::NEXT_HOP, [_, _, _, _]) => Withdraw(subcode::NEXT_HOP, "no host's address"),
        (code::MED | code::LOCAL_PREF | code::ORIGINATOR_ID, [_, _, _, _]) => Good,
        (code::ATOMIC_AGGREGATE, []) => Good,
        // AS 0: RFC 7607.
        (code::AGGREGATOR, [a, b, c, d, _, _, _, _]) if [*a, *b, *c, *d] != [0; 4] => Good,
        (code::ATOMIC_AGGREGATE | code::AGGREGATOR, _) => Discard,
        (code::COMMUNITIES | code::CLUSTER_LIST, _) => multiple_of(4),
        (code::EXTENDED_COMMUNITIES, _) => multiple_of(8),
        (code::LARGE_COMMUNITIES, _) => multiple_of(12),
        (code::IPV6_EXTENDED_COMMUNITIES, _) => multiple_of(20),
        (code::MP_REACH | code::MP_UNREACH, _) => Good,
        _ => Withdraw(subcode::LENGTH, "its length"),
    }
}

/// The Optional and Transitive bits that an attribute must have; `None`: not one that we know.
pub fn registered_class(c: u8) -> Option<u8> {
    match c {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(TRANSITIVE)
        }
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH | code::MP_UNREACH => {
            Some(OPTIONAL)
        }
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::IPV6_EXTENDED_COMMUNITIES
        | code::LARGE_COMMUNITIES => Some(OPTIONAL | TRANSITIVE),
        _ => None,
    }
}

/// Section 7.2; AS 0 by RFC 7607, sets by RFC 9774. Confederation segments have no place outside a confederation.
fn as_path(mut path: &[u8]) -> Verdict {
    let bad = |what| Verdict::Withdraw(subcode::AS_PATH, what);
    while let [kind, count, rest @ ..] = path {
        let Some((asns, after)) = rest.split_at_checked(usize::from(*count) * 4) else {
            return bad("a segment overruns it");
        };
        match kind {
            2 => {}
            1 => return bad("an AS_SET"),
            _ => return bad("no such segment"),
        }
        if asns.is_empty() {
            return bad("an empty segment");
        }
        if asns.as_chunks::<4>().0.contains(&[0; 4]) {
            return bad("AS 0");
        }
        path = after;
    }
    if path.is_empty() { Verdict::Good } else { bad("an octet is left over") }
}

/// Whether a next hop is a host's address (RFC 4271 section 6.3): not zero, loopback, multicast or reserved.
pub fn is_host([first, rest @ ..]: [u8; 4]) -> bool {
    !(first == 127 || first >= 224 || (first == 0 && rest == [0; 3]))
}
