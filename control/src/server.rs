//! The daemon's end of the administration socket.

use std::path::Path;
use std::time::{Duration, Instant};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;

use bgp::explain::Asked;

use crate::wire::{ApiError, RouteName};

/// A refusal with its HTTP status; what a handler returns.
#[derive(Debug, Clone)]
pub struct Refusal(pub StatusCode, pub ApiError);

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Refusal {
        Refusal(status, ApiError { code: code.into(), message: message.into(), fix: None })
    }

    /// Names what mends it.
    pub fn fix(mut self, fix: impl Into<String>) -> Refusal {
        self.1.fix = Some(fix.into());
        self
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "request-malformed", message);
        refusal.fix("correct the value; --help of the verb says what it may be")
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// The daemon itself is at fault, or not ready.
    pub fn internal(message: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// How long a socket may still answer after its daemon was killed: a program that it was just starting has the socket
/// too until it runs.
const DYING: Duration = Duration::from_secs(1);

/// Opens the socket at `path`, for its owner alone. A socket that a dead daemon left is replaced; one that goes on
/// answering is an error (another daemon runs). Waits for a dying daemon, a second at most, without yielding: for the
/// start of a daemon, before there is anything else to do.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        let end = Instant::now() + DYING;
        while std::os::unix::net::UnixStream::connect(path).is_ok() {
            if Instant::now() >= end {
                let what = format!("another daemon answers at {}", path.display());
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, what));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What `GET /v1/bgp/explain` names: a prefix, or an address to be covered by one.
pub fn asked_route(name: &RouteName) -> Result<Asked, Refusal> {
    let text = &name.prefix;
    match (text.parse(), text.parse()) {
        (Ok(address), _) => Ok(Asked::Address(address)),
        (_, Ok(prefix)) => Ok(Asked::Prefix(prefix)),
        _ => Err(Refusal::bad_request(format!("{text:?} is neither a prefix nor an address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, ClientError, Node, Paths};
    use axum::routing::get;

    /// A daemon that is just dying does not keep its successor from starting.
    #[tokio::test]
    async fn a_dying_daemon_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let dying = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let dies = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(dying);
        });
        listen(&path).unwrap();
        dies.join().unwrap();
    }

    /// An answer, a refusal with its code and a missing daemon are told apart.
    #[tokio::test]
    async fn answers_refusals_and_silence_differ() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(Some(dir.path()));
        paths.create().unwrap();
        let client = Client::new(&paths, Node::Hub);
        assert!(matches!(client.get::<u8>("/one").await, Err(ClientError::Unreachable { .. })));

        let listener = listen(&paths.socket(Node::Hub)).unwrap();
        assert!(listen(&paths.socket(Node::Hub)).is_err(), "a second daemon must not take the socket");
        let routes = axum::Router::new()
            .route("/one", get(|| async { Json(1u8) }))
            .route("/no", get(|| async { Refusal::not_found("no such thing") }));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        assert_eq!(client.get::<u8>("/one").await.unwrap(), 1);
        match client.get::<u8>("/no").await {
            Err(ClientError::Refused(e)) => assert_eq!(e.code, "not-found"),
            other => panic!("{other:?}"),
        }
    }
}
