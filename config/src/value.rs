//! Small typed values of resources.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::Ipv4Net;

/// A text that is not the value it should be; the place where it stands says what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not accepted")]
pub struct NotAccepted;

/// The name of a resource: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending without `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let right = (1..=63).contains(&text.len()) && text.bytes().all(inner);
        let ends = !text.starts_with('-') && !text.ends_with('-');
        if right && ends { Ok(Name(text.into())) } else { Err(NotAccepted) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network interface of the host: 1 to 15 characters, no `/`, no white space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let right = (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if right && text != "." && text != ".." { Ok(InterfaceName(text.into())) } else { Err(NotAccepted) }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a group of the host: 1 to 32 of `a-z`, `0-9`, `_` and `-`, beginning with a letter or `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        if first && text.len() <= 32 && text.bytes().all(inner) {
            Ok(GroupName(text.into()))
        } else {
            Err(NotAccepted)
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many paths of a prefix a neighbour is sent (RFC 7911): `none` beyond the best, `all`, or `best-2` to `best-254`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddPathSend {
    /// The best alone, without path identifiers.
    None,
    /// The best so many, with path identifiers.
    Best(u8),
    /// All of them, with path identifiers.
    All,
}

impl AddPathSend {
    /// The number: 0 for none beyond the best, 255 for all.
    pub fn count(self) -> u8 {
        match self {
            AddPathSend::None => 0,
            AddPathSend::Best(n) => n,
            AddPathSend::All => u8::MAX,
        }
    }
}

impl FromStr for AddPathSend {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        match text {
            "none" => Ok(AddPathSend::None),
            "all" => Ok(AddPathSend::All),
            _ => {
                let number = text.strip_prefix("best-").and_then(|n| n.parse().ok());
                let best = number.filter(|n| (2..=254).contains(n)).map(AddPathSend::Best);
                best.filter(|best| best.to_string() == text).ok_or(NotAccepted)
            }
        }
    }
}

impl fmt::Display for AddPathSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddPathSend::None => f.write_str("none"),
            AddPathSend::Best(n) => write!(f, "best-{n}"),
            AddPathSend::All => f.write_str("all"),
        }
    }
}

/// The absolute path of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath(String);

impl FilePath {
    /// The path.
    pub fn as_path(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl FromStr for FilePath {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let right = text.starts_with('/') && !text.ends_with('/') && !text.contains('\0');
        if right { Ok(FilePath(text.into())) } else { Err(NotAccepted) }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a hub's registry is: `sqlite` or `postgres://user@host/database`, without a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum RegistryPlace {
    /// In a file of the hub's state directory.
    Sqlite,
    /// In a database that all hubs share.
    Database(String),
}

impl RegistryPlace {
    /// The URL, if it is one.
    pub fn url(&self) -> Option<&str> {
        match self {
            RegistryPlace::Sqlite => None,
            RegistryPlace::Database(url) => Some(url),
        }
    }

    /// What is wrong with a URL; it never says the value, for a password may be in it.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        let url = self.url()?;
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let Some(rest) = rest else { return Some("`registry` is `sqlite` or begins with `postgres://`") };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let secret = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        let secret = secret || rest.split(['?', '&']).any(|part| part.starts_with("password="));
        secret.then_some("`registry` holds a password: put it into a file of mode 0600 and name that as `registryPasswordFile`")
    }
}

impl FromStr for RegistryPlace {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        let bounded = text.len() <= 2048 && text.chars().all(|c| !c.is_control());
        match text {
            "sqlite" => Ok(RegistryPlace::Sqlite),
            // Whatever looks like a URL is judged later, where its value is not repeated.
            _ if bounded && (text.contains("://") || text.contains('@')) => {
                Ok(RegistryPlace::Database(text.into()))
            }
            _ => Err(NotAccepted),
        }
    }
}

impl fmt::Display for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url().unwrap_or("sqlite"))
    }
}

impl fmt::Debug for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.url().is_some() { "Database" } else { "Sqlite" })
    }
}

/// Where the hub's WireGuard is reached: `address:port`, `[address]:port` or `host.name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address, used as it is.
    Address(SocketAddr),
    /// A host name, looked up by whoever calls the hub.
    Host {
        /// The DNS name.
        name: String,
        /// The UDP port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, NotAccepted> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let usable =
                !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() != 0;
            return if usable { Ok(Endpoint::Address(address)) } else { Err(NotAccepted) };
        }
        let (name, port) = text.rsplit_once(':').ok_or(NotAccepted)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(NotAccepted)?;
        if host_name(name) { Ok(Endpoint::Host { name: name.into(), port }) } else { Err(NotAccepted) }
    }
}

/// RFC 1123 host names; one whose last label has no letter is a mistyped address (RFC 3696 section 2).
fn host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && last.bytes().any(|b| b.is_ascii_alphabetic())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(address) => address.fmt(f),
            Endpoint::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// The hub's own address in an overlay prefix: the first host.
pub fn hub_address(overlay: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(overlay.network()).saturating_add(1))
}

/// The foyer, where invited nodes knock: the last /24 of the overlay prefix.
pub fn foyer_prefix(overlay: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new_assert(overlay.broadcast(), 24).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults of the fabric: hub .0.1, foyer .15.0/24 of 10.255.0.0/20.
    #[test]
    fn overlay_layout() {
        let overlay = "10.255.0.0/20".parse().unwrap();
        assert_eq!(hub_address(overlay), Ipv4Addr::new(10, 255, 0, 1));
        assert_eq!(foyer_prefix(overlay), "10.255.15.0/24".parse().unwrap());
    }

    /// How many paths are sent reads back as written; nothing else is accepted.
    #[test]
    fn add_path_send() {
        for good in ["none", "all", "best-2", "best-254"] {
            assert_eq!(good.parse::<AddPathSend>().unwrap().to_string(), good);
        }
        for bad in ["best-1", "best-255", "best-02", "best", "2", ""] {
            assert_eq!(bad.parse::<AddPathSend>(), Err(NotAccepted), "{bad}");
        }
    }

    /// Endpoints are addresses or names, always with a port.
    #[test]
    fn endpoints() {
        for good in ["192.0.2.1:51820", "[2001:db8::1]:51820", "hub.example.net:51820", "hub:1"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        for bad in [
            "192.0.2.1",
            "192.0.2.300:51820",
            "0.0.0.0:51820",
            "hub:0",
            "hub",
            "-x:1",
            ":51820",
            "a b:1",
            "hub.10:1",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(NotAccepted), "{bad}");
        }
    }
}
