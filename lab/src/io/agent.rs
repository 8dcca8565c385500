//! The TCP exchange of the matrix: the caller sends one MiB, the other end answers with its SHA-256, the
//! address it saw the caller at, and the same MiB back. `routerctl lab-agent` runs either end in a client's
//! namespace.
//!
//! On the wire: 1,048,576 octets; then from the server one line of JSON ([`Seen`]) and the 1,048,576 octets
//! again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Octets of an exchange in each direction.
pub const EXCHANGE_BYTES: usize = 1 << 20;

/// Longest time the server gives one caller.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// Most callers served at the same moment; further ones wait.
const SERVE_AT_ONCE: usize = 32;
/// Longest line that the caller reads.
const LINE_LIMIT: u64 = 1024;

/// What the far end saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// SHA-256 of the octets that arrived, base64.
    pub sha256: String,
    /// The address that they came from.
    pub peer: Ipv4Addr,
}

/// An exchange that was whole in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// The caller's address as the far end saw it.
    pub peer: Ipv4Addr,
    /// The caller's address as it sees itself.
    pub local: Ipv4Addr,
    /// Octets in each direction.
    pub bytes: usize,
    /// Milliseconds from the connection attempt to the last octet.
    pub ms: u64,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The time was up.
    #[error("not done within {0} ms, while {1}")]
    Timeout(u64, &'static str),
    /// The connection failed.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The far end's answer is not what was sent.
    #[error("the answer is not what was sent: {0}")]
    Different(&'static str),
}

/// Serves exchanges until the task is dropped. Binding errors are returned.
pub async fn serve(listen: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let room = Arc::new(Semaphore::new(SERVE_AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(async move {
                    // A caller that goes away is the caller's matter.
                    let _ = tokio::time::timeout(SERVE_LIMIT, answer(stream, peer)).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    let mut bytes = vec![0; EXCHANGE_BYTES];
    stream.read_exact(&mut bytes).await?;
    let peer = match peer {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => peer.ip().to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
    };
    let mut line = serde_json::to_string(&Seen { sha256: digest(&bytes), peer })?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}

/// Calls a server, within `limit` for the whole exchange.
pub async fn exchange(to: SocketAddr, limit: Duration) -> Result<Exchanged, ExchangeError> {
    let begin = Instant::now();
    let mut doing = "connecting";
    match tokio::time::timeout(limit, call(to, &mut doing, begin)).await {
        Ok(result) => result,
        Err(_) => Err(ExchangeError::Timeout(millis(limit), doing)),
    }
}

async fn call(to: SocketAddr, doing: &mut &'static str, begin: Instant) -> Result<Exchanged, ExchangeError> {
    let stream = TcpStream::connect(to).await.map_err(|error| ExchangeError::Io("connecting", error))?;
    let local = match stream.local_addr().map_err(|error| ExchangeError::Io("connecting", error))? {
        SocketAddr::V4(local) => *local.ip(),
        SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let sent = content(begin);
    let (reader, mut writer) = stream.into_split();
    *doing = "sending";
    writer.write_all(&sent).await.map_err(|error| ExchangeError::Io("sending", error))?;
    *doing = "waiting for the answer";
    let mut reader = BufReader::new(reader).take(LINE_LIMIT);
    let mut line = String::new();
    reader.read_line(&mut line).await.map_err(|error| ExchangeError::Io("reading the answer", error))?;
    let seen: Seen = serde_json::from_str(&line).map_err(|_| ExchangeError::Different("its first line"))?;
    if seen.sha256 != digest(&sent) {
        return Err(ExchangeError::Different("what arrived there"));
    }
    *doing = "receiving";
    let mut back = vec![0; EXCHANGE_BYTES];
    reader.set_limit(EXCHANGE_BYTES as u64);
    reader.read_exact(&mut back).await.map_err(|error| ExchangeError::Io("receiving", error))?;
    if back != sent {
        return Err(ExchangeError::Different("what came back"));
    }
    Ok(Exchanged { peer: seen.peer, local, bytes: EXCHANGE_BYTES, ms: millis(begin.elapsed()) })
}

/// Octets that no earlier exchange had, so that a late answer is not taken for this one's.
fn content(begin: Instant) -> Vec<u8> {
    let mut state = u64::from(std::process::id()) << 32 ^ begin.elapsed().as_nanos() as u64 | 1;
    let mut bytes = Vec::with_capacity(EXCHANGE_BYTES);
    while bytes.len() < EXCHANGE_BYTES {
        // xorshift64: enough to be incompressible and different.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    base64::engine::general_purpose::STANDARD.encode(digest.as_ref())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn server() -> SocketAddr {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        tokio::spawn(serve(free));
        while TcpStream::connect(free).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        free
    }

    /// Proves that a whole MiB goes both ways and that the far end says whom it saw.
    #[tokio::test]
    async fn exchange_on_loopback() {
        let done = exchange(server().await, Duration::from_secs(10)).await.unwrap();
        assert_eq!((done.peer, done.local, done.bytes), (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, 1 << 20));
    }

    /// Proves that a server that swallows everything and says nothing is a timeout that names the step.
    #[tokio::test]
    async fn silent_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        let error = exchange(to, Duration::from_millis(300)).await.unwrap_err();
        assert!(error.to_string().contains("waiting for the answer"), "{error}");
    }

    /// Proves that a server that answers with something else is found out.
    #[tokio::test]
    async fn lying_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; EXCHANGE_BYTES];
            stream.read_exact(&mut bytes).await.unwrap();
            let lie = "{\"sha256\":\"AAAA\",\"peer\":\"1.2.3.4\"}\n";
            stream.write_all(lie.as_bytes()).await.unwrap();
        });
        let error = exchange(to, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Different(_)), "{error}");
    }
}
