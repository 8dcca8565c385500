//! What building a lab tells: per site, how long enrollment took and when the first packet came back. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::LabName;

/// What `lab up` did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpReport {
    /// The lab's name.
    pub name: LabName,
    /// Its state directory.
    pub dir: PathBuf,
    /// Whether every leaf enrolled and every client heard from another site.
    pub ok: bool,
    /// Milliseconds for namespaces, links and clients.
    pub underlay_ms: u64,
    /// Milliseconds from the start of `hub init` to an answering hub; none without a fabric.
    pub hub_ms: Option<u64>,
    /// Milliseconds for all of it.
    pub elapsed_ms: u64,
    /// The sites; empty without a fabric.
    pub sites: Vec<SiteReport>,
}

/// What happened at one site.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SiteReport {
    /// The site's name.
    pub site: String,
    /// Whether enrollment ended well.
    pub ok: bool,
    /// Milliseconds from the start of `routerctl enroll` to its end.
    pub enroll_ms: u64,
    /// Milliseconds from the start of `enroll` to the client's first reply from any other site.
    pub first_packet_ms: Option<u64>,
    /// The same for each other site.
    pub first_packets: BTreeMap<String, Option<u64>>,
    /// What carries the packets: `kernel` or `in-process`.
    pub dataplane: Option<String>,
    /// The steps that `enroll` printed.
    pub steps: Vec<Step>,
    /// Findings of the leaf whose fix the lab ran.
    pub fixes: Vec<FixRun>,
    /// Why enrollment failed.
    pub reason: Option<String>,
}

/// One step of an enrollment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// For example `tunnel`.
    pub name: String,
    /// Milliseconds.
    pub ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What it found.
    #[serde(default)]
    pub detail: String,
}

/// A documented fix that the lab ran, as a person would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixRun {
    /// The finding's code.
    pub code: String,
    /// The command that the finding shows.
    pub command: String,
    /// Milliseconds from the start of `enroll` to its end.
    pub at_ms: u64,
    /// Whether it ended with status 0.
    pub ok: bool,
    /// What it said when it did not.
    pub detail: String,
}

/// What `routerctl enroll -o json` prints at its end, as far as the lab reads it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EnrollAnswer {
    /// Whether the site works.
    pub ok: bool,
    /// The steps.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What carries the packets.
    #[serde(default)]
    pub dataplane: Option<String>,
    /// Why it failed: an object with code and message, or a word.
    #[serde(default)]
    pub reason: Option<serde_json::Value>,
}

impl EnrollAnswer {
    /// Reads the answer: the whole output, or its last line that is an object (progress lines may precede it).
    pub fn read(stdout: &str) -> Option<EnrollAnswer> {
        serde_json::from_str(stdout)
            .ok()
            .or_else(|| stdout.lines().rev().find_map(|line| serde_json::from_str(line.trim()).ok()))
    }

    /// The reason in words.
    pub fn reason_text(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        let word = |key: &str| reason.get(key).and_then(|word| word.as_str());
        match (word("code"), word("message")) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (Some(code), None) => Some(code.into()),
            _ => Some(reason.as_str().map_or_else(|| reason.to_string(), String::from)),
        }
    }
}

/// A finding with a fix, out of `routerctl status -o json`.
pub fn fix_of(status: &serde_json::Value, code: &str) -> Option<String> {
    let findings = status.pointer("/dataplane/findings")?.as_array()?;
    let finding =
        findings.iter().find(|finding| finding.get("code").and_then(|c| c.as_str()) == Some(code))?;
    finding.get("fix")?.as_str().map(String::from)
}

/// What carries the packets, out of `routerctl status -o json`.
pub fn dataplane_of(status: &serde_json::Value) -> Option<String> {
    status.pointer("/dataplane/dataplane")?.as_str().map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the answer is found alone, pretty-printed, and after progress lines.
    #[test]
    fn enroll_answers() {
        let done = r#"{"ok":true,"steps":[{"name":"probe","ms":3,"ok":true,"detail":""}],"elapsed_ms":5}"#;
        let pretty =
            "{\n \"ok\": false,\n \"reason\": {\"code\": \"invite-spent\", \"message\": \"used\"}\n}\n";
        assert_eq!(EnrollAnswer::read(done).unwrap().steps[0].name, "probe");
        let after = format!("{{\"line\":\"step\",\"name\":\"probe\",\"ms\":3}}\n{done}\n");
        assert!(EnrollAnswer::read(&after).unwrap().ok);
        let refused = EnrollAnswer::read(pretty).unwrap();
        assert_eq!(refused.reason_text().unwrap(), "invite-spent: used");
        assert!(EnrollAnswer::read("nothing").is_none());
    }

    /// Proves that a finding's fix is found by its code.
    #[test]
    fn findings() {
        let status = serde_json::json!({"dataplane": {"dataplane": "kernel", "findings": [
            {"code": "host-forward-drops", "fix": "nft insert rule ..."}]}});
        assert_eq!(fix_of(&status, "host-forward-drops").unwrap(), "nft insert rule ...");
        assert_eq!(fix_of(&status, "rp-filter"), None);
        assert_eq!(dataplane_of(&status).unwrap(), "kernel");
    }
}
