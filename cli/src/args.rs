//! The verbs and the options that all of them have.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    audit, backup, bgp, claims, completions, enroll, evidence, federation, get, hub, invite, lab, lab_agent,
    leave, leaves, matrix, reference, restore, route, schema, status, validate,
};
use crate::output::Format;

/// Administers a fabric: makes a hub, invites and enrolls leaves, shows and proves what works.
///
/// Exit codes: 0 fine, 1 the answer is bad, 2 wrong usage, 3 the daemon cannot be reached.
#[derive(Debug, Parser)]
#[command(
    name = "routerctl",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:\n  \
    routerctl hub init --endpoint 203.0.113.10          # on the hub\n  \
    routerctl invite --site aws                         # on the hub; prints one string\n  \
    routerctl enroll STRING --client 10.81.10.20        # on the leaf")]
pub struct Cli {
    /// What every verb needs to know.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The options that every verb has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Puts /etc/fabric, /var/lib/fabric and /run/fabric below this directory
    #[arg(long, global = true, env = "FABRIC_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Which daemon to ask; by default the one that is set up here
    #[arg(long, global = true, value_enum)]
    pub node: Option<NodeArg>,
    /// How the answer is written
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

/// The two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeArg {
    /// `fabric-rr`
    Hub,
    /// `fabric-leaf`
    Leaf,
}

/// Everything that can be asked.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes this machine a hub
    Hub(hub::HubArgs),
    /// Invites a site: prints the one string for `routerctl enroll`
    Invite(invite::InviteArgs),
    /// Joins this machine to the fabric as a leaf, and ends when the site works
    Enroll(enroll::EnrollArgs),
    /// Shows the hub's leaves, or revokes one
    Leaves(leaves::LeavesArgs),
    /// Takes this leaf out of the fabric, by its own wish
    Leave(leave::LeaveArgs),
    /// Gives this leaf fresh keys; nothing else changes
    Rotate(leave::RotateArgs),
    /// Shows who owns which address
    Claims(claims::ClaimsArgs),
    /// Shows the signed log of every decision, or checks it
    Audit(audit::AuditArgs),
    /// Shows how the node stands, and what keeps it from working
    Status(status::StatusArgs),
    /// Shows configured resources with what became of them
    Get(get::GetArgs),
    /// Shows one resource with everything that is known of it
    Describe(get::DescribeArgs),
    /// Checks configuration files, and reports every mistake at once
    Validate(validate::ValidateArgs),
    /// Shows BGP sessions and routes
    Bgp(bgp::BgpArgs),
    /// Explains one route: where it came from, what was chosen and why, what the kernel has
    Route(route::RouteArgs),
    /// Emits and shows events
    Federation(federation::FederationArgs),
    /// Writes everything of this node into one sealed file, while its daemon runs; or shows what such a file contains
    Backup(backup::BackupArgs),
    /// Makes a node out of a backup: the same hub on a new machine, and no leaf enrolls again
    Restore(restore::RestoreArgs),
    /// Runs every directed pair of clients of a lab: ping, SSH, TCP, true source address
    Matrix(matrix::MatrixArgs),
    /// Writes a lab's evidence bundle, with manifest and search for secrets
    Evidence(evidence::EvidenceArgs),
    /// Builds a whole fabric on this machine, in network namespaces
    Lab(lab::LabArgs),
    /// Prints the JSON Schema of the configuration
    Schema(schema::SchemaArgs),
    /// Prints the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Writes the reference pages out of the code, or compares them
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
    /// The far end and the caller of a lab's TCP exchange
    #[command(hide = true)]
    LabAgent(lab_agent::LabAgentArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory};

    /// The verbs are well formed by clap's own checks.
    #[test]
    fn verbs_are_well_formed() {
        Cli::command().debug_assert();
    }

    fn each(command: &Command, path: &str, check: &mut impl FnMut(&str, &Command)) {
        let path = format!("{path}{} ", command.get_name());
        check(path.trim_end(), command);
        for sub in command.get_subcommands() {
            each(sub, &path, check);
        }
    }

    /// Every verb says what it does and shows an example that clap itself accepts.
    #[test]
    fn every_verb_has_an_example_that_parses() {
        let mut examples = 0;
        each(&Cli::command(), "", &mut |path, command| {
            assert!(command.get_about().is_some(), "{path} does not say what it does");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<String> = help.lines().filter_map(example).collect();
            assert!(!lines.is_empty(), "{path} has no example in its help");
            for line in lines {
                let words = line.split_ascii_whitespace();
                assert!(line.starts_with(path), "{path}: the example is of another verb: {line}");
                Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{path}: {line}: {e}"));
                examples += 1;
            }
        });
        assert!(examples > 30, "{examples}");
    }

    /// The `routerctl` words of a line of help, without comment, pipe and redirection.
    fn example(line: &str) -> Option<String> {
        let start = line.find("routerctl ")?;
        let end = ["  #", " |", " >"].iter().filter_map(|stop| line[start..].find(stop)).min();
        Some(line[start..].get(..end.unwrap_or(line.len() - start))?.replace('\'', "").trim().into())
    }
}
