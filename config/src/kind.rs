//! The one list of Kinds.

use std::fmt;

use crate::mistake::nearest;

/// The Kinds of this version. Parser, checks, JSON Schema, reference and completion come from
/// [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The BGP speaker of a node.
    BgpRouter,
    /// BGP neighbours that no configuration names, accepted by source prefix.
    BgpDynamicPeer,
    /// A BGP neighbour that is dialled.
    BgpPeer,
    /// The WireGuard interface of a node.
    WireGuardInterface,
    /// What a hub admits.
    SamEnrollmentPolicy,
    /// A leaf's membership.
    SamEnrollmentClient,
    /// The group of nodes that share events.
    EventGroup,
}

/// Kinds that the product will have; a file that uses one is told so.
pub(crate) const LATER: &[&str] = &[
    "WireGuardPeer",
    "OverlayPeer",
    "HybridRoute",
    "CloudProviderProfile",
    "ProviderActionPolicy",
    "AddressMobilityDomain",
    "RemoteAddressClaim",
    "SAMEnrollmentClaim",
    "EventPeer",
    "EventSubscription",
    "Plugin",
    "DynamicConfigPart",
    "DynamicOverridePolicy",
];

/// What a node is, which decides the Kinds that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A route reflector, with or without enrollment (`fabric-rr`).
    Hub,
    /// A site's router (`fabric-leaf`).
    Leaf,
}

impl Role {
    /// `hub` or `leaf`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Hub => "hub",
            Role::Leaf => "leaf",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    /// Every Kind, in the order of the reference.
    pub const ALL: [Kind; 7] = [
        Kind::BgpRouter,
        Kind::BgpDynamicPeer,
        Kind::BgpPeer,
        Kind::WireGuardInterface,
        Kind::SamEnrollmentPolicy,
        Kind::SamEnrollmentClient,
        Kind::EventGroup,
    ];

    /// The `kind` as written in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::BgpRouter => "BGPRouter",
            Kind::BgpDynamicPeer => "BGPDynamicPeer",
            Kind::BgpPeer => "BGPPeer",
            Kind::WireGuardInterface => "WireGuardInterface",
            Kind::SamEnrollmentPolicy => "SAMEnrollmentPolicy",
            Kind::SamEnrollmentClient => "SAMEnrollmentClient",
            Kind::EventGroup => "EventGroup",
        }
    }

    /// The `apiVersion` as written in YAML: group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::BgpRouter | Kind::BgpDynamicPeer | Kind::BgpPeer | Kind::WireGuardInterface => {
                "net.routerd.net/v1alpha1"
            }
            Kind::SamEnrollmentPolicy | Kind::SamEnrollmentClient => "mobility.routerd.net/v1alpha1",
            Kind::EventGroup => "federation.routerd.net/v1alpha1",
        }
    }

    /// Whether a node has at most one of this Kind.
    pub fn single(self) -> bool {
        !matches!(self, Kind::BgpDynamicPeer | Kind::BgpPeer)
    }

    /// The only role that uses this Kind, or `None` when both do.
    pub fn only_for(self) -> Option<Role> {
        match self {
            Kind::BgpDynamicPeer | Kind::SamEnrollmentPolicy => Some(Role::Hub),
            Kind::SamEnrollmentClient | Kind::EventGroup => Some(Role::Leaf),
            Kind::BgpRouter | Kind::BgpPeer | Kind::WireGuardInterface => None,
        }
    }

    /// The Kind of that name, exactly as written in YAML.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(crate) fn nearest(name: &str) -> Option<String> {
        nearest(name, Kind::ALL.iter().map(|kind| kind.as_str()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
