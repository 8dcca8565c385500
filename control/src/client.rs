//! The person's end of the administration socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::paths::{Node, Paths};
use crate::wire::ApiError;

/// Longest wait for an ordinary answer.
const ANSWER_SECS: u64 = 30;
/// Longest answer read, octets.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why a question had no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no daemon answers at {socket}: {error}; start it with `systemctl start {daemon}` or run `{daemon}`"
    )]
    Unreachable {
        /// The socket's path.
        socket: PathBuf,
        /// The daemon's program name.
        daemon: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The answer was cut off, late or no JSON.
    #[error("the daemon's answer to {path}: {what}")]
    Garbled {
        /// What was asked.
        path: String,
        /// What was wrong.
        what: String,
    },
}

/// One node's administration socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    node: Node,
}

impl Client {
    /// Names the socket; nothing is opened before the first question.
    pub fn new(paths: &Paths, node: Node) -> Client {
        Client { socket: paths.socket(node), node }
    }

    /// Asks.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Tells.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, json(path, body)?).await
    }

    /// Tells, and hands over each line of the answer as it comes. The whole may take `limit`.
    pub async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
        mut line: impl FnMut(T),
    ) -> Result<(), ClientError> {
        let garbled = |what: String| ClientError::Garbled { path: path.into(), what };
        let work = async {
            let answer = self.send(Method::POST, path, json(path, body)?).await?;
            let (head, mut body) = answer.into_parts();
            if !head.status.is_success() {
                let whole = body.collect().await.map_err(|e| garbled(e.to_string()))?.to_bytes();
                return Err(refusal(path, head.status, &whole));
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| garbled(e.to_string()))?;
                let Some(data) = frame.data_ref() else { continue };
                rest.extend_from_slice(data);
                if rest.len() > ANSWER_LIMIT {
                    return Err(garbled("a line without end".into()));
                }
                while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                    let whole: Vec<u8> = rest.drain(..=end).collect();
                    line(serde_json::from_slice(&whole).map_err(|e| garbled(e.to_string()))?);
                }
            }
            Ok(())
        };
        tokio::time::timeout(limit, work).await.map_err(|_| garbled(format!("none within {limit:?}")))?
    }

    /// Asks for octets, and hands over each piece as it comes. The whole may take `limit`.
    pub async fn get_octets(
        &self,
        path: &str,
        limit: Duration,
        mut piece: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let garbled = |what: String| ClientError::Garbled { path: path.into(), what };
        let work = async {
            let answer = self.send(Method::GET, path, Bytes::new()).await?;
            let (head, mut body) = answer.into_parts();
            if !head.status.is_success() {
                let whole = body.collect().await.map_err(|e| garbled(e.to_string()))?.to_bytes();
                return Err(refusal(path, head.status, &whole));
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| garbled(e.to_string()))?;
                if let Some(data) = frame.data_ref() {
                    piece(data).map_err(|e| garbled(format!("it cannot be written: {e}")))?;
                }
            }
            Ok(())
        };
        tokio::time::timeout(limit, work).await.map_err(|_| garbled(format!("not whole within {limit:?}")))?
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let garbled = |what: String| ClientError::Garbled { path: path.into(), what };
        let work = async {
            let answer = self.send(method, path, body).await?;
            let (head, body) = answer.into_parts();
            let whole = Limited::new(body, ANSWER_LIMIT)
                .collect()
                .await
                .map_err(|e| garbled(e.to_string()))?
                .to_bytes();
            if !head.status.is_success() {
                return Err(refusal(path, head.status, &whole));
            }
            serde_json::from_slice(&whole).map_err(|e| garbled(e.to_string()))
        };
        let limit = Duration::from_secs(ANSWER_SECS);
        tokio::time::timeout(limit, work).await.map_err(|_| garbled(format!("none within {limit:?}")))?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<hyper::Response<hyper::body::Incoming>, ClientError> {
        let garbled = |what: String| ClientError::Garbled { path: path.into(), what };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| ClientError::Unreachable {
            socket: self.socket.clone(),
            daemon: self.node.daemon(),
            error,
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                .await
                .map_err(|e| garbled(e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "fabric")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| garbled(e.to_string()))?;
        sender.send_request(request).await.map_err(|e| garbled(e.to_string()))
    }
}

fn json(path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|e| ClientError::Garbled { path: path.into(), what: e.to_string() })
}

fn refusal(path: &str, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ApiError>(body) {
        Ok(refused) => ClientError::Refused(refused),
        Err(_) => ClientError::Garbled {
            path: path.into(),
            what: format!("{status} {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
        },
    }
}
