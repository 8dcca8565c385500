//! Which node is asked, where its files are, and how the answer is written.

use std::path::PathBuf;

use control::{Client, Node, Paths};
use serde::Serialize;

use crate::args::{Global, NodeArg};
use crate::failure::Failure;
use crate::output::{Answer, Format};

/// What every verb needs to know.
#[derive(Debug, Clone)]
pub struct Context {
    /// The node's directories.
    pub paths: Paths,
    /// The directory that `--root` named.
    pub root: Option<PathBuf>,
    /// The node that `--node` named.
    pub node: Option<Node>,
    /// How answers are written.
    pub format: Format,
}

impl Context {
    /// From the options that every verb has.
    pub fn new(global: &Global) -> Context {
        let node = global.node.map(|node| match node {
            NodeArg::Hub => Node::Hub,
            NodeArg::Leaf => Node::Leaf,
        });
        Context {
            paths: Paths::below(global.root.as_deref()),
            root: global.root.clone(),
            node,
            format: global.output,
        }
    }

    /// The daemon of the node that was named, or of the one that is here.
    pub fn client(&self) -> Result<Client, Failure> {
        let node = self.node.or_else(|| self.paths.node_here()).ok_or_else(|| {
            Failure::unreachable(format!("no node is set up here: {} is empty", self.paths.etc.display()))
                .fix(
                    "make a hub (`routerctl hub init --endpoint IP`), join one (`routerctl enroll STRING`), \
                 or name another node's directories with --root DIR",
                )
        })?;
        Ok(Client::new(&self.paths, node))
    }

    /// The daemon of a verb that only one kind of node has.
    pub fn only(&self, node: Node) -> Result<Client, Failure> {
        let place = node.as_str();
        if self.node.is_some_and(|named| named != node) {
            return Err(Failure::usage(format!("this verb is for the {place}"))
                .fix(format!("leave --node out, or use --node {place}")));
        }
        let there = self.paths.socket(node).exists() || self.paths.config(node).exists();
        if self.node.is_none()
            && !there
            && let Some(other) = self.paths.node_here()
        {
            let message = format!("this verb is for the {place}, and this machine is a {}", other.as_str());
            let fix = format!("run it on the {place}, or name the {place}'s directories with --root DIR");
            return Err(Failure::unreachable(message).fix(fix));
        }
        Ok(Client::new(&self.paths, node))
    }

    /// A good answer in the chosen format.
    pub fn answer<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<Answer, Failure> {
        Ok(Answer { text: self.format.render(value, table)?, exit: 0 })
    }

    /// An answer that is good or not.
    pub fn judged<T: Serialize>(
        &self,
        good: bool,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<Answer, Failure> {
        Ok(Answer { exit: u8::from(!good), ..self.answer(value, table)? })
    }
}

/// A path segment or query value with everything but unreserved characters escaped (RFC 3986 section 2.3).
pub fn escape(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if unreserved(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A path with a query of those pairs that have a value.
pub fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = pairs
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|v| format!("{name}={}", escape(v))))
        .collect();
    if given.is_empty() { path.into() } else { format!("{path}?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that a person types can change the path that is asked.
    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("aws"), "aws");
        assert_eq!(escape("../status?x=1"), "..%2Fstatus%3Fx%3D1");
        assert_eq!(with_query("/a", &[("p", Some("10.0.0.1/32".into())), ("q", None)]), "/a?p=10.0.0.1%2F32");
        assert_eq!(with_query("/a", &[("p", None)]), "/a");
    }
}
