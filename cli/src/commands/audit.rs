//! `routerctl audit`: the signed log of every decision.

use clap::{Args, Subcommand};
use control::Node;
use enrollment::view::{AuditEntryView, AuditReport};

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `audit`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl audit list --limit 20\n  routerctl audit verify\n\n\
    Every decision of a hub is one entry, signed by that hub and chained to the one before.")]
pub struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Shows the newest entries: who did what, and what it changed
    #[command(after_help = "Example: routerctl audit list --limit 20 -o json")]
    List {
        /// How many entries at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Follows every chain and checks every signature; names the first entry that was altered
    #[command(
        after_help = "Example: routerctl audit verify\n\nExit code 1 when an entry is not as its hub made it."
    )]
    Verify,
}

/// Runs the verb.
pub async fn run(context: &Context, args: AuditArgs) -> Result<Answer, Failure> {
    let client = context.only(Node::Hub)?;
    match args.verb {
        AuditVerb::List { limit } => {
            let path = with_query("/v1/audit", &[("limit", Some(limit.to_string()))]);
            let entries: Vec<AuditEntryView> = client.get(&path).await?;
            context.answer(&entries, |entries| table(entries))
        }
        AuditVerb::Verify => {
            let report: AuditReport = client.get("/v1/audit/verify").await?;
            context.judged(report.fault.is_none(), &report, verified)
        }
    }
}

fn table(entries: &[AuditEntryView]) -> String {
    let mut table =
        Table::new(["HUB", "NUMBER", "TIME (UTC)", "BY", "OPERATION", "CHANGES", "HASH"], "No entries");
    for entry in entries {
        table.row([
            entry.origin.to_string().chars().take(8).collect(),
            entry.seq.to_string(),
            text::utc(entry.at),
            entry.actor.clone(),
            entry.operation.clone(),
            text::list(&entry.changes),
            entry.hash.chars().take(12).collect(),
        ]);
    }
    table.to_string()
}

fn verified(report: &AuditReport) -> String {
    let ends: Vec<String> = report.hubs.iter().map(|(hub, seq)| format!("  {hub}: up to {seq}")).collect();
    match &report.fault {
        None => format!("{} entries are as their hubs made them\n{}", report.entries, ends.join("\n")),
        Some(fault) => format!(
            "entry {} of hub {} is not as the hub made it: {}\n{} entries before it are whole",
            fault.seq,
            fault.origin,
            text::plain(&fault.why),
            report.entries
        ),
    }
}
