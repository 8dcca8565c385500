//! `routerctl get` and `describe`: configured resources with what became of them.

use clap::Args;
use config::Kind;
use control::wire::ResourceView;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Answer, Format};
use crate::text::{self, Table};

/// Most columns of status that the table shows.
const COLUMNS: usize = 8;

/// Words of `get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  routerctl get SAMEnrollmentClient\n  routerctl get BGPDynamicPeer/fullmesh-leaves"
)]
pub struct GetArgs {
    /// A Kind, or a Kind and a name
    #[arg(value_name = "KIND[/NAME]")]
    resource: String,
}

/// Words of `describe`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl describe BGPDynamicPeer/fullmesh-leaves")]
pub struct DescribeArgs {
    /// A Kind and a name
    #[arg(value_name = "KIND/NAME")]
    resource: String,
}

/// The Kind of that name; upper and lower case do not count.
pub fn kind(name: &str) -> Result<Kind, Failure> {
    let same = |kind: &Kind| kind.as_str().eq_ignore_ascii_case(name);
    Kind::ALL.into_iter().find(same).ok_or_else(|| {
        let mut near: Vec<(usize, &str)> =
            Kind::ALL.iter().map(|kind| (distance(name, kind.as_str()), kind.as_str())).collect();
        near.sort();
        let names: Vec<&str> = near.into_iter().map(|(_, name)| name).collect();
        let fix = format!("did you mean {}? There are: {}", names[0], text::list(Kind::ALL));
        Failure {
            code: "kind-unknown".into(),
            ..Failure::usage(format!("there is no Kind {}", text::plain(name)))
        }
        .fix(fix)
    })
}

/// How unlike two words are: pairs of letters that only one of them has, in thousandths. Kinds share long
/// parts (`Peer`, `SAMEnrollment`), so that common pieces say more than single edits.
fn distance(a: &str, b: &str) -> usize {
    let pairs = |word: &str| -> Vec<(char, char)> {
        let letters: Vec<char> = word.to_lowercase().chars().take(64).collect();
        letters.windows(2).map(|w| (w[0], w[1])).collect()
    };
    let (a, mut b) = (pairs(a), pairs(b));
    let all = a.len() + b.len();
    let common = a
        .iter()
        .filter(|pair| b.iter().position(|other| other == *pair).map(|at| b.remove(at)).is_some())
        .count();
    1000 - (2000 * common).checked_div(all).unwrap_or(0)
}

/// Runs `get`.
pub async fn run(context: &Context, args: GetArgs) -> Result<Answer, Failure> {
    let (kind_name, name) = match args.resource.split_once('/') {
        Some((kind, name)) => (kind, Some(name)),
        None => (args.resource.as_str(), None),
    };
    let kind = kind(kind_name)?;
    let all: Vec<ResourceView> = resources(context, kind).await?;
    match name {
        None => context.answer(&all, |all| table(kind, all)),
        Some(name) => context.answer(&named(kind, name, all)?, |one| {
            let lists = sub_tables(&one.status);
            [table(kind, std::slice::from_ref(one))].into_iter().chain(lists).collect::<Vec<_>>().join("\n\n")
        }),
    }
}

/// Runs `describe`: the whole resource, in YAML for people.
pub async fn describe(context: &Context, args: DescribeArgs) -> Result<Answer, Failure> {
    let Some((kind_name, name)) = args.resource.split_once('/') else {
        return Err(
            Failure::usage("describe takes a Kind and a name").fix("for one row each: `routerctl get KIND`")
        );
    };
    let kind = kind(kind_name)?;
    let one = named(kind, name, resources(context, kind).await?)?;
    let format = if context.format == Format::Table { Format::Yaml } else { context.format };
    Ok(Answer { text: format.render(&one, |_| String::new())?, exit: 0 })
}

async fn resources(context: &Context, kind: Kind) -> Result<Vec<ResourceView>, Failure> {
    Ok(context.client()?.get(&format!("/v1/resources/{kind}")).await?)
}

fn named(kind: Kind, name: &str, all: Vec<ResourceView>) -> Result<ResourceView, Failure> {
    let known = text::list(all.iter().map(|r| &r.metadata.name));
    all.into_iter().find(|r| r.metadata.name == name).ok_or_else(|| {
        Failure::bad("not-found", format!("there is no {kind}/{}", text::plain(name))).fix(
            match known.as_str() {
                "-" => format!("no {kind} is configured here: `routerctl schema {kind}` shows what one says"),
                known => format!("there are: {known}"),
            },
        )
    })
}

/// One row a resource, a column for each plain value of its status.
fn table(kind: Kind, all: &[ResourceView]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for (key, value) in all.iter().filter_map(|r| r.status.as_object()).flatten() {
        if !columns.contains(&key) && (plain_value(value) || value.is_array()) {
            columns.push(key);
        }
    }
    columns.sort_by_key(|key| rank(key));
    columns.truncate(COLUMNS);
    let head = std::iter::once("NAME".to_string()).chain(columns.iter().map(|c| heading(c))).collect();
    let empty = format!("No {kind} here; what may be configured: routerctl schema {kind}");
    let mut table = Table::with_columns(head, &empty);
    for resource in all {
        let cells = columns.iter().map(|key| cell(&resource.status[key.as_str()]));
        table.row(std::iter::once(resource.metadata.name.clone()).chain(cells));
    }
    table.to_string()
}

/// The lists of objects in a status (peers for example) as tables of their own.
fn sub_tables(status: &Value) -> Vec<String> {
    let lists = status.as_object().into_iter().flatten();
    lists
        .filter_map(|(key, value)| {
            let rows: Vec<&Map<String, Value>> =
                value.as_array()?.iter().filter_map(Value::as_object).collect();
            let first = rows.first()?;
            let mut columns: Vec<&String> =
                first.iter().filter(|(_, v)| plain_value(v)).map(|(k, _)| k).collect();
            columns.sort_by_key(|key| rank(key));
            columns.truncate(COLUMNS);
            let mut table = Table::with_columns(columns.iter().map(|c| heading(c)).collect(), "");
            for row in &rows {
                table.row(columns.iter().map(|key| cell(row.get(*key).unwrap_or(&Value::Null))));
            }
            Some(format!("{key}:\n{table}"))
        })
        .collect()
}

/// What a person looks for first comes first; the rest keeps its order.
fn rank(key: &str) -> usize {
    const FIRST: [&str; 8] =
        ["phase", "name", "address", "state", "leaf", "sinceSecs", "prefixesAccepted", "prefixesRejected"];
    FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len())
}

fn plain_value(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(plain_value) => text::list(items.iter().map(cell)),
        Value::Array(items) => items.len().to_string(),
        Value::Object(map) => format!("{} values", map.len()),
        other => other.to_string(),
    }
}

/// `lastSeenSecs` as `LAST SEEN SECS`.
fn heading(key: &str) -> String {
    let mut words = String::new();
    for c in key.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(if c == '_' { ' ' } else { c.to_ascii_uppercase() });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::wire::Metadata;
    use serde_json::json;

    /// Case does not count, and a slip of the finger is answered with the Kind that was meant.
    #[test]
    fn kinds_are_found() {
        assert_eq!(kind("bgpdynamicpeer").unwrap(), Kind::BgpDynamicPeer);
        for (written, meant) in [
            ("BGPDynamicPeers", "BGPDynamicPeer"),
            ("EnrollmentClient", "SAMEnrollmentClient"),
            ("wireguard", "WireGuardInterface"),
        ] {
            let failure = kind(written).unwrap_err();
            assert_eq!(failure.class.exit_code(), 2);
            assert!(failure.fix.starts_with(&format!("did you mean {meant}?")), "{}", failure.fix);
        }
        assert!(kind("").is_err());
    }

    /// A resource with discovered peers shows them in a table of their own, phase first.
    #[test]
    fn discovered_peers_are_listed() {
        let resource = ResourceView {
            api_version: "net.routerd.net/v1alpha1".into(),
            kind: "BGPDynamicPeer".into(),
            metadata: Metadata { name: "fullmesh-leaves".into() },
            spec: json!({}),
            status: json!({"established": 1, "phase": "Ready", "peers": [{"address": "10.255.0.2", "state": "Established"}]}),
        };
        let expected = "NAME             PHASE  ESTABLISHED  PEERS\nfullmesh-leaves  Ready  1            1";
        assert_eq!(table(Kind::BgpDynamicPeer, std::slice::from_ref(&resource)), expected);
        assert_eq!(sub_tables(&resource.status), ["peers:\nADDRESS     STATE\n10.255.0.2  Established"]);
    }
}
