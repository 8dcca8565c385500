//! Where a hub is reached: an address, or a name that whoever calls it looks up. Pure; looking up is not done here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A place as it is written: `192.0.2.1:51820`, `[2001:db8::1]:51820` or `hub.example.net:51820`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// An address, used as it is.
    Address(SocketAddr),
    /// A DNS name, looked up by who calls, again and again; the key that is pinned says whether the right one answers.
    Name(HostName, u16),
}

/// A host's name (RFC 1123 section 2.1): labels of letters, digits and hyphens, 253 octets at most, and no mistyped address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A top-level domain is never all digits (RFC 3696 section 2): then it is an address with a mistake in it.
        let last = text.rsplit('.').next().unwrap_or_default();
        let good =
            text.len() <= 253 && text.split('.').all(label) && last.bytes().any(|b| b.is_ascii_alphabetic());
        if good { Ok(HostName(text.into())) } else { Err(BadEndpoint) }
    }
}

/// What is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither an address nor a name: write for example 203.0.113.10, [2001:db8::10]:51820 or hub.example.net (a name \
     has letters, digits, hyphens and dots)"
)]
pub struct BadEndpoint;

impl Endpoint {
    /// The address, where no name has to be looked up.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Address(address) => Some(*address),
            Endpoint::Name(..) => None,
        }
    }

    /// The name, where there is one.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Endpoint::Address(_) => None,
            Endpoint::Name(name, _) => Some(name),
        }
    }

    /// The port, UDP for WireGuard and TCP for a door over TLS.
    pub fn port(&self) -> u16 {
        match self {
            Endpoint::Address(address) => address.port(),
            Endpoint::Name(_, port) => *port,
        }
    }

    /// The same host at another port.
    pub fn at_port(&self, port: u16) -> Endpoint {
        match self {
            Endpoint::Address(address) => SocketAddr::new(address.ip(), port).into(),
            Endpoint::Name(name, _) => Endpoint::Name(name.clone(), port),
        }
    }

    /// Reads an endpoint whose port may be left out.
    ///
    /// # Errors
    /// What is neither an address nor a name.
    pub fn with_default_port(text: &str, port: u16) -> Result<Endpoint, BadEndpoint> {
        let bare = || text.parse().map(|address| SocketAddr::new(address, port).into());
        let name = || text.parse().map(|name| Endpoint::Name(name, port));
        text.parse().or_else(|_| bare()).or_else(|_: std::net::AddrParseError| name())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint::Address(address)
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        if let Ok(address) = text.parse() {
            return Ok(Endpoint::Address(address));
        }
        let (name, port) = text.rsplit_once(':').ok_or(BadEndpoint)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(BadEndpoint)?;
        Ok(Endpoint::Name(name.parse()?, port))
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;

    fn try_from(text: String) -> Result<Self, BadEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(address) => address.fmt(f),
            Endpoint::Name(name, port) => write!(f, "{}:{port}", name.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is good reads back as it was written, in JSON too; what is neither address nor name is refused.
    #[test]
    fn endpoints() {
        for good in
            ["192.0.2.1:51820", "[2001:db8::1]:51820", "hub.Example.net:51820", "hub:1", "1and1.example:9"]
        {
            let read: Endpoint = good.parse().unwrap();
            assert_eq!(read.to_string(), good);
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!((json.clone(), serde_json::from_str(&json).unwrap()), (format!("{good:?}"), read));
        }
        for bad in [
            "",
            "hub",
            ":1",
            "hub:",
            "hub:0",
            "hub:99999",
            "192.0.2.300:1",
            "192.0.2:1",
            "-hub.net:1",
            "hub-:1",
            "a..b:1",
            "hub_1.net:1",
            "h b:1",
            "hüb.net:1",
            "hub.net.:1",
            "2001:db8::1:x",
            "http://hub:1",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(BadEndpoint), "{bad}");
        }
        assert!(format!("{}.example:1", "a".repeat(64)).parse::<Endpoint>().is_err());
        assert!(format!("{}com:1", "a.".repeat(126)).parse::<Endpoint>().is_err(), "255 octets");
    }

    /// The port may be left out; it stands behind the host in any form.
    #[test]
    fn ports() {
        let read = |text| Endpoint::with_default_port(text, 51820).map(|e| e.to_string());
        for (text, whole) in [
            ("192.0.2.1", "192.0.2.1:51820"),
            ("2001:db8::1", "[2001:db8::1]:51820"),
            ("hub.example.net", "hub.example.net:51820"),
            ("hub.example.net:4500", "hub.example.net:4500"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(whole));
        }
        assert_eq!(read("192.0.2.300"), Err(BadEndpoint));
        let name: Endpoint = "hub.example.net:51820".parse().unwrap();
        assert_eq!((name.at_port(8443).to_string(), name.port()), ("hub.example.net:8443".into(), 51820));
    }
}
