//! One ICMP echo through the fabric: the proof that an enrolled site works.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Octets of the IPv4 and the ICMP header before the data.
const HEADERS: usize = 28;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Sends an echo request (RFC 792) as an IPv4 packet of `length` octets from `from` to `to`, again every
/// 100 ms, and returns the time from the request that was answered to its answer. Blocks for `limit` at most.
pub fn echo(from: Ipv4Addr, to: Ipv4Addr, length: u16, limit: Duration) -> std::io::Result<Duration> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(from, 0)))?;
    socket.connect(&SockAddr::from(SocketAddrV4::new(to, 0)))?;
    let id = std::process::id() as u16;
    let end = Instant::now() + limit;
    let mut sequence = 0u16;
    while Instant::now() < end {
        sequence = sequence.wrapping_add(1);
        let sent = Instant::now();
        socket.send(&request(id, sequence, usize::from(length).saturating_sub(HEADERS)))?;
        let retry = (sent + Duration::from_millis(100)).min(end);
        while let Some(left) = retry.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let mut packet = [0u8; 65535];
            match (&socket).read(&mut packet) {
                Ok(n) if answers(&packet[..n], id, sequence) => return Ok(sent.elapsed()),
                Ok(_) => {}
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no echo from {to} within {limit:?}")))
}

fn request(id: u16, sequence: u16, data: usize) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(8 + data, 0xfa);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Whether a packet with its IPv4 header is the reply to our request.
fn answers(packet: &[u8], id: u16, sequence: u16) -> bool {
    let Some(&first) = packet.first() else { return false };
    let header = usize::from(first & 0x0f) * 4;
    match packet.get(header..header + 8) {
        Some(icmp) => {
            icmp[0] == ECHO_REPLY && icmp[4..6] == id.to_be_bytes() && icmp[6..8] == sequence.to_be_bytes()
        }
        None => false,
    }
}

/// RFC 1071.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback answers an echo; the time is below the limit.
    #[test]
    fn loopback_answers() {
        let lo = Ipv4Addr::LOCALHOST;
        assert!(echo(lo, lo, 1200, Duration::from_secs(2)).unwrap() < Duration::from_secs(2));
    }

    /// A truncated packet, another id and a request are no answers.
    #[test]
    fn other_packets_are_no_answers() {
        assert!(!answers(&[], 1, 1));
        assert!(!answers(&[0x4f; 12], 1, 1));
        let mut packet = vec![0x45; 20];
        packet.extend(request(1, 1, 0));
        assert!(!answers(&packet, 1, 1));
        packet[20] = ECHO_REPLY;
        assert!(answers(&packet, 1, 1));
        assert!(!answers(&packet, 2, 1));
    }
}
