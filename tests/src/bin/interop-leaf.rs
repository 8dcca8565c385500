//! A speaker in the leaf's role for the interop tests: it dials one reflector, announces what a file says for as long
//! as the file says it, and writes what it has to another. It runs until it is killed.
//!
//! `interop-leaf CONFIG STATE`, both JSON files.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bgp::io::{Neighbor, Originated, RouteQuery, Speaker, SpeakerConfig};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Some(never) => match never {},
        None => ExitCode::FAILURE,
    }
}

fn read(file: &str) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

fn routes(config: &Value) -> Option<Vec<Originated>> {
    let route = |route: &Value| {
        let mut made = Originated::new(
            route["prefix"].as_str()?.parse().ok()?,
            route["nextHop"].as_str()?.parse().ok()?,
        );
        let communities = route["communities"].as_array()?.iter();
        made.communities =
            communities.filter_map(Value::as_u64).filter_map(|c| u32::try_from(c).ok()).collect();
        Some(made)
    };
    config["announce"].as_array()?.iter().map(route).collect()
}

async fn run() -> Option<std::convert::Infallible> {
    let mut words = std::env::args().skip(1);
    let (config_file, state_file) = (words.next()?, words.next()?);
    let config = read(&config_file)?;
    let asn = u32::try_from(config["asn"].as_u64()?).ok()?;
    let local = config["local"].as_str()?;
    let mut speaker = SpeakerConfig::new(asn, local.parse().ok()?);
    speaker.publish_best_paths = true;
    if let Some(secs) = config["restartSecs"].as_u64() {
        speaker.graceful_restart_secs = u16::try_from(secs).ok()?;
    }
    if let Some(secs) = config["longLivedSecs"].as_u64() {
        speaker.long_lived_stale_secs = u32::try_from(secs).ok()?;
    }
    let speaker = Speaker::start(speaker, Vec::new()).await.ok()?;
    let mut hub = Neighbor::new("reflector", config["reflector"].as_str()?.parse().ok()?, asn);
    hub.options.add_path.receive = true;
    hub.local_address = Some(local.parse().ok()?);
    speaker.originate(routes(&config)?).await;
    speaker.set_neighbors(vec![hub]).await;
    let mut refreshes = config["refreshes"].as_u64().unwrap_or_default();
    let part = format!("{state_file}.part");
    loop {
        // A file that is being written now is read the next time.
        let told = read(&config_file);
        if let Some(routes) = told.as_ref().and_then(routes) {
            speaker.originate(routes).await;
        }
        // Each time that the number grows it asks its reflector for everything again.
        if let Some(n) = told.and_then(|t| t["refreshes"].as_u64())
            && n > std::mem::replace(&mut refreshes, n)
        {
            speaker.refresh("reflector".into()).await?.ok()?;
        }
        let state = json!({ "peers": speaker.peers().await, "routes": speaker.routes(RouteQuery::default()).await.routes });
        std::fs::write(&part, state.to_string()).ok()?;
        std::fs::rename(Path::new(&part), &state_file).ok()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
