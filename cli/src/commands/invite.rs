//! `routerctl invite`: the one string that lets a site join.

use clap::{Args, Subcommand};
use control::Node;
use control::wire::{InviteAnswer, NewInvite};
use enrollment::view::InviteView;
use ipnet::Ipv4Net;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `invite`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    routerctl invite --site aws\n  \
    routerctl invite --site aws --permit 10.81.0.0/16 --max-claims 8 --expires 30m\n\n\
    The string is a secret until it is spent, and it is shown once. It is alone on stdout, for a pipe.")]
pub struct InviteArgs {
    #[command(subcommand)]
    verb: Option<InviteVerb>,
    #[command(flatten)]
    new: NewArgs,
}

#[derive(Debug, Subcommand)]
enum InviteVerb {
    /// Shows the invites and what they are good for; never their secrets
    #[command(after_help = "Example: routerctl invite list")]
    List,
}

#[derive(Debug, Args)]
struct NewArgs {
    /// The site that it admits; the leaf's name
    #[arg(long, required = true)]
    site: Option<String>,
    /// Prefix whose addresses the leaf may claim; may be repeated [default: the policy's]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    permit: Vec<Ipv4Net>,
    /// How many addresses the leaf may claim [default: the policy's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_claims: Option<u32>,
    /// How long the invite holds, for example 30m, 1h, 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = text::parse_seconds)]
    expires: u64,
    /// How many leaves may join by it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// Runs the verb.
pub async fn run(context: &Context, args: InviteArgs) -> Result<Answer, Failure> {
    let client = context.only(Node::Hub)?;
    if let Some(InviteVerb::List) = args.verb {
        let invites: Vec<InviteView> = client.get("/v1/invites").await?;
        return context.answer(&invites, |invites| table(invites));
    }
    let site = args
        .new
        .site
        .ok_or_else(|| Failure::usage("no site is named").fix("name it: `routerctl invite --site aws`"))?;
    let new = NewInvite {
        site,
        permitted: args.new.permit.iter().map(|prefix| prefix.trunc().to_string()).collect(),
        max_claims: args.new.max_claims,
        expires_secs: args.new.expires,
        uses: args.new.uses,
    };
    let answer: InviteAnswer = client.post("/v1/invites", &new).await?;
    context.answer(&answer, |answer| answer.invite.clone())
}

fn table(invites: &[InviteView]) -> String {
    let head = ["ID", "SITE", "STATUS", "USED", "CLAIMS", "EXPIRES IN", "PERMITTED"];
    let mut table = Table::new(head, "No invites; make one: routerctl invite --site NAME");
    for invite in invites {
        table.row([
            invite.id.to_string(),
            invite.site.to_string(),
            format!("{:?}", invite.status),
            format!("{}/{}", invite.used, invite.uses),
            invite.max_claims.to_string(),
            text::seconds(invite.expires_in_secs),
            text::list(&invite.permitted),
        ]);
    }
    table.to_string()
}
