//! `routerctl reference`: the reference pages, made from the enums that the code runs on.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory};
use enrollment::reason::ReasonCode;
use federation::reason::ReasonCode as EventCode;
use serde::Serialize;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;
use crate::io::files;
use crate::output::Answer;
use crate::text;

/// Words of `reference`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  routerctl reference docs/reference\n  routerctl reference docs/reference --check"
)]
pub struct ReferenceArgs {
    /// The folder of the pages
    folder: PathBuf,
    /// Writes nothing; exit code 1 when a page is not as the code says
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Report {
    folder: String,
    written: Vec<&'static str>,
    stale: Vec<&'static str>,
}

/// Runs the verb.
pub fn run(context: &Context, args: ReferenceArgs) -> Result<Answer, Failure> {
    let mut report = Report { folder: args.folder.display().to_string(), written: vec![], stale: vec![] };
    if !args.check {
        std::fs::create_dir_all(&args.folder)
            .map_err(|e| Failure::file("make the directory", &args.folder, &e))?;
    }
    for (name, page) in pages() {
        let file = args.folder.join(name);
        if files::read(&file)?.as_deref() == Some(page.as_str()) {
            continue;
        }
        if args.check {
            report.stale.push(name);
        } else {
            files::write(&file, &page)?;
            report.written.push(name);
        }
    }
    context.judged(report.stale.is_empty(), &report, people)
}

fn people(report: &Report) -> String {
    match (report.stale.as_slice(), report.written.as_slice()) {
        ([], []) => format!("{} is as the code says", report.folder),
        ([], written) => format!("{}: wrote {}", report.folder, text::list(written)),
        (stale, _) => {
            let fix = format!("routerctl reference {}", report.folder);
            format!("{}: not as the code says: {}\n  fix: {fix}", report.folder, text::list(stale))
        }
    }
}

/// Every page with its file name.
fn pages() -> [(&'static str, String); 3] {
    [("cli.md", cli()), ("kinds.md", config::reference()), ("reason-codes.md", reason_codes())]
}

fn reason_codes() -> String {
    let mut page = String::from(
        "# Reason codes\n\nGenerated from the list of codes; do not edit.\n\n\
         The same word stands in the HTTP answer, on the command line, in the log and in the metrics label.\n",
    );
    for code in ReasonCode::ALL {
        let (status, side) = (code.http_status(), code.side().as_str());
        let (meaning, fix) = (code.meaning(), code.fix());
        // Writing into a String cannot fail, here and below.
        let _ = write!(
            page,
            "\n## {}\n\n{meaning} From the {side}, HTTP {status}.\n\nFix: {fix}\n",
            code.as_str()
        );
    }
    page.push_str(
        "\n# Codes of refused events\n\nFrom the leaf, about an event or a question about events.\n",
    );
    for code in EventCode::ALL {
        let (meaning, fix) = (code.meaning(), code.fix());
        let _ = write!(page, "\n## {code}\n\n{meaning}\n\nFix: {fix}\n");
    }
    page.push_str(
        "\n# Reasons of rejected routes\n\nShown by `routerctl bgp rejected`, counted for each peer.\n\n",
    );
    for reason in bgp::policy::RejectReason::ALL {
        let _ = writeln!(page, "- `{}`", reason.as_str());
    }
    page.push_str(
        "\n# Codes of host findings\n\nShown by `routerctl status` with the command that mends each.\n\n",
    );
    for code in dataplane::preflight::Code::ALL {
        let _ = writeln!(page, "- `{code}`");
    }
    page
}

fn cli() -> String {
    let mut page = String::from(
        "# routerctl\n\nGenerated from the verbs; do not edit.\n\n\
         Exit codes: 0 fine, 1 the answer is bad, 2 wrong usage, 3 the daemon cannot be reached.\n\n\
         Every verb has these options:\n\n| option | what it is |\n| --- | --- |\n",
    );
    let mut root = Cli::command();
    root.build();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        option(&mut page, arg);
    }
    section(&mut page, &root, "routerctl");
    page
}

fn section(page: &mut String, command: &Command, path: &str) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(page, "\n## {path}\n\n{about}.\n");
        let own: Vec<&Arg> = sub.get_arguments().filter(|arg| !arg.is_global_set() && is_told(arg)).collect();
        if !own.is_empty() {
            page.push_str("\n| word | what it is |\n| --- | --- |\n");
            own.into_iter().for_each(|arg| option(page, arg));
        }
        if let Some(help) = sub.get_after_help() {
            let _ = write!(page, "\n```text\n{help}\n```\n");
        }
        section(page, sub, &path);
    }
}

fn is_told(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn option(page: &mut String, arg: &Arg) {
    let values: Vec<String> = arg.get_possible_values().iter().map(|v| v.get_name().to_string()).collect();
    let name = match arg.get_value_names() {
        Some(names) if values.is_empty() => names.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" "),
        _ => values.join("\\|"),
    };
    let takes = arg.get_action().takes_values();
    let word = match (arg.get_long(), arg.get_short()) {
        (None, _) => name,
        (Some(long), None) if takes => format!("--{long} {name}"),
        (Some(long), Some(short)) if takes => format!("-{short}, --{long} {name}"),
        (Some(long), _) => format!("--{long}"),
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let default = if takes && !defaults.is_empty() {
        format!(" (default: {})", defaults.join(","))
    } else {
        String::new()
    };
    let _ = writeln!(page, "| `{word}` | {help}{default} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every verb that is shown and every reason code has its place in the pages.
    #[test]
    fn pages_are_whole() {
        let [(_, cli), (_, kinds), (_, codes)] = pages();
        for verb in ["hub init", "invite list", "enroll", "federation event emit", "lab up", "matrix"] {
            assert!(cli.contains(&format!("## routerctl {verb}\n")), "{verb}");
        }
        assert!(!cli.contains("lab-agent"));
        assert!(config::Kind::ALL.iter().all(|kind| kinds.contains(&format!("## {kind}\n"))));
        assert!(ReasonCode::ALL.iter().all(|code| codes.contains(&format!("## {}\n", code.as_str()))));
    }
}
