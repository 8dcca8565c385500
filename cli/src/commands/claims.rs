//! `routerctl claims`: who owns which address.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand};
use control::Node;
use control::wire::{ClaimWord, Done, MoveClaim};
use enrollment::view::{ClaimHistoryView, ClaimView};

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `claims`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl claims\n  \
    routerctl claims add 10.81.10.21  # on the leaf\n  \
    routerctl claims move 10.81.10.21 --to azure  # on the hub\n\n\
    On the hub all claims of the fabric, on a leaf its own.")]
pub struct ClaimsArgs {
    #[command(subcommand)]
    verb: Option<ClaimsVerb>,
}

#[derive(Debug, Subcommand)]
enum ClaimsVerb {
    /// Shows all claims (the same as no verb)
    #[command(after_help = "Example: routerctl claims list")]
    List,
    /// Claims an address for this leaf, until it is released
    #[command(after_help = "Example: routerctl claims add 10.81.10.21\n\n\
        Refused where another leaf owns it (the answer names the owner) or the admission does not permit it.")]
    Add {
        /// The client's address
        address: Ipv4Addr,
    },
    /// Gives an address of this leaf back that was claimed by hand or moved here
    #[command(after_help = "Example: routerctl claims release 10.81.10.21")]
    Release {
        /// The client's address
        address: Ipv4Addr,
    },
    /// Gives an owned address to another leaf; the old route stays until the new one is there
    #[command(after_help = "Example: routerctl claims move 10.81.10.21 --to azure\n\n\
        The new owner learns of it within a minute, or within seconds where it asks for the address already. From \
        now on the hub refuses what the former owner says about the address.")]
    Move {
        /// The client's address
        address: Ipv4Addr,
        /// The new owner
        #[arg(long, value_name = "LEAF")]
        to: String,
    },
    /// Shows who owned what since when, the newest first
    #[command(after_help = "Example: routerctl claims history 10.81.10.21")]
    History {
        /// Only this address
        address: Option<Ipv4Addr>,
        /// At most so many entries
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

/// Runs the verb.
pub async fn run(context: &Context, args: ClaimsArgs) -> Result<Answer, Failure> {
    match args.verb {
        None | Some(ClaimsVerb::List) => {
            let claims: Vec<ClaimView> = context.client()?.get("/v1/claims").await?;
            context.answer(&claims, |claims| table(claims))
        }
        Some(ClaimsVerb::Add { address }) => leaf_word(context, "/v1/claims/add", address).await,
        Some(ClaimsVerb::Release { address }) => leaf_word(context, "/v1/claims/release", address).await,
        Some(ClaimsVerb::Move { address, to }) => {
            let client = context.only(Node::Hub)?;
            let done: Done = client.post("/v1/claims/move", &MoveClaim { address, to }).await?;
            context.answer(&done, |done| text::plain(&done.detail))
        }
        Some(ClaimsVerb::History { address, limit }) => {
            let query = [("address", address.map(|a| a.to_string())), ("limit", Some(limit.to_string()))];
            let path = with_query("/v1/claims/history", &query);
            let entries: Vec<ClaimHistoryView> = context.only(Node::Hub)?.get(&path).await?;
            context.answer(&entries, |entries| history(entries))
        }
    }
}

async fn leaf_word(context: &Context, path: &str, address: Ipv4Addr) -> Result<Answer, Failure> {
    let done: Done = context.only(Node::Leaf)?.post(path, &ClaimWord { address }).await?;
    context.answer(&done, |done| text::plain(&done.detail))
}

fn history(entries: &[ClaimHistoryView]) -> String {
    let mut table = Table::new(["AT", "ADDRESS", "LEAF", "GENERATION", "STEP"], "No claim was ever made");
    for entry in entries {
        let (at, generation) = (text::utc(entry.at), entry.generation.to_string());
        let step = entry.step.as_str().to_string();
        table.row([at, entry.address.to_string(), entry.leaf.clone(), generation, step]);
    }
    table.to_string()
}

fn table(claims: &[ClaimView]) -> String {
    let mut table = Table::new(
        ["ADDRESS", "OWNER", "GENERATION", "FOR"],
        "No claims; make one: routerctl enroll --client ADDRESS, on the leaf",
    );
    for claim in claims {
        let generation = claim.generation.to_string();
        let owner = match (&claim.moving_from, &claim.waits) {
            (_, Some(waits)) => format!("{} (waits {waits})", claim.owner),
            (Some(from), _) => format!("{} (moving from {from})", claim.owner),
            (None, None) => claim.owner.to_string(),
        };
        table.row([claim.address.to_string(), owner, generation, text::seconds(claim.age_secs)]);
    }
    table.to_string()
}
