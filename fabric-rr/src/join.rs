//! How a second hub joins: through the first one's foyer, once, before anything else of it runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::{Paths, foyer};
use dataplane::io::Dataplane;
use enrollment::endpoint::Endpoint;
use enrollment::exchange::JoinAnswer;
use enrollment::invite::Invite;
use enrollment::io::hub_http;
use enrollment::io::keys::NodeKeys;
use enrollment::io::private_file;
use enrollment::reason::ReasonCode;
use ipnet::IpNet;

use crate::run::{RunError, converged, start_error};

/// For how long the first hub is tried.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long the dataplane may take for each attempt.
const DATAPLANE_LIMIT: Duration = Duration::from_secs(5);

/// What the first hub said when this one joined.
fn joined_file(paths: &Paths) -> PathBuf {
    paths.state.join("joined.json")
}

/// What this hub was told when it joined; none on the first hub. With a string to join by (`hub init --join` left it
/// in a file of mode 0600) and no answer yet, it joins now.
pub async fn joined(
    paths: &Paths,
    keys: &NodeKeys,
    endpoints: &[Endpoint],
    dataplane: &Dataplane,
    listen_port: u16,
) -> Result<Option<JoinAnswer>, RunError> {
    let file = joined_file(paths);
    if let Some(bytes) = private_file::read(&file).map_err(start_error)? {
        let answer = serde_json::from_slice(&bytes)
            .map_err(|error| start_error(format!("{} cannot be read: {error}", file.display())))?;
        return Ok(Some(answer));
    }
    let string = paths.join_string();
    let Some(bytes) = private_file::read(&string).map_err(start_error)? else {
        return Ok(None);
    };
    let invite = Invite::decode(&String::from_utf8_lossy(&bytes)).map_err(start_error)?;
    let answer = ask(&invite, keys, endpoints, dataplane, listen_port).await?;
    let bytes = serde_json::to_vec(&answer).map_err(start_error)?;
    private_file::write(&file, &bytes).map_err(start_error)?;
    forget(&string);
    Ok(Some(answer))
}

/// The string is spent; a file that cannot be removed holds no secret any more.
fn forget(string: &Path) {
    if let Err(error) = std::fs::remove_file(string) {
        tracing::warn!(%error, "the spent string to join by was not removed");
    }
}

async fn ask(
    invite: &Invite,
    keys: &NodeKeys,
    endpoints: &[Endpoint],
    dataplane: &Dataplane,
    listen_port: u16,
) -> Result<JoinAnswer, RunError> {
    let end = Instant::now() + LIMIT;
    let mut last = "the string names no endpoint".to_string();
    while Instant::now() < end {
        for endpoint in places(invite, &mut last).await {
            dataplane.wish(0, foyer::wished(invite, &invite.hub_wireguard_key, endpoint, listen_port));
            converged(dataplane, 0, DATAPLANE_LIMIT).await?;
            match hub_http::join(invite, keys, endpoints.to_vec()).await {
                Ok(answer) => {
                    tracing::info!(%endpoint, "joined the fabric as a hub");
                    return Ok(answer);
                }
                Err(refusal) if refusal.code == ReasonCode::HubSilent => last = refusal.to_string(),
                Err(refusal) => return Err(start_error(format!("{refusal}; {}", refusal.fix()))),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(start_error(format!("the first hub did not answer within {LIMIT:?}: {last}")))
}

/// Where the invite's endpoints lead now.
async fn places(invite: &Invite, last: &mut String) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for endpoint in &invite.hub_endpoints {
        match control::resolving::lookup(endpoint, |ip| IpNet::V4(invite.foyer_prefix).contains(&ip)).await {
            Ok(addresses) => found.extend(addresses),
            Err(refusal) => *last = refusal.to_string(),
        }
    }
    found
}
