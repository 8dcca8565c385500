//! A strict reader of the text format, for tests alone: what Prometheus would take, and what `promtool check metrics`
//! would not complain of.

use std::collections::{BTreeMap, BTreeSet};

/// Every sample by its name with its labels as written, or what is wrong with the page.
pub fn read(page: &str) -> Result<BTreeMap<String, f64>, String> {
    if !page.ends_with('\n') {
        return Err("the page does not end with a line end".into());
    }
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    // The family under way: its name, and its type once that is known.
    let mut family: Option<(String, Option<String>)> = None;
    for (n, line) in page.lines().enumerate() {
        let wrong = |what: &str| format!("line {}: {what}: {line}", n + 1);
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if help.trim().is_empty() || !families.insert(name.to_string()) {
                return Err(wrong("an empty help, or a family that is not in one piece"));
            }
            named(name).map_err(|what| wrong(&what))?;
            family = Some((name.into(), None));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let Some((of, None)) = family else { return Err(wrong("a type without its help before it")) };
            if of != name
                || name.ends_with("_total") != (kind == "counter")
                || !["counter", "gauge"].contains(&kind)
            {
                return Err(wrong("a type that does not fit the name"));
            }
            family = Some((of, Some(kind.into())));
        } else {
            let (sample, number) = sample(line).map_err(|what| wrong(&what))?;
            let Some((of, Some(kind))) = &family else { return Err(wrong("a sample without help and type")) };
            let name = sample.split('{').next().unwrap_or_default();
            if name != of || !number.is_finite() || (kind == "counter" && number < 0.0) {
                return Err(wrong("a sample of another family, or no such number"));
            }
            if samples.insert(sample, number).is_some() {
                return Err(wrong("the same sample twice"));
            }
        }
    }
    Ok(samples)
}

/// The rules that promtool lints names by.
fn named(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with("fabric_") || !name.chars().all(good) || name.contains("__") {
        return Err("no good name".into());
    }
    let short = ["secs", "sec", "ms", "millis", "octets", "kb", "count", "gauge", "counter", "info_total"];
    match name.split('_').find(|word| short.contains(word)) {
        Some(word) => Err(format!("{word} in a name: write base units out")),
        None => Ok(()),
    }
}

fn sample(line: &str) -> Result<(String, f64), String> {
    let (head, number) = line.rsplit_once(' ').ok_or("no number")?;
    let number = number.parse().map_err(|_| "no number")?;
    let Some((_, labels)) = head.split_once('{') else {
        return match head.contains(['"', '}', ' ']) {
            true => Err("no sample".into()),
            false => Ok((head.into(), number)),
        };
    };
    let mut rest = labels.strip_suffix('}').ok_or("labels without an end")?;
    let mut seen = BTreeSet::new();
    loop {
        let (label, value) = rest.split_once("=\"").ok_or("a label without a value")?;
        let plain = !label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if !plain || label.starts_with("__") || !seen.insert(label) {
            return Err(format!("the label {label:?}"));
        }
        let end = end_of(value).ok_or("a value without an end")?;
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok((head.into(), number)),
            None => return Err("something after a value".into()),
        }
    }
}

/// Where the closing quote of a label's value is.
fn end_of(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.char_indices().find_map(|(at, c)| match (escaped, c) {
        (true, _) => {
            escaped = false;
            None
        }
        (false, '\\') => {
            escaped = true;
            None
        }
        (false, '"') => Some(at),
        _ => None,
    })
}
