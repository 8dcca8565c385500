//! `routerctl lab-agent`: both ends of a lab's TCP exchange; run by the lab inside a client's namespace.

use std::net::SocketAddr;
use std::time::Duration;

use ::lab::agent;
use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;

/// Words of `lab-agent`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl lab-agent serve --listen 0.0.0.0:7")]
pub struct LabAgentArgs {
    #[command(subcommand)]
    verb: LabAgentVerb,
}

#[derive(Debug, Subcommand)]
enum LabAgentVerb {
    /// Answers exchanges until it is stopped
    #[command(after_help = "Example: routerctl lab-agent serve --listen 0.0.0.0:7")]
    Serve {
        /// Address and TCP port
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
    },
    /// Exchanges 1 MiB with a far end; the answer is always JSON
    #[command(after_help = "Example: routerctl lab-agent exchange --to 10.81.10.20:7 --limit-ms 5000")]
    Exchange {
        /// The far end
        #[arg(long, value_name = "IP:PORT")]
        to: SocketAddr,
        /// Longest time, in milliseconds
        #[arg(long, default_value_t = 10_000)]
        limit_ms: u64,
    },
}

/// Runs the verb.
pub async fn run(context: &Context, args: LabAgentArgs) -> Result<Answer, Failure> {
    match args.verb {
        LabAgentVerb::Serve { listen } => {
            let error =
                agent::serve(listen).await.err().map_or("it ended by itself".into(), |e| e.to_string());
            let failure = Failure::bad("listen-failed", format!("cannot serve at {listen}: {error}"));
            Err(failure.fix(format!("see who has the port: `ss -ltnp 'sport = :{}'`", listen.port())))
        }
        LabAgentVerb::Exchange { to, limit_ms } => {
            let done = agent::exchange(to, Duration::from_millis(limit_ms)).await.map_err(|error| {
                Failure::bad("exchange-failed", format!("exchange with {to}: {error}"))
                    .fix("see where the packets end: `routerctl matrix`")
            })?;
            context.answer(&done, |done| serde_json::json!(done).to_string())
        }
    }
}
