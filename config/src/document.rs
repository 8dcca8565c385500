//! From documents to a configuration, with every mistake on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check;
use crate::codec::{Codec, Text};
use crate::kind::{Kind, LATER, Role};
use crate::mistake::{Mistakes, Position, Problem};
use crate::node::{Node, Value, documents, short};
use crate::node_config::{Config, Enrollment, Hub, Leaf, Object};
use crate::resource::{Context, Fabric, Keys, Resource};
use crate::spec::{BgpDynamicPeer, BgpRouter, SamEnrollmentPolicy, WireGuardInterface};
use crate::value::Name;
use crate::{MAX_FILE_BYTES, Source};

const NAME: Text<Name> = Text::new("1 to 63 of a-z, 0-9 and - (neither first nor last)");

/// Reads all files as one configuration, or reports every mistake in them.
pub fn parse(sources: &[Source]) -> Result<Config, Mistakes> {
    parse_joined(sources, None)
}

/// The same for a hub that has joined a fabric, which fills in what the files leave out.
pub fn parse_joined(sources: &[Source], fabric: Option<Fabric>) -> Result<Config, Mistakes> {
    let files: Vec<Arc<str>> = sources.iter().map(|source| source.name.as_str().into()).collect();
    let mut mistakes = Mistakes::default();
    let mut nodes = Vec::new();
    for (file, source) in files.iter().zip(sources) {
        let bytes = source.text.len() as u64;
        if bytes > MAX_FILE_BYTES {
            mistakes.add(Position::whole(file), Problem::TooLong { bytes, limit: MAX_FILE_BYTES });
            continue;
        }
        let (mut found, wrong) = documents(file, &source.text);
        nodes.append(&mut found);
        mistakes.append(wrong);
    }
    let start = files.first().map_or_else(|| Position::whole("configuration"), |file| Position::whole(file));
    let mut reading = Reading { envelopes: Vec::new(), mistakes, fabric };
    for node in nodes.iter().filter(|node| !node.is_null()) {
        reading.envelope(node);
    }
    reading.unique();
    let config = reading.config(start);
    let mistakes = reading.mistakes.ordered(&files);
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(mistakes),
    }
}

/// A document whose Kind is known.
struct Envelope<'n> {
    kind: Kind,
    name: Option<Name>,
    at: Position,
    spec: Option<&'n Node>,
    /// A repetition is checked like any other and then left out.
    repeated: bool,
}

struct Reading<'n> {
    envelopes: Vec<Envelope<'n>>,
    mistakes: Mistakes,
    fabric: Option<Fabric>,
}

impl<'n> Reading<'n> {
    fn envelope(&mut self, node: &'n Node) {
        if !matches!(node.value, Value::Map(_)) {
            let text =
                format!("a document has `apiVersion`, `kind`, `metadata` and `spec`, found {}", node.what());
            return self.mistakes.add(node.at.clone(), Problem::Syntax(text));
        }
        let mut keys = Keys::of(node, "document", "the document");
        let kind = kind(&mut keys);
        if let Some(Ok(kind)) = kind {
            keys.rename(kind.as_str());
        }
        if let (Some(version), Some(Ok(kind))) = (keys.node("apiVersion"), &kind) {
            api_version(version, *kind, &mut keys.mistakes);
        } else if let Some(Ok(kind)) = &kind {
            keys.missing("apiVersion", format!("`{}`", kind.api_version()));
        }
        let (metadata, spec) = (keys.node("metadata"), keys.node("spec"));
        let Some(Ok(kind)) = kind else {
            if kind.is_none() {
                keys.missing("kind", "one of the Kinds".into());
            }
            return self.mistakes.append(keys.mistakes);
        };
        let name = metadata_name(metadata, node, &mut keys.mistakes);
        keys.finish(&["apiVersion", "kind", "metadata", "spec"]);
        self.mistakes.append(keys.mistakes);
        self.envelopes.push(Envelope { kind, name, at: node.at.clone(), spec, repeated: false });
    }

    /// Names are unique within a Kind, and most Kinds stand once on a node.
    fn unique(&mut self) {
        for index in 1..self.envelopes.len() {
            let (before, rest) = self.envelopes.split_at_mut(index);
            let this = &mut rest[0];
            let Some(first) = before.iter().filter(|other| !other.repeated).find(|other| {
                other.kind == this.kind
                    && (other.kind.single() || (this.name.is_some() && other.name == this.name))
            }) else {
                continue;
            };
            this.repeated = true;
            let (kind, first_at) = (this.kind.to_string(), first.at.clone());
            let problem = match &this.name {
                Some(name) if first.name == this.name => {
                    Problem::DuplicateResource { kind, name: name.to_string(), first: first_at }
                }
                _ => Problem::MoreThanOne { kind, first: first_at },
            };
            self.mistakes.add(this.at.clone(), problem);
        }
    }

    fn first(&self, kind: Kind) -> Option<&Envelope<'n>> {
        self.envelopes.iter().find(|envelope| envelope.kind == kind)
    }

    fn config(&mut self, start: Position) -> Option<Config> {
        if let Some(client) = self.first(Kind::SamEnrollmentClient).map(|client| client.at.clone()) {
            self.roles(Some(&client));
            return self.leaf(client);
        }
        let root = self.first(Kind::SamEnrollmentPolicy).or_else(|| self.first(Kind::BgpRouter));
        let Some(root) = root.map(|root| root.at.clone()) else {
            // With other mistakes the resource may be there, only not readable.
            if self.mistakes.is_empty() {
                let text = "nothing to run: a hub needs a SAMEnrollmentPolicy or a BGPRouter, a leaf a SAMEnrollmentClient";
                self.mistakes.add(start, Problem::Conflict(text.into()));
            }
            return None;
        };
        self.roles(None);
        self.hub(root)
    }

    /// The Kinds of the other role would do nothing; `client` is what makes this node a leaf.
    fn roles(&mut self, client: Option<&Position>) {
        let (role, because) = match client {
            Some(at) => (Role::Leaf, format!("the SAMEnrollmentClient at {at} makes this node a leaf")),
            None => (Role::Hub, "without a SAMEnrollmentClient this node is a hub".to_string()),
        };
        for envelope in &self.envelopes {
            if let Some(only) = envelope.kind.only_for().filter(|only| *only != role) {
                let text = format!("{} belongs to a {only}, and {because}", envelope.kind);
                self.mistakes.add(envelope.at.clone(), Problem::Conflict(text));
            }
        }
    }

    fn leaf(&mut self, client_at: Position) -> Option<Config> {
        let (role, overlay, fabric) = (Role::Leaf, None, None);
        let mut context = Context { role, overlay, asn: 64512, hold_time_secs: 9, fabric };
        let router = self.one::<BgpRouter>(&context, Some(("leaf", &client_at)));
        context.follow(router.as_ref());
        let peers = self.all(&context);
        let client = self.one(&context, None);
        router.iter().for_each(|router| check::router(router, &mut self.mistakes));
        router.iter().for_each(|router| check::metrics(router, &mut self.mistakes));
        if router.as_ref().is_none_or(|router| router.sound(&["asn"])) {
            check::internal(context.asn, &[], &peers, &mut self.mistakes);
        }
        check::leaf(router.as_ref(), client.as_ref(), &peers, &mut self.mistakes);
        let wireguard = self.one(&context, Some(("fab-wg", &client_at)));
        let events = self.one(&context, Some(("fabric", &client_at)));
        let (router, client, wireguard, events) = (router?, client?, wireguard?, events?);
        Some(Config::Leaf(Box::new(Leaf { router, peers, client, wireguard, events })))
    }

    fn hub(&mut self, root: Position) -> Option<Config> {
        let (role, overlay, fabric) = (Role::Hub, None, self.fabric);
        let mut context = Context { role, overlay, asn: 64512, hold_time_secs: 9, fabric };
        let enrolls = self.first(Kind::SamEnrollmentPolicy).is_some();
        let policy = self.one::<SamEnrollmentPolicy>(&context, None);
        if enrolls {
            // A policy with a mistake still answers what is derived from it.
            let assumed = ipnet::Ipv4Net::new_assert([10, 255, 0, 0].into(), 20);
            context.overlay = Some(policy.as_ref().map_or(assumed, |policy| policy.spec.overlay_prefix));
        }
        let implied = |name: &'static str| enrolls.then_some((name, &root));
        let router = self.one::<BgpRouter>(&context, implied("hub"));
        context.follow(router.as_ref());
        let mut dynamic_peers = self.all::<BgpDynamicPeer>(&context);
        if self.first(Kind::BgpDynamicPeer).is_none() {
            dynamic_peers.extend(self.one(&context, implied("fullmesh-leaves")));
        }
        let peers = self.all(&context);
        let wireguard = self.one::<WireGuardInterface>(&context, implied("fab-wg"));
        if !enrolls {
            self.without_enrollment(Kind::WireGuardInterface);
        }
        router.iter().for_each(|router| check::router(router, &mut self.mistakes));
        router.iter().for_each(|router| check::metrics(router, &mut self.mistakes));
        if router.as_ref().is_none_or(|router| router.sound(&["asn"])) {
            check::internal(context.asn, &dynamic_peers, &peers, &mut self.mistakes);
        }
        router.iter().for_each(|router| check::hub_router(router, &mut self.mistakes));
        check::hub(enrolls, policy.as_ref(), &dynamic_peers, &peers, &mut self.mistakes);
        let mut router = router?;
        router.spec.cluster_id = router.spec.cluster_id.or(router.spec.router_id);
        let enrollment = match enrolls {
            false => None,
            true => Some(Enrollment { policy: policy?, wireguard: wireguard? }),
        };
        Some(Config::Hub(Box::new(Hub { router, dynamic_peers, peers, enrollment })))
    }

    fn without_enrollment(&mut self, kind: Kind) {
        for envelope in self.envelopes.iter().filter(|envelope| envelope.kind == kind) {
            let text = format!("{kind} does nothing on a hub without a SAMEnrollmentPolicy");
            self.mistakes.add(envelope.at.clone(), Problem::Conflict(text));
        }
    }

    /// All resources of a Kind; mistakes are noted, and what is right is returned.
    fn all<T: Resource>(&mut self, context: &Context) -> Vec<Object<T>> {
        let mut found = Vec::new();
        for envelope in self.envelopes.iter().filter(|envelope| envelope.kind == T::KIND) {
            let mut keys = match envelope.spec {
                Some(node) => Keys::of(node, "spec", T::KIND.as_str()),
                None => Keys::absent(envelope.at.clone(), T::KIND.as_str()),
            };
            let spec = T::read(&mut keys, context);
            self.mistakes.append(keys.mistakes);
            if let (Some(spec), Some(name), false) = (spec, &envelope.name, envelope.repeated) {
                let (name, at) = (name.clone(), envelope.at.clone());
                let (keys, faulty) = (key_positions(envelope.spec), keys.faulty);
                found.push(Object { name, implied: false, at, spec, keys, faulty });
            }
        }
        found
    }

    /// The one resource of a Kind; where none is written, `implied` names the one that another implies.
    fn one<T: Resource>(
        &mut self,
        context: &Context,
        implied: Option<(&str, &Position)>,
    ) -> Option<Object<T>> {
        if self.first(T::KIND).is_some() {
            return self.all(context).into_iter().next();
        }
        let (name, at) = implied?;
        let mut keys = Keys::absent(at.clone(), T::KIND.as_str());
        let spec = T::read(&mut keys, context);
        self.mistakes.append(keys.mistakes);
        let name = name.parse().ok()?;
        Some(Object {
            name,
            implied: true,
            at: at.clone(),
            spec: spec?,
            keys: BTreeMap::new(),
            faulty: Vec::new(),
        })
    }
}

impl Context {
    fn follow(&mut self, router: Option<&Object<BgpRouter>>) {
        if let Some(router) = router {
            self.asn = router.spec.asn;
            self.hold_time_secs = router.spec.hold_time_secs;
        }
    }
}

fn key_positions(spec: Option<&Node>) -> BTreeMap<String, Position> {
    match spec.map(|node| &node.value) {
        Some(Value::Map(entries)) => {
            entries.iter().map(|(key, _)| (key.text.clone(), key.at.clone())).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// The Kind of a document; `Some(Err(()))` when one is written that cannot be used.
fn kind(keys: &mut Keys<'_>) -> Option<Result<Kind, ()>> {
    let node = keys.node("kind")?;
    let Value::Scalar { text, .. } = &node.value else {
        let problem = Problem::WrongType {
            key: "kind".into(),
            expected: "one of the Kinds".into(),
            found: node.what(),
        };
        keys.mistakes.add(node.at.clone(), problem);
        return Some(Err(()));
    };
    if let Some(kind) = Kind::from_name(text) {
        return Some(Ok(kind));
    }
    let problem = if LATER.contains(&text.as_str()) {
        Problem::UnsupportedKind(text.clone())
    } else {
        let known = Kind::ALL.iter().map(|kind| kind.to_string()).collect();
        Problem::UnknownKind { kind: short(text), nearest: Kind::nearest(text), known }
    };
    keys.mistakes.add(node.at.clone(), problem);
    Some(Err(()))
}

fn api_version(node: &Node, kind: Kind, mistakes: &mut Mistakes) {
    let found = match &node.value {
        Value::Scalar { text, .. } if text == kind.api_version() => return,
        Value::Scalar { text, .. } => short(text),
        _ => node.what(),
    };
    let problem =
        Problem::WrongApiVersion { kind: kind.to_string(), expected: kind.api_version().into(), found };
    mistakes.add(node.at.clone(), problem);
}

fn metadata_name(metadata: Option<&Node>, document: &Node, mistakes: &mut Mistakes) -> Option<Name> {
    let mut keys = match metadata {
        Some(node) => Keys::of(node, "metadata", "metadata"),
        None => Keys::absent(document.at.clone(), "metadata"),
    };
    let name = match keys.node("name") {
        Some(node) => NAME.read("name", node, &mut keys.mistakes),
        None => {
            keys.missing("name", NAME.says());
            None
        }
    };
    keys.finish(&["name"]);
    mistakes.append(keys.mistakes);
    name
}
