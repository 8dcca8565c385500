//! ARP announcements of new captures: a client that was asking already hears the answer now, not when it asks again.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, sendto, socket,
};

use crate::capture::Capture;

/// How long after the first announcement the second one follows (RFC 5227 section 2.3: ANNOUNCE_NUM 2,
/// ANNOUNCE_INTERVAL 2 s; the first may be lost).
const AGAIN: Duration = Duration::from_secs(2);
/// Octets of the shortest Ethernet frame, without its check sequence.
const SHORTEST: usize = 60;

/// Tells the networks of `captures` that their addresses are here, now and once more. Nothing depends on it: a
/// client that misses both asks by itself. Failures are logged.
pub(crate) fn announce(captures: Vec<Capture>) {
    if captures.is_empty() {
        return;
    }
    tell(&captures);
    tokio::spawn(async move {
        tokio::time::sleep(AGAIN).await;
        tell(&captures);
    });
}

fn tell(captures: &[Capture]) {
    match send(captures) {
        Ok(0) => {}
        Ok(lost) => {
            tracing::warn!(lost, "captures were not announced by ARP; clients find them when they ask")
        }
        Err(error) => {
            tracing::warn!(%error, "captures are not announced by ARP; clients find them when they ask")
        }
    }
}

/// Sends one announcement for each capture; gives how many could not be sent.
fn send(captures: &[Capture]) -> io::Result<usize> {
    // Protocol 0: this socket sends only; no packet of the host is copied to it.
    let raw: OwnedFd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None::<SockProtocol>,
    )?;
    let links: Vec<(String, LinkAddr)> = getifaddrs()?
        .filter_map(|found| Some((found.interface_name, *found.address?.as_link_addr()?)))
        .collect();
    let sent = captures.iter().filter(|capture| {
        let link = links.iter().find(|(name, _)| name == capture.interface()).map(|(_, link)| link);
        let Some((link, mac)) = link.and_then(|link| Some((link, link.addr()?))) else { return false };
        debug_assert_eq!(link.family(), Some(AddressFamily::Packet));
        sendto(raw.as_raw_fd(), &announcement(mac, capture.address()), link, MsgFlags::empty()).is_ok()
    });
    Ok(captures.len() - sent.count())
}

/// An ARP announcement (RFC 5227 section 3): a request whose sender and target are both `address`. The request
/// form is taken because Linux and Windows both enter it for an address that they are asking for.
fn announcement(mac: [u8; 6], address: Ipv4Addr) -> [u8; SHORTEST] {
    let mut frame = [0; SHORTEST];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
    // Ethernet, IPv4, lengths 6 and 4, request
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octet by octet as RFC 826 lays it out, with RFC 5227's sender and target.
    #[test]
    fn announcement_is_a_request_for_itself() {
        let frame = announcement([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 88, 60, 9));
        let expected =
            "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 0a583c09 000000000000 0a583c09";
        let hex: String = frame[..42].iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
        assert!(frame[42..].iter().all(|&octet| octet == 0));
    }
}
