//! `routerctl leave` and `routerctl rotate`: what a leaf does with its own membership.

use clap::Args;
use control::Node;
use control::wire::Done;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

/// Words of `leave`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl leave\n\n\
    The hub keeps the history. Joining again needs a new invite; fresh keys are made then.")]
pub struct LeaveArgs {}

/// Words of `rotate`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl rotate\n\n\
    Name, address, claims and session stay. The old keys sign for two more minutes, in case an answer was lost, and \
    never come back.")]
pub struct RotateArgs {}

/// Runs `leave`.
pub async fn leave(context: &Context, _: LeaveArgs) -> Result<Answer, Failure> {
    word(context, "/v1/leave").await
}

/// Runs `rotate`.
pub async fn rotate(context: &Context, _: RotateArgs) -> Result<Answer, Failure> {
    word(context, "/v1/rotate").await
}

async fn word(context: &Context, path: &str) -> Result<Answer, Failure> {
    let done: Done = context.only(Node::Leaf)?.post(path, &()).await?;
    context.answer(&done, |done| text::plain(&done.detail))
}
