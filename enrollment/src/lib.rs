//! Joining the fabric: invites, admission, leases, claims and the registry that is the truth on the hub.
//!
//! Reading order: [`identity`] and [`reason`] are the words; [`endpoint`] is where a hub is
//! reached; [`invite`] is the one-time string; [`signature`] and
//! [`wire`] say what is signed and what travels; [`registry`] is the hub's state and its changes; [`admit`] decides
//! (pure: state, request, now → changes or a refusal), with [`approval`] (machines that wait for a person) and [`life`]
//! (rotation, moves, leaving, revocation); [`log`] is the signed record of every decision; [`topology`] is what a leaf
//! gets back. Under [`io`] are the
//! SQLite store, the leaf-facing HTTP service, the client and the key files; nothing else here touches the outside.
//!
//! One walk: `routerctl enroll` decodes the [`invite::Invite`], opens the foyer tunnel, asks for a challenge, signs an
//! [`wire::EnrollRequest`] with the invite's derived key; the hub's [`admit::enroll`] judges it, the store commits the
//! [`registry::Change`]s in one transaction, publishes [`registry::Admissions`], and answers signed.

pub mod admit;
pub mod approval;
pub mod backup;
pub mod challenge;
pub mod claim;
pub mod endpoint;
pub mod exchange;
pub mod identity;
pub mod invite;
pub mod io;
pub mod life;
pub mod log;
pub mod policy;
pub mod rate;
pub mod reason;
pub mod registry;
pub mod signature;
pub mod topology;
pub mod view;
pub mod wire;
