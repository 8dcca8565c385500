//! The `bfd` key of neighbours: how quickly their silence is noticed (RFC 5880).

use serde_json::{Map, Value as Json, json};

use crate::codec::{Codec, Flag, Whole};
use crate::mistake::Mistakes;
use crate::node::Node;
use crate::resource::Keys;
use crate::tree::Tree;

const INTERVAL: Whole<u32> = Whole::millis(50, 60_000);
const MULTIPLIER: Whole<u8> = Whole::range(2, 255);
const KEYS: [&str; 5] = ["enabled", "minTxMillis", "minRxMillis", "multiplier", "multihop"];

/// How quickly a neighbour's silence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Whether there is a BFD session at all.
    pub enabled: bool,
    /// How often we want to send at most, in milliseconds.
    pub min_tx_millis: u32,
    /// How often we can take a packet, in milliseconds.
    pub min_rx_millis: u32,
    /// How many packets in a row may be missed.
    pub multiplier: u8,
    /// Whether routers may lie between (RFC 5883).
    pub multihop: bool,
}

impl Bfd {
    /// 300 ms x 3 over one hop.
    pub const ON: Bfd =
        Bfd { enabled: true, min_tx_millis: 300, min_rx_millis: 300, multiplier: 3, multihop: false };
    /// No session.
    pub const OFF: Bfd = Bfd { enabled: false, ..Bfd::ON };
}

/// The mapping; a key that is absent has the value of [`Bfd::ON`].
pub(crate) struct BfdMapping;

fn value<C: Codec>(keys: &mut Keys<'_>, name: &str, codec: &C, default: C::Out) -> Option<C::Out> {
    match keys.node(name) {
        Some(node) => codec.read(name, node, &mut keys.mistakes),
        None => Some(default),
    }
}

impl Codec for BfdMapping {
    type Out = Bfd;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Bfd> {
        let before = mistakes.len();
        let mut keys = Keys::of(node, key, key);
        let enabled = value(&mut keys, KEYS[0], &Flag, Bfd::ON.enabled);
        let min_tx_millis = value(&mut keys, KEYS[1], &INTERVAL, Bfd::ON.min_tx_millis);
        let min_rx_millis = value(&mut keys, KEYS[2], &INTERVAL, Bfd::ON.min_rx_millis);
        let multiplier = value(&mut keys, KEYS[3], &MULTIPLIER, Bfd::ON.multiplier);
        let multihop = value(&mut keys, KEYS[4], &Flag, Bfd::ON.multihop);
        keys.finish(&KEYS);
        mistakes.append(keys.mistakes);
        let whole = mistakes.len() == before;
        let read = Bfd {
            enabled: enabled?,
            min_tx_millis: min_tx_millis?,
            min_rx_millis: min_rx_millis?,
            multiplier: multiplier?,
            multihop: multihop?,
        };
        whole.then_some(read)
    }

    fn write(&self, bfd: &Bfd) -> Tree {
        let values = [
            Flag.write(&bfd.enabled),
            INTERVAL.write(&bfd.min_tx_millis),
            INTERVAL.write(&bfd.min_rx_millis),
            MULTIPLIER.write(&bfd.multiplier),
            Flag.write(&bfd.multihop),
        ];
        Tree::Map(KEYS.into_iter().zip(values).collect())
    }

    fn schema(&self) -> Json {
        let schemas =
            [Flag.schema(), INTERVAL.schema(), INTERVAL.schema(), MULTIPLIER.schema(), Flag.schema()];
        let defaults = serde_json::to_value(self.write(&Bfd::ON)).unwrap_or(Json::Null);
        let mut properties = Map::new();
        for (key, mut schema) in KEYS.into_iter().zip(schemas) {
            schema["default"] = defaults[key].clone();
            properties.insert(key.into(), schema);
        }
        json!({ "type": "object", "additionalProperties": false, "properties": properties })
    }

    fn says(&self) -> String {
        format!(
            "a mapping: `enabled` {} (true), `minTxMillis` and `minRxMillis` {} (300), `multiplier` {} (3), \
             `multihop` {} (false: one hop, TTL 255)",
            Flag.says(),
            INTERVAL.says(),
            MULTIPLIER.says(),
            Flag.says()
        )
    }
}
