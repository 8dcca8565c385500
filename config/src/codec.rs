//! How one value is read, checked, written, described and put into the JSON Schema. Each field of
//! a resource names its codec once, and all five come from it.

use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use serde_json::{Value as Json, json};

use crate::mistake::{Mistakes, Problem, nearest};
use crate::node::{Node, Value, short};
use crate::tree::Tree;

/// A value's way in and out.
pub(crate) trait Codec {
    /// The typed value.
    type Out;
    /// Reads and checks; a mistake is noted and answered with `None`.
    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Self::Out>;
    /// Writes what [`Codec::read`] reads back.
    fn write(&self, value: &Self::Out) -> Tree;
    /// The JSON Schema of the value.
    fn schema(&self) -> Json;
    /// What is accepted, after the words "must be".
    fn says(&self) -> String;
}

fn wrong_type<C: Codec + ?Sized>(codec: &C, key: &str, node: &Node, mistakes: &mut Mistakes) {
    let problem = Problem::WrongType { key: key.into(), expected: codec.says(), found: node.what() };
    mistakes.add(node.at.clone(), problem);
}

fn bad_value<C: Codec + ?Sized>(codec: &C, key: &str, node: &Node, found: &str, mistakes: &mut Mistakes) {
    let problem =
        Problem::BadValue { key: key.into(), expected: codec.says(), found: short(found), nearest: None };
    mistakes.add(node.at.clone(), problem);
}

/// A scalar's text, or a mistake of type.
fn scalar<'n, C: Codec + ?Sized>(
    codec: &C,
    key: &str,
    node: &'n Node,
    mistakes: &mut Mistakes,
) -> Option<(&'n str, bool)> {
    match &node.value {
        Value::Scalar { text, plain } if !node.is_null() => Some((text, *plain)),
        _ => {
            wrong_type(codec, key, node, mistakes);
            None
        }
    }
}

/// A whole number in a closed range, and possibly zero beside it.
pub(crate) struct Whole<T> {
    min: u64,
    max: u64,
    or_zero: bool,
    unit: &'static str,
    out: PhantomData<T>,
}

impl<T> Whole<T> {
    pub const fn range(min: u64, max: u64) -> Self {
        Whole { min, max, or_zero: false, unit: "", out: PhantomData }
    }

    pub const fn secs(min: u64, max: u64) -> Self {
        Whole { min, max, or_zero: false, unit: " seconds", out: PhantomData }
    }

    pub const fn millis(min: u64, max: u64) -> Self {
        Whole { min, max, or_zero: false, unit: " milliseconds", out: PhantomData }
    }

    pub const fn or_zero(mut self) -> Self {
        self.or_zero = true;
        self
    }
}

impl<T: TryFrom<u64> + Into<u64> + Copy> Codec for Whole<T> {
    type Out = T;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<T> {
        let (text, plain) = scalar(self, key, node, mistakes)?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !plain || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            wrong_type(self, key, node, mistakes);
            return None;
        }
        let number = text.parse::<u64>().ok();
        let within = number.filter(|n| (self.min..=self.max).contains(n) || (self.or_zero && *n == 0));
        let value = within.and_then(|n| T::try_from(n).ok());
        if value.is_none() {
            bad_value(self, key, node, text, mistakes);
        }
        value
    }

    fn write(&self, value: &T) -> Tree {
        Tree::Whole((*value).into())
    }

    fn schema(&self) -> Json {
        let range = json!({ "type": "integer", "minimum": self.min, "maximum": self.max });
        if self.or_zero { json!({ "anyOf": [{ "const": 0 }, range] }) } else { range }
    }

    fn says(&self) -> String {
        let zero = if self.or_zero { "0 or " } else { "" };
        let (min, max, unit) = (self.min, self.max, self.unit);
        let article = if self.or_zero { "" } else { "a whole number " };
        format!("{zero}{article}from {min} to {max}{unit}")
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Codec for Flag {
    type Out = bool;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<bool> {
        match scalar(self, key, node, mistakes)? {
            ("true", true) => Some(true),
            ("false", true) => Some(false),
            _ => {
                wrong_type(self, key, node, mistakes);
                None
            }
        }
    }

    fn write(&self, value: &bool) -> Tree {
        Tree::Flag(*value)
    }

    fn schema(&self) -> Json {
        json!({ "type": "boolean" })
    }

    fn says(&self) -> String {
        "true or false".into()
    }
}

/// A text that parses into `T` and passes a check.
pub(crate) struct Text<T> {
    what: &'static str,
    check: fn(&T) -> bool,
}

impl<T> Text<T> {
    pub const fn new(what: &'static str) -> Self {
        Text { what, check: |_| true }
    }

    pub const fn checked(what: &'static str, check: fn(&T) -> bool) -> Self {
        Text { what, check }
    }
}

impl<T: FromStr + Display> Codec for Text<T> {
    type Out = T;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<T> {
        let (text, _) = scalar(self, key, node, mistakes)?;
        let value = text.parse::<T>().ok().filter(|value| (self.check)(value));
        if value.is_none() {
            bad_value(self, key, node, text, mistakes);
        }
        value
    }

    fn write(&self, value: &T) -> Tree {
        Tree::text(value.to_string())
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "description": self.what })
    }

    fn says(&self) -> String {
        self.what.into()
    }
}

/// One of a few words.
pub(crate) struct Words<T: 'static>(pub &'static [(T, &'static str)]);

impl<T: Copy + PartialEq> Codec for Words<T> {
    type Out = T;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<T> {
        let (text, _) = scalar(self, key, node, mistakes)?;
        let value = self.0.iter().find(|(_, word)| *word == text).map(|(value, _)| *value);
        if value.is_none() {
            let nearest = nearest(text, self.0.iter().map(|(_, word)| *word));
            let problem =
                Problem::BadValue { key: key.into(), expected: self.says(), found: short(text), nearest };
            mistakes.add(node.at.clone(), problem);
        }
        value
    }

    fn write(&self, value: &T) -> Tree {
        let word = self.0.iter().find(|(known, _)| known == value).map(|(_, word)| *word);
        Tree::text(word.unwrap_or_default())
    }

    fn schema(&self) -> Json {
        let words: Vec<_> = self.0.iter().map(|(_, word)| *word).collect();
        json!({ "enum": words })
    }

    fn says(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(_, word)| format!("`{word}`")).collect();
        words.join(" or ")
    }
}

/// A list without repetition; the number says how many items it has at least.
pub(crate) struct Many<C>(pub usize, pub C);

impl<C: Codec<Out: PartialEq>> Codec for Many<C> {
    type Out = Vec<C::Out>;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Self::Out> {
        let Value::List(nodes) = &node.value else {
            wrong_type(self, key, node, mistakes);
            return None;
        };
        if nodes.len() < self.0 {
            let found = "an empty list".to_string();
            mistakes
                .add(node.at.clone(), Problem::WrongType { key: key.into(), expected: self.says(), found });
            return None;
        }
        let mut whole = true;
        let mut items = Vec::new();
        for (index, child) in nodes.iter().enumerate() {
            match self.1.read(&format!("{key}[{index}]"), child, mistakes) {
                Some(item) if items.contains(&item) => {
                    whole = false;
                    let text = format!("`{key}[{index}]` repeats {}", child.what());
                    mistakes.add(child.at.clone(), Problem::Conflict(text));
                }
                Some(item) => items.push(item),
                None => whole = false,
            }
        }
        whole.then_some(items)
    }

    fn write(&self, value: &Self::Out) -> Tree {
        if value.is_empty() && self.0 > 0 {
            return Tree::Absent;
        }
        Tree::List(value.iter().map(|item| self.1.write(item)).collect())
    }

    fn schema(&self) -> Json {
        json!({ "type": "array", "minItems": self.0, "uniqueItems": true, "items": self.1.schema() })
    }

    fn says(&self) -> String {
        format!("a list, each item {}", self.1.says())
    }
}

/// A value that may be absent.
pub(crate) struct Maybe<C>(pub C);

impl<C: Codec> Codec for Maybe<C> {
    type Out = Option<C::Out>;

    fn read(&self, key: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Self::Out> {
        self.0.read(key, node, mistakes).map(Some)
    }

    fn write(&self, value: &Self::Out) -> Tree {
        value.as_ref().map_or(Tree::Absent, |value| self.0.write(value))
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }

    fn says(&self) -> String {
        self.0.says()
    }
}
