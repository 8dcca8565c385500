//! The reference page, from the field tables.

use std::fmt::Write as _;

use crate::kind::{Kind, Role};
use crate::resource::Field;
use crate::schema::fields;

/// The reference of all Kinds as Markdown: every key with what it accepts and its default.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration reference\n\nGenerated from the list of Kinds; do not edit.\n\n\
         Every document has `apiVersion`, `kind`, `metadata.name` and `spec`; a file holds several, separated by `---`. \
         Unknown keys are errors.\n",
    );
    for kind in Kind::ALL {
        section(&mut page, kind);
    }
    page
}

fn section(page: &mut String, kind: Kind) {
    let (doc, fields) = fields(kind);
    let who = match kind.only_for() {
        Some(Role::Hub) => "On hubs",
        Some(Role::Leaf) => "On leaves",
        None => "On hubs and leaves",
    };
    let count = if kind.single() { "one a node" } else { "any number" };
    let version = kind.api_version();
    let head = format!("\n## {kind}\n\n{doc}\n\n`apiVersion: {version}`. {who}, {count}.\n\n");
    page.push_str(&head);
    page.push_str("| key | what it is | accepts | default |\n| --- | --- | --- | --- |\n");
    for field in &fields {
        row(page, field);
    }
}

fn row(page: &mut String, field: &Field) {
    let default = field.default.as_deref().unwrap_or("must be given");
    let cells = [&field.doc, &field.accepts, default].map(|cell| cell.replace('|', "\\|"));
    let [doc, accepts, default] = cells;
    // Writing into a String cannot fail.
    let _ = writeln!(page, "| `{}` | {doc} | {accepts} | {default} |", field.name);
}
