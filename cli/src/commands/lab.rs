//! `routerctl lab`: a whole fabric on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::lab::report::SiteReport;
use ::lab::{DownReport, Hubs, Lab, LabError, LabName, LabStatus, UpOptions, UpReport};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::commands::{evidence, lab_kernel, matrix};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Answer, Format};
use crate::text::{self, Table};

/// Longest time for a command whose output is collected.
const EXEC_LIMIT: Duration = Duration::from_secs(300);

/// Words of `lab`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl lab up\n  routerctl lab matrix\n  routerctl lab down")]
pub struct LabArgs {
    #[command(subcommand)]
    verb: LabVerb,
}

#[derive(Debug, Subcommand)]
enum LabVerb {
    /// Builds four sites, NAT, an Internet, a hub; enrolls all leaves and waits for first packets
    #[command(after_help = "Examples:\n  \
        routerctl lab up\n  \
        routerctl lab up --name two --underlay-only\n  \
        routerctl lab up --kernel lab --out target/lab-kernel\n\n\
        With `--kernel lab` the whole scenario (up, matrix, evidence, down) runs inside a Linux kernel that runs as a \
        process; the kernel is built the first time, in about 9 minutes, and then kept.")]
    Up(UpArgs),
    /// Takes a lab away; nothing of it is left
    #[command(after_help = "Example: routerctl lab down --name two")]
    Down(Which),
    /// Shows a lab's nodes and processes
    #[command(after_help = "Example: routerctl lab status")]
    Status(Which),
    /// Shows the labs that are there
    #[command(after_help = "Example: routerctl lab list")]
    List {
        /// Where labs keep their state [default: /run/fabric-lab]
        #[arg(long, value_name = "DIR")]
        base: Option<PathBuf>,
    },
    /// Runs a command on a node, on this terminal; its exit status is the answer
    #[command(after_help = "Examples:\n  \
        routerctl lab exec aws-client -- ping -c 3 10.99.9.10\n  \
        routerctl lab exec pve-leaf -- routerctl status")]
    Exec(ExecArgs),
    /// Runs every directed pair of clients (the same as `routerctl matrix`)
    #[command(after_help = "Example: routerctl lab matrix --lab fab --junit matrix.xml")]
    Matrix(matrix::MatrixArgs),
    /// Writes the evidence bundle (the same as `routerctl evidence`)
    #[command(after_help = "Example: routerctl lab evidence --lab fab --out evidence")]
    Evidence(evidence::EvidenceArgs),
    /// Ends a node's daemon without warning
    #[command(after_help = "Example: routerctl lab kill hub")]
    Kill(NodeArgs),
    /// Starts a node's daemon again
    #[command(after_help = "Example: routerctl lab start hub")]
    Start(NodeArgs),
    /// Takes a node off the network
    #[command(after_help = "Example: routerctl lab cut pve-nat")]
    Cut(NodeArgs),
    /// Puts a node back on the network
    #[command(after_help = "Example: routerctl lab heal pve-nat")]
    Heal(NodeArgs),
}

#[derive(Debug, Args)]
struct Which {
    /// The lab
    #[arg(long, visible_alias = "lab", value_name = "NAME", default_value = "fab")]
    name: LabName,
    /// Where labs keep their state [default: /run/fabric-lab]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
}

/// Options that have no meaning inside the lab kernel.
const HOST_ONLY: [&str; 5] = ["base", "underlay_only", "keep_failed", "hub_arg", "leaf_arg"];

/// Which kernel carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KernelArg {
    /// This machine's
    Host,
    /// The lab's own, with WireGuard and ipip
    Lab,
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    which: Which,
    /// Where routerctl, fabric-rr and fabric-leaf are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// How many hubs: 1, or 2 that share every leaf
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    hubs: u8,
    /// Only networks and clients, no fabric
    #[arg(long)]
    underlay_only: bool,
    /// Leaves a lab whose building failed as it is
    #[arg(long)]
    keep_failed: bool,
    /// Which kernel carries the packets
    #[arg(long, value_enum, default_value_t = KernelArg::Host)]
    kernel: KernelArg,
    /// With `--kernel lab`: where the results go [default: lab-kernel-NAME]
    #[arg(long, value_name = "DIR", conflicts_with_all = HOST_ONLY)]
    out: Option<PathBuf>,
    /// With `--kernel lab`: longest time for all of it [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = text::parse_seconds, conflicts_with_all = HOST_ONLY)]
    limit: Option<u64>,
    /// Further word for fabric-rr; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    hub_arg: Vec<String>,
    /// Further word for fabric-leaf; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    leaf_arg: Vec<String>,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    which: Which,
    /// The node, for example aws-leaf; `routerctl lab status` lists them
    #[arg(value_name = "NODE")]
    machine: String,
    /// The command and its words
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    which: Which,
    /// The node, for example hub or aws-leaf
    #[arg(value_name = "NODE")]
    machine: String,
}

/// What was done to a node.
#[derive(Debug, Serialize)]
struct NodeDone {
    lab: LabName,
    node: String,
    done: &'static str,
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Failure {
        let (code, fix) = match &error {
            LabError::Name(_) => ("lab-name", "choose another name"),
            LabError::MissingProgram { package, .. } => {
                let fix = format!("apt-get install {package}");
                return Failure::bad("lab-program-missing", error.to_string()).fix(fix);
            }
            LabError::NotRoot => ("lab-needs-root", "run it as root, for example with sudo"),
            LabError::AlreadyUp { name, .. } => {
                let fix = format!("routerctl lab down --name {name}");
                return Failure::bad("lab-already-up", error.to_string()).fix(fix);
            }
            LabError::NotUp { name, .. } => {
                let fix = format!(
                    "see what is there (`routerctl lab list`), or build it: `routerctl lab up --name {name}`"
                );
                return Failure::bad("lab-not-up", error.to_string()).fix(fix);
            }
            LabError::UnknownNode(_) | LabError::NoDaemon(_) => {
                return Failure { code: "lab-node".into(), ..Failure::usage(error.to_string()) }
                    .fix("choose a node that `routerctl lab status` lists");
            }
            LabError::SecretFound { .. } => {
                ("lab-secret", "do not pass the bundle on; report where the secret came from")
            }
            _ => (
                "lab-failed",
                "take the lab down and build it again; --keep-failed leaves it for looking into",
            ),
        };
        Failure::bad(code, error.to_string()).fix(fix)
    }
}

/// A lab that is there.
pub fn open(name: &LabName, base: Option<&Path>) -> Result<Lab, Failure> {
    Ok(Lab::open(name, base)?)
}

impl Which {
    fn open(&self) -> Result<Lab, Failure> {
        open(&self.name, self.base.as_deref())
    }
}

/// Runs the verb.
pub async fn run(context: &Context, args: LabArgs) -> Result<Answer, Failure> {
    match args.verb {
        LabVerb::Up(args) => up(context, args).await,
        LabVerb::Down(which) => {
            let report = Lab::down(&which.name, which.base.as_deref()).await?;
            context.answer(&report, |report: &DownReport| {
                let (namespaces, processes) = (report.namespaces, report.processes);
                format!("gone: {namespaces} namespaces and {processes} processes, {} ms", report.elapsed_ms)
            })
        }
        LabVerb::Status(which) => {
            let status = which.open()?.status();
            let good = status.nodes.iter().all(|n| n.present && n.processes.iter().all(|p| p.alive));
            context.judged(good, &status, status_table)
        }
        LabVerb::List { base } => {
            let names = Lab::list(base.as_deref());
            context.answer(&names, |names| match names.is_empty() {
                true => "No labs here; build one: routerctl lab up".into(),
                false => names.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            })
        }
        LabVerb::Exec(args) => exec(context, args).await,
        LabVerb::Matrix(args) => matrix::run(context, args).await,
        LabVerb::Evidence(args) => evidence::run(context, args).await,
        LabVerb::Kill(args) => {
            args.which.open()?.kill(&args.machine, nix::sys::signal::Signal::SIGKILL).await?;
            done(context, args, "killed")
        }
        LabVerb::Start(args) => {
            args.which.open()?.start_daemon(&args.machine).await?;
            done(context, args, "started")
        }
        LabVerb::Cut(args) => {
            args.which.open()?.cut(&args.machine).await?;
            done(context, args, "cut")
        }
        LabVerb::Heal(args) => {
            args.which.open()?.heal(&args.machine).await?;
            done(context, args, "healed")
        }
    }
}

fn done(context: &Context, args: NodeArgs, done: &'static str) -> Result<Answer, Failure> {
    let done = NodeDone { lab: args.which.name, node: args.machine, done };
    context.answer(&done, |done| format!("{} {}", done.node, done.done))
}

async fn up(context: &Context, args: UpArgs) -> Result<Answer, Failure> {
    let hubs = if args.hubs == 2 { Hubs::Two } else { Hubs::One };
    if args.kernel == KernelArg::Lab {
        let host_only = args.which.base.is_some() || args.underlay_only || args.keep_failed;
        if host_only || !args.hub_arg.is_empty() || !args.leaf_arg.is_empty() {
            let failure = Failure::usage("--kernel lab runs the whole scenario with the defaults");
            return Err(
                failure.fix("leave out --base, --underlay-only, --keep-failed, --hub-arg and --leaf-arg")
            );
        }
        return lab_kernel::run(context, args.which.name, hubs, args.bin_dir, args.out, args.limit).await;
    }
    if args.out.is_some() || args.limit.is_some() {
        return Err(Failure::usage("--out and --limit go with --kernel lab")
            .fix("add --kernel lab, or leave them out"));
    }
    let options = UpOptions {
        name: args.which.name,
        base: args.which.base,
        bin_dir: args.bin_dir,
        hubs,
        registry: None,
        underlay_only: args.underlay_only,
        keep_failed: args.keep_failed,
        hub_args: args.hub_arg,
        leaf_args: args.leaf_arg,
    };
    let (_, report) = Lab::up(options).await?;
    context.judged(report.ok, &report, up_text)
}

/// What a command on a node said; only where it was asked for as JSON or YAML.
#[derive(Debug, Serialize)]
struct Said {
    node: String,
    exit: Option<i32>,
    stdout: String,
    stderr: String,
    elapsed_ms: u128,
}

/// On this terminal for people; collected for programs. The fabric's own programs are found first.
async fn exec(context: &Context, args: ExecArgs) -> Result<Answer, Failure> {
    let lab = args.which.open()?;
    if context.format != Format::Table {
        let output = lab.exec(&args.machine, &args.command, EXEC_LIMIT).await?;
        let exit = exit_of(output.code);
        let (stdout, stderr, elapsed_ms) = (output.stdout, output.stderr, output.elapsed.as_millis());
        let said = Said { node: args.machine, exit: output.code, stdout, stderr, elapsed_ms };
        return Ok(Answer { exit, ..context.answer(&said, |_| String::new())? });
    }
    let argv = lab.argv(&args.machine, &args.command)?;
    let (program, words) = argv.split_first().ok_or_else(|| Failure::usage("no command was given"))?;
    let own = lab.bin("routerctl").parent().map(Path::to_path_buf);
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&usual))).unwrap_or(usual);
    let mut command = tokio::process::Command::new(program);
    command.args(words).env("PATH", path);
    let status = command.status().await.map_err(|error| {
        Failure::bad("lab-exec", format!("cannot run on {}: {error}", args.machine))
            .fix("check the command's name")
    })?;
    Ok(Answer { text: String::new(), exit: exit_of(status.code()) })
}

/// The command's own exit code; 1 when a signal ended it.
fn exit_of(code: Option<i32>) -> u8 {
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// What happened at each site, a part a site.
pub fn sites_text(sites: &[SiteReport]) -> Vec<String> {
    let mut parts = Vec::new();
    for site in sites {
        let verdict = if site.ok { "enrolled" } else { "NOT enrolled" };
        let mut lines = vec![format!(
            "{}: {verdict} in {} ms, first packet after {} ms, {} dataplane",
            site.site,
            site.enroll_ms,
            text::or_dash(&site.first_packet_ms),
            site.dataplane.as_deref().unwrap_or("no"),
        )];
        for step in &site.steps {
            let mark = if step.ok { "ok    " } else { "FAILED" };
            lines.push(text::plain(&format!(
                "  {:<12} {:>6} ms  {mark}  {}",
                step.name, step.ms, step.detail
            )));
        }
        for fix in &site.fixes {
            let mark = if fix.ok { "mended" } else { "NOT mended" };
            lines.push(text::plain(&format!("  finding {}: {mark} by: {}", fix.code, fix.command)));
        }
        lines.extend(site.reason.iter().map(|reason| format!("  reason: {}", text::plain(reason))));
        parts.push(lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n"));
    }
    parts
}

fn up_text(report: &UpReport) -> String {
    let mut parts = sites_text(&report.sites);
    let verdict = if report.ok { "up" } else { "NOT whole" };
    let hub = report.hub_ms.map(|ms| format!(", hub {ms} ms")).unwrap_or_default();
    let times = format!("in {} ms (networks {} ms{hub})", report.elapsed_ms, report.underlay_ms);
    parts.push(format!("lab {} is {verdict} {times}; its files: {}", report.name, report.dir.display()));
    let name = &report.name;
    parts.push(format!("Next: routerctl matrix --lab {name}; routerctl lab down --name {name}"));
    parts.join("\n\n")
}

fn status_table(status: &LabStatus) -> String {
    let mut table = Table::new(["NODE", "ADDRESS", "NAMESPACE", "PRESENT", "PROCESSES"], "No nodes");
    for node in &status.nodes {
        let processes = node.processes.iter().map(|p| {
            let dead = if p.alive { "" } else { " DEAD" };
            format!("{}({}{dead})", p.role.as_str(), p.pid)
        });
        let processes = text::list(processes);
        let present = text::yes(node.present);
        table.row([node.node.clone(), node.address.to_string(), node.namespace.clone(), present, processes]);
    }
    format!("lab {} ({:?}), {}\n{table}", status.name, status.phase, status.dir.display())
}
