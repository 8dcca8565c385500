//! What the slowest single changes have that the others have not: one route announced and withdrawn again and again,
//! and beside each time what the kernel's scheduler says of the reflector's threads and of the generator meanwhile.
//!
//! `/proc/PID/task/TID/schedstat` counts nanoseconds on a CPU, nanoseconds runnable but waiting for one, and how often
//! the thread was put on one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::driver::Driver;
use crate::process::{self, Awake};
use crate::reflector::{ADDRESS, Target};
use crate::scenarios::{self, Change, Effort, quantile};
use crate::workload::Workload;

/// Calm before the table, and after it.
const CALM: Duration = Duration::from_secs(1);
/// The parts of all changes that are shown, from and to a share of them in order of their times.
const PARTS: [(&str, f64, f64); 4] = [
    ("all", 0.0, 1.0),
    ("the middle fifth", 0.4, 0.6),
    ("around the 99th percentile", 0.985, 0.995),
    ("the slowest 0.5 %", 0.995, 1.0),
];

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The load.
    pub workload: Workload,
    /// Announcements, and withdrawals, in each turn.
    pub rounds: usize,
    /// Turns of each reflector, alternating.
    pub turns: usize,
    /// Whether clients acknowledge at once.
    pub quick_ack: bool,
}

/// One change.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    us: f64,
    withdrawn: bool,
    /// Microseconds that the reflector's threads ran.
    ran_us: f64,
    /// Microseconds that they were runnable and had no CPU.
    waited_us: f64,
    /// How many of them ran.
    threads: f64,
    /// Microseconds that the generator was runnable and had no CPU.
    generator_waited_us: f64,
    /// How often the generator was put on a CPU.
    generator_switches: f64,
    /// Whether the generator was on the CPU of the reflector's last thread that ran.
    same_cpu: bool,
}

/// A thread's files.
struct Thread {
    schedstat: File,
    stat: File,
}

impl Thread {
    fn open(task: &Path) -> io::Result<Thread> {
        Ok(Thread { schedstat: File::open(task.join("schedstat"))?, stat: File::open(task.join("stat"))? })
    }

    /// On a CPU and waiting for one, in nanoseconds, and how often it was put on one; a thread that has gone has
    /// zeros.
    fn sched(&self) -> [u64; 3] {
        let mut buffer = [0; 96];
        let read = self.schedstat.read_at(&mut buffer, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..read]);
        let mut words = text.split_ascii_whitespace().map(|w| w.parse().unwrap_or(0));
        std::array::from_fn(|_| words.next().unwrap_or(0))
    }

    /// The CPU that it is on or was on last.
    fn cpu(&self) -> Option<usize> {
        let mut buffer = [0; 1024];
        let read = self.stat.read_at(&mut buffer, 0).ok()?;
        let text = String::from_utf8_lossy(&buffer[..read]);
        // Field 39 of proc(5), counted from after the name.
        text.rsplit_once(')')?.1.split_ascii_whitespace().nth(36)?.parse().ok()
    }
}

/// Runs all turns; the lines of a table for each reflector.
///
/// # Errors
/// When the load cannot run.
pub fn tail(targets: &[Target], options: &Options, dir: &Path) -> io::Result<Vec<String>> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); targets.len()];
    for turn in 0..options.turns {
        for (target, samples) in targets.iter().zip(&mut samples) {
            let work = dir.join(format!("{}-{turn}", target.make.name()));
            samples.extend(one_turn(target, options, &work)?);
            fs::remove_dir_all(&work)?;
        }
    }
    let mut lines = Vec::new();
    for (target, samples) in targets.iter().zip(&mut samples) {
        lines.extend(shown(target.make.name(), samples));
    }
    Ok(lines)
}

fn one_turn(target: &Target, options: &Options, dir: &Path) -> io::Result<Vec<Sample>> {
    let reflector = target.start(dir)?;
    let mut driver = Driver::new(options.workload, 1, ADDRESS)?;
    driver.settle(CALM, CALM);
    let (clients, give_up) = (options.workload.clients, Effort::default().give_up);
    if !driver.bring_up(0..clients, 8, Instant::now() + give_up) {
        return Err(io::Error::other(format!("only {} of {clients} sessions came up", driver.up)));
    }
    scenarios::cold(&mut driver, give_up).map_err(io::Error::other)?;
    driver.settle(CALM, CALM * 5);
    let awake = Awake::start()?;
    driver.quick_ack = options.quick_ack;
    driver.settle(CALM, CALM);
    let own = Thread::open(Path::new("/proc/thread-self"))?;
    let mut threads = Vec::new();
    for pid in process::tree(reflector.pid()) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads.push(Thread::open(&task?.path())?);
        }
    }
    let mut samples = Vec::new();
    for round in 0..options.rounds {
        for colour in [1, 0] {
            let change = Change::new(&mut driver, &Effort::default(), round % clients, colour);
            let before: Vec<_> = threads.iter().map(Thread::sched).collect();
            let own_before = own.sched();
            let us = change.time(&mut driver).map_err(io::Error::other)?;
            let mut sample = Sample { us, withdrawn: colour == 0, ..Sample::default() };
            let since = |now: [u64; 3], then: [u64; 3]| -> [f64; 3] {
                std::array::from_fn(|i| now[i].saturating_sub(then[i]) as f64 / if i < 2 { 1e3 } else { 1.0 })
            };
            [_, sample.generator_waited_us, sample.generator_switches] = since(own.sched(), own_before);
            let here = nix::sched::sched_getcpu().ok();
            for (thread, before) in threads.iter().zip(before) {
                let [ran, waited, times] = since(thread.sched(), before);
                sample.ran_us += ran;
                sample.waited_us += waited;
                if times > 0.0 {
                    sample.threads += 1.0;
                    sample.same_cpu = here.is_some() && thread.cpu() == here;
                }
            }
            samples.push(sample);
        }
    }
    drop(awake);
    match driver.judge.faults.none_wrong() {
        true => Ok(samples),
        false => Err(io::Error::other(format!("{} passed something on wrongly", target.make.name()))),
    }
}

/// A reflector's percentiles, and its parts.
fn shown(name: &str, samples: &mut [Sample]) -> Vec<String> {
    let times = |withdrawn| -> Vec<f64> {
        samples.iter().filter(|s| s.withdrawn == withdrawn).map(|s| s.us).collect()
    };
    let mut lines = Vec::new();
    for (what, mut times) in [("announced", times(false)), ("withdrawn", times(true))] {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| quantile(&mut times, q));
        lines
            .push(format!("{name}, {what}: p50 {p50:.0} us, p90 {p90:.0}, p99 {p99:.0}, of {}", times.len()));
    }
    samples.sort_by(|a, b| a.us.total_cmp(&b.us));
    lines.push(format!(
        "| {name} | time, us | its threads ran, us | waited for a CPU, us | threads that ran | generator waited, us | \
         generator switched to | on one CPU |"
    ));
    lines.push("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |".into());
    for (what, from, to) in PARTS {
        let at = |share: f64| (share * samples.len() as f64) as usize;
        let part = &samples[at(from)..at(to)];
        let mean = |of: &dyn Fn(&Sample) -> f64| part.iter().map(of).sum::<f64>() / part.len().max(1) as f64;
        lines.push(format!(
            "| {what} ({}) | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.1} | {:.0} % |",
            part.len(),
            mean(&|s| s.us),
            mean(&|s| s.ran_us),
            mean(&|s| s.waited_us),
            mean(&|s| s.threads),
            mean(&|s| s.generator_waited_us),
            mean(&|s| s.generator_switches),
            mean(&|s| 100.0 * f64::from(u8::from(s.same_cpu)))
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread sees itself run, and where.
    #[test]
    fn the_scheduler_tells_of_a_thread() {
        let own = Thread::open(Path::new("/proc/thread-self")).expect("ours");
        let before = own.sched();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(1));
        let after = own.sched();
        assert!(after[0] > before[0] && after[2] > before[2], "{before:?} {after:?}");
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(own.cpu().is_some_and(|cpu| cpu < cpus.max(1024)));
    }

    /// The parts are by time, and the percentiles by kind.
    #[test]
    fn parts_are_in_order_of_time() {
        let sample = |k: u32| Sample {
            us: f64::from(k),
            withdrawn: k > 500,
            waited_us: if k > 995 { 70.0 } else { 0.0 },
            ..Sample::default()
        };
        let mut samples: Vec<Sample> = (1..=1000).rev().map(sample).collect();
        let lines = shown("ours", &mut samples);
        assert!(
            lines[0].starts_with("ours, announced: p50 25") && lines[0].ends_with("of 500"),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains("p99 995"), "{}", lines[1]);
        assert!(lines[7].starts_with("| the slowest 0.5 % (5) | 998 | 0 | 70 |"), "{}", lines[7]);
    }
}
