//! `routerctl leaves`: who is in the fabric.

use clap::{Args, Subcommand};
use control::wire::Done;
use control::{Client, Node};
use enrollment::view::{LeafView, PendingView};

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
    /// Shows the machines that wait for approval, and those that were judged
    #[command(after_help = "Example: routerctl leaves pending\n\n\
        The waiting leaf shows the same fingerprint in its status.")]
    Pending,
    /// Lets a waiting machine join; it goes on by itself
    #[command(after_help = "Example: routerctl leaves approve 0123456789abcdef")]
    Approve {
        /// Its fingerprint, or its site where only one machine waits
        what: String,
    },
    /// Refuses a waiting machine
    #[command(after_help = "Example: routerctl leaves deny 0123456789abcdef")]
    Deny {
        /// Its fingerprint, or its site where only one machine waits
        what: String,
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
        Some(LeavesVerb::Pending) => {
            let pending: Vec<PendingView> = client.get("/v1/pending").await?;
            context.answer(&pending, |pending| waiting(pending))
        }
        Some(LeavesVerb::Approve { what }) => decide(context, &client, &what, "approve").await,
        Some(LeavesVerb::Deny { what }) => decide(context, &client, &what, "deny").await,
        Some(LeavesVerb::Revoke { name }) => {
            let path = format!("/v1/leaves/{}/revoke", escape(&name));
            let done: Done = client.post(&path, &()).await?;
            context.answer(&done, |done| text::plain(&done.detail))
        }
    }
}

async fn decide(context: &Context, client: &Client, what: &str, word: &str) -> Result<Answer, Failure> {
    let done: Done = client.post(&format!("/v1/pending/{}/{word}", escape(what)), &()).await?;
    context.answer(&done, |done| text::plain(&done.detail))
}

fn waiting(pending: &[PendingView]) -> String {
    let head = ["FINGERPRINT", "SITE", "VERDICT", "SOURCE", "CLAIMS", "REPLACES", "ASKED"];
    let mut table = Table::new(head, "No machine waits for approval");
    for machine in pending {
        table.row([
            machine.fingerprint.clone(),
            machine.site.to_string(),
            format!("{:?}", machine.verdict),
            text::or_dash(&machine.source),
            text::list(&machine.claims),
            text::or_dash(&machine.replaces),
            format!("{} ago", text::seconds(machine.asked_secs_ago)),
        ]);
    }
    table.to_string()
}

async fn leaves(client: &Client) -> Result<Vec<LeafView>, Failure> {
    Ok(client.get("/v1/leaves").await?)
}

fn table(leaves: &[LeafView]) -> String {
    let head = ["NAME", "PHASE", "OVERLAY", "SESSION", "CLAIMS", "VALID UNTIL", "LEASE LEFT", "LAST SEEN"];
    let mut table = Table::new(head, "No leaves yet; invite one: routerctl invite --site NAME");
    for leaf in leaves {
        table.row([
            leaf.name.to_string(),
            format!("{:?}", leaf.phase),
            leaf.overlay.to_string(),
            text::or_dash(&leaf.session),
            text::list(&leaf.claims),
            text::utc(leaf.valid_until),
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
        ("session", text::or_dash(&leaf.session)),
        ("wireguard key", leaf.wireguard_key.to_string()),
        ("claims", format!("{} ({} of {})", text::list(&leaf.claims), leaf.claims.len(), leaf.max_claims)),
        ("permitted", text::list(&leaf.permitted)),
        ("valid until", text::utc(leaf.valid_until)),
        ("lease left", text::seconds(leaf.lease_left_secs)),
        ("keys", format!("{} old", text::seconds(leaf.keys_age_secs))),
        ("last seen", format!("{} ago", text::seconds(leaf.last_seen_secs_ago))),
    ])
}
