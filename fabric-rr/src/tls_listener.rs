//! Enrollment over TLS on a private underlay, where the configuration asks for it.

use std::net::SocketAddr;
use std::path::Path;

use enrollment::endpoint::Endpoint;
use enrollment::invite::TlsDoor;
use enrollment::io::http::Service;
use enrollment::io::listener;
use enrollment::io::tls_door::ServerKey;

use crate::run::{RunError, start_error};

/// What is needed to listen, and what invites say of it.
pub struct TlsListener {
    at: SocketAddr,
    key: ServerKey,
    /// What invites carry.
    pub told: TlsDoor,
}

impl TlsListener {
    /// The hub's key and address. One that stands for all addresses of the host is told as those at which leaves reach
    /// its WireGuard.
    pub fn at(at: SocketAddr, state: &Path, endpoints: &[Endpoint]) -> Result<Self, RunError> {
        let key = ServerKey::load_or_create(state).map_err(start_error)?;
        let told = match at.ip().is_unspecified() {
            true => endpoints.iter().map(|endpoint| endpoint.at_port(at.port())).collect(),
            false => vec![at.into()],
        };
        let told = TlsDoor { endpoints: told, pin: key.pin() };
        Ok(Self { at, key, told })
    }

    /// Opens the port.
    pub async fn serve(self, service: Service) -> Result<(), RunError> {
        let (at, key) = (self.at, self.key);
        let listener = tokio::net::TcpListener::bind(at).await.map_err(|error| RunError::Io {
            what: format!("listening on {at} for leaves (SAMEnrollmentPolicy httpListen)"),
            error,
        })?;
        tracing::info!(%at, pin = %key.pin(), "leaves may enroll over TLS");
        tokio::spawn(async move { listener::serve_tls(listener, service, &key).await });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A door on every address is told as the endpoints are, by name where they have one; one on an address as that.
    #[test]
    fn a_door_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = ["hub.example.net:51820", "10.0.0.5:51820"].map(|text| text.parse().unwrap());
        let told = |at: &str| {
            let door = TlsListener::at(at.parse().unwrap(), folder.path(), &endpoints).unwrap();
            door.told.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("0.0.0.0:8443"), ["hub.example.net:8443", "10.0.0.5:8443"]);
        assert_eq!(told("10.0.0.6:8443"), ["10.0.0.6:8443"]);
    }
}
