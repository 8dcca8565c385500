//! One file a verb.

use crate::args::Verb;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;

pub mod audit;
pub mod backup;
pub mod bgp;
pub mod claims;
pub mod completions;
pub mod enroll;
pub mod evidence;
pub mod federation;
pub mod get;
pub mod hub;
pub mod invite;
pub mod lab;
pub mod lab_agent;
pub mod lab_kernel;
pub mod leave;
pub mod leaves;
pub mod matrix;
pub mod reference;
pub mod restore;
pub mod route;
pub mod schema;
pub mod status;
pub mod validate;

/// Does what the verb says.
pub async fn run(context: &Context, verb: Verb) -> Result<Answer, Failure> {
    match verb {
        Verb::Hub(args) => hub::run(context, args).await,
        Verb::Invite(args) => invite::run(context, args).await,
        Verb::Enroll(args) => enroll::run(context, args).await,
        Verb::Leaves(args) => leaves::run(context, args).await,
        Verb::Leave(args) => leave::leave(context, args).await,
        Verb::Rotate(args) => leave::rotate(context, args).await,
        Verb::Claims(args) => claims::run(context, args).await,
        Verb::Audit(args) => audit::run(context, args).await,
        Verb::Status(args) => status::run(context, args).await,
        Verb::Get(args) => get::run(context, args).await,
        Verb::Describe(args) => get::describe(context, args).await,
        Verb::Validate(args) => validate::run(context, args),
        Verb::Bgp(args) => bgp::run(context, args).await,
        Verb::Route(args) => route::run(context, args).await,
        Verb::Federation(args) => federation::run(context, args).await,
        Verb::Backup(args) => backup::run(context, args),
        Verb::Restore(args) => restore::run(context, args).await,
        Verb::Matrix(args) => matrix::run(context, args).await,
        Verb::Evidence(args) => evidence::run(context, args).await,
        Verb::Lab(args) => lab::run(context, args).await,
        Verb::Schema(args) => schema::run(context, args),
        Verb::Completions(args) => completions::run(context, args),
        Verb::Reference(args) => reference::run(context, args),
        Verb::LabAgent(args) => lab_agent::run(context, args).await,
    }
}
