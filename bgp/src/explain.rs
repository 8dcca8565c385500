//! What the speaker says of one prefix: every candidate, the decision between them, and who is told of the outcome.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::best_path::Step;
use crate::policy::RejectReason;
use crate::types::Prefix;
use crate::view::RouteView;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Exactly this prefix.
    Prefix(Prefix),
    /// The most specific prefix with a path that covers this address; its host route if there is none.
    Address(IpAddr),
}

/// Everything that the speaker knows of one prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The prefix.
    pub prefix: Prefix,
    /// What became of it, in a sentence.
    pub outcome: String,
    /// The step that decided between the best path and the last one that fell; `None` for one path or none.
    pub decided_by: Option<StepView>,
    /// Every path that is held: the chosen one first, then those that lost, then those that were rejected.
    pub candidates: Vec<CandidateView>,
    /// The neighbours that the best path is advertised to, by name.
    pub advertised_to: Vec<String>,
    /// The established neighbours that it is not advertised to.
    pub withheld_from: Vec<WithheldView>,
}

/// What the decision made of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is the best.
    Chosen,
    /// It ties with the best up to the tie-breaks, and is used beside it (multipath).
    Equal,
    /// Another one is better.
    Lost,
    /// Policy or a rule of the protocol keeps it out of the decision.
    Rejected,
}

/// One path with what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// What became of it.
    pub verdict: Verdict,
    /// The step at which it lost.
    pub lost_at: Option<StepView>,
    /// Why and since when it is rejected.
    pub rejected: Option<RejectionView>,
    /// Its attributes and, with ADD-PATH, its identifier.
    #[serde(flatten)]
    pub path: RouteView,
}

/// A step of the decision process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// What the step keeps, for example `highest LOCAL_PREF`.
    pub step: String,
    /// Where that is written.
    pub rule: String,
    /// What the path had.
    pub had: String,
    /// What the one had that it lost against.
    pub against: String,
}

/// Why a path is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectionView {
    /// The reason.
    pub reason: RejectReason,
    /// The same in a sentence.
    pub why: String,
    /// Seconds that it has been rejected for this reason.
    pub since_secs: u64,
    /// Announcements of it rejected in that time.
    pub count: u64,
}

/// A neighbour that is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithheldView {
    /// The neighbour's name.
    pub peer: String,
    /// Why not.
    pub why: String,
}

impl Step {
    /// The document and section that a step comes from.
    pub fn rule(self) -> &'static str {
        match self {
            Step::LongLived => "RFC 9494 4.3",
            Step::LocalPref => "RFC 4271 9.1.1",
            Step::Local => "own routes before learned ones",
            Step::AsPathLength => "RFC 4271 9.1.2.2 a",
            Step::Origin => "RFC 4271 9.1.2.2 b",
            Step::Med => "RFC 4271 9.1.2.2 c",
            Step::Fresh => "live sessions before kept routes (RFC 4724)",
            Step::External => "RFC 4271 9.1.2.2 d",
            Step::NextHopCost => "RFC 4271 9.1.2.2 e",
            Step::RouterId => "RFC 4271 9.1.2.2 f, RFC 4456 9",
            Step::ClusterListLength => "RFC 4456 9",
            Step::PeerAddress => "RFC 4271 9.1.2.2 g",
            Step::PathId => "RFC 7911, the last tie-break",
        }
    }
}

impl RejectReason {
    /// The reason in a sentence, for the operator of either side.
    pub fn sentence(self) -> &'static str {
        match self {
            RejectReason::NotOwned => "no claim of this neighbour owns the prefix",
            RejectReason::NotHostRoute => "the neighbour may send single addresses only",
            RejectReason::DefaultRoute => "the neighbour may not send a default route",
            RejectReason::ForeignNextHop => "the next hop is not the neighbour's own overlay address",
            RejectReason::ForeignOriginator => "the neighbour passes on a route of another router",
            RejectReason::ClusterLoop => "CLUSTER_LIST holds our own cluster id: the route has been here",
            RejectReason::OriginatorLoop => "ORIGINATOR_ID is our own: the route has been here",
            RejectReason::AsLoop => "AS_PATH holds our own AS: the route has been here",
            RejectReason::InvalidNextHop => "the next hop is no address that packets can be sent to",
        }
    }
}
