//! Prometheus' text format, version 0.0.4: families of samples, each with its help and type.

use std::fmt::Write as _;

/// What a number means over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from the daemon's start on; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// The word of the TYPE line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// A family: what is written about each of its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name, with the unit at the end.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The names of its labels; none for a single number.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Adds a family with its samples: the values of its labels, in their order, and a number. Without samples there
    /// is no family.
    pub fn family(&mut self, family: &Family, samples: impl IntoIterator<Item = (Vec<String>, f64)>) {
        let mut begun = false;
        for (values, number) in samples {
            debug_assert_eq!(values.len(), family.labels.len(), "{}", family.name);
            if !begun {
                let Family { name, kind, help, .. } = family;
                let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str());
                begun = true;
            }
            self.0.push_str(family.name);
            for (n, (label, value)) in family.labels.iter().zip(&values).enumerate() {
                let _ = write!(self.0, "{}{label}=\"{}\"", if n == 0 { '{' } else { ',' }, escaped(value));
            }
            let _ = writeln!(self.0, "{} {number}", if values.is_empty() { "" } else { "}" });
        }
    }

    /// A family of one number without labels.
    pub fn number(&mut self, family: &Family, number: f64) {
        self.family(family, [(Vec::new(), number)]);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
