//! `routerctl federation`: events.

use std::time::{SystemTime, UNIX_EPOCH};

use ::federation::view::EventView;
use clap::{Args, Subcommand};
use control::Node;
use control::wire::{EventAnswer, NewEvent};
use serde_json::Value;

use crate::context::{Context, with_query};
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// Words of `federation`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl federation event list")]
pub struct FederationArgs {
    #[command(subcommand)]
    verb: FederationVerb,
}

#[derive(Debug, Subcommand)]
enum FederationVerb {
    /// Emits and shows events
    #[command(subcommand)]
    #[command(after_help = "Example: routerctl federation event list --limit 20")]
    Event(EventVerb),
}

#[derive(Debug, Subcommand)]
enum EventVerb {
    /// States a fact on this node
    #[command(after_help = "Examples:\n  \
        routerctl federation event emit --type routerd.client.ipv4.observed --subject 10.81.10.30\n  \
        routerctl federation event emit --type routerd.client.ipv4.expired --subject 10.81.10.30 --id left-1")]
    Emit {
        /// For example routerd.client.ipv4.observed
        #[arg(long = "type", value_name = "TYPE")]
        event_type: String,
        /// What it is about; for client events the client's IPv4 address
        #[arg(long)]
        subject: String,
        /// Further facts, as JSON
        #[arg(long, value_name = "JSON", value_parser = json)]
        payload: Option<Value>,
        /// The same id twice is one event [default: a fresh one]
        #[arg(long)]
        id: Option<String>,
        /// How long it holds, for example 90s, 5m [default: the group's observation lifetime]
        #[arg(long, value_name = "TIME", value_parser = text::parse_seconds)]
        expires: Option<u64>,
    },
    /// Shows the events of this node, newest first
    #[command(
        after_help = "Example: routerctl federation event list --type routerd.client.ipv4.observed --limit 20"
    )]
    List {
        /// Only events of this type
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
    },
}

/// Runs the verb.
pub async fn run(context: &Context, args: FederationArgs) -> Result<Answer, Failure> {
    let client = context.only(Node::Leaf)?;
    let FederationVerb::Event(verb) = args.verb;
    match verb {
        EventVerb::Emit { event_type, subject, payload, id, expires } => {
            let payload = payload.unwrap_or_else(|| Value::Object(Default::default()));
            let event = NewEvent { event_type, subject, payload, id, expires_secs: expires };
            let answer: EventAnswer = client.post("/v1/events", &event).await?;
            context.answer(&answer, |answer| format!("{} {}", answer.id, answer.outcome))
        }
        EventVerb::List { event_type, limit } => {
            let path = with_query("/v1/events", &[("type", event_type), ("limit", Some(limit.to_string()))]);
            let events: Vec<EventView> = client.get(&path).await?;
            context.answer(&events, |events| table(events))
        }
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("{e}; write for example '{{\"interface\":\"eth1\"}}'"))
}

fn table(events: &[EventView]) -> String {
    let head = ["OBSERVED", "TYPE", "SUBJECT", "SOURCE", "HOLDS", "ID"];
    let mut table = Table::new(head, "No events; state one: routerctl federation event emit --help");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    for event in events {
        let left = event.expires_at.saturating_sub(now) / 1000;
        table.row([
            format!("{} ago", text::seconds(now.saturating_sub(event.observed_at) / 1000)),
            event.event_type.to_string(),
            event.subject.clone(),
            event.source_node.clone(),
            if left == 0 { "no longer".into() } else { text::seconds(left) },
            event.id.clone(),
        ]);
    }
    table.to_string()
}
