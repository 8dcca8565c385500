//! `routerctl leaves`: who is in the fabric.

use clap::{Args, Subcommand};
use control::wire::Done;
use control::{Client, Node};
use enrollment::view::LeafView;

use crate::context::{Context, escape};
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `leaves`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl leaves\n  routerctl leaves show aws")]
pub struct LeavesArgs {
    #[command(subcommand)]
    verb: Option<LeavesVerb>,
}

#[derive(Debug, Subcommand)]
enum LeavesVerb {
    /// Shows all leaves (the same as no verb)
    #[command(after_help = "Example: routerctl leaves list -o json")]
    List,
    /// Shows one leaf
    #[command(after_help = "Example: routerctl leaves show aws")]
    Show {
        /// The leaf's name
        name: String,
    },
    /// Takes a leaf out at once: its claims, its session and its tunnel; it does not come back by itself
    #[command(after_help = "Example: routerctl leaves revoke aws")]
    Revoke {
        /// The leaf's name
        name: String,
    },
}

/// Runs the verb.
pub async fn run(context: &Context, args: LeavesArgs) -> Result<Answer, Failure> {
    let client = context.only(Node::Hub)?;
    match args.verb {
        None | Some(LeavesVerb::List) => {
            context.answer(&leaves(&client).await?, |leaves: &Vec<LeafView>| table(leaves))
        }
        Some(LeavesVerb::Show { name }) => {
            let leaves = leaves(&client).await?;
            let known = text::list(leaves.iter().map(|leaf| &leaf.name));
            let leaf = leaves.into_iter().find(|leaf| leaf.name.to_string() == name).ok_or_else(|| {
                Failure::bad("leaf-unknown", format!("no leaf is named {name}"))
                    .fix(format!("the leaves are: {known}"))
            })?;
            context.answer(&leaf, one)
        }
        Some(LeavesVerb::Revoke { name }) => {
            let path = format!("/v1/leaves/{}/revoke", escape(&name));
            let done: Done = client.post(&path, &()).await?;
            context.answer(&done, |done| text::plain(&done.detail))
        }
    }
}

async fn leaves(client: &Client) -> Result<Vec<LeafView>, Failure> {
    Ok(client.get("/v1/leaves").await?)
}

fn table(leaves: &[LeafView]) -> String {
    let head = ["NAME", "PHASE", "OVERLAY", "CLAIMS", "LEASE LEFT", "LAST SEEN"];
    let mut table = Table::new(head, "No leaves yet; invite one: routerctl invite --site NAME");
    for leaf in leaves {
        table.row([
            leaf.name.to_string(),
            format!("{:?}", leaf.phase),
            leaf.overlay.to_string(),
            text::list(&leaf.claims),
            text::seconds(leaf.lease_left_secs),
            text::seconds(leaf.last_seen_secs_ago),
        ]);
    }
    table.to_string()
}

fn one(leaf: &LeafView) -> String {
    text::pairs(&[
        ("name", leaf.name.to_string()),
        ("phase", format!("{:?}", leaf.phase)),
        ("overlay", leaf.overlay.to_string()),
        ("wireguard key", leaf.wireguard_key.to_string()),
        ("claims", format!("{} ({} of {})", text::list(&leaf.claims), leaf.claims.len(), leaf.max_claims)),
        ("permitted", text::list(&leaf.permitted)),
        ("lease left", text::seconds(leaf.lease_left_secs)),
        ("last seen", format!("{} ago", text::seconds(leaf.last_seen_secs_ago))),
    ])
}
