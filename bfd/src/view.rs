//! What is shown of sessions: plain data for `status`, `routerctl` and the API.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// The peer's address.
    pub peer: IpAddr,
    /// Our address.
    pub local: IpAddr,
    /// Whether routers may lie between (RFC 5883).
    pub multihop: bool,
    /// `AdminDown`, `Down`, `Init` or `Up`.
    pub state: String,
    /// Seconds since it entered that state.
    pub since_secs: u64,
    /// The peer's state, as it told last.
    pub remote_state: String,
    /// Why it left Up last, in RFC 5880's words.
    pub diagnostic: String,
    /// What the peer said of its own end.
    pub remote_diagnostic: String,
    /// Our discriminator.
    pub discriminator: u32,
    /// The peer's; 0: not known.
    pub remote_discriminator: u32,
    /// How often it sends, before jitter, in milliseconds.
    pub tx_interval_millis: u64,
    /// How long the peer may be silent, in milliseconds; 0: it was not heard yet.
    pub detection_time_millis: u64,
    /// How often it came Up.
    pub ups: u64,
    /// How often it left Up.
    pub downs: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Why no packet can be sent or received; `None`: both can.
    pub error: Option<String>,
}

/// All sessions together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdView {
    /// Every session.
    pub sessions: Vec<SessionView>,
    /// Packets that were for no session or broke a rule, by reason, since the start.
    pub dropped: BTreeMap<String, u64>,
    /// Sessions that were one too many, since the start.
    pub refused: u64,
}
