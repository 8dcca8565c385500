//! What can be wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

/// A place in a configuration file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The file as it was named by the caller.
    pub file: Arc<str>,
    /// Line, from 1; 0 stands for the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 stands for the file as a whole.
    pub column: usize,
}

impl Position {
    /// The file as a whole.
    pub fn whole(file: &str) -> Self {
        Position { file: file.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// What is wrong. The set is closed; the text of each is what a person reads after the position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file could not be read at all.
    #[error("cannot read: {0}")]
    Unreadable(String),
    /// The file is longer than [`crate::MAX_FILE_BYTES`].
    #[error("the file has {bytes} bytes, more than the {limit} that are read")]
    TooLong {
        /// Its length in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The text is not YAML, or uses a part of YAML that configuration has no need of.
    #[error("{0}")]
    Syntax(String),
    /// A key that this mapping does not have.
    #[error("unknown key `{key}` in {place}{}", nearest_text(nearest, known))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The Kind, or the part of the document.
        place: String,
        /// The nearest key that exists, when one is near.
        nearest: Option<String>,
        /// Every key that exists there.
        known: Vec<String>,
    },
    /// A key that stands twice in one mapping.
    #[error("duplicate key `{key}`, first given at {first}")]
    DuplicateKey {
        /// The key as written.
        key: String,
        /// Where it stands first.
        first: Position,
    },
    /// A key that has no default and is absent.
    #[error("missing key `{key}` in {place}: {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// The Kind, or the part of the document.
        place: String,
        /// What its value would be.
        expected: String,
    },
    /// A value of the wrong YAML type.
    #[error("`{key}` must be {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A value of the right type that is not accepted.
    #[error("`{key}` must be {expected}, found `{found}`{}", did_you_mean(nearest))]
    BadValue {
        /// The key.
        key: String,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
        /// The nearest accepted word, when one is near.
        nearest: Option<String>,
    },
    /// A `kind` that the product does not know.
    #[error("unknown kind `{kind}`{}", nearest_text(nearest, known))]
    UnknownKind {
        /// The kind as written.
        kind: String,
        /// The nearest Kind, when one is near.
        nearest: Option<String>,
        /// Every Kind of this version.
        known: Vec<String>,
    },
    /// A Kind of the product that this version does not have yet.
    #[error("Kind {0} is not supported by this version")]
    UnsupportedKind(String),
    /// The `apiVersion` does not belong to the `kind`.
    #[error("apiVersion of {kind} is `{expected}`, found `{found}`")]
    WrongApiVersion {
        /// The Kind.
        kind: String,
        /// The right version.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Two resources of one kind and name.
    #[error("{kind}/{name} is already defined at {first}")]
    DuplicateResource {
        /// The Kind.
        kind: String,
        /// The name.
        name: String,
        /// Where it stands first.
        first: Position,
    },
    /// A second resource of a Kind of which a node has one.
    #[error("a node has one {kind}, and {first} has it already")]
    MoreThanOne {
        /// The Kind.
        kind: String,
        /// Where the first stands.
        first: Position,
    },
    /// Resources that are each right but do not fit together.
    #[error("{0}")]
    Conflict(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

fn nearest_text(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(_) => did_you_mean(nearest),
        None if known.is_empty() => "; there are none".to_string(),
        None => format!("; there are: {}", known.join(", ")),
    }
}

/// One mistake at one place; its text is `file:line:column: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Mistake {
    /// Where.
    pub at: Position,
    /// What.
    pub problem: Problem,
}

/// All mistakes of a configuration, ordered by place; its text has one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the configuration is right.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A single mistake as a whole answer.
    pub fn one(at: Position, problem: Problem) -> Self {
        Mistakes(vec![Mistake { at, problem }])
    }

    pub(crate) fn add(&mut self, at: Position, problem: Problem) {
        self.0.push(Mistake { at, problem });
    }

    pub(crate) fn append(&mut self, mut other: Mistakes) {
        self.0.append(&mut other.0);
    }

    /// Orders by line and column inside each file; files keep the order in which they were given.
    pub(crate) fn ordered(mut self, files: &[Arc<str>]) -> Self {
        let rank = |file: &Arc<str>| files.iter().position(|f| f == file).unwrap_or(usize::MAX);
        self.0.sort_by_key(|m| (rank(&m.at.file), m.at.line, m.at.column));
        self
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The candidate nearest to what was written, if it is near enough to be meant: a third of the
/// longer word may differ, and case does not count.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // Nothing this long is a key, and the distance takes the product of the lengths.
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (edit_distance(&lower, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= (c.chars().count().max(lower.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c.to_string())
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string
/// alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitute = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slip of the finger finds the key; an unrelated word finds none.
    #[test]
    fn nearest_key() {
        let keys = ["holdTimeSecs", "routerID", "asn"];
        assert_eq!(nearest("holdTimeSec", keys).as_deref(), Some("holdTimeSecs"));
        assert_eq!(nearest("holdTime", keys).as_deref(), Some("holdTimeSecs"));
        assert_eq!(nearest("routerId", keys).as_deref(), Some("routerID"));
        assert_eq!(nearest("ans", keys).as_deref(), Some("asn"));
        assert_eq!(nearest("neighbours", keys), None);
        assert_eq!(nearest(&"x".repeat(100_000), keys), None);
    }
}
