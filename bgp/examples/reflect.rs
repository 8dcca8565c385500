//! A bare route reflector, configured by the environment: for measuring, and for a first look.
//!
//! `RR_ADDR` and `RR_PORT` say where it listens (127.0.0.1, 1790), `RR_ASN` (64512), `RR_ROUTER_ID` and
//! `RR_CLUSTER_ID` (10.0.0.1) who it is, `RR_CLIENT_NET` (127.0.0.0/8) who may connect as a client.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use bgp::io::{DynamicPeers, Speaker, SpeakerConfig};
use bgp::policy::Admission;

fn env<T: FromStr>(name: &str, default: &str) -> Result<T, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    let text = std::env::var(name).unwrap_or_else(|_| default.to_string());
    Ok(text.parse()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let asn: u32 = env("RR_ASN", "64512")?;
        let router_id: Ipv4Addr = env("RR_ROUTER_ID", "10.0.0.1")?;
        let mut config = SpeakerConfig::new(asn, router_id);
        let cluster: Ipv4Addr = env("RR_CLUSTER_ID", &router_id.to_string())?;
        config.cluster_id = cluster.into();
        let listen = SocketAddr::new(env::<IpAddr>("RR_ADDR", "127.0.0.1")?, env("RR_PORT", "1790")?);
        let speaker = Speaker::start(config, vec![listen]).await?;
        let clients = DynamicPeers {
            name: "clients".into(),
            source_prefixes: vec![env("RR_CLIENT_NET", "127.0.0.0/8")?],
            remote_asn: asn,
            route_reflector_client: true,
            limit: 10_000,
            admission: Admission::Open,
            options: Default::default(),
        };
        speaker.set_dynamic_peers(vec![clients]).await;
        std::future::pending().await
    })
}
