//! The matrix: every directed pair of clients, four answers each, and how they are shown. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One answer about a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Whether it passed.
    pub ok: bool,
    /// Milliseconds that it took; none when it was not run.
    pub ms: Option<u64>,
    /// What failed; empty when it passed.
    pub error: String,
}

impl Check {
    /// A check that passed after `ms` milliseconds.
    pub fn passed(ms: u64) -> Check {
        Check { ok: true, ms: Some(ms), error: String::new() }
    }

    /// A check that failed.
    pub fn failed(ms: Option<u64>, error: impl Into<String>) -> Check {
        Check { ok: false, ms, error: error.into() }
    }
}

/// What was found out about one client calling another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Whether all four passed.
    pub ok: bool,
    /// The calling site.
    pub from: String,
    /// The called site.
    pub to: String,
    /// The calling client's own address.
    pub from_address: Ipv4Addr,
    /// The called client's address.
    pub to_address: Ipv4Addr,
    /// ICMP echo, three replies within the limit.
    pub ping: Check,
    /// An SSH session that runs a command.
    pub ssh: Check,
    /// One MiB over TCP there and back, compared.
    pub tcp: Check,
    /// Whether the far end saw the calling client's own address.
    pub source: Check,
    /// Where a packet was last seen, for a pair that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
}

impl Pair {
    /// The same pair with [`Pair::ok`] as its four answers say.
    pub fn judged(mut self) -> Pair {
        self.ok = self.checks().iter().all(|(_, check)| check.ok);
        self
    }

    /// The four answers with their names.
    pub fn checks(&self) -> [(&'static str, &Check); 4] {
        [("ping", &self.ping), ("ssh", &self.ssh), ("tcp", &self.tcp), ("source", &self.source)]
    }
}

/// All pairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// The lab's name.
    pub lab: String,
    /// Pairs of which all four checks passed.
    pub pairs_ok: usize,
    /// Pairs that were tried.
    pub pairs_total: usize,
    /// Milliseconds for the whole.
    pub elapsed_ms: u64,
    /// The pairs, in the order of the sites.
    pub pairs: Vec<Pair>,
}

impl Matrix {
    /// Counts up the pairs.
    pub fn new(lab: String, pairs: Vec<Pair>, elapsed_ms: u64) -> Matrix {
        let pairs_ok = pairs.iter().filter(|pair| pair.ok).count();
        Matrix { lab, pairs_ok, pairs_total: pairs.len(), elapsed_ms, pairs }
    }

    /// Whether there are pairs and all passed.
    pub fn ok(&self) -> bool {
        self.pairs_total > 0 && self.pairs_ok == self.pairs_total
    }

    /// A table for people: a line for each pair, then what is wrong with those that failed.
    pub fn table(&self) -> String {
        let mut text =
            format!("{:<8}{:<8}{:>9}{:>9}{:>9}   {:<16}\n", "FROM", "TO", "PING", "SSH", "TCP", "SOURCE");
        for pair in &self.pairs {
            let source = if pair.source.ok { pair.from_address.to_string() } else { "FAILED".into() };
            let [ping, ssh, tcp] = [&pair.ping, &pair.ssh, &pair.tcp].map(cell);
            let _ = writeln!(text, "{:<8}{:<8}{ping:>9}{ssh:>9}{tcp:>9}   {source}", pair.from, pair.to);
        }
        let _ = writeln!(
            text,
            "{} of {} pairs passed in {} ms",
            self.pairs_ok, self.pairs_total, self.elapsed_ms
        );
        for pair in self.pairs.iter().filter(|pair| !pair.ok) {
            for (name, check) in pair.checks().iter().filter(|(_, check)| !check.ok) {
                let error = check.error.trim().replace('\n', "; ");
                let _ = writeln!(text, "{} to {}: {name}: {error}", pair.from, pair.to);
            }
            if let Some(last_seen) = &pair.last_seen {
                let _ = writeln!(text, "{} to {}: {last_seen}", pair.from, pair.to);
            }
        }
        text
    }

    /// JSON, indented.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// JUnit XML: a suite of four cases a pair.
    pub fn junit(&self) -> String {
        let failures = self.pairs.iter().flat_map(Pair::checks).filter(|(_, check)| !check.ok).count();
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            text,
            "<testsuite name=\"fabric matrix {}\" tests=\"{}\" failures=\"{failures}\" time=\"{}\">",
            escape(&self.lab),
            self.pairs.len() * 4,
            seconds(self.elapsed_ms)
        );
        for pair in &self.pairs {
            for (name, check) in pair.checks() {
                let class = format!("{}-to-{}", escape(&pair.from), escape(&pair.to));
                let time = seconds(check.ms.unwrap_or(0));
                let _ = write!(text, "  <testcase classname=\"{class}\" name=\"{name}\" time=\"{time}\"");
                if check.ok {
                    text.push_str("/>\n");
                    continue;
                }
                let seen = pair.last_seen.as_deref().unwrap_or("");
                let _ = writeln!(
                    text,
                    "><failure message=\"{}\">{}</failure></testcase>",
                    escape(check.error.trim()),
                    escape(seen)
                );
            }
        }
        text.push_str("</testsuite>\n");
        text
    }
}

fn cell(check: &Check) -> String {
    match (check.ok, check.ms) {
        (true, Some(ms)) => format!("{ms} ms"),
        (true, None) => "ok".into(),
        (false, _) => "FAILED".into(),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Text for XML; what XML cannot hold becomes a question mark.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Judges the source address from what the far ends said: SSH's `SSH_CONNECTION` and the exchange's answer.
pub fn source(own: Ipv4Addr, seen: &[Option<Ipv4Addr>]) -> Check {
    let seen: BTreeSet<Ipv4Addr> = seen.iter().flatten().copied().collect();
    let others: Vec<String> = seen.iter().filter(|seen| **seen != own).map(ToString::to_string).collect();
    match (seen.is_empty(), others.is_empty()) {
        (true, _) => Check::failed(None, "nobody saw a source: no session was set up"),
        (false, true) => Check { ok: true, ms: None, error: String::new() },
        (false, false) => Check::failed(None, format!("the far end saw {} and not {own}", others.join(", "))),
    }
}

/// The caller's address out of `SSH_CONNECTION` (`client port server port`), if the server's is the one called.
pub fn ssh_source(printed: &str, called: Ipv4Addr) -> Result<Ipv4Addr, String> {
    let words: Vec<&str> = printed.split_ascii_whitespace().collect();
    match words.as_slice() {
        [client, _, server, _] if server.parse() == Ok(called) => {
            client.parse().map_err(|_| format!("the session's source {client:?} is no IPv4 address"))
        }
        [_, _, server, _] => Err(format!("the session was with {server}, not with {called}")),
        _ => Err(format!("SSH_CONNECTION is {:?}", printed.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(error: &str) -> Pair {
        let ssh = if error.is_empty() { Check::passed(120) } else { Check::failed(None, error) };
        let pair = Pair {
            ok: false,
            from: "aws".into(),
            to: "oci".into(),
            from_address: Ipv4Addr::new(10, 81, 10, 20),
            to_address: Ipv4Addr::new(10, 83, 10, 20),
            ping: Check::passed(7),
            ssh,
            tcp: Check::passed(31),
            source: Check { ok: true, ms: None, error: String::new() },
            last_seen: (!error.is_empty()).then(|| "echo request: entered oci-leaf, did not leave it".into()),
        };
        pair.judged()
    }

    /// Proves that a green matrix says so in all three forms.
    #[test]
    fn green() {
        let matrix = Matrix::new("fab".into(), vec![pair("")], 1234);
        assert!(matrix.ok());
        assert!(matrix.table().contains("aws     oci          7 ms   120 ms    31 ms   10.81.10.20"));
        assert!(matrix.table().ends_with("1 of 1 pairs passed in 1234 ms\n"));
        assert!(matrix.junit().contains("tests=\"4\" failures=\"0\" time=\"1.234\""));
        let back: Matrix = serde_json::from_str(&matrix.json()).unwrap();
        assert_eq!(back, matrix);
    }

    /// Proves that a red pair names the check that failed, why, and where the packet was last seen.
    #[test]
    fn red() {
        let matrix = Matrix::new("fab".into(), vec![pair("exit status 255: <timeout> & \"more\"")], 5);
        assert!(!matrix.ok() && matrix.pairs_ok == 0);
        let table = matrix.table();
        assert!(table.contains("FAILED") && table.contains("aws to oci: ssh: exit status 255"), "{table}");
        assert!(table.contains("entered oci-leaf, did not leave it"));
        let junit = matrix.junit();
        assert!(
            junit.contains("message=\"exit status 255: &lt;timeout&gt; &amp; &quot;more&quot;\""),
            "{junit}"
        );
        assert!(!Matrix::new("fab".into(), vec![], 0).ok(), "no pair is not all pairs");
    }

    /// Proves that one wrong source among several is enough to fail, and that no source is no pass.
    #[test]
    fn sources() {
        let own = Ipv4Addr::new(10, 81, 10, 20);
        let nat = Ipv4Addr::new(10, 83, 10, 10);
        assert!(source(own, &[Some(own), None]).ok);
        assert!(source(own, &[Some(own), Some(nat)]).error.contains("10.83.10.10"));
        assert!(!source(own, &[None, None]).ok);
        let called = Ipv4Addr::new(10, 83, 10, 20);
        assert_eq!(ssh_source("10.81.10.20 4242 10.83.10.20 22\n", called), Ok(own));
        assert!(ssh_source("10.81.10.20 4242 10.83.10.99 22", called).is_err());
        assert!(ssh_source("", called).is_err());
    }

    proptest! {
        /// Proves that no error text breaks the XML: every markup letter of it is escaped.
        #[test]
        fn any_error_is_escaped(error in any::<String>()) {
            let escaped = escape(&error);
            let markup = escaped.contains(['<', '>', '"']) || escaped.contains(char::is_control);
            prop_assert!(!markup);
        }
    }
}
