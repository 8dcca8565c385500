//! Builds and removes the namespaces under the fabric by running `ip`, `sysctl` and `nft`.

use std::time::Duration;

use crate::error::LabError;
use crate::io::run::{checked, run, words};
use crate::layout::{Hubs, LabName, nodes};
use crate::underlay::{self, Setup};

/// Longest time one of these programs may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The programs the lab runs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("ping", "iputils-ping"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("mount", "mount"),
];

/// Checks that the lab can be built here: rights and programs.
pub fn check_host() -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    for (program, package) in PROGRAMS {
        find_program(program).ok_or(LabError::MissingProgram { program, package })?;
    }
    Ok(())
}

/// Finds a program in PATH and in the system's directories, which a user's PATH may lack.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The words that run a command in a namespace.
pub fn inside(namespace: &str, argv: &[String]) -> Vec<String> {
    let mut all = words(["ip", "netns", "exec", namespace]);
    all.extend_from_slice(argv);
    all
}

/// Whether a namespace of that name exists.
pub fn exists(namespace: &str) -> bool {
    std::path::Path::new("/run/netns").join(namespace).exists()
}

/// Makes every namespace, link, address, route, setting and table of the underlay.
pub async fn build(lab: &LabName, hubs: Hubs) -> Result<(), LabError> {
    checked(&words(["ip", "-batch", "-"]), Some(&underlay::namespaces(lab, hubs)), LIMIT).await?;
    let (gateways, rest) = (underlay::gateways(lab, hubs), underlay::rest(hubs));
    // Settings come first: interfaces that are made later take the defaults of their namespace.
    each(gateways.iter().chain(&rest), |setup| settings(lab, setup)).await?;
    each(gateways.iter(), |setup| links(lab, setup)).await?;
    each(gateways.iter(), |setup| table(lab, setup)).await?;
    each(rest.iter(), |setup| links(lab, setup)).await?;
    each(rest.iter(), |setup| table(lab, setup)).await
}

async fn each<'a, F>(
    setups: impl Iterator<Item = &'a Setup>,
    mut step: impl FnMut(&'a Setup) -> F,
) -> Result<(), LabError>
where
    F: Future<Output = Result<(), LabError>>,
{
    // One after the other: each takes a few milliseconds, and the machine's lock on namespaces is one.
    for setup in setups {
        step(setup).await?;
    }
    Ok(())
}

async fn links(lab: &LabName, setup: &Setup) -> Result<(), LabError> {
    let namespace = lab.namespace(&setup.node);
    checked(&words(["ip", "-n", &namespace, "-batch", "-"]), Some(&setup.ip), LIMIT).await.map(drop)
}

async fn settings(lab: &LabName, setup: &Setup) -> Result<(), LabError> {
    if setup.sysctl.is_empty() {
        return Ok(());
    }
    // -e: the bridge's own setting exists only where br_netfilter is loaded.
    let mut argv = words(["sysctl", "-q", "-e", "-w"]);
    argv.extend_from_slice(&setup.sysctl);
    checked(&inside(&lab.namespace(&setup.node), &argv), None, LIMIT).await.map(drop)
}

async fn table(lab: &LabName, setup: &Setup) -> Result<(), LabError> {
    if setup.nft.is_empty() {
        return Ok(());
    }
    nft(&lab.namespace(&setup.node), &setup.nft).await
}

/// Gives `nft` a text in a namespace.
pub async fn nft(namespace: &str, text: &str) -> Result<(), LabError> {
    checked(&inside(namespace, &words(["nft", "-f", "-"])), Some(text), LIMIT).await.map(drop)
}

/// Removes the namespaces that exist out of the given ones. Interfaces, routes and tables go with them.
pub async fn remove(namespaces: &[String]) -> Result<(), LabError> {
    let there: Vec<&String> = namespaces.iter().filter(|name| exists(name)).collect();
    let text: String = there.iter().map(|name| format!("netns delete {name}\n")).collect();
    if there.is_empty() {
        return Ok(());
    }
    let output = run(&words(["ip", "-force", "-batch", "-"]), Some(&text), LIMIT).await?;
    match namespaces.iter().any(|name| exists(name)) {
        false => Ok(()),
        true => Err(LabError::Command { what: "ip netns delete".into(), detail: output.detail() }),
    }
}

/// The lab's namespaces that somebody else has already made.
pub fn taken(lab: &LabName) -> Option<String> {
    nodes(Hubs::Two).iter().map(|node| lab.namespace(node)).find(|namespace| exists(namespace))
}
