//! TCP-MD5 and the smallest TTL on real sockets. A connection that should be guarded and could not be is refused:
//! a key that the kernel did not take must not turn into no key.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;

use ipnet::IpNet;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::settings::{Guard, Md5Key};

/// We send with the highest TTL, so that a neighbour may insist on it (RFC 5082 section 3).
const TTL: u32 = 255;

/// The keys of the listening sockets.
#[derive(Default)]
pub(super) struct Keys {
    installed: BTreeMap<IpNet, Md5Key>,
    failed: BTreeMap<IpNet, String>,
}

impl Keys {
    /// Gives the listening sockets these keys and no others.
    pub(super) fn wish(&mut self, listeners: &[Rc<TcpListener>], wished: BTreeMap<IpNet, Md5Key>) {
        for net in self.installed.keys().filter(|net| !wished.contains_key(net)) {
            // ENOENT: that listener never took it.
            let _ = on_all(listeners, *net, &[]);
        }
        self.installed.retain(|net, _| wished.contains_key(net));
        self.failed.clear();
        for (net, key) in wished {
            if self.installed.get(&net) == Some(&key) {
                continue;
            }
            match on_all(listeners, net, key.octets()) {
                Ok(()) => {
                    self.installed.insert(net, key);
                }
                Err(error) => {
                    self.installed.remove(&net);
                    let why = explain(&error);
                    tracing::error!(%net, "no TCP-MD5 key on the listening sockets: {why}");
                    self.failed.insert(net, why);
                }
            }
        }
    }

    /// Whether a connection from here should have been guarded by a key that could not be set.
    pub(super) fn lacks(&self, remote: IpAddr) -> bool {
        let longest = |nets: &mut dyn Iterator<Item = &IpNet>| {
            nets.filter(|net| net.contains(&remote)).map(IpNet::prefix_len).max()
        };
        longest(&mut self.failed.keys()).is_some_and(|failed| {
            longest(&mut self.installed.keys()).is_none_or(|installed| installed < failed)
        })
    }

    /// What could not be done, with the remedy.
    pub(super) fn findings(&self) -> Vec<String> {
        self.failed
            .iter()
            .map(|(net, why)| format!("TCP-MD5 key for {net}: {why}; its connections are refused"))
            .collect()
    }
}

fn on_all(listeners: &[Rc<TcpListener>], net: IpNet, key: &[u8]) -> io::Result<()> {
    let family = |l: &&Rc<TcpListener>| l.local_addr().is_ok_and(|at| at.is_ipv4() == net.addr().is_ipv4());
    listeners.iter().filter(family).try_for_each(|l| sockopt::set_md5_key(l.as_fd(), net, key))
}

/// `ENOMEM`: the kernel bounds the memory for options of one socket; each key of a listener takes of it.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::OutOfMemory => {
            let now = std::fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap_or_default();
            let now = now.trim().parse().unwrap_or(20_480_u64);
            format!(
                "net.core.optmem_max is {now}, too little for so many keys on one socket: sysctl -w net.core.optmem_max={}",
                now.saturating_mul(4)
            )
        }
        _ => error.to_string(),
    }
}

/// Prepares a listening socket: its answers leave with the highest TTL.
pub(super) fn prepare_listener(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    send_far(SockRef::from(socket), address.is_ipv6())
}

fn send_far(socket: SockRef<'_>, v6: bool) -> io::Result<()> {
    if v6 { socket.set_unicast_hops_v6(TTL) } else { socket.set_ttl_v4(TTL) }
}

/// Prepares a socket that is about to dial.
pub(super) fn prepare_dial(socket: &TcpSocket, to: SocketAddr, guard: &Guard) -> io::Result<()> {
    send_far(SockRef::from(socket), to.is_ipv6())?;
    if let Some(key) = &guard.md5 {
        sockopt::set_md5_key(socket.as_fd(), IpNet::from(to.ip()), key.octets())?;
    }
    match guard.min_ttl() {
        0 => Ok(()),
        ttl => sockopt::set_min_ttl(socket.as_fd(), to.is_ipv6(), ttl),
    }
}

/// Guards a connection that has been accepted; its key holds since its first segment.
pub(super) fn guard_accepted(stream: &TcpStream, guard: &Guard) -> io::Result<()> {
    match guard.min_ttl() {
        0 => Ok(()),
        ttl => sockopt::set_min_ttl(stream.as_fd(), stream.local_addr()?.is_ipv6(), ttl),
    }
}

/// Segments that the kernel of this network namespace has dropped, for all its sockets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// For TCP-MD5, by kind.
    pub md5: BTreeMap<String, u64>,
    /// Because their TTL or hop limit was too small (RFC 5082), of both families.
    pub ttl: u64,
}

impl Dropped {
    /// Ever.
    pub(super) fn ever() -> Dropped {
        Dropped::read(&std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default())
    }

    /// `TcpExt:` names on one line, values on the next.
    fn read(text: &str) -> Dropped {
        let mut lines = text.lines().filter_map(|l| l.strip_prefix("TcpExt:"));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Dropped::default() };
        let mut dropped = Dropped::default();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            let kind = match name {
                "TCPMD5NotFound" => "not-found",
                "TCPMD5Unexpected" => "unexpected",
                "TCPMD5Failure" => "failure",
                "TCPMinTTLDrop" => {
                    dropped.ttl = value.parse().unwrap_or_default();
                    continue;
                }
                _ => continue,
            };
            dropped.md5.insert(kind.to_string(), value.parse().unwrap_or_default());
        }
        dropped
    }

    /// What was dropped after `before`, without zeros.
    pub(super) fn since(self, before: &Dropped) -> Dropped {
        let more = |(name, n): (String, u64)| {
            let old = before.md5.get(&name).copied().unwrap_or(0);
            Some((name, n.saturating_sub(old))).filter(|(_, n)| *n > 0)
        };
        Dropped {
            md5: self.md5.into_iter().filter_map(more).collect(),
            ttl: self.ttl.saturating_sub(before.ttl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that could not be set guards nobody by a shorter prefix's key, and refuses nobody with a longer one's.
    #[test]
    fn who_lacks_a_key() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let key = Md5Key::new(b"k".into()).unwrap();
        let keys = Keys {
            installed: [(net("10.0.0.0/8"), key.clone()), (net("10.1.1.1/32"), key)].into(),
            failed: [(net("10.1.0.0/16"), "why".to_string())].into(),
        };
        for (remote, lacks) in
            [("10.1.2.3", true), ("10.2.0.1", false), ("10.1.1.1", false), ("192.0.2.1", false)]
        {
            assert_eq!(keys.lacks(remote.parse().unwrap()), lacks, "{remote}");
        }
        assert_eq!(keys.findings(), ["TCP-MD5 key for 10.1.0.0/16: why; its connections are refused"]);
    }

    /// More keys than `net.core.optmem_max` permits are a finding with its remedy, and refuse whom they were for.
    #[tokio::test]
    async fn too_many_keys_are_a_finding() {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let key = Md5Key::new(vec![7; Md5Key::MAX]).unwrap();
        let room: u32 =
            std::fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap().trim().parse().unwrap();
        let wished =
            (0..room / 64).map(|n| (IpNet::from(IpAddr::from((0x0a00_0000 + n).to_be_bytes())), key.clone()));
        let mut keys = Keys::default();
        keys.wish(&[listener], wished.collect());
        assert!(!keys.installed.is_empty() && !keys.failed.is_empty());
        assert!(
            keys.findings().iter().all(|f| f.contains("sysctl -w net.core.optmem_max=")),
            "{:?}",
            keys.findings()
        );
        let (last, _) = keys.failed.last_key_value().unwrap();
        assert!(keys.lacks(last.addr()));
    }

    #[test]
    fn the_kernels_counters_are_read() {
        let text = |found, ttl| {
            format!(
                "TcpExt: A TCPMD5NotFound TCPMD5Unexpected TCPMinTTLDrop TCPMD5Failure B\nTcpExt: 9 {found} 2 {ttl} 3 9\nIpExt: X\n"
            )
        };
        let before = Dropped::read(&text(1, 4));
        let md5 = [("failure", 3), ("not-found", 1), ("unexpected", 2)];
        assert_eq!(before.md5, md5.map(|(name, n)| (name.to_string(), n)).into());
        assert_eq!(before.ttl, 4);
        let since = Dropped::read(&text(8, 9)).since(&before);
        assert_eq!(since, Dropped { md5: [("not-found".to_string(), 7)].into(), ttl: 5 });
        assert_eq!(Dropped::read("IpExt: X\n"), Dropped::default());
    }
}
