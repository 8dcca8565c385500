//! `routerctl enroll`: joins this machine, step by step.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use control::wire::{EnrollProgress, EnrollRequest, EnrollStep, EnrollSummary};
use control::{Client, Node};

use crate::context::Context;
use crate::failure::Failure;
use crate::io::starter;
use crate::output::{self, Answer, Format};
use crate::text;

/// Longest time for a whole enrollment.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest invite that is read from stdin, octets.
const INVITE_LIMIT: u64 = 64 << 10;

/// Words of `enroll`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    routerctl enroll fabric1-STRING --client 10.81.10.20\n  \
    routerctl enroll - --client 10.99.9.10 --capture proxy-arp --capture-interface eth1\n  \
    routerctl enroll\n\n\
    It ends when the site works. Running it again changes nothing; without an invite it checks an enrollment \
    that was made before. With `-` the invite is read from stdin, where no list of processes shows it.")]
pub struct EnrollArgs {
    /// The invite, or `-` for stdin
    invite: Option<String>,
    /// Address of a client behind this leaf, claimed at once; may be repeated
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    client: Vec<Ipv4Addr>,
    /// Take the place of the machine that is enrolled under the invite's site: its name, address and claims. The
    /// hub must permit it: by an invite made with `--replace`, or by approval
    #[arg(long)]
    replace: bool,
    /// How this site's network is made to hand over packets [default: as configured]
    #[arg(long, value_enum)]
    capture: Option<CaptureArg>,
    /// Interface toward the clients
    #[arg(long, value_name = "IF")]
    capture_interface: Option<String>,
}

/// Ways of capture that can be chosen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CaptureArg {
    /// The site's own routing sends packets to the leaf
    None,
    /// The leaf answers ARP for remote clients
    ProxyArp,
}

/// Runs the verb.
pub async fn run(context: &Context, args: EnrollArgs) -> Result<Answer, Failure> {
    let invite = match args.invite.as_deref() {
        Some("-") => Some(from_stdin()?),
        Some(invite) => Some(invite.trim().to_string()),
        None => None,
    };
    if context.node == Some(Node::Hub) {
        return Err(Failure::usage("a leaf enrolls, not a hub").fix("leave --node out"));
    }
    let capture = args.capture.map(|capture| match capture {
        CaptureArg::None => "none".to_string(),
        CaptureArg::ProxyArp => "proxy-arp".to_string(),
    });
    let request = EnrollRequest {
        invite,
        clients: args.client,
        capture_interface: args.capture_interface,
        capture,
        replace: args.replace,
    };
    starter::ensure(context, Node::Leaf).await?;
    let summary = ask(context, &request).await?;
    context.judged(summary.ok, &summary, people)
}

/// Sends the request, shows each step as it ends, and gives the summary.
async fn ask(context: &Context, request: &EnrollRequest) -> Result<EnrollSummary, Failure> {
    let client = Client::new(&context.paths, Node::Leaf);
    let mut summary = None;
    let line = |progress: EnrollProgress| match progress {
        EnrollProgress::Step(found) if context.format == Format::Table => output::line(&step(&found)),
        EnrollProgress::Step(_) => {}
        EnrollProgress::Done(done) => summary = Some(done),
    };
    client.post_lines("/v1/enroll", request, LIMIT, line).await?;
    summary.ok_or_else(|| {
        Failure::unreachable("the daemon ended before the enrollment did")
            .fix("look at the daemon's log, then run the same command again")
    })
}

pub(super) fn from_stdin() -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INVITE_LIMIT).read_to_string(&mut text);
    let invite = text.trim().to_string();
    if read.is_err() || invite.is_empty() {
        let failure = Failure::usage("no invite came on stdin");
        return Err(failure.fix("pipe it: `ssh hub routerctl invite --site aws | routerctl enroll -`"));
    }
    Ok(invite)
}

fn step(step: &EnrollStep) -> String {
    let mark = if step.ok { "ok    " } else { "FAILED" };
    text::plain(&format!("  {:<12} {:>6} ms  {mark}  {}", step.name, step.ms, step.detail))
        .trim_end()
        .to_string()
}

fn people(summary: &EnrollSummary) -> String {
    let mut lines = Vec::new();
    for finding in &summary.findings {
        lines.push(
            format!("{:?} {}: {}", finding.severity, finding.code, text::plain(&finding.message))
                .to_lowercase_first(),
        );
        if let Some(fix) = &finding.fix {
            lines.push(format!("  fix: {}", text::plain(fix)));
        }
    }
    if let Some(reason) = &summary.reason {
        let failure = Failure::from(reason.clone());
        lines.push(format!(
            "not enrolled: {} ({})",
            text::plain(&failure.message),
            text::plain(&failure.code)
        ));
        lines.push(format!("  fix: {}", text::plain(&failure.fix)));
    }
    let carrier = summary.dataplane.as_deref().unwrap_or("no");
    let overlay = text::or_dash(&summary.overlay);
    lines.push(match (summary.ok, summary.changed) {
        (true, true) => {
            format!("works after {} ms: overlay {overlay}, {carrier} dataplane", summary.elapsed_ms)
        }
        (true, false) => {
            format!(
                "works, nothing changed ({} ms): overlay {overlay}, {carrier} dataplane",
                summary.elapsed_ms
            )
        }
        (false, _) => format!("does not work after {} ms", summary.elapsed_ms),
    });
    lines.join("\n")
}

trait LowercaseFirst {
    fn to_lowercase_first(&self) -> String;
}

impl LowercaseFirst for String {
    fn to_lowercase_first(&self) -> String {
        let mut chars = self.chars();
        chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
    }
}
