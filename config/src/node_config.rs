//! A whole configuration: what one node is.

use std::collections::BTreeMap;

use serde::ser::{Serialize, Serializer};

use crate::kind::{Kind, Role};
use crate::mistake::Position;
use crate::resource::Resource;
use crate::spec::{
    BgpDynamicPeer, BgpPeer, BgpRouter, EventGroup, SamEnrollmentClient, SamEnrollmentPolicy,
    WireGuardInterface,
};
use crate::tree::Tree;
use crate::value::Name;

/// A resource with its name and origin.
#[derive(Clone, Debug)]
pub struct Object<T> {
    /// `metadata.name`.
    pub name: Name,
    /// Whether no file holds it: it is there because another resource implies it.
    pub implied: bool,
    /// Where it stands; for an implied one, where the resource that implies it stands.
    pub at: Position,
    /// Its typed content.
    pub spec: T,
    pub(crate) keys: BTreeMap<String, Position>,
    pub(crate) faulty: Vec<&'static str>,
}

impl<T> Object<T> {
    /// Where a key of the spec stands, or the resource where the key was left to its default.
    pub fn at_key(&self, key: &str) -> &Position {
        self.keys.get(key).unwrap_or(&self.at)
    }

    /// Whether none of these keys had a mistake, so that they can be compared with others.
    pub(crate) fn sound(&self, keys: &[&str]) -> bool {
        !self.faulty.iter().any(|faulty| keys.contains(faulty))
    }
}

/// Two objects are equal when a person would call them the same, wherever they stand.
impl<T: PartialEq> PartialEq for Object<T> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.spec == other.spec
    }
}

/// A configuration without mistakes.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// Of a hub, with or without enrollment.
    Hub(Box<Hub>),
    /// Of a leaf.
    Leaf(Box<Leaf>),
}

/// A hub: a route reflector, and with `enrollment` the place where leaves join.
#[derive(Clone, Debug, PartialEq)]
pub struct Hub {
    /// Its BGP speaker; `router_id` and `cluster_id` are always there.
    pub router: Object<BgpRouter>,
    /// Whom it accepts.
    pub dynamic_peers: Vec<Object<BgpDynamicPeer>>,
    /// Whom it dials.
    pub peers: Vec<Object<BgpPeer>>,
    /// Enrollment and WireGuard; `None` makes a plain reflector.
    pub enrollment: Option<Enrollment>,
}

/// What a hub has beyond a plain reflector.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrollment {
    /// Whom it admits.
    pub policy: Object<SamEnrollmentPolicy>,
    /// Its WireGuard.
    pub wireguard: Object<WireGuardInterface>,
}

/// A leaf: a site's router.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its BGP speaker; an absent `router_id` is the overlay address that the hub allocates.
    pub router: Object<BgpRouter>,
    /// Whom it dials beside its hub.
    pub peers: Vec<Object<BgpPeer>>,
    /// Its membership.
    pub client: Object<SamEnrollmentClient>,
    /// Its WireGuard.
    pub wireguard: Object<WireGuardInterface>,
    /// Its events.
    pub events: Object<EventGroup>,
}

/// A resource as it holds, with every default filled in, for people and programs that look.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The Kind.
    pub kind: Kind,
    /// `metadata.name`.
    pub name: Name,
    /// Whether no file holds it.
    pub implied: bool,
    tree: Tree,
}

/// Serializes as a document: `apiVersion`, `kind`, `metadata`, `spec`.
impl Serialize for Effective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = Tree::Map(vec![
            ("apiVersion", Tree::text(self.kind.api_version())),
            ("kind", Tree::text(self.kind.as_str())),
            ("metadata", Tree::Map(vec![("name", Tree::text(self.name.as_str()))])),
            ("spec", self.tree.clone()),
        ]);
        document.serialize(serializer)
    }
}

fn effective<T: Resource>(object: &Object<T>) -> Effective {
    Effective { kind: T::KIND, name: object.name.clone(), implied: object.implied, tree: object.spec.write() }
}

impl Config {
    /// Whether this is a hub or a leaf.
    pub fn role(&self) -> Role {
        match self {
            Config::Hub(_) => Role::Hub,
            Config::Leaf(_) => Role::Leaf,
        }
    }

    /// The hub, if it is one.
    pub fn hub(&self) -> Option<&Hub> {
        match self {
            Config::Hub(hub) => Some(hub),
            Config::Leaf(_) => None,
        }
    }

    /// The leaf, if it is one.
    pub fn leaf(&self) -> Option<&Leaf> {
        match self {
            Config::Leaf(leaf) => Some(leaf),
            Config::Hub(_) => None,
        }
    }

    /// Every resource that holds, implied ones too, in the order of the Kinds.
    pub fn effective(&self) -> Vec<Effective> {
        let mut found = Vec::new();
        match self {
            Config::Hub(hub) => {
                found.push(effective(&hub.router));
                found.extend(hub.dynamic_peers.iter().map(effective));
                found.extend(hub.peers.iter().map(effective));
                if let Some(enrollment) = &hub.enrollment {
                    found.push(effective(&enrollment.wireguard));
                    found.push(effective(&enrollment.policy));
                }
            }
            Config::Leaf(leaf) => {
                found.push(effective(&leaf.router));
                found.extend(leaf.peers.iter().map(effective));
                found.push(effective(&leaf.wireguard));
                found.push(effective(&leaf.client));
                found.push(effective(&leaf.events));
            }
        }
        found
    }

    /// The whole configuration with every default filled in, as a YAML file that means the same.
    pub fn to_yaml(&self) -> String {
        let documents = self.effective().into_iter().map(|resource| {
            let mut text =
                serde_saphyr::to_string(&resource).expect("text, numbers, lists and maps are all YAML");
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        });
        documents.collect::<Vec<_>>().join("---\n")
    }
}
