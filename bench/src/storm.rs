//! A session storm: TCP connections from addresses that nobody admits, each dropped as soon as it stands.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::reflector::ADDRESS;

/// Where the storm comes from: outside of the clients' network.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
const OWN: SocketAddrV4 = SocketAddrV4::new(FROM, 1790);
/// Connections are made at this pace at most, so that both arms of a comparison make as many.
const PACE: Duration = Duration::from_micros(500);

/// Storms the reflector, or a listener of its own, until standard input closes; returns how many connections stood.
///
/// # Errors
/// When the listener cannot be opened.
pub fn run(at_itself: bool) -> io::Result<u64> {
    let over = Arc::new(AtomicBool::new(false));
    let stood = Arc::new(AtomicU64::new(0));
    let to = if at_itself { OWN } else { ADDRESS };
    if at_itself {
        let listener = TcpListener::bind(OWN)?;
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    let storm = {
        let (over, stood) = (Arc::clone(&over), Arc::clone(&stood));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                stood.fetch_add(u64::from(connect(to).is_ok()), Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
        })
    };
    let mut nothing = Vec::new();
    io::stdin().read_to_end(&mut nothing)?;
    over.store(true, Ordering::Relaxed);
    storm.join().map_err(|_| io::Error::other("the storm's thread panicked"))?;
    Ok(stood.load(Ordering::Relaxed))
}

/// One connection: stands, sends an OPEN's worth of octets, and ends with a reset so that no port stays taken.
fn connect(to: SocketAddrV4) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from((FROM, 0)).into())?;
    socket.connect_timeout(&SocketAddr::V4(to).into(), Duration::from_millis(200))?;
    // The other end may have closed already, which is its good right.
    let _ = socket.send(&crate::wire::open(crate::reflector::ASN, 180, 0x0a42_0001, None));
    Ok(())
}
