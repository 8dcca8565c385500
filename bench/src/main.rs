//! `fabric-bench`: the load generator's command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bench::compare::{self, Comparison};
use bench::measure::Plan;
use bench::paired::{self, Disturbance};
use bench::reflector::{Make, Target};
use bench::scenarios::{Effort, Scenario};
use bench::storm::{self, Pace};
use bench::{egress, flood, namespace, output, process, restart, soak, table, tail};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Drives BGP route reflectors with many iBGP clients, checks every route that every client receives, and measures.
#[derive(Debug, Parser)]
#[command(name = "fabric-bench", version)]
struct Cli {
    /// Stay in this network namespace; the default is a new one, which needs root.
    #[arg(long, global = true)]
    here: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure reflectors side by side, in alternating rounds, and print the table.
    Compare(Compare),
    /// Churn at full rate for minutes: memory flat, no session lost, every final table exact.
    Soak(Soak),
    /// A client that reads one octet a second beside fast ones: are they moved, and what does it cost?
    Slow(Paired),
    /// A storm of connections from an address that nobody admits, and a flood of ten million prefixes, beside honest
    /// clients: are they moved?
    Hostile(Hostile),
    /// Kill fabric-rr and start it again: no client removes a route, and End-of-RIB waits no longer than it says.
    Restart(RestartOptions),
    /// One route announced and withdrawn again and again: what the slowest changes have that the others have not.
    Tail(TailOptions),
    /// The most that a second sending thread could win: the sends of a reflector alone, by one thread and by two.
    Egress {
        /// Sessions.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
        clients: u32,
        /// Routes of each.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        routes: u32,
        /// Pairs of runs.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
        pairs: u32,
        /// Single changes in each run.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        changes: u32,
    },
    /// Make connections from an unadmitted address, or until standard input closes.
    #[command(hide = true)]
    Storm {
        /// Connections a second.
        #[arg(long)]
        per_s: u32,
        /// Connections altogether.
        #[arg(long)]
        count: u32,
        /// Aim at a listener of its own.
        #[arg(long)]
        at_itself: bool,
    },
    /// Print the ratios of two result files side by side, this generator's and another's.
    Agree(Agree),
    /// Spin at whatever priority this was started with until standard input closes.
    #[command(hide = true)]
    KeepAwake,
}

#[derive(Debug, Args)]
struct Programs {
    /// The program of a reflector, as NAME=PATH; may be given again.
    #[arg(long = "program", value_parser = program)]
    programs: Vec<(Make, PathBuf)>,
}

impl Programs {
    fn target(&self, make: Make) -> Target {
        let given = self.programs.iter().find(|(m, _)| *m == make).map(|(_, path)| path.clone());
        Target { program: given.unwrap_or_else(|| make.program()), ..Target::new(make) }
    }
}

fn make(name: &str) -> Result<Make, String> {
    let known = Make::ALL.map(Make::name).join(", ");
    Make::of(name).ok_or_else(|| format!("no reflector '{name}'; there are {known}"))
}

fn program(words: &str) -> Result<(Make, PathBuf), String> {
    let (name, path) = words.split_once('=').ok_or("not like NAME=PATH")?;
    Ok((make(name)?, path.into()))
}

#[derive(Debug, Args)]
struct Compare {
    /// The reflectors, ours first; those whose program is not there are left out, and said so.
    #[arg(long, value_delimiter = ',', value_parser = make, default_value = "fabric-rr,bird,frr,gobgp,openbgpd")]
    reflectors: Vec<Make>,
    #[command(flatten)]
    programs: Programs,
    /// What to measure: quick, daily or full.
    #[arg(long, default_value = "quick")]
    suite: String,
    /// What to measure instead of a suite, such as 10x1000:cold,late; may be given again.
    #[arg(long)]
    plan: Vec<String>,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of each latency measurement.
    #[arg(long, default_value_t = 1000)]
    latency_rounds: usize,
    /// Seconds of churn.
    #[arg(long, default_value_t = 5.0)]
    churn_s: f64,
    /// Changes that each client keeps under way in churn.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Seconds after which a scenario is given up.
    #[arg(long, default_value_t = 120.0)]
    give_up_s: f64,
    /// Where results go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// End with status 1 when anything of the first reflector failed or was incorrect.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct Load {
    /// Clients.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Routes that each announces.
    #[arg(long, default_value_t = 1000)]
    routes: usize,
    /// Changes that each client keeps under way.
    #[arg(long, default_value_t = 64)]
    window: usize,
    #[command(flatten)]
    programs: Programs,
    /// Where the reflector's files go; removed when all is well.
    #[arg(long, default_value = "target/bench-work")]
    dir: PathBuf,
}

impl Load {
    fn plan(&self, churn_s: f64) -> Result<Plan, Failure> {
        let effort = Effort { churn: Duration::try_from_secs_f64(churn_s)?, ..Effort::default() };
        let (n, m) = (self.clients, self.routes);
        let plan =
            Plan { n, m, scenarios: vec![Scenario::Cold, Scenario::Churn], effort, window: self.window };
        if plan.workload().fits() { Ok(plan) } else { Err(format!("{n} x {m} routes do not fit").into()) }
    }

    /// Prints checks in the words that scripts/test counts; whether all hold.
    fn finish(&self, what: &str, checks: &[(bool, String)]) -> Result<bool, Failure> {
        for (good, text) in checks {
            output::line(&format!("check {}: {what}: {text}", if *good { "passed" } else { "failed" }));
        }
        let good = checks.iter().all(|(good, _)| *good);
        if good {
            std::fs::remove_dir_all(&self.dir)?;
        }
        Ok(good)
    }
}

#[derive(Debug, Args)]
struct Soak {
    /// How long, in minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
struct TailOptions {
    /// The reflectors, in turn.
    #[arg(long, value_delimiter = ',', value_parser = make, default_value = "fabric-rr,bird")]
    reflectors: Vec<Make>,
    /// Announcements, and withdrawals, in each turn.
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
    /// Turns of each reflector.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Leave TCP's delayed acknowledgements on.
    #[arg(long)]
    delayed_acks: bool,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
struct RestartOptions {
    /// The reflector's `selectionDeferralSecs`.
    #[arg(long, default_value_t = 5)]
    deferral_s: u64,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
struct Paired {
    /// Pairs of runs, with and without the disturbance.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Check tables, sessions and memory alone; times are printed, not judged.
    #[arg(long)]
    structure_only: bool,
    /// How much worse the median of the pairs' ratios may be: 0.05 is 5 %.
    #[arg(long, default_value_t = 0.05)]
    tolerance: f64,
    /// Seconds of churn in each run.
    #[arg(long, default_value_t = 3.0)]
    churn_s: f64,
    #[command(flatten)]
    load: Load,
}

/// What a hostile neighbour does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Connections from an address that nobody admits.
    Storm,
    /// Ten million prefixes against the prefix limit.
    Flood,
}

#[derive(Debug, Args)]
struct Hostile {
    /// One attack alone; the default is both, one after the other.
    #[arg(long)]
    only: Option<Attack>,
    /// Connections of the storm a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    per_s: u32,
    /// The reflector's `maxPrefixes` in the flood, for the flooder and the honest alike.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_prefixes: u32,
    #[command(flatten)]
    paired: Paired,
}

#[derive(Debug, Args)]
struct Agree {
    /// This generator's results.jsonl.
    own: PathBuf,
    /// The other generator's results.jsonl.
    other: PathBuf,
    /// The reflector whose ratios are compared.
    #[arg(long, default_value = "fabric-rr")]
    ours: String,
    /// How far apart the ranges may be: 0.25 is a quarter.
    #[arg(long, default_value_t = 0.25)]
    tolerance: f64,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::note(&format!("fabric-bench: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Runs a command; false: the answer is bad.
fn run(cli: Cli) -> Result<bool, Failure> {
    let enter = || -> Result<(), Failure> {
        if !cli.here {
            namespace::enter()?;
        }
        Ok(namespace::many_files()?)
    };
    match &cli.command {
        Command::KeepAwake => {
            process::keep_awake();
            Ok(true)
        }
        Command::Agree(options) => agree(options),
        Command::Storm { per_s, count, at_itself } => {
            let done = storm::run(Pace { per_s: *per_s, count: *count }, *at_itself)?;
            output::line(&format!("{} {:.3}", done.stood, done.seconds));
            Ok(true)
        }
        Command::Tail(options) => {
            enter()?;
            let load = &options.load;
            let (rounds, turns, quick_ack) = (options.rounds, options.turns, !options.delayed_acks);
            let all = tail::Options { workload: load.plan(1.0)?.workload(), rounds, turns, quick_ack };
            let targets: Vec<_> = options.reflectors.iter().map(|m| load.programs.target(*m)).collect();
            tail::tail(&targets, &all, &load.dir)?.iter().for_each(|line| output::line(line));
            load.finish("tail", &[])
        }
        Command::Egress { clients, routes, pairs, changes } => {
            enter()?;
            let [clients, routes, pairs, changes] = [*clients, *routes, *pairs, *changes].map(|n| n as usize);
            let options = egress::Options { clients, routes, pairs, changes };
            egress::egress(&options)?.iter().for_each(|line| output::line(line));
            Ok(true)
        }
        Command::Soak(options) => {
            enter()?;
            let load = &options.load;
            let plan = load.plan(options.minutes * 60.0)?;
            let soaked = soak::soak(&load.programs.target(Make::FabricRr), &plan, &load.dir)?;
            load.finish("soak", &soaked.checks)
        }
        Command::Restart(options) => {
            enter()?;
            let load = &options.load;
            let (target, deferral) =
                (load.programs.target(Make::FabricRr), Duration::from_secs(options.deferral_s));
            let checks = restart::restart(&target, &load.plan(1.0)?, deferral, &load.dir)?;
            load.finish("graceful restart", &checks)
        }
        Command::Slow(options) => {
            enter()?;
            disturbed(options, Disturbance::SlowClient, "slow client")
        }
        Command::Hostile(options) => {
            enter()?;
            hostile(options)
        }
        Command::Compare(options) => {
            enter()?;
            run_compare(options)
        }
    }
}

fn hostile(options: &Hostile) -> Result<bool, Failure> {
    let (load, mut good) = (&options.paired.load, true);
    if options.only != Some(Attack::Flood) {
        good &= disturbed(&options.paired, Disturbance::Storm(options.per_s), "session storm")?;
    }
    if options.only != Some(Attack::Storm) {
        let limit = options.max_prefixes as usize;
        if limit < load.routes + load.window {
            return Err("--max-prefixes is less than an honest client's routes".into());
        }
        let (target, plan) = (load.programs.target(Make::FabricRr), load.plan(options.paired.churn_s)?);
        good &= load.finish("flood", &flood::flood(&target, &plan, limit, &load.dir)?)?;
    }
    Ok(good)
}

fn disturbed(options: &Paired, what: Disturbance, name: &str) -> Result<bool, Failure> {
    let load = &options.load;
    let plan = load.plan(options.churn_s)?;
    let target = load.programs.target(Make::FabricRr);
    if options.pairs == 0 {
        return Err("--pairs 0 compares nothing".into());
    }
    let judged = (options.pairs, !options.structure_only, options.tolerance);
    let verdict = paired::paired(&target, &plan, what, judged, &load.dir)?;
    load.finish(name, &verdict.checks)
}

fn run_compare(options: &Compare) -> Result<bool, Failure> {
    let effort = Effort {
        rounds: options.latency_rounds,
        churn: Duration::try_from_secs_f64(options.churn_s)?,
        give_up: Duration::try_from_secs_f64(options.give_up_s)?,
        ..Effort::default()
    };
    let words: Vec<&str> = match options.plan.as_slice() {
        [] => compare::suite(&options.suite).ok_or("no such suite; there are quick, daily, full")?.to_vec(),
        given => given.iter().map(String::as_str).collect(),
    };
    let plans =
        words.iter().map(|w| compare::plan(w, effort, options.window)).collect::<Result<Vec<_>, _>>()?;
    let mut targets = Vec::new();
    for make in &options.reflectors {
        let target = options.programs.target(*make);
        match target.program.exists() {
            true => targets.push(target),
            false => output::note(&format!("{} left out: no {}", make.name(), target.program.display())),
        }
    }
    if targets.first().map(|t| t.make) != options.reflectors.first().copied() {
        return Err("the first reflector's program is not there".into());
    }
    let table = compare::compare(&Comparison { targets, plans, rounds: options.rounds }, &options.out)?;
    output::line(&table.markdown());
    output::note(&format!("in {}", options.out.display()));
    let bad = table.failures.iter().any(|f| f.starts_with(&format!("{} ", table.ours)));
    Ok(!(options.strict && bad))
}

fn agree(options: &Agree) -> Result<bool, Failure> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let (own, other) = (read(&options.own)?, read(&options.other)?);
    let all = table::agreement(&own, &other, &options.ours, options.tolerance);
    if all.is_empty() {
        return Err("the two files share no measurement of this reflector and a peer".into());
    }
    output::line("| measured | peer | ratio here | ratio there | agree |\n| --- | --- | --- | --- | --- |");
    let range = |r: &[f64; 3]| format!("{:.2} ({:.2} to {:.2})", r[1], r[0], r[2]);
    for one in &all {
        let word = if one.agree { "yes" } else { "NO" };
        let (own, other) = (range(&one.own), range(&one.other));
        output::line(&format!("| {} | {} | {own} | {other} | {word} |", one.what, one.peer));
    }
    Ok(all.iter().all(|one| one.agree))
}
