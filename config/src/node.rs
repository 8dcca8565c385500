//! YAML text into a tree that remembers where each piece stands.
//!
//! The tree comes from the event parser under `serde-saphyr`, because deserialising into types
//! stops at the first mistake and this crate reports all of them.

use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle};

use crate::mistake::{Mistakes, Position, Problem};

/// How deep a document may nest. Resources need five levels.
const MAX_DEPTH: usize = 32;

/// A piece of a document and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: Position,
    pub value: Value,
}

/// What a piece is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A scalar; `plain` when written without quotes, so that `9` is a number and `"9"` a text.
    Scalar { text: String, plain: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of writing, duplicate keys already reported and dropped.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub at: Position,
    pub text: String,
}

impl Node {
    /// Nothing written, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What stands here, in the words of an error message.
    pub fn what(&self) -> String {
        match &self.value {
            _ if self.is_null() => "nothing".to_string(),
            Value::Scalar { text, plain: true } => format!("`{}`", short(text)),
            Value::Scalar { text, plain: false } => format!("the text \"{}\"", short(text)),
            Value::List(_) => "a list".to_string(),
            Value::Map(_) => "a mapping".to_string(),
        }
    }
}

/// A text as quoted in messages: one line, at most 60 characters.
pub(crate) fn short(text: &str) -> String {
    let mut line: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > 60 {
        line.push('…');
    }
    line
}

/// Reads all documents of one file. A syntax error ends the file; the documents before it stay.
pub(crate) fn documents(file: &Arc<str>, text: &str) -> (Vec<Node>, Mistakes) {
    let mut reader =
        Reader { file: file.clone(), parser: Parser::new_from_str(text), mistakes: Mistakes::default() };
    let mut found = Vec::new();
    let end = reader.stream(&mut found);
    if let Err(Stop { at, message }) = end {
        reader.mistakes.add(at, Problem::Syntax(message));
    }
    (found, reader.mistakes)
}

/// Why reading a file ended early.
struct Stop {
    at: Position,
    message: String,
}

struct Reader<'t> {
    file: Arc<str>,
    parser: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    mistakes: Mistakes,
}

impl<'t> Reader<'t> {
    fn position(&self, marker: &Marker) -> Position {
        Position { file: self.file.clone(), line: marker.line().max(1), column: marker.col() + 1 }
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Position)>, Stop> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok(Some((event, self.position(&span.start)))),
                Some(Err(error)) => {
                    let at = self.position(error.marker());
                    return Err(Stop { at, message: format!("not YAML: {}", short(&error.info())) });
                }
            }
        }
    }

    fn stream(&mut self, found: &mut Vec<Node>) -> Result<(), Stop> {
        while let Some((event, at)) = self.next()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => found.push(self.node(event, at, 0)?),
            }
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, at: Position, depth: usize) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop { at, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        if event.tag().is_some() {
            self.mistakes
                .add(at.clone(), Problem::Syntax("YAML tags are not used here: leave the tag out".into()));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => {
                Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Map(self.map(depth)?),
            Event::Alias(_) => {
                let message = "YAML aliases are not used here: write the value out".to_string();
                return Err(Stop { at, message });
            }
            _ => return Err(Stop { at, message: "not YAML: a value was expected".to_string() }),
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        while let Some((event, at)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.node(event, at, depth + 1)?);
        }
        Ok(items)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        while let Some((event, at)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let Node { at, value: Value::Scalar { text, .. } } = self.node(event, at.clone(), depth + 1)?
            else {
                return Err(Stop { at, message: "a key must be a plain word".to_string() });
            };
            let Some((event, value_at)) = self.next()? else { break };
            let value = self.node(event, value_at, depth + 1)?;
            match entries.iter().find(|(key, _)| key.text == text) {
                Some((first, _)) => {
                    let first = first.at.clone();
                    self.mistakes.add(at, Problem::DuplicateKey { key: short(&text), first });
                }
                None => entries.push((Key { at, text }, value)),
            }
        }
        Ok(entries)
    }
}
