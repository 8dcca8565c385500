//! `routerctl claims`: who owns which address.

use clap::{Args, Subcommand};
use enrollment::view::ClaimView;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `claims`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl claims\n  routerctl claims list -o json\n\n\
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
}

/// Runs the verb.
pub async fn run(context: &Context, args: ClaimsArgs) -> Result<Answer, Failure> {
    let (None | Some(ClaimsVerb::List)) = args.verb;
    let claims: Vec<ClaimView> = context.client()?.get("/v1/claims").await?;
    context.answer(&claims, |claims| table(claims))
}

fn table(claims: &[ClaimView]) -> String {
    let mut table = Table::new(
        ["ADDRESS", "OWNER", "GENERATION", "FOR"],
        "No claims; make one: routerctl enroll --client ADDRESS, on the leaf",
    );
    for claim in claims {
        let generation = claim.generation.to_string();
        table.row([
            claim.address.to_string(),
            claim.owner.to_string(),
            generation,
            text::seconds(claim.age_secs),
        ]);
    }
    table.to_string()
}
