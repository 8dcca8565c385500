//! The `mrtDump` key of a router: its table written to a file now and then (RFC 6396).

use serde_json::{Map, Value as Json, json};

use crate::codec::{Codec, Text, Whole};
use crate::mistake::Mistakes;
use crate::node::Node;
use crate::resource::Keys;
use crate::tree::Tree;
use crate::value::FilePath;

const FILE: Text<FilePath> = Text::new("the absolute path of a file");
const EVERY: Whole<u32> = Whole::secs(10, 604_800);
const KEEP: Whole<u32> = Whole::range(1, 1000);
const KEYS: [&str; 3] = ["file", "everySecs", "keep"];
const DEFAULTS: (u32, u32) = (3600, 24);

/// Where the table is written, how often, and how many dumps stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MrtDump {
    /// The newest dump; the one before is `FILE.1`, and so on.
    pub file: FilePath,
    /// Seconds between two dumps.
    pub every_secs: u32,
    /// How many dumps there are at most, the newest included.
    pub keep: u32,
}

/// The mapping; `file` must be there.
pub(crate) struct MrtDumpMapping;

fn number(keys: &mut Keys<'_>, name: &str, codec: &Whole<u32>, default: u32) -> Option<u32> {
    match keys.node(name) {
        Some(node) => codec.read(name, node, &mut keys.mistakes),
        None => Some(default),
    }
}

impl Codec for MrtDumpMapping {
    type Out = MrtDump;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<MrtDump> {
        let before = mistakes.len();
        let mut keys = Keys::of(node, key, key);
        let file = match keys.node(KEYS[0]) {
            Some(node) => FILE.read(KEYS[0], node, &mut keys.mistakes),
            None => {
                keys.missing(KEYS[0], FILE.says());
                None
            }
        };
        let every_secs = number(&mut keys, KEYS[1], &EVERY, DEFAULTS.0);
        let keep = number(&mut keys, KEYS[2], &KEEP, DEFAULTS.1);
        keys.finish(&KEYS);
        mistakes.append(keys.mistakes);
        let whole = mistakes.len() == before;
        let read = MrtDump { file: file?, every_secs: every_secs?, keep: keep? };
        whole.then_some(read)
    }

    fn write(&self, dump: &MrtDump) -> Tree {
        let values = [FILE.write(&dump.file), EVERY.write(&dump.every_secs), KEEP.write(&dump.keep)];
        Tree::Map(KEYS.into_iter().zip(values).collect())
    }

    fn schema(&self) -> Json {
        let (mut every, mut keep) = (EVERY.schema(), KEEP.schema());
        (every["default"], keep["default"]) = (DEFAULTS.0.into(), DEFAULTS.1.into());
        let properties: Map<_, _> =
            KEYS.map(String::from).into_iter().zip([FILE.schema(), every, keep]).collect();
        json!({
            "type": "object", "additionalProperties": false, "properties": properties, "required": [KEYS[0]],
        })
    }

    fn says(&self) -> String {
        format!(
            "a mapping: `file` {}, `everySecs` {} ({}), `keep` {} ({})",
            FILE.says(),
            EVERY.says(),
            DEFAULTS.0,
            KEEP.says(),
            DEFAULTS.1
        )
    }
}
