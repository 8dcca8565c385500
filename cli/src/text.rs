//! Text for people: tables, durations, amounts. Pure.

use std::fmt::{self, Display, Write};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A table with aligned columns.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    empty: String,
}

impl Table {
    /// A table with these column names; without rows it shows `empty` instead.
    pub fn new<const N: usize>(head: [&str; N], empty: &str) -> Table {
        Table { head: head.iter().map(|h| h.to_string()).collect(), rows: Vec::new(), empty: empty.into() }
    }

    /// A table whose columns are known only at run time.
    pub fn with_columns(head: Vec<String>, empty: &str) -> Table {
        Table { head, rows: Vec::new(), empty: empty.into() }
    }

    /// Adds a row; control characters in it are made visible (names come from other machines).
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return f.write_str(&self.empty);
        }
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| all().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in all().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            let end = if index == self.rows.len() { "" } else { "\n" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Pairs of a name and a value, one a line, names padded.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line =
        |(name, value): &(&str, String)| format!("{name:<width$}  {}", plain(value)).trim_end().to_string();
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The text with control characters made visible, so that no other machine moves this terminal's cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Seconds as two units at most, for example `3m12s`, `12h04m`, `2d03h`.
pub fn seconds(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// Seconds since 1970 as date and time in UTC, to the second.
pub fn utc(secs: u64) -> String {
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days since 0000-03-01; years begin in March, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// Octets with a binary unit, for example `1.5 MiB`.
pub fn octets(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A value or a dash.
pub fn or_dash<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".into(), T::to_string)
}

/// The values with commas between them, or a dash.
pub fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    if all.is_empty() { "-".into() } else { all.join(",") }
}

/// `yes` or `no`.
pub fn yes(value: bool) -> String {
    if value { "yes".into() } else { "no".into() }
}

/// Reads a prefix; an address is its host prefix.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let wrong = |_| format!("`{text}` is no prefix; write for example 198.51.100.0/24 or 2001:db8::/32");
    address.or_else(|_| text.parse().map_err(wrong))
}

/// Reads an IPv4 prefix; an address is its /32.
pub fn parse_prefix4(text: &str) -> Result<Ipv4Net, String> {
    match parse_prefix(text) {
        Ok(IpNet::V4(prefix)) => Ok(prefix),
        Ok(IpNet::V6(_)) => {
            Err(format!("`{text}` is IPv6, and clients have IPv4 addresses; write for example 10.81.10.0/24"))
        }
        Err(_) => Err(format!("`{text}` is no IPv4 prefix; write for example 10.81.10.0/24")),
    }
}

/// Reads `90s`, `15m`, `1h` or `2d`.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no duration; write for example 90s, 15m, 1h or 2d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).filter(|&secs| secs > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dates are those of `date -u`, over leap days and ends of years.
    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59:59");
        assert_eq!(utc(1_767_225_599), "2025-12-31 23:59:59");
    }

    /// An address is its host prefix, and what is no prefix is named with an example.
    #[test]
    fn prefixes() {
        assert_eq!(parse_prefix("198.51.100.7").unwrap().to_string(), "198.51.100.7/32");
        assert_eq!(parse_prefix("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        assert_eq!(parse_prefix4("10.81.10.0/24").unwrap().to_string(), "10.81.10.0/24");
        for (wrong, why) in [("10.81.10.0/33", "is no prefix"), ("aws", "198.51.100.0/24")] {
            assert!(parse_prefix(wrong).unwrap_err().contains(why));
        }
        assert!(parse_prefix4("2001:db8::/32").unwrap_err().contains("is IPv6"));
        assert!(parse_prefix4("10.81.10").unwrap_err().contains("10.81.10.0/24"));
    }

    /// Columns line up, no line ends in blanks, and an escape sequence from elsewhere is defused.
    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["NAME", "STATE"], "nothing");
        assert_eq!(table.to_string(), "nothing");
        table.row(["aws".into(), "Established".into()]);
        table.row(["long-name".into(), "\u{1b}[2J".into()]);
        assert_eq!(table.to_string(), "NAME       STATE\naws        Established\nlong-name  \u{fffd}[2J");
    }

    /// Durations read back as written; nonsense, overflow and zero are refused.
    #[test]
    fn durations() {
        for (text, secs) in [("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(parse_seconds(text), Ok(secs));
        }
        for wrong in
            ["", "1", "h", "-1h", "1w", "1h30m", "0s", "99999999999999999999d", "9999999999999999999d", "1é"]
        {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            [seconds(5), seconds(192), seconds(43_440), seconds(183_600)],
            ["5s", "3m12s", "12h04m", "2d03h"]
        );
        assert_eq!([octets(12), octets(1 << 20)], ["12 B", "1.0 MiB"]);
    }
}
