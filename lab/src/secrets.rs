//! Finds secrets in what is going to be shown: known ones in every usual form, and what looks like one. Pure.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// Shortest text or byte string that is looked for; a shorter one would be found by chance.
const SHORTEST: usize = 16;
/// Octets by which a needle is looked up.
const HEAD: usize = 8;

/// Known secrets in every form in which they might be written down. It has no `Debug`: it is made of secrets.
#[derive(Default)]
pub struct Secrets {
    /// What each secret may be called.
    names: Vec<String>,
    /// By their first octets: which secret, and the whole form.
    needles: HashMap<[u8; HEAD], Vec<(usize, Vec<u8>)>>,
}

impl Secrets {
    /// Adds a secret as its file holds it: a line of text, a key in PEM, or octets; with every form of what it
    /// encodes.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        let at = self.names.len();
        self.names.push(name.into());
        let Ok(content) = std::str::from_utf8(content) else {
            self.add_octets(at, content);
            return;
        };
        if content.contains("-----BEGIN") {
            let lines: Vec<&str> =
                content.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
            lines.iter().filter(|line| line.len() >= 40).for_each(|line| self.add_text(at, line));
            if let Some(octets) = decode(&lines.concat()) {
                self.add_octets(at, &octets);
            }
            return;
        }
        for line in content.lines().map(str::trim).filter(|line| line.len() >= SHORTEST) {
            self.add_text(at, line);
            // An invite is its version and then its body: the body alone is enough to use it.
            let body = line.split_once('-').map_or(line, |(_, body)| body);
            self.add_text(at, body);
            for octets in [decode(line), decode(body), unhex(line)].into_iter().flatten() {
                self.add_octets(at, &octets);
            }
        }
    }

    /// How many secrets are known.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn add_text(&mut self, at: usize, text: &str) {
        self.needle(at, text.as_bytes());
        self.forms(at, text.as_bytes());
    }

    fn add_octets(&mut self, at: usize, octets: &[u8]) {
        self.needle(at, octets);
        self.forms(at, octets);
    }

    fn forms(&mut self, at: usize, octets: &[u8]) {
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        self.needle(at, hex.as_bytes());
        self.needle(at, hex.to_uppercase().as_bytes());
        // Within a longer string in base64 the octets may begin at any of three places; the letters at the edges
        // depend on their neighbours and are left out.
        for before in 0..3 {
            let mut padded = vec![0; before];
            padded.extend_from_slice(octets);
            let (from, to) = (before.div_ceil(3) + before, padded.len() * 8 / 6);
            for letters in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                self.needle(at, letters.as_bytes().get(from..to).unwrap_or_default());
            }
        }
    }

    fn needle(&mut self, at: usize, needle: &[u8]) {
        let Some(head) = needle.first_chunk::<HEAD>().filter(|_| needle.len() >= SHORTEST) else { return };
        let known = self.needles.entry(*head).or_default();
        if !known.iter().any(|(_, other)| other == needle) {
            known.push((at, needle.to_vec()));
        }
    }

    /// The names of the secrets that a file's content shows.
    pub fn shown_in(&self, content: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for start in 0..content.len() {
            let Some(head) = content[start..].first_chunk::<HEAD>() else { break };
            let Some(needles) = self.needles.get(head) else { continue };
            for (at, needle) in needles {
                let name = self.names[*at].as_str();
                if content[start..].starts_with(needle) && !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.iter().find_map(|engine| engine.decode(text).ok()).filter(|octets| octets.len() >= SHORTEST)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| pairs.filter_map(octet).collect::<Vec<u8>>())
        .filter(|octets| octets.len() >= SHORTEST)
}

/// Words after which, with `:` or `=` between, a secret's value may stand.
const LABELS: [&str; 8] = [
    "private_key",
    "privatekey",
    "private-key",
    "preshared_key",
    "presharedkey",
    "preshared-key",
    "secret",
    "psk",
];
/// Shortest value after a label that counts.
const VALUE: usize = 32;

/// What looks like a secret although it is not a known one: an invite, a private key in PEM, a long value with a
/// telling label.
pub fn suspicious(content: &[u8]) -> Vec<&'static str> {
    let text = String::from_utf8_lossy(content).to_ascii_lowercase();
    let mut found = Vec::new();
    let begins = format!("{}-----", ["private", "key"].join(" "));
    if text.contains(&begins) {
        found.push("a private key in PEM");
    }
    let invites = ["fabric1-", "fabric2-", "fabric3-", "fabric4-"]
        .into_iter()
        .flat_map(|mark| text.match_indices(mark));
    if invites.into_iter().any(|(at, mark)| value_length(&text[at + mark.len()..]) >= 20) {
        found.push("an invite");
    }
    let labelled = |label: &&str| {
        text.match_indices(*label).any(|(at, label)| {
            let after = &text[at + label.len()..];
            let value = after.trim_start_matches(['"', '\'', ' ', '\t', ':', '=']);
            let between = &after[..after.len() - value.len()];
            between.contains([':', '=']) && value_length(value) >= VALUE
        })
    };
    if LABELS.iter().any(labelled) {
        found.push("a long value with the label of a secret");
    }
    found
}

fn value_length(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"+/_-=".contains(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(content: &[u8]) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add("the key", content);
        secrets
    }

    proptest! {
        /// Proves that a key of 32 octets is found raw, in hex, in base64, and inside something else's base64.
        #[test]
        fn every_form_is_found(key in any::<[u8; 32]>(), before in prop::collection::vec(any::<u8>(), 0..20)) {
            let secrets = secrets(format!("{}\n", STANDARD.encode(key)).as_bytes());
            let hex: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
            let wrapped = [before.as_slice(), &key, b"after"].concat();
            let shown = [
                key.to_vec(),
                hex.clone().into_bytes(),
                hex.to_uppercase().into_bytes(),
                STANDARD.encode(key).into_bytes(),
                URL_SAFE_NO_PAD.encode(key).into_bytes(),
                STANDARD.encode(&wrapped).into_bytes(),
                URL_SAFE_NO_PAD.encode(&wrapped).into_bytes(),
                STANDARD.encode(STANDARD.encode(key)).into_bytes(),
            ];
            for (at, form) in shown.iter().enumerate() {
                let file = [b"x: ".as_slice(), form, b"\n"].concat();
                prop_assert_eq!(secrets.shown_in(&file), vec!["the key"], "form {}", at);
            }
        }

        /// Proves that other keys are not taken for it, and that no content makes the scan panic.
        #[test]
        fn others_are_not(key in any::<[u8; 32]>(), other in any::<[u8; 32]>(), content in any::<Vec<u8>>()) {
            prop_assume!(key != other);
            let secrets = secrets(STANDARD.encode(key).as_bytes());
            prop_assert!(secrets.shown_in(STANDARD.encode(other).as_bytes()).is_empty());
            let _ = (secrets.shown_in(&content), suspicious(&content));
        }
    }

    /// Proves that an invite is found whole, by its body alone, and, unknown, by its looks.
    #[test]
    fn invites() {
        let invite = format!("fabric1-{}", URL_SAFE_NO_PAD.encode([7; 90]));
        let secrets = secrets(invite.as_bytes());
        assert_eq!(secrets.shown_in(invite.as_bytes()), ["the key"]);
        assert_eq!(secrets.shown_in(&invite.as_bytes()[8..]), ["the key"]);
        for mark in ["fabric1-", "fabric2-", "fabric3-", "fabric4-"] {
            let other = invite.replace("fabric1-", mark);
            assert_eq!(suspicious(format!("see {other}").as_bytes()), ["an invite"]);
        }
        assert!(suspicious(b"an invite begins with fabric1- and goes on").is_empty());
    }

    /// Proves that keys in PEM are found by any of their lines, and by their looks.
    #[test]
    fn pem() {
        let marks = ["-----BEGIN OPENSSH PRIVATE", "KEY-----"].join(" ");
        let body: String = STANDARD.encode((0..120).collect::<Vec<u8>>());
        let (first, second) = body.split_at(70);
        let file = format!("{marks}\n{first}\n{second}\n-----END-----\n");
        let secrets = secrets(file.as_bytes());
        assert_eq!(secrets.shown_in(second.as_bytes()), ["the key"]);
        assert_eq!(suspicious(file.as_bytes()), ["a private key in PEM"]);
    }

    /// Proves that labels count only with a long value, and that paths to secrets are no secrets.
    #[test]
    fn labels() {
        let key = STANDARD.encode([9; 32]);
        for line in [format!("PrivateKey = {key}"), format!("{{\"secret\": \"{key}\"}}")] {
            assert_eq!(suspicious(line.as_bytes()).len(), 1, "{line}");
        }
        for line in
            ["privateKeyFile: /var/lib/fabric/wireguard.key", "secret: none", &format!("public_key: {key}")]
        {
            assert!(suspicious(line.as_bytes()).is_empty(), "{line}");
        }
    }
}
