//! Socket options for BGP that no safe crate offers: TCP-MD5 keys (RFC 2385) and the smallest TTL that a socket
//! accepts (RFC 5082). Linux only.
//!
//! This is the workspace's one crate with unsafe code (docs/adr/0011), and it has one unsafe block: the call of
//! `setsockopt` in `set`. Everything else builds values by safe means.

use std::ffi::c_int;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

/// The longest TCP-MD5 key, in octets.
pub const MD5_KEY_MAX: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `tcpm_prefixlen` is used (`TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h).
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h, whose `tcpm_addr` is laid out like [`Address`].
#[repr(C)]
struct Md5Signature {
    address: Address,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: c_int,
    key: [u8; MD5_KEY_MAX],
}

/// A `sockaddr_in` or `sockaddr_in6` in the space of a `sockaddr_storage`: the family in host order, then octets.
/// The alignment is that of `sockaddr_storage`, checked below.
#[repr(C, align(8))]
struct Address {
    family: u16,
    octets: [u8; size_of::<libc::sockaddr_storage>() - 2],
}

// The sizes that the kernel copies; a libc with another layout does not compile.
const _: () = {
    assert!(size_of::<Address>() == size_of::<libc::sockaddr_storage>());
    assert!(align_of::<Address>() == align_of::<libc::sockaddr_storage>());
    assert!(size_of::<Md5Signature>() == size_of::<libc::sockaddr_storage>() + 8 + MD5_KEY_MAX);
    assert!(std::mem::offset_of!(libc::sockaddr_in, sin_addr) == 4);
    assert!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr) == 8);
};

impl Address {
    fn of(address: IpAddr) -> Address {
        let mut octets = [0; size_of::<libc::sockaddr_storage>() - 2];
        // After the family: two octets of port, then the address; with IPv6 four octets of flow label between.
        let family = match address {
            IpAddr::V4(a) => {
                octets[2..6].copy_from_slice(&a.octets());
                libc::AF_INET
            }
            IpAddr::V6(a) => {
                octets[6..22].copy_from_slice(&a.octets());
                libc::AF_INET6
            }
        };
        Address { family: family as u16, octets }
    }
}

/// Values that the kernel may read as plain octets. Private: only the types below are ever passed.
trait Plain {}
impl Plain for Md5Signature {}
impl Plain for c_int {}

#[allow(
    unsafe_code,
    reason = "the workspace's one unsafe block: setsockopt of options that no safe crate offers"
)]
fn set<T: Plain>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed. `value` is a live reference to `length`
    // octets, all of them initialised (`Plain` types have no padding: `c_int`, and `Md5Signature`, whose size is
    // the sum of its fields, as asserted above); the kernel only reads them, and keeps no pointer.
    let outcome = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the key for all segments to and from the addresses of `peers` (a whole prefix counts, the longest match
/// wins); an empty key removes it. On a listening socket it holds for every connection accepted from then on.
/// The family must be the socket's.
///
/// # Errors
/// `InvalidInput` for a key over [`MD5_KEY_MAX`] octets; `ENOMEM` beyond `net.core.optmem_max`; `ENOENT` when a key
/// to remove is not there; `ENOPROTOOPT` without kernel support.
pub fn set_md5_key(socket: BorrowedFd<'_>, peers: IpNet, key: &[u8]) -> io::Result<()> {
    let mut signature = Md5Signature {
        address: Address::of(peers.network()),
        flags: FLAG_PREFIX,
        prefix_len: peers.prefix_len(),
        key_len: key.len() as u16,
        interface: 0,
        key: [0; MD5_KEY_MAX],
    };
    let room = signature.key.get_mut(..key.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &signature)
}

/// Drops every received packet whose TTL (hop limit) is lower than `ttl`; 0 accepts all. `v6` is the socket's family.
///
/// # Errors
/// The system's.
pub fn set_min_ttl(socket: BorrowedFd<'_>, v6: bool, ttl: u8) -> io::Result<()> {
    let value = c_int::from(ttl);
    match v6 {
        false => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &value),
        true => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::{Ipv4Addr, SocketAddr};
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn tcp(v6: bool) -> Socket {
        Socket::new(if v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None).unwrap()
    }

    fn any(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// How long is waited for what must come, and for what must not.
    fn patience(connects: bool) -> Duration {
        if connects { Duration::from_secs(20) } else { Duration::from_millis(300) }
    }

    /// A connection comes about with the same key at both ends (here: by prefix) and with no other.
    #[test]
    fn only_the_same_key_connects() {
        let listener = tcp(false);
        listener.bind(&any(0).into()).unwrap();
        set_md5_key(listener.as_fd(), "127.0.0.0/8".parse().unwrap(), b"right").unwrap();
        listener.listen(8).unwrap();
        let to = listener.local_addr().unwrap();
        for (key, connects) in [(&b"right"[..], true), (b"wrong", false), (b"", false)] {
            let socket = tcp(false);
            if !key.is_empty() {
                set_md5_key(socket.as_fd(), "127.0.0.1/32".parse().unwrap(), key).unwrap();
            }
            let outcome = socket.connect_timeout(&to, patience(connects));
            assert_eq!(outcome.is_ok(), connects, "{outcome:?}");
        }
    }

    /// A key can be replaced and removed once; what the kernel cannot take is an error.
    #[test]
    fn keys_are_replaced_and_removed() {
        for (v6, peer) in [(false, "10.0.0.0/8"), (true, "2001:db8::/32")] {
            let (socket, peer) = (tcp(v6), peer.parse().unwrap());
            set_md5_key(socket.as_fd(), peer, b"one").unwrap();
            set_md5_key(socket.as_fd(), peer, b"two").unwrap();
            set_md5_key(socket.as_fd(), peer, b"").unwrap();
            assert_eq!(
                set_md5_key(socket.as_fd(), peer, b"").unwrap_err().raw_os_error(),
                Some(libc::ENOENT)
            );
            let long = set_md5_key(socket.as_fd(), peer, &[1; MD5_KEY_MAX + 1]);
            assert_eq!(long.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    /// With a smallest TTL of 255, a sender with a lower one is not heard.
    #[test]
    fn packets_from_afar_are_dropped() {
        let listener = tcp(false);
        listener.bind(&any(0).into()).unwrap();
        set_min_ttl(listener.as_fd(), false, 255).unwrap();
        listener.listen(8).unwrap();
        let to = listener.local_addr().unwrap();
        for (ttl, connects) in [(255, true), (254, false)] {
            let socket = tcp(false);
            socket.set_ttl_v4(ttl).unwrap();
            assert_eq!(socket.connect_timeout(&to, patience(connects)).is_ok(), connects);
        }
        set_min_ttl(tcp(true).as_fd(), true, 255).unwrap();
    }
}
