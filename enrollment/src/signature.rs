//! What is signed and how: a domain and exact bytes, each with its length before it, under HMAC-SHA256 or Ed25519.

use crate::identity::{SigningKey, WireguardKey};
use ring::{digest, hkdf, hmac, signature};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The bytes that a signature covers: the domain and each part, each with its length (4 bytes, big endian) before it.
pub fn signed_bytes(domain: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes =
        Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum::<usize>() + domain.len() + 4);
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        // Bodies are limited to kilobytes; a saturated length would only make a signature that never verifies.
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// SHA-256 of the bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// A secret HMAC-SHA256 key; wiped when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MacKey(pub(crate) [u8; 32]);

impl MacKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key that the holders of two X25519 key pairs have in common, and nobody who knows the public halves alone.
    pub fn shared(private: &[u8; 32], other: &WireguardKey) -> Self {
        let private = x25519_dalek::StaticSecret::from(*private);
        let common = private.diffie_hellman(&x25519_dalek::PublicKey::from(other.0));
        let mut out = [0; 32];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"fabric-door-1").extract(common.as_bytes());
        prk.expand(&[b"mac"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within HKDF's limit");
        Self(out)
    }

    /// The code over a domain and parts.
    pub fn sign(&self, domain: &str, parts: &[&[u8]]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, &signed_bytes(domain, parts)).as_ref().to_vec()
    }

    /// Whether the code is right; takes the same time whatever it is.
    pub fn verify(&self, domain: &str, parts: &[&[u8]], code: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &signed_bytes(domain, parts), code).is_ok()
    }
}

/// An Ed25519 key pair; made from a 32-byte seed, never shown.
pub struct SigningKeyPair(signature::Ed25519KeyPair);

impl SigningKeyPair {
    /// The pair of a seed; every seed of 32 bytes is one.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(seed);
        Self(pair.expect("ring takes every seed of 32 bytes"))
    }

    /// The public half.
    pub fn public(&self) -> SigningKey {
        use signature::KeyPair;
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        SigningKey(key)
    }

    /// The signature over a domain and parts.
    pub fn sign(&self, domain: &str, parts: &[&[u8]]) -> Vec<u8> {
        self.0.sign(&signed_bytes(domain, parts)).as_ref().to_vec()
    }
}

impl SigningKey {
    /// Whether the signature over a domain and parts is this key's.
    pub fn verify(&self, domain: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, &self.0);
        key.verify(&signed_bytes(domain, parts), signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lengths before the parts: moving a byte between parts, or between domain and part, changes the signed bytes.
    #[test]
    fn signed_bytes_are_unambiguous() {
        assert_ne!(signed_bytes("a", &[b"bc"]), signed_bytes("ab", &[b"c"]));
        assert_ne!(signed_bytes("a", &[b"b", b"c"]), signed_bytes("a", &[b"bc"]));
        assert_ne!(signed_bytes("a", &[b"b", b""]), signed_bytes("a", &[b"b"]));
    }

    proptest! {
        /// A code or signature verifies for exactly what was signed and for nothing that differs in one bit.
        #[test]
        fn one_flipped_bit_is_refused(mut payload in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mac = MacKey::new([3; 32]);
            let pair = SigningKeyPair::from_seed(&[4; 32]);
            let (code, signature) = (mac.sign("d", &[&payload]), pair.sign("d", &[&payload]));
            prop_assert!(mac.verify("d", &[&payload], &code));
            prop_assert!(pair.public().verify("d", &[&payload], &signature));
            prop_assert!(!mac.verify("e", &[&payload], &code));
            let index = at.index(payload.len());
            payload[index] ^= 1 << bit;
            prop_assert!(!mac.verify("d", &[&payload], &code));
            prop_assert!(!pair.public().verify("d", &[&payload], &signature));
        }
    }
}
