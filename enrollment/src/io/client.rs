//! The leaf's side of the API: HTTP/1 to a given address, from a given source address, with time limits; over TLS where
//! an invite says so.

use super::keys::{self, NodeKeys};
use super::tls_door;
use crate::identity::{LeafName, SigningKey};
use crate::invite::{Invite, InviteHub, KeyPin};
use crate::reason::{ReasonCode, Refusal};
use crate::topology::{Admission, HubNode};
use crate::wire::{
    self, AddClaimRequest, Challenge, ChallengeAnswer, ChallengeRequest, EnrollRequest, Envelope, Head,
    LeaveRequest, MAX_ANSWER_BYTES, Operation, RejectedAnswer, ReleaseClaimRequest, RenewRequest,
    RotateRequest, SignedAnswer,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// A hub's leaf API as a leaf reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubApi {
    /// Where it answers (foyer or overlay address and port).
    pub address: SocketAddr,
    /// The source address of our connections; `None` leaves it to the kernel.
    pub bind: Option<IpAddr>,
    /// The pinned key of its answers.
    pub signing_key: SigningKey,
    /// The pinned key of its TLS; none inside a tunnel, which encrypts already.
    pub tls: Option<KeyPin>,
    /// For how long connecting may take (default 2 s).
    pub connect_timeout: Duration,
    /// For how long each answer may take (default 5 s).
    pub answer_timeout: Duration,
}

impl HubApi {
    /// The API at an address, with the default time limits.
    pub fn new(address: SocketAddr, bind: Option<IpAddr>, signing_key: SigningKey) -> Self {
        let (connect_timeout, answer_timeout) = (Duration::from_secs(2), Duration::from_secs(5));
        Self { address, bind, signing_key, tls: None, connect_timeout, answer_timeout }
    }

    /// The API that an invite names, reached from the invite's foyer address.
    pub fn of_invite(invite: &Invite) -> Self {
        Self::new(invite.api_address(), Some(invite.foyer_address.into()), invite.hub_signing_key)
    }

    /// The same at one of the hubs at which the invite is good.
    pub fn of_invite_hub(invite: &Invite, hub: &InviteHub) -> Self {
        Self::new(invite.api_address(), Some(invite.foyer_address.into()), hub.signing_key)
    }

    /// The API over TLS at one of the endpoints of the invite's door on the underlay.
    pub fn of_door(invite: &Invite, endpoint: SocketAddr, pin: KeyPin) -> Self {
        Self { tls: Some(pin), ..Self::new(endpoint, None, invite.hub_signing_key) }
    }

    /// The API of each of the admission's hubs, in their order, reached from the leaf's overlay address.
    pub fn all_of_admission(admission: &Admission) -> Vec<Self> {
        let api = |hub: &HubNode| {
            let address = SocketAddr::from((hub.overlay, hub.api_port));
            Self::new(address, Some(admission.overlay.into()), hub.signing_key)
        };
        admission.topology.hubs.iter().map(api).collect()
    }

    /// The API of the admission's first hub, reached from the leaf's overlay address; `None` if it names no hub.
    pub fn of_admission(admission: &Admission) -> Option<Self> {
        Self::all_of_admission(admission).into_iter().next()
    }

    async fn connect(&self) -> Result<Connection<'_>, Refusal> {
        let connecting = async {
            let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(bind) = self.bind {
                socket.bind(SocketAddr::new(bind, 0))?;
            }
            SockRef::from(&socket).set_tcp_keepalive(&keepalive())?;
            let stream = socket.connect(self.address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        let stream = match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(self.silent(&e.to_string())),
            Err(_) => return Err(self.silent("no connection in time")),
        };
        match self.tls {
            None => self.speak(stream).await,
            Some(pin) => self.speak(self.encrypted(stream, pin).await?).await,
        }
    }

    async fn encrypted(&self, stream: TcpStream, pin: KeyPin) -> Result<TlsStream<TcpStream>, Refusal> {
        let connector = tls_door::connector(pin).map_err(|e| self.silent(&e.to_string()))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        match tokio::time::timeout(self.answer_timeout, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if tls_door::is_of_the_key(&error) => {
                let message = format!("{} holds another key than the one that the invite pins", self.address);
                Err(Refusal::new(ReasonCode::PinMismatch, message))
            }
            Ok(Err(error)) => Err(self.silent(&error.to_string())),
            Err(_) => Err(self.silent("no TLS in time")),
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<Connection<'_>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| self.silent(&e.to_string()))?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { api: self, sender, driver })
    }

    fn silent(&self, why: &str) -> Refusal {
        Refusal::new(ReasonCode::HubSilent, format!("{}: {why}", self.address))
    }
}

/// Who waits for an answer looks whether there is still somebody to give it: a hub on another machine, which has taken
/// over the address of a lost one, knows nothing of the connection and says so.
pub(super) fn keepalive() -> TcpKeepalive {
    let second = Duration::from_secs(1);
    TcpKeepalive::new().with_time(2 * second).with_interval(second).with_retries(3)
}

struct Connection<'a> {
    api: &'a HubApi,
    sender: SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection<'_> {
    async fn exchange<T: DeserializeOwned>(&mut self, op: Operation, body: Vec<u8>) -> Result<T, Refusal> {
        let answer = tokio::time::timeout(self.api.answer_timeout, self.post(op, body.clone())).await;
        let answer = answer.map_err(|_| self.api.silent("no answer in time"))??;
        let signed: SignedAnswer = serde_json::from_slice(&answer).map_err(|e| {
            Refusal::new(ReasonCode::AnswerInvalid, format!("the answer cannot be read: {e}"))
        })?;
        signed.open(op, &body, &self.api.signing_key)
    }

    async fn post(&mut self, op: Operation, body: Vec<u8>) -> Result<Bytes, Refusal> {
        let request = hyper::Request::post(op.path())
            .header(header::HOST, self.api.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.api.silent(&e.to_string()))?;
        self.sender.ready().await.map_err(|e| self.api.silent(&e.to_string()))?;
        let response =
            self.sender.send_request(request).await.map_err(|e| self.api.silent(&e.to_string()))?;
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(|e| self.api.silent(&e.to_string()))?.to_bytes())
    }

    async fn challenge(&mut self) -> Result<Challenge, Refusal> {
        let request = ChallengeRequest { nonce: Challenge(keys::random().map_err(Refusal::from)?) };
        let answer: ChallengeAnswer = self.exchange(Operation::Challenge, wire::bytes_of(&request)).await?;
        Ok(answer.challenge)
    }
}

/// Joins by an invite: one challenge, one signed request. With the keys of an earlier enrollment it changes nothing and
/// gives the same answer.
pub async fn enroll(
    api: &HubApi,
    invite: &Invite,
    keys: &NodeKeys,
    claims: &[Ipv4Addr],
) -> Result<Admission, Refusal> {
    join(api, invite, keys, claims, false).await
}

/// The same; with `replace` the machine wants the place of the one that is enrolled under the invite's site.
pub async fn join(
    api: &HubApi,
    invite: &Invite,
    keys: &NodeKeys,
    claims: &[Ipv4Addr],
    replace: bool,
) -> Result<Admission, Refusal> {
    join_telling(api, invite, keys, claims, replace, || {}).await
}

/// The same; `goes_out` is called when the request itself does. Before that the hub cannot have agreed to it, whatever
/// becomes of the answer.
pub async fn join_telling(
    api: &HubApi,
    invite: &Invite,
    keys: &NodeKeys,
    claims: &[Ipv4Addr],
    replace: bool,
    goes_out: impl FnOnce(),
) -> Result<Admission, Refusal> {
    let mut connection = api.connect().await?;
    let request = EnrollRequest {
        invite: invite.id,
        hub: api.signing_key,
        challenge: connection.challenge().await?,
        wireguard_key: keys.wireguard_key(),
        signing_key: keys.signing_key(),
        claims: claims.to_vec(),
        replace,
    };
    let mut envelope = Envelope::enroll(&request, &invite.mac_key(), keys.signing());
    if api.tls.is_some() {
        envelope = envelope.through_door(&invite.door_key());
    }
    goes_out();
    connection.exchange(Operation::Enroll, wire::bytes_of(&envelope)).await
}

/// Prolongs the lease. `last` is the hub's last answer; its counter is what the request goes on from.
pub async fn renew(api: &HubApi, keys: &NodeKeys, last: &Admission) -> Result<Admission, Refusal> {
    later(api, keys, last, Operation::Renew, |head| RenewRequest { head }).await
}

/// Fetches the present admission and topology; changes nothing.
pub async fn topology(api: &HubApi, keys: &NodeKeys, last: &Admission) -> Result<Admission, Refusal> {
    later(api, keys, last, Operation::Topology, |head| RenewRequest { head }).await
}

/// Asks which of the leaf's own routes the hub rejects; changes nothing.
pub async fn rejected(api: &HubApi, keys: &NodeKeys, last: &Admission) -> Result<RejectedAnswer, Refusal> {
    later(api, keys, last, Operation::Rejected, |head| RenewRequest { head }).await
}

/// Claims one more address; claiming what the leaf owns already changes nothing.
pub async fn add_claim(
    api: &HubApi,
    keys: &NodeKeys,
    last: &Admission,
    address: Ipv4Addr,
) -> Result<Admission, Refusal> {
    later(api, keys, last, Operation::AddClaim, |head| AddClaimRequest { head, address }).await
}

/// Replaces both keys by fresh ones; the old ones sign the request.
pub async fn rotate(
    api: &HubApi,
    keys: &NodeKeys,
    fresh: &NodeKeys,
    last: &Admission,
) -> Result<Admission, Refusal> {
    let request =
        |head| RotateRequest { head, wireguard_key: fresh.wireguard_key(), signing_key: fresh.signing_key() };
    let sign = |request: &RotateRequest| Envelope::rotate(request, keys.signing(), fresh.signing());
    sent(api, last, Operation::Rotate, request, sign).await
}

/// Leaves the fabric.
pub async fn leave(api: &HubApi, keys: &NodeKeys, last: &Admission) -> Result<Admission, Refusal> {
    later(api, keys, last, Operation::Leave, |head| LeaveRequest { head }).await
}

/// Gives an address back; with a generation, only if the claim still has it.
pub async fn release_claim(
    api: &HubApi,
    keys: &NodeKeys,
    last: &Admission,
    address: Ipv4Addr,
    generation: Option<u64>,
) -> Result<Admission, Refusal> {
    let request = |head| ReleaseClaimRequest { head, address, generation };
    later(api, keys, last, Operation::ReleaseClaim, request).await
}

/// A later request, signed by the leaf's own key.
async fn later<T: Serialize, R: DeserializeOwned>(
    api: &HubApi,
    keys: &NodeKeys,
    last: &Admission,
    op: Operation,
    request: impl Fn(Head) -> T,
) -> Result<R, Refusal> {
    sent(api, last, op, request, |request: &T| Envelope::signed(op, request, keys.signing())).await
}

/// A later request. If the leaf's counter turns out to be behind (its state came from a backup), it is corrected by the
/// hub's signed answer and the request is made once more.
async fn sent<T, R: DeserializeOwned>(
    api: &HubApi,
    last: &Admission,
    op: Operation,
    request: impl Fn(Head) -> T,
    sign: impl Fn(&T) -> Envelope,
) -> Result<R, Refusal> {
    let mut connection = api.connect().await?;
    let mut attempt = async |leaf: LeafName, after: u64| {
        let challenge = connection.challenge().await?;
        let head = Head { leaf, hub: api.signing_key, challenge, counter: after.saturating_add(1) };
        let envelope = sign(&request(head));
        connection.exchange(op, wire::bytes_of(&envelope)).await
    };
    match attempt(last.leaf.clone(), last.counter).await {
        Err(Refusal { code: ReasonCode::CounterStale, last_counter: Some(counter), .. }) => {
            attempt(last.leaf.clone(), counter).await
        }
        outcome => outcome,
    }
}
