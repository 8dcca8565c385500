//! What can go wrong in a lab, as one closed list.

use std::path::PathBuf;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The name cannot prefix a namespace.
    #[error("\"{0}\" is no lab name: use 1 to 16 of a-z, 0-9 and '-', starting with a letter")]
    Name(String),
    /// A program that the lab runs is not installed.
    #[error("the program {program} is missing (Debian package {package})")]
    MissingProgram {
        /// The program that was looked for.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The lab needs to make namespaces.
    #[error("the lab makes network namespaces and must run as root")]
    NotRoot,
    /// A lab of that name is already there.
    #[error("lab {name} is already there ({dir}); take it down first: routerctl lab down --name {name}")]
    AlreadyUp {
        /// The lab's name.
        name: String,
        /// Its state directory.
        dir: PathBuf,
    },
    /// A namespace of that name exists and is not ours.
    #[error("the network namespace {0} exists already and is not this lab's; choose another lab name")]
    NamespaceTaken(String),
    /// There is no such lab.
    #[error("no lab {name} here ({dir} has no lab.json)")]
    NotUp {
        /// The lab's name.
        name: String,
        /// The state directory that was looked into.
        dir: PathBuf,
    },
    /// There is no such node.
    #[error("no node \"{0}\" in this lab; the nodes are {list}", list = crate::layout::node_names().join(", "))]
    UnknownNode(String),
    /// The node runs no daemon.
    #[error("node {0} runs no daemon")]
    NoDaemon(String),
    /// A program ended badly.
    #[error("{what}: {detail}")]
    Command {
        /// What was run.
        what: String,
        /// Exit status and the last lines of its error output.
        detail: String,
    },
    /// A program did not end in time and was killed.
    #[error("{what} did not end within {secs} s")]
    Timeout {
        /// What was run.
        what: String,
        /// The limit, in seconds.
        secs: u64,
    },
    /// A daemon did not come up.
    #[error("the daemon on {node} did not come up: {detail}")]
    Daemon {
        /// The node.
        node: String,
        /// Why, with the last lines of its log.
        detail: String,
    },
    /// A file or a directory could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file or an answer does not have the expected form.
    #[error("{what}: {detail}")]
    Format {
        /// What was read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The evidence bundle would show a secret; the bundle is not to be passed on.
    #[error("the evidence in {dir} shows {count} secret(s): {first}")]
    SecretFound {
        /// The bundle.
        dir: PathBuf,
        /// How many findings.
        count: usize,
        /// The first of them (never the secret itself).
        first: String,
    },
}

impl LabError {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }
}
