//! The resources people write.
//!
//! A configuration is YAML: documents of `apiVersion`, `kind`, `metadata` and `spec`, several per
//! file. [`parse`] makes a [`Config`] of them, in which every default is filled in and nothing has
//! to be checked again, or reports every mistake at once, each with file, line and column.
//!
//! Reading order: [`Kind`] is the one list of Kinds; `spec` declares each with its keys, ranges and
//! defaults; `codec` is how a single value is read, written and described; `resource` turns a
//! declaration into reading, writing and a field table; `node` is YAML with positions; `document`
//! puts resources together; `check` compares them; [`schema()`] and [`reference()`] are made from the
//! same field tables. Files are touched in [`io`] alone.
//!
//! ```
//! let text = "
//! apiVersion: mobility.routerd.net/v1alpha1
//! kind: SAMEnrollmentPolicy
//! metadata: {name: fabric}
//! spec:
//!   endpoints: [192.0.2.10:51820]
//! ";
//! let config = config::parse(&[config::Source { name: "hub.yaml".into(), text: text.into() }])?;
//! assert_eq!(config.hub().unwrap().router.spec.asn, 64512);
//! # Ok::<(), config::Mistakes>(())
//! ```

mod bfd;
mod check;
mod codec;
mod document;
pub mod io;
mod kind;
mod mistake;
mod mrt_dump;
mod node;
mod node_config;
mod reference;
mod resource;
mod schema;
mod spec;
mod tree;
mod value;

pub use bfd::Bfd;
pub use document::{parse, parse_joined};
pub use kind::{Kind, Role};
pub use mistake::{Mistake, Mistakes, Position, Problem};
pub use mrt_dump::MrtDump;
pub use node_config::{Config, Effective, Enrollment, Hub, Leaf, Object};
pub use reference::reference;
pub use resource::{Fabric, Field};
pub use schema::{fields, schema};
pub use spec::{
    BgpDynamicPeer, BgpPeer, BgpRouter, Capture, DataplaneChoice, EventGroup, PeerAdmission,
    SamEnrollmentClient, SamEnrollmentPolicy, WireGuardInterface,
};
pub use value::{
    AddPathSend, Endpoint, FilePath, GroupName, InterfaceName, Name, NotAccepted, RegistryPlace,
    foyer_prefix, hub_address,
};

/// The longest configuration file that is read, in bytes: 4 MiB.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A configuration file's text.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that positions show, usually the path.
    pub name: String,
    /// The YAML text.
    pub text: String,
}
