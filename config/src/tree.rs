//! Configuration on its way out: the order of keys is the order of the reference.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A written value. Mappings keep their order; absent values are left out of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Absent,
    Flag(bool),
    Whole(u64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(&'static str, Tree)>),
}

impl Tree {
    pub fn text(text: impl Into<String>) -> Tree {
        Tree::Text(text.into())
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Absent => serializer.serialize_none(),
            Tree::Flag(flag) => serializer.serialize_bool(*flag),
            Tree::Whole(number) => serializer.serialize_u64(*number),
            Tree::Text(text) => serializer.serialize_str(text),
            Tree::List(items) => serializer.collect_seq(items),
            Tree::Map(entries) => {
                let present: Vec<_> = entries.iter().filter(|(_, value)| *value != Tree::Absent).collect();
                let mut map = serializer.serialize_map(Some(present.len()))?;
                for (key, value) in present {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
