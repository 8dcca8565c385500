//! What every resource has in common: a table of fields that reads, writes and describes it.

use serde_json::Value as Json;

use crate::codec::Codec;
use crate::kind::{Kind, Role};
use crate::mistake::{Mistakes, Position, Problem, nearest};
use crate::node::{Key, Node, Value, short};
use crate::tree::Tree;

/// What defaults are derived from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub role: Role,
    /// `overlayPrefix` of the SAMEnrollmentPolicy, where there is one.
    pub overlay: Option<ipnet::Ipv4Net>,
    /// `asn` of the BGPRouter.
    pub asn: u32,
    /// `holdTimeSecs` of the BGPRouter.
    pub hold_time_secs: u16,
    /// What the fabric says that this hub has joined.
    pub fabric: Option<Fabric>,
}

impl Context {
    /// The hub's own overlay address in its prefix.
    pub fn hub_address(&self, overlay: ipnet::Ipv4Net) -> std::net::Ipv4Addr {
        self.fabric.map_or(crate::value::hub_address(overlay), |fabric| fabric.own)
    }
}

/// What a fabric says to a hub that has joined it: it holds where the hub's own files are silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// The prefix of the nodes' own addresses.
    pub overlay_prefix: ipnet::Ipv4Net,
    /// The autonomous system number.
    pub asn: u32,
    /// The overlay address that this hub was given.
    pub own: std::net::Ipv4Addr,
}

/// What holds when a key is absent.
pub(crate) enum Fallback<T> {
    /// Nothing: the key must be given.
    Required,
    /// Always the same value.
    Value(fn() -> T),
    /// A value, or what the fabric says that this hub has joined.
    Fabric(fn() -> T, fn(&Fabric) -> T),
    /// Derived from other resources; `None` means that the key must be given here.
    Derived(&'static str, fn(&Context) -> Option<T>),
}

/// A field of a Kind, as reference and schema show it.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// One sentence about it.
    pub doc: String,
    /// What is accepted.
    pub accepts: String,
    /// Whether it has no default.
    pub required: bool,
    /// The default, as written or in words.
    pub default: Option<String>,
    /// The JSON Schema of its value.
    pub schema: Json,
}

/// A typed resource.
pub(crate) trait Resource: Sized {
    const KIND: Kind;
    fn doc() -> String;
    fn fields() -> Vec<Field>;
    fn read(keys: &mut Keys<'_>, context: &Context) -> Option<Self>;
    fn write(&self) -> Tree;
}

pub(crate) fn describe<C: Codec>(
    name: &'static str,
    doc: &'static str,
    codec: &C,
    fallback: &Fallback<C::Out>,
) -> Field {
    let mut schema = codec.schema();
    let default = match fallback {
        Fallback::Required => None,
        Fallback::Derived(text, _) => Some((*text).to_string()),
        Fallback::Value(make) | Fallback::Fabric(make, _) => {
            let json = serde_json::to_value(codec.write(&make())).unwrap_or(Json::Null);
            let text = format!("`{}`", json.as_str().map_or_else(|| json.to_string(), str::to_string));
            if let Json::Object(map) = &mut schema {
                map.insert("default".into(), json);
            }
            Some(text)
        }
    };
    let required = matches!(fallback, Fallback::Required);
    Field { name, doc: sentence(doc), accepts: codec.says(), required, default, schema }
}

/// Doc comments joined into one line.
pub(crate) fn sentence(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A mapping that is being read: keys are taken one by one, and what is left is unknown.
pub(crate) struct Keys<'n> {
    place: String,
    at: Position,
    entries: Vec<(&'n Key, &'n Node)>,
    /// Not a mapping at all: that is the one mistake, nothing inside is missing.
    broken: bool,
    /// Keys whose value is wrong or missing, so that no other check leans on them.
    pub faulty: Vec<&'static str>,
    pub mistakes: Mistakes,
}

impl<'n> Keys<'n> {
    /// `key` is the name of this mapping in messages about its type, `place` that in messages about its keys.
    pub fn of(node: &'n Node, key: &str, place: impl Into<String>) -> Self {
        let (at, place, mut mistakes) = (node.at.clone(), place.into(), Mistakes::default());
        let (entries, broken) = match &node.value {
            Value::Map(entries) => (entries.iter().map(|(key, node)| (key, node)).collect(), false),
            _ if node.is_null() => (Vec::new(), false),
            _ => {
                let problem =
                    Problem::WrongType { key: key.into(), expected: "a mapping".into(), found: node.what() };
                mistakes.add(at.clone(), problem);
                (Vec::new(), true)
            }
        };
        Keys { place, at, entries, broken, faulty: Vec::new(), mistakes }
    }

    /// A mapping that was not written at all; `at` is where it would stand.
    pub fn absent(at: Position, place: impl Into<String>) -> Self {
        let (entries, faulty, mistakes) = (Vec::new(), Vec::new(), Mistakes::default());
        Keys { place: place.into(), at, entries, broken: false, faulty, mistakes }
    }

    /// Takes the node of a key.
    pub fn node(&mut self, name: &str) -> Option<&'n Node> {
        let index = self.entries.iter().position(|(key, _)| key.text == name)?;
        Some(self.entries.remove(index).1)
    }

    /// Takes, reads and checks the value of a key. After a mistake the default stands in, so that
    /// the rest of the resource can still be checked against others.
    pub fn take<C: Codec>(
        &mut self,
        name: &'static str,
        codec: &C,
        fallback: &Fallback<C::Out>,
        context: &Context,
    ) -> Option<C::Out> {
        let (stand_in, words) = match fallback {
            Fallback::Value(make) => (Some(make()), String::new()),
            Fallback::Fabric(make, of) => {
                (Some(context.fabric.as_ref().map_or_else(make, of)), String::new())
            }
            Fallback::Required => (None, codec.says()),
            Fallback::Derived(text, make) => (make(context), format!("{} (default: {text})", codec.says())),
        };
        let written = self.node(name);
        if let Some(value) = written.and_then(|node| codec.read(name, node, &mut self.mistakes)) {
            return Some(value);
        }
        if written.is_some() {
            self.faulty.push(name);
        } else if stand_in.is_none() {
            self.missing(name, words);
        }
        stand_in
    }

    /// Notes that a key without default is absent.
    pub fn missing(&mut self, name: &str, expected: String) {
        if !self.broken {
            let problem = Problem::MissingKey { key: name.into(), place: self.place.clone(), expected };
            self.mistakes.add(self.at.clone(), problem);
        }
    }

    /// Names the mapping once its Kind is known.
    pub fn rename(&mut self, place: &str) {
        self.place = place.into();
    }

    /// Notes what was not taken.
    pub fn finish(&mut self, known: &[&'static str]) {
        for (key, _) in std::mem::take(&mut self.entries) {
            let problem = Problem::UnknownKey {
                key: short(&key.text),
                place: self.place.clone(),
                nearest: nearest(&key.text, known.iter().copied()),
                known: known.iter().map(|known| (*known).to_string()).collect(),
            };
            self.mistakes.add(key.at.clone(), problem);
        }
    }
}

/// Declares a resource: the typed struct, its field table, reading and writing come from one place.
macro_rules! resource {
    (
        $(#[doc = $doc:literal])+
        $struct:ident {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident: $type:ty = $name:literal, $codec:expr, $fallback:expr;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $struct {
            $( $(#[doc = $field_doc])+ pub $field: $type, )+
        }

        impl $crate::resource::Resource for $struct {
            const KIND: $crate::kind::Kind = $crate::kind::Kind::$struct;

            fn doc() -> String {
                $crate::resource::sentence(concat!($($doc),+))
            }

            fn fields() -> Vec<$crate::resource::Field> {
                vec![$( $crate::resource::describe($name, concat!($($field_doc),+), &$codec, &$fallback) ),+]
            }

            fn read(
                keys: &mut $crate::resource::Keys<'_>,
                context: &$crate::resource::Context,
            ) -> Option<Self> {
                $( let $field = keys.take($name, &$codec, &$fallback, context); )+
                keys.finish(&[$($name),+]);
                Some($struct { $( $field: $field?, )+ })
            }

            fn write(&self) -> $crate::tree::Tree {
                $crate::tree::Tree::Map(vec![$( ($name, $codec.write(&self.$field)) ),+])
            }
        }
    };
}
pub(crate) use resource;
