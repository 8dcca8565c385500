//! The leaf's own configuration: read at the start, or written by the first enrollment.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use config::{Capture, Config, DataplaneChoice, Leaf, Source};
use control::wire::EnrollRequest;
use enrollment::reason::{ReasonCode, Refusal};

use crate::leaf::CaptureKind;

/// What the daemon takes from `SAMEnrollmentClient`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Clients claimed for as long as they stand in the file.
    pub clients: BTreeSet<Ipv4Addr>,
    /// How the site's network hands over packets for remote clients.
    pub capture: CaptureKind,
}

impl Settings {
    /// The settings of a configuration.
    pub fn of(config: &Leaf) -> Settings {
        let client = &config.client.spec;
        let capture = match (client.capture, &client.capture_interface) {
            (Capture::ProxyArp, Some(interface)) => CaptureKind::ProxyArp(interface.to_string()),
            // The parser refuses proxy-arp without an interface.
            _ => CaptureKind::None,
        };
        Settings { clients: client.clients.iter().copied().collect(), capture }
    }
}

/// Which dataplane a configuration asks for.
pub fn dataplane(config: &Leaf) -> dataplane::io::Choice {
    match config.client.spec.dataplane {
        DataplaneChoice::Auto => dataplane::io::Choice::Auto,
        DataplaneChoice::Kernel => dataplane::io::Choice::Kernel,
        DataplaneChoice::InProcess => dataplane::io::Choice::InProcess,
    }
}

/// A configuration file that the daemon cannot use; the text names every place.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It has mistakes.
    #[error("{0}")]
    Mistakes(config::Mistakes),
    /// It is a hub's.
    #[error("{0}: this is a hub's configuration; run fabric-rr with it")]
    Hub(String),
}

/// A leaf that says nothing of itself.
const DEFAULTS: &str = "apiVersion: mobility.routerd.net/v1alpha1\nkind: SAMEnrollmentClient\nmetadata: {name: leaf}\nspec: {}\n";

/// The configuration in `file`; all defaults where there is none.
pub fn load(file: &Path) -> Result<Leaf, Unusable> {
    if !file.exists() {
        return parse(file, DEFAULTS);
    }
    leaf(config::io::load(&[file.to_owned()]).map_err(Unusable::Mistakes)?, file)
}

fn parse(file: &Path, text: &str) -> Result<Leaf, Unusable> {
    let source = Source { name: file.display().to_string(), text: text.into() };
    leaf(config::parse(&[source]).map_err(Unusable::Mistakes)?, file)
}

fn leaf(config: Config, file: &Path) -> Result<Leaf, Unusable> {
    match config {
        Config::Leaf(leaf) => Ok(*leaf),
        Config::Hub(_) => Err(Unusable::Hub(file.display().to_string())),
    }
}

/// Puts what an enrollment asks for into `file` where there is none yet, and returns the configuration. A file that
/// is there is a person's: it is never changed, and must not contradict the request.
pub fn adopt(file: &Path, site: &str, request: &EnrollRequest) -> Result<Leaf, Refusal> {
    let differs = |message: String| Refusal::new(ReasonCode::ConfigDiffers, message);
    if file.exists() {
        let config = load(file).map_err(|unusable| differs(unusable.to_string()))?;
        contradiction(&config, request)
            .map_or(Ok(config), |what| Err(differs(format!("{}: {what}", file.display()))))
    } else {
        let text = text(site, request);
        let name = file.display().to_string();
        let config = parse(file, &text).map_err(|unusable| differs(unusable.to_string()))?;
        write(file, &text).map_err(|e| Refusal::new(ReasonCode::StateFileFailed, format!("{name}: {e}")))?;
        Ok(config)
    }
}

/// What of the request the configuration does not have.
fn contradiction(config: &Leaf, request: &EnrollRequest) -> Option<String> {
    let client = &config.client.spec;
    let missing: Vec<String> =
        request.clients.iter().filter(|c| !client.clients.contains(c)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Some(format!("clients: {} asked for, but not in the file", missing.join(", ")));
    }
    let capture = match client.capture {
        Capture::None => "none",
        Capture::ProxyArp => "proxy-arp",
    };
    if request.capture.as_deref().is_some_and(|wanted| wanted != capture) {
        return Some(format!("capture: {capture} in the file, {} asked for", request.capture.as_deref()?));
    }
    let interface = client.capture_interface.as_ref().map(ToString::to_string);
    let wanted = request.capture_interface.clone();
    (wanted.is_some() && wanted != interface).then(|| {
        let shown = |i: Option<String>| i.unwrap_or_else(|| "none".into());
        format!("captureInterface: {} in the file, {} asked for", shown(interface), shown(wanted))
    })
}

/// The file of a leaf that asks for this, as short as a person would write it.
fn text(site: &str, request: &EnrollRequest) -> String {
    let clients: Vec<String> = request.clients.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "apiVersion: mobility.routerd.net/v1alpha1\nkind: SAMEnrollmentClient\nmetadata:\n  name: {site}\nspec:\n  clients: [{}]\n",
        clients.join(", ")
    );
    for (key, value) in [("captureInterface", &request.capture_interface), ("capture", &request.capture)] {
        if let Some(value) = value {
            // A JSON string is a YAML string, whatever is in it.
            text.push_str(&format!("  {key}: {}\n", serde_json::Value::from(value.as_str())));
        }
    }
    text
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = file.with_extension("yaml.new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(clients: &[&str]) -> EnrollRequest {
        EnrollRequest {
            invite: None,
            clients: clients.iter().map(|c| c.parse().unwrap()).collect(),
            capture_interface: Some("eth0".into()),
            capture: Some("proxy-arp".into()),
            replace: false,
        }
    }

    /// The first enrollment writes the file, the second finds it as it should be, another request is refused and
    /// the file stays as it was.
    #[test]
    fn a_persons_file_is_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc/leaf.yaml");
        let config = adopt(&file, "pve", &request(&["10.99.9.10"])).unwrap();
        let settings = Settings::of(&config);
        assert_eq!(settings.capture, CaptureKind::ProxyArp("eth0".into()));
        let before = std::fs::read_to_string(&file).unwrap();
        adopt(&file, "pve", &request(&["10.99.9.10"])).unwrap();
        let refused = adopt(&file, "pve", &request(&["10.99.9.11"])).unwrap_err();
        assert_eq!(refused.code, ReasonCode::ConfigDiffers);
        assert!(refused.message.contains("10.99.9.11"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
}
