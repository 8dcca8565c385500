//! `routerctl schema`: the JSON Schema of the configuration.

use clap::Args;
use config::Kind;
use serde_json::Value;

use crate::commands::get::kind;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;

/// Words of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl schema > fabric.schema.json\n  routerctl schema BGPRouter")]
pub struct SchemaArgs {
    /// Only this Kind
    kind: Option<String>,
}

/// Runs the verb. The schema is JSON by nature, also where a table is the default.
pub fn run(context: &Context, args: SchemaArgs) -> Result<Answer, Failure> {
    let schema = match args.kind {
        None => config::schema(),
        Some(name) => of(kind(&name)?),
    };
    context.answer(&schema, |schema| format!("{schema:#}"))
}

fn of(kind: Kind) -> Value {
    let mut schema = config::schema()["$defs"][kind.as_str()].take();
    if let Value::Object(map) = &mut schema {
        map.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every Kind has a schema of its own.
    #[test]
    fn every_kind_has_a_schema() {
        for kind in Kind::ALL {
            assert_eq!(of(kind)["properties"]["kind"]["const"], kind.as_str());
        }
    }
}
