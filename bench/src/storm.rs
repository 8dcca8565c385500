//! A session storm: TCP connections from an address that nobody admits, each dropped as soon as it stands.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::reflector::ADDRESS;

/// Where the storm comes from: outside of the clients' network.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
const OWN: SocketAddrV4 = SocketAddrV4::new(FROM, 1790);

/// How many connections, and how many a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Connections a second; what is late is caught up.
    pub per_s: u32,
    /// Connections altogether.
    pub count: u32,
}

impl Pace {
    /// The pace for a load of this length.
    pub fn over(per_s: u32, time: Duration) -> Pace {
        Pace { per_s, count: (f64::from(per_s) * time.as_secs_f64()).ceil() as u32 }
    }

    /// When connection `k` is due, from the start.
    pub fn due(&self, k: u32) -> Duration {
        Duration::from_secs_f64(f64::from(k) / f64::from(self.per_s.max(1)))
    }
}

/// What a storm came to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stormed {
    /// Connections that stood.
    pub stood: u32,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Storms the reflector, or a listener of its own, until all connections have been tried or standard input closes.
/// The longest that it may take is three times what the pace says.
///
/// # Errors
/// When the listener cannot be opened.
pub fn run(pace: Pace, at_itself: bool) -> io::Result<Stormed> {
    let over = Arc::new(AtomicBool::new(false));
    let to = if at_itself { OWN } else { ADDRESS };
    if at_itself {
        let listener = TcpListener::bind(OWN)?;
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    let watch = Arc::clone(&over);
    std::thread::spawn(move || {
        // Its end, and an error as well, means that the parent has gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        watch.store(true, Ordering::Relaxed);
    });
    let start = Instant::now();
    let mut stood = 0;
    for k in 0..pace.count {
        if over.load(Ordering::Relaxed) || start.elapsed() > 3 * pace.due(pace.count) {
            break;
        }
        std::thread::sleep(pace.due(k).saturating_sub(start.elapsed()));
        stood += u32::from(connect(to).is_ok());
    }
    Ok(Stormed { stood, seconds: start.elapsed().as_secs_f64() })
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

/// This program in another process, storming.
#[derive(Debug)]
pub struct Storm(Child);

impl Storm {
    /// Starts it.
    ///
    /// # Errors
    /// When this program cannot be started.
    pub fn start(pace: Pace, at_reflector: bool) -> io::Result<Storm> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--here", "storm", "--per-s", &pace.per_s.to_string()]);
        command.args(["--count", &pace.count.to_string()]);
        if !at_reflector {
            command.arg("--at-itself");
        }
        Ok(Storm(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// Whether it still storms.
    pub fn goes_on(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits until all its connections have been tried.
    ///
    /// # Errors
    /// When it ended without a count.
    pub fn end(mut self) -> io::Result<Stormed> {
        // Its standard input stays open meanwhile: closed, it would end at once.
        let held = self.0.stdin.take();
        let output = self.0.wait_with_output()?;
        drop(held);
        let said = String::from_utf8_lossy(&output.stdout);
        let parsed = said.trim().split_once(' ').and_then(|(stood, seconds)| {
            Some(Stormed { stood: stood.parse().ok()?, seconds: seconds.parse().ok()? })
        });
        parsed.ok_or_else(|| io::Error::other(format!("the storm ended without a count: '{said}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pace is kept by time: the number follows from it alone, and so does each connection's moment.
    #[test]
    fn the_pace_is_by_time() {
        let pace = Pace::over(500, Duration::from_millis(2500));
        assert_eq!(pace, Pace { per_s: 500, count: 1250 });
        assert_eq!((pace.due(0), pace.due(1250)), (Duration::ZERO, Duration::from_millis(2500)));
    }
}
