//! A neighbour over all its connections: how it is dialled, and what is kept when its session is lost.

use std::net::IpAddr;
use std::sync::Arc;

use crate::message::GracefulRestart;
use crate::policy::ImportPolicy;
use crate::session::{End, Millis};
use crate::settings::{AddPathOptions, Neighbor, PeerOptions};
use crate::store::SourceId;
use crate::types::PeerKey;

/// The first retry comes this soon.
pub const FIRST_RETRY_MS: u64 = 200;
/// Later ones never later than this.
pub const LAST_RETRY_MS: u64 = 4_000;
/// A session that lasted this long makes the next retry a first one again.
pub const GOOD_SESSION_MS: u64 = 10_000;
/// How long stale routes wait for the End-of-RIB of a peer that has come back.
pub const STALE_AFTER_RETURN_SECS: u64 = 360;
/// How long a dynamic peer that has gone is still shown.
pub const GONE_SHOWN_SECS: u64 = 600;
/// How long a dynamic peer that sent too many prefixes is not let in again; a change of its admission ends it.
pub const HELD_DOWN_SECS: u64 = 60;

/// When a neighbour is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// A connection is there, or it is never dialled.
    Rest,
    /// The next attempt's time.
    At(Millis),
    /// An attempt is under way.
    Trying,
}

/// Where a neighbour comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A `Neighbor` of the configuration.
    Named(Neighbor),
    /// A dynamic peer: the name of its `BGPDynamicPeer`, whether it is a client, and its policy if enrolled.
    Dynamic {
        /// The name of the `BGPDynamicPeer`.
        group: String,
        /// Whether it is a route-reflector client.
        client: bool,
        /// Its AS number.
        remote_asn: u32,
        /// What it may send; `None`: everything.
        policy: Option<Arc<ImportPolicy>>,
        /// What holds for its sessions.
        options: PeerOptions,
    },
}

/// Counters over all sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages received.
    pub messages_in: u64,
    /// UPDATEs received.
    pub updates_in: u64,
    /// Octets received.
    pub bytes_in: u64,
    /// Octets sent.
    pub bytes_out: u64,
    /// Announcements rejected.
    pub rejections: u64,
    /// UPDATEs that counted as withdrawals (RFC 7606).
    pub treated_as_withdraw: u64,
    /// Attributes that were malformed or double and left out (RFC 7606).
    pub attributes_discarded: u64,
    /// Sessions that we ended with a NOTIFICATION.
    pub notifications_sent: u64,
    /// Sessions that the peer ended with a NOTIFICATION.
    pub notifications_received: u64,
    /// How often it came to the share of its prefix limit at which there is a warning.
    pub prefix_warnings: u64,
}

impl Totals {
    /// Adds another session's counters.
    pub fn add(&mut self, other: &Totals) {
        self.messages_in += other.messages_in;
        self.updates_in += other.updates_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.rejections += other.rejections;
        self.treated_as_withdraw += other.treated_as_withdraw;
        self.attributes_discarded += other.attributes_discarded;
        self.notifications_sent += other.notifications_sent;
        self.notifications_received += other.notifications_received;
        self.prefix_warnings += other.prefix_warnings;
    }
}

/// A neighbour.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub key: PeerKey,
    /// Its address.
    pub address: IpAddr,
    /// Where it comes from.
    pub origin: Origin,
    /// Its connections, by slot: one, or two while they collide.
    pub conns: Vec<usize>,
    /// Under which number its paths are held.
    pub source: Option<SourceId>,
    /// Whether graceful restart was agreed on in the latest session: it keeps our routes over our restart.
    pub graceful: bool,
    /// When stale paths go; `None`: there are none.
    pub stale_until: Option<Millis>,
    /// How long its paths are kept after that, in seconds, by [`crate::types::Family::index`]; 0: not at all.
    pub long_lived_secs: [u32; 2],
    /// When those kept so go, by [`crate::types::Family::index`]; a return does not put it off (RFC 9494 section 4.2).
    pub long_lived_until: [Option<Millis>; 2],
    /// Until when it is refused, because it sent too many prefixes.
    pub held_down_until: Millis,
    /// The operator keeps it down, with this text for it (RFC 9003); may be empty.
    pub kept_down: Option<String>,
    /// When it is dialled.
    pub dial: Dial,
    /// The wait before the attempt after the next one.
    pub backoff_ms: u64,
    /// Since when its shown state holds.
    pub since: Millis,
    /// The last error, in words.
    pub last_error: Option<String>,
    /// How often it was Established.
    pub established_count: u64,
    /// Counters of its ended sessions.
    pub totals: Totals,
}

impl Peer {
    /// A neighbour without connections.
    pub fn new(key: PeerKey, address: IpAddr, origin: Origin, now: Millis) -> Peer {
        let dial = if matches!(origin, Origin::Named(_)) { Dial::At(now) } else { Dial::Rest };
        Peer {
            key,
            address,
            origin,
            conns: Vec::new(),
            source: None,
            graceful: false,
            stale_until: None,
            long_lived_secs: [0; 2],
            long_lived_until: [None; 2],
            held_down_until: 0,
            kept_down: None,
            dial,
            backoff_ms: FIRST_RETRY_MS,
            since: now,
            last_error: None,
            established_count: 0,
            totals: Totals::default(),
        }
    }

    /// What it is called: the leaf that its admission names, else its configured name or its address.
    pub fn name(&self) -> String {
        match &self.origin {
            Origin::Dynamic { policy: Some(policy), .. } => policy.owner.clone(),
            _ => self.key.to_string(),
        }
    }

    /// Whether it is a route-reflector client.
    pub fn client(&self) -> bool {
        match &self.origin {
            Origin::Named(n) => n.route_reflector_client,
            Origin::Dynamic { client, .. } => *client,
        }
    }

    /// What holds for its sessions.
    pub fn options(&self) -> &PeerOptions {
        match &self.origin {
            Origin::Named(n) => &n.options,
            Origin::Dynamic { options, .. } => options,
        }
    }

    /// What of ADD-PATH it is offered.
    pub fn add_path(&self) -> AddPathOptions {
        self.options().add_path
    }

    /// The AS number that it must have.
    pub fn remote_asn(&self) -> u32 {
        match &self.origin {
            Origin::Named(n) => n.remote_asn,
            Origin::Dynamic { remote_asn, .. } => *remote_asn,
        }
    }

    /// What it may send; `None`: everything.
    pub fn policy(&self) -> Option<&Arc<ImportPolicy>> {
        match &self.origin {
            Origin::Named(n) => n.policy.as_ref(),
            Origin::Dynamic { policy, .. } => policy.as_ref(),
        }
    }

    /// How long its routes are kept after its session was lost in whatever way, in seconds.
    pub fn fail_static_secs(&self) -> u32 {
        match &self.origin {
            Origin::Named(n) => n.fail_static_secs,
            Origin::Dynamic { .. } => 0,
        }
    }

    /// Forgets when its stale routes go: there are none any more.
    pub fn nothing_kept(&mut self) {
        self.stale_until = None;
        self.long_lived_until = [None; 2];
    }

    /// Plans the next dial after a failure or a lost session; `luck` is any number.
    pub fn retry(&mut self, now: Millis, luck: u64) {
        let dialled = matches!(self.origin, Origin::Named(_)) && self.kept_down.is_none();
        if dialled && self.conns.is_empty() {
            // From three quarters of the wait to all of it: never together, never later than promised.
            let wait = self.backoff_ms * 3 / 4 + luck % (self.backoff_ms / 4 + 1);
            self.dial = Dial::At(now + wait);
            self.backoff_ms = (self.backoff_ms * 2).min(LAST_RETRY_MS);
        }
    }

    /// How long to keep the routes of a session that has ended so, in seconds; 0: not at all.
    pub fn retention_secs(&self, end: &End, gr: Option<&GracefulRestart>) -> u64 {
        let asked = gr.filter(|gr| self.survives(end, gr)).map_or(0, |gr| u64::from(gr.restart_secs));
        asked.max(u64::from(self.fail_static_secs()))
    }

    /// Whether graceful restart keeps the routes of a session that has ended so.
    pub fn survives(&self, end: &End, gr: &GracefulRestart) -> bool {
        match end {
            End::Lost(_) => true,
            End::Received(n) => gr.notification && !n.is_hard_reset(),
            // What we end because the peer broke a rule, or must go, takes its routes along; its silence, its
            // second connection and an operator who has it begin afresh do not. Nor does BFD: ours ends with our control plane, so that its fall
            // cannot be told from a restart (RFC 5882 section 4.3.2.2).
            End::Sent(n) => {
                matches!((n.code, n.subcode), (4, _) | (8, _)) && gr.notification
                    || (n.code, n.subcode) == (6, crate::message::cease::CONNECTION_COLLISION)
                    || (n.code, n.subcode) == (6, crate::message::cease::BFD_DOWN)
                    || (n.code, n.subcode) == (6, crate::message::cease::ADMINISTRATIVE_RESET)
                        && gr.notification
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Notification;

    fn neighbor(fail_static_secs: u32) -> Peer {
        let address = IpAddr::from([10, 255, 0, 1]);
        let mut n = Neighbor::new("hub", address, 64512);
        n.fail_static_secs = fail_static_secs;
        Peer::new(PeerKey::Named("hub".into()), address, Origin::Named(n), 0)
    }

    #[test]
    fn the_first_retry_is_quick_and_no_wait_exceeds_the_limit() {
        for luck in [0, 1, 49, 12345, u64::MAX] {
            let mut p = neighbor(0);
            let mut now = 0;
            for i in 0..10 {
                p.retry(now, luck);
                let Dial::At(at) = p.dial else { panic!() };
                let wait = at - now;
                assert!(wait >= 150 && wait <= if i == 0 { 250 } else { LAST_RETRY_MS }, "{i}: {wait}");
                now = at;
            }
            assert_eq!(p.backoff_ms, LAST_RETRY_MS);
        }
    }

    #[test]
    fn what_survives_which_end() {
        let gr = |notification| GracefulRestart {
            notification,
            restart_secs: 120,
            families: [true; 2],
            ..GracefulRestart::default()
        };
        let lost = End::Lost("reset".into());
        let shutdown = End::Received(Notification::cease(2));
        let hard = End::Received(Notification::cease(9));
        let silent = End::Sent(Notification::new(4, 0, vec![]));
        let broke_a_rule = End::Sent(Notification::new(3, 1, vec![]));
        let bfd = End::Sent(Notification::cease(crate::message::cease::BFD_DOWN));
        let p = neighbor(0);
        assert_eq!(p.retention_secs(&lost, None), 0);
        assert_eq!(p.retention_secs(&lost, Some(&gr(false))), 120);
        assert_eq!(p.retention_secs(&shutdown, Some(&gr(false))), 0);
        assert_eq!(p.retention_secs(&shutdown, Some(&gr(true))), 120);
        assert_eq!(p.retention_secs(&hard, Some(&gr(true))), 0);
        assert_eq!(p.retention_secs(&silent, Some(&gr(true))), 120);
        assert_eq!(p.retention_secs(&broke_a_rule, Some(&gr(true))), 0);
        assert_eq!(p.retention_secs(&bfd, Some(&gr(true))), 120);
        assert_eq!(p.retention_secs(&bfd, None), 0);
        let p = neighbor(43_200);
        for end in [lost, shutdown, hard, silent, broke_a_rule] {
            assert_eq!(p.retention_secs(&end, Some(&gr(true))), 43_200, "fail static: {end:?}");
        }
    }
}
