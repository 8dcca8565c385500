//! Routers of other makes, as Debian packages them: BIRD 2, FRR, GoBGP, OpenBGPD and ExaBGP as clients of the shipped
//! `fabric-rr`, and each that can as the reflector whose client is our speaker in the leaf's role. Each row has a
//! namespace for each side and a third router, the witness; all rows run at once. Each cell of the table that is
//! printed at the end is a test; what a make cannot do is named there with the reason.
//!
//! Needs root and the packages bird2, frr, gobgpd, openbgpd, exabgp and nftables, and fails without them.

mod make;
mod rows;
mod space;
mod witness;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use make::{Make, Role};

/// What is tested of each make in each role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Feature {
    Routes,
    Ipv6,
    Mapped,
    Communities,
    Withdraw,
    WeAsk,
    PathsSent,
    PathsTaken,
    RefreshAsked,
    RefreshSent,
    TheyRestart,
    WeRestart,
    Md5,
    Gtsm,
    GtsmIpv6,
    BfdUp,
    BfdCut,
    BfdIpv6,
    BfdQuick,
}

impl Feature {
    const ALL: [(Feature, &'static str); 19] = [
        (Feature::Routes, "routes"),
        (Feature::Ipv6, "IPv6"),
        (Feature::Mapped, "mapped hop"),
        (Feature::Communities, "communities"),
        (Feature::Withdraw, "withdraw"),
        (Feature::WeAsk, "we ask again"),
        (Feature::PathsSent, "paths sent"),
        (Feature::PathsTaken, "paths taken"),
        (Feature::RefreshAsked, "refresh asked"),
        (Feature::RefreshSent, "refresh sent"),
        (Feature::TheyRestart, "they restart"),
        (Feature::WeRestart, "we restart"),
        (Feature::Md5, "TCP-MD5"),
        (Feature::Gtsm, "GTSM"),
        (Feature::GtsmIpv6, "GTSM on IPv6"),
        (Feature::BfdUp, "BFD up"),
        (Feature::BfdCut, "BFD cut"),
        (Feature::BfdIpv6, "BFD on IPv6"),
        (Feature::BfdQuick, "BFD 50 ms"),
    ];

    /// The role of the namespaces of their own that it is tested in; `None`: those of the row itself.
    fn apart(self) -> Option<Role> {
        match self {
            Feature::BfdUp | Feature::BfdCut => Some(Role::ClientWithBfd),
            Feature::BfdIpv6 => Some(Role::ClientOverIpv6),
            Feature::BfdQuick => Some(Role::ClientWithQuickBfd),
            _ => None,
        }
    }

    /// Why a make in a role cannot be tested for this; `None`: it is.
    fn missing(self, make: Make, role: Role) -> Option<&'static str> {
        let bfd = self.apart().is_some();
        match (make, role, self) {
            (Make::OpenBgpd | Make::ExaBgp, _, _) if bfd => Some("it has no BFD"),
            (Make::GoBgp, _, _) if bfd => Some("version 3.10 has no BFD"),
            (_, Role::Reflector, _) if bfd => Some("the client's BFD is the same code in both roles"),
            (_, role, Feature::Mapped) if role != Role::Reflector => {
                Some("a leaf's speaker sends such next hops, `fabric-rr` has no routes of its own")
            }
            (_, Role::Reflector, Feature::Md5) => Some("a key is the same code in both roles"),
            (_, Role::Reflector, Feature::Gtsm | Feature::GtsmIpv6) => {
                Some("only a `BGPPeer` or `BGPDynamicPeer` has `maxHops`")
            }
            (Make::OpenBgpd, _, Feature::Gtsm | Feature::GtsmIpv6) => Some(
                "version 7.7 sends to neighbours of its own AS with TTL 64, whatever `ttl-security` says",
            ),
            (Make::ExaBgp, _, Feature::Gtsm | Feature::GtsmIpv6) => Some("tested with BIRD, FRR and GoBGP"),
            (Make::GoBgp, _, Feature::GtsmIpv6) => Some("tested over IPv4 alone"),
            (Make::OpenBgpd, _, Feature::WeAsk) => Some(
                "version 7.7 answers nobody's, BIRD's neither: `AID IPv4 unicast not negotiated`, though routes flow",
            ),
            (Make::ExaBgp, _, Feature::PathsSent) => {
                Some("what it hears is read without path identifiers here")
            }
            (_, Role::Reflector, Feature::PathsSent) => Some("a leaf has one path of each of its prefixes"),
            (Make::Bird, _, Feature::PathsTaken) if role != Role::Reflector => {
                Some("two paths of one BIRD: tests/tests/add_path.rs")
            }
            (_, _, Feature::PathsTaken) if role != Role::Reflector => {
                Some("a client has one path of each of its own prefixes; as the reflector it has more")
            }
            (Make::GoBgp, _, Feature::RefreshAsked) => {
                Some("softresetin works on the routes that it has kept: it never asks")
            }
            (Make::OpenBgpd, _, Feature::RefreshSent) => Some("bgpctl has no command to send again"),
            (Make::OpenBgpd, _, Feature::TheyRestart) => {
                Some("it helps others, but keeps no forwarding state of its own (RFC 4724 F bit)")
            }
            (Make::ExaBgp, _, Feature::WeRestart) => Some("it has no table that could be kept"),
            _ => None,
        }
    }
}

/// The verdict on each cell of a row, with the time that it took.
pub(crate) type Cells = BTreeMap<Feature, Result<Duration, String>>;

/// A row of the table.
struct Row {
    make: Make,
    role: Role,
    running: Mutex<Option<JoinHandle<Cells>>>,
    cells: OnceLock<Cells>,
}

impl Row {
    fn name(&self) -> String {
        let role = if self.role == Role::Reflector { "reflector" } else { "client" };
        format!("{} as {role}", self.make.name())
    }

    /// The tested features: a row and its BFD are one row of the table, but each kind has its own namespaces.
    fn features(&self) -> impl Iterator<Item = (Feature, &'static str)> {
        let mine = move |f: &Feature| f.apart() == self.role.with_bfd().then_some(self.role);
        Feature::ALL.into_iter().filter(move |(f, _)| mine(f) && f.missing(self.make, self.role).is_none())
    }

    /// Waits for the row, and gives the verdict on one cell.
    fn verdict(&self, feature: Feature) -> Result<Duration, String> {
        let cells = self.cells.get_or_init(|| {
            let running = self.running.lock().ok().and_then(|mut r| r.take());
            running.and_then(|r| r.join().ok()).unwrap_or_default()
        });
        cells.get(&feature).cloned().unwrap_or_else(|| Err("the row ended before it".into()))
    }
}

fn rows() -> Vec<Arc<Row>> {
    let row =
        |role| move |make| Arc::new(Row { make, role, running: Mutex::default(), cells: OnceLock::new() });
    let clients = Make::ALL.into_iter().map(row(Role::Client));
    let reflectors = Make::ALL.into_iter().filter(|m| *m != Make::ExaBgp).map(row(Role::Reflector));
    let kinds = [Role::ClientWithBfd, Role::ClientOverIpv6, Role::ClientWithQuickBfd];
    let bfd = kinds.into_iter().flat_map(|role| [Make::Bird, Make::Frr].map(row(role)));
    clients.chain(reflectors).chain(bfd).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Trials only wait for their row.
    arguments.test_threads = Some(64);
    let rows = rows();
    let mut trials = Vec::new();
    for row in &rows {
        let wanted =
            |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
        let mut any = false;
        for (feature, name) in row.features() {
            let name = format!("{}: {name}", row.name());
            any |= wanted(&name);
            let row = row.clone();
            trials.push(Trial::test(name, move || row.verdict(feature).map(drop).map_err(Failed::from)));
        }
        if any && !arguments.list {
            let (make, role) = (row.make, row.role);
            let running = std::thread::spawn(move || rows::run(make, role));
            if let Ok(mut place) = row.running.lock() {
                *place = Some(running);
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        // Nobody may be reading.
        let _ = std::io::stdout().write_all(table(&rows).as_bytes());
    }
    conclusion.exit_code()
}

/// The table, with the time of each cell, and below it why cells are empty.
fn table(rows: &[Arc<Row>]) -> String {
    let mut text = format!("{:<24}", "");
    let mut notes: Vec<String> = Vec::new();
    Feature::ALL.iter().for_each(|(_, name)| text += &format!("{name:>15}"));
    for row in rows.iter().filter(|r| !r.role.with_bfd()) {
        text += &format!("\n{:<24}", row.name());
        for (feature, name) in Feature::ALL {
            let tested = rows.iter().filter(|r| {
                let same_row = r.role == row.role || row.role == Role::Client && r.role.with_bfd();
                r.make == row.make && same_row && r.features().any(|(f, _)| f == feature)
            });
            let cell = match tested.map(|r| r.cells.get().and_then(|c| c.get(&feature))).next() {
                Some(Some(Ok(time))) => format!("{:.2} s", time.as_secs_f64()),
                Some(Some(Err(_))) => "FAILED".into(),
                Some(None) => "not run".into(),
                None => {
                    let why = feature.missing(row.make, row.role).unwrap_or("not tested");
                    notes.push(format!("{}, {name}: {why}", row.name()));
                    "-".into()
                }
            };
            text += &format!("{cell:>15}");
        }
    }
    let hasty = Make::ALL.into_iter().filter(|m| m.hasty_end_of_rib());
    notes.extend(hasty.map(|m| {
        let what = "after a restart it sends End-of-RIB before its routes, so they are kept until then only";
        format!("{} as client, they restart: {what}", m.name())
    }));
    format!("\n{text}\n\n{}\n", notes.join("\n"))
}
