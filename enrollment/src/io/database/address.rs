//! Where the database is: a `postgres://` URL without its password, read strictly: what is not understood is refused.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

/// How the connection is encrypted, in libpq's words. `allow` and `prefer` are refused: they fall back to clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Clear text; the default on a unix socket.
    Disable,
    /// Encrypted; who answers is not checked, unless there is a root certificate.
    Require,
    /// The server's certificate is signed by the root certificate.
    VerifyCa,
    /// The same, and it names the host; the default over TCP.
    VerifyFull,
}

impl TlsMode {
    /// libpq's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            TlsMode::Disable => "disable",
            TlsMode::Require => "require",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::VerifyFull => "verify-full",
        }
    }
}

/// A database's address, without a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    hosts: Vec<(String, u16)>,
    user: String,
    database: String,
    options: Option<String>,
    read_write: bool,
    /// How the connection is encrypted.
    pub tls: TlsMode,
    /// Certificates (PEM) that may sign the server's.
    pub root_certificate: Option<PathBuf>,
    /// This hub's certificate (PEM), with its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// A file of mode 0600 with the password; else `PGPASSFILE`, else none.
    pub password_file: Option<PathBuf>,
}

/// What is wrong with an address; never a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the database's address: {0}")]
pub struct AddressError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError(why.into()))
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or_default()),
            _ => return wrong("a % is not followed by two hexadecimal digits"),
        }
    }
    String::from_utf8(bytes).map_err(|_| AddressError("it is no UTF-8".into()))
}

fn port(text: &str) -> Result<u16, AddressError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => wrong(format!("{text:?} is no port")),
    }
}

/// `host`, `host:port` or `[2001:db8::1]:port`.
fn host(text: &str) -> Result<(String, u16), AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return wrong("a [ without its ]") };
        let at = after.strip_prefix(':').map_or(Ok(5432), port)?;
        return Ok((address.into(), at));
    }
    match text.split_once(':') {
        Some((name, at)) => Ok((decoded(name)?, port(at)?)),
        None => Ok((decoded(text)?, 5432)),
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let Some(rest) = rest else { return wrong("it begins with postgres://") };
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return wrong("a password does not belong into it; put it into a file of mode 0600");
        }
        let hosts: Result<Vec<_>, _> = hosts.split(',').filter(|h| !h.is_empty()).map(host).collect();
        let mut address = Self {
            hosts: hosts?,
            user: decoded(user)?,
            database: decoded(database)?,
            options: None,
            read_write: false,
            tls: TlsMode::VerifyFull,
            root_certificate: None,
            client_certificate: None,
            password_file: None,
        };
        let (mut mode, mut certificate, mut key, mut at) = (None, None, None, None);
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match name {
                "host" => address.hosts = vec![(value, 5432)],
                "port" => at = Some(port(&value)?),
                "user" => address.user = value,
                "dbname" => address.database = value,
                "options" => address.options = Some(value),
                "sslmode" => mode = Some(value),
                "sslrootcert" => address.root_certificate = Some(PathBuf::from(value)),
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "target_session_attrs" if value == "read-write" => address.read_write = true,
                "target_session_attrs" if value == "any" => address.read_write = false,
                "password" => return wrong("a password does not belong into it; use a file of mode 0600"),
                _ => return wrong(format!("{name}={value} is not known here")),
            }
        }
        if let Some(at) = at {
            address.hosts.iter_mut().for_each(|(_, port)| *port = at);
        }
        if address.hosts.is_empty() || address.user.is_empty() || address.database.is_empty() {
            return wrong("it names a host, a user and a database: postgres://user@host/database");
        }
        address.client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return wrong("sslcert and sslkey come together"),
        };
        address.set_tls(mode.as_deref())?;
        Ok(address)
    }
}

impl Address {
    fn set_tls(&mut self, mode: Option<&str>) -> Result<(), AddressError> {
        let local = self.hosts.iter().all(|(host, _)| host.starts_with('/'));
        self.tls = match mode {
            None if local => TlsMode::Disable,
            None | Some("verify-full") => TlsMode::VerifyFull,
            Some("disable") => TlsMode::Disable,
            // As libpq does it: a root certificate that is given is used.
            Some("require") if self.root_certificate.is_some() => TlsMode::VerifyCa,
            Some("require") => TlsMode::Require,
            Some("verify-ca") => TlsMode::VerifyCa,
            Some("allow" | "prefer") => {
                return wrong("sslmode allow and prefer fall back to clear text: say verify-full or disable");
            }
            Some(other) => return wrong(format!("sslmode={other} is not known")),
        };
        if local && self.tls != TlsMode::Disable {
            return wrong("a unix socket has no TLS: leave sslmode out");
        }
        let verifies = matches!(self.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
        if verifies && self.root_certificate.is_none() {
            let why = "the server's certificate is checked against sslrootcert=/FILE; name it, or say sslmode=disable";
            return wrong(why);
        }
        Ok(())
    }

    /// What the client library is told, but for the password.
    pub(super) fn client(&self, limit: Duration) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        config.user(&self.user).dbname(&self.database).application_name("fabric-rr");
        config.connect_timeout(limit).tcp_user_timeout(limit).keepalives_idle(Duration::from_secs(5));
        config.ssl_mode(if self.tls == TlsMode::Disable { SslMode::Disable } else { SslMode::Require });
        if let Some(options) = &self.options {
            config.options(options);
        }
        if self.read_write {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }

    /// The password of the first line of a `pgpass` file that fits: `host:port:database:user:password`, `*` = any.
    pub(super) fn password_in(&self, pgpass: &str) -> Option<String> {
        let (host, port) = self.hosts.first()?;
        let host = if host.starts_with('/') { "localhost" } else { host };
        let port = port.to_string();
        let wanted = [host, &port, &self.database, &self.user];
        pgpass.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let fields = pgpass_fields(line);
            let fits = |(field, wanted): (&String, &&str)| field == "*" || field == wanted;
            let good = fields.len() == 5 && fields.iter().zip(&wanted).all(fits);
            good.then(|| fields[4].clone())
        })
    }
}

/// Split at colons, where `\:` and `\\` stand for the characters themselves; the password is all after the fourth.
fn pgpass_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len();
        match character {
            ':' if last < 5 => fields.push(String::new()),
            '\\' => fields[last - 1].extend(characters.next()),
            _ => fields[last - 1].push(character),
        }
    }
    fields
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "postgres://{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address, String> {
        text.parse::<Address>().map_err(|error| error.to_string())
    }

    /// Every part is read; encryption that is checked is the default over TCP, and none on a unix socket.
    #[test]
    fn addresses() {
        let full =
            read("postgres://fabric@db1.example.net:6432,db2/registry?sslrootcert=/etc/ca.pem").unwrap();
        assert_eq!(full.to_string(), "postgres://fabric@db1.example.net:6432,db2:5432/registry");
        assert_eq!(full.tls, TlsMode::VerifyFull);
        let socket = read("postgresql://fabric@/registry?host=/run/postgresql&options=-c%20a%3Db").unwrap();
        assert_eq!(socket.to_string(), "postgres://fabric@/run/postgresql:5432/registry");
        assert_eq!((socket.tls, socket.options.as_deref()), (TlsMode::Disable, Some("-c a=b")));
        let modes = [("disable", TlsMode::Disable), ("require", TlsMode::Require)];
        for (word, mode) in modes {
            assert_eq!(read(&format!("postgres://a@b/c?sslmode={word}")).unwrap().tls, mode);
        }
        let six = read("postgres://a@[2001:db8::1]:6000/c?sslmode=disable&target_session_attrs=read-write");
        assert_eq!(six.unwrap().hosts, [("2001:db8::1".to_string(), 6000)]);
    }

    /// What would be ignored, would leak, or would fall back to clear text is refused, with the reason.
    #[test]
    fn refused_addresses() {
        let cases = [
            ("mysql://a@b/c", "postgres://"),
            ("postgres://a:secret@b/c", "password"),
            ("postgres://a@b/c?password=secret", "password"),
            ("postgres://a@b/c?sslmode=prefer", "clear text"),
            ("postgres://a@b/c?sslmode=sometimes", "not known"),
            ("postgres://a@b/c", "sslrootcert"),
            ("postgres://a@b/c?sslmode=verify-ca", "sslrootcert"),
            ("postgres://a@b/c?sslmode=disable&fallback=1", "not known"),
            ("postgres://a@/c?host=/run&sslmode=require", "unix socket"),
            ("postgres://a@b/c?sslmode=disable&sslcert=/x", "together"),
            ("postgres://b/c?sslmode=disable", "user"),
            ("postgres://a@b:0/c", "port"),
            ("postgres://a%4@b/c", "%"),
        ];
        for (text, word) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    /// The first line that fits gives the password; escapes are read.
    #[test]
    fn pgpass() {
        let address = read("postgres://fabric@db/registry?sslmode=disable").unwrap();
        let file = "# db:5432:registry:fabric:comment\nother:*:*:*:no\ndb:5432:*:fabric:a\\:b\\\\c:d\n*:*:*:*:late\n";
        assert_eq!(address.password_in(file).as_deref(), Some("a:b\\c:d"));
        assert_eq!(address.password_in("db:5433:*:*:x"), None);
    }
}
