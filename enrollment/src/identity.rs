//! Names and public keys: newtypes that can only hold what is valid.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a name, a key or an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Leaf and site names are DNS labels.
    #[error(
        "a name has 1 to 63 characters out of a-z, 0-9 and '-', and starts and ends with a letter or digit"
    )]
    Name,
    /// Keys are 32 bytes in standard base64.
    #[error("a key is 32 bytes in base64 (44 characters, nothing around them)")]
    Key,
    /// The key is all zero, which is no key.
    #[error("a key of zeros is not a key")]
    ZeroKey,
    /// Invite ids are 8 bytes in hexadecimal.
    #[error("an invite id is 16 hexadecimal digits")]
    InviteId,
}

/// A leaf's name (its site's name): a DNS label of 1 to 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeafName(Arc<str>);

impl LeafName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeafName {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits { Ok(Self(text.into())) } else { Err(IdentityError::Name) }
    }
}

impl TryFrom<String> for LeafName {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LeafName> for String {
    fn from(name: LeafName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for LeafName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 32]);

        impl FromStr for $name {
            type Err = IdentityError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = STANDARD.decode(text).map_err(|_| IdentityError::Key)?;
                let key: [u8; 32] = bytes.try_into().map_err(|_| IdentityError::Key)?;
                if key == [0; 32] { Err(IdentityError::ZeroKey) } else { Ok(Self(key)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

public_key! {
    /// A WireGuard (X25519) public key, base64 as `wg` prints it.
    WireguardKey
}
public_key! {
    /// An Ed25519 public key, base64.
    SigningKey
}

/// An invite's public number: 8 random bytes, shown as 16 hexadecimal digits. It is not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InviteId(pub [u8; 8]);

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteId({self})")
    }
}

impl FromStr for InviteId {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 16 || !text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err(IdentityError::InviteId);
        }
        u64::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| IdentityError::InviteId)
    }
}

impl TryFrom<String> for InviteId {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InviteId> for String {
    fn from(id: InviteId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key with a newline, blanks, a wrong length or only zeros is refused.
    #[test]
    fn keys_are_strict() {
        let good = WireguardKey([7; 32]).to_string();
        assert_eq!(good.parse(), Ok(WireguardKey([7; 32])));
        for bad in [format!("{good}\n"), format!(" {good}"), good[..40].to_owned(), STANDARD.encode([7; 33])]
        {
            assert_eq!(bad.parse::<WireguardKey>(), Err(IdentityError::Key), "{bad:?}");
        }
        assert_eq!(STANDARD.encode([0; 32]).parse::<SigningKey>(), Err(IdentityError::ZeroKey));
    }

    /// Names are DNS labels and nothing else.
    #[test]
    fn names_are_labels() {
        for good in ["aws", "a", "pve-2", &"x".repeat(63)] {
            assert!(good.parse::<LeafName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "a\n", "a/b", "ä", &"x".repeat(64)] {
            assert_eq!(bad.parse::<LeafName>(), Err(IdentityError::Name), "{bad:?}");
        }
    }

    /// An invite id reads back what it shows.
    #[test]
    fn invite_ids_round_trip() {
        let id = InviteId([0, 1, 2, 253, 254, 255, 16, 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("+0000000000000ff".parse::<InviteId>().is_err());
    }
}
