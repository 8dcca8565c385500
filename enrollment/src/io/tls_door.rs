//! TLS for enrollment on a private underlay. Names and authorities say nothing there: a leaf believes the one key whose
//! hash its invite carries, as it believes the hub's WireGuard key.

use super::private_file::{self, PrivateFileError};
use crate::invite::KeyPin;
use rcgen::{CertificateParams, DnType, KeyPair};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use zeroize::Zeroizing;

/// File name of the server's key and certificate (PEM, mode 0600).
pub const FILE: &str = "http-tls.pem";

/// Why the server's key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerKeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// It does not hold a key and its certificate.
    #[error("{path}: it does not hold a key and its certificate: {why}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// None could be made.
    #[error("no key could be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// The server's key with its certificate.
#[derive(Clone)]
pub struct ServerKey {
    config: Arc<ServerConfig>,
    pin: KeyPin,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerKey").field(&self.pin).finish()
    }
}

impl ServerKey {
    /// The hub's key, made on first use; it stays, for invites that are out carry its pin.
    pub fn load_or_create(folder: &Path) -> Result<Self, ServerKeyError> {
        let path = folder.join(FILE);
        if let Some(bytes) = private_file::read(&path)? {
            return Self::read(&path, &Zeroizing::new(bytes));
        }
        private_file::create(&path, made()?.as_bytes())?;
        // Somebody may have been quicker: what is in the file counts.
        let bytes = private_file::read(&path)?.unwrap_or_default();
        Self::read(&path, &Zeroizing::new(bytes))
    }

    fn read(path: &Path, bytes: &[u8]) -> Result<Self, ServerKeyError> {
        let wrong = |why: String| ServerKeyError::Content { path: path.display().to_string(), why };
        let certificate = CertificateDer::from_pem_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| wrong("there is no key in it".into()))?;
        let pin = pin_of(&certificate).map_err(|e| wrong(e.to_string()))?;
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key));
        let mut config = config.map_err(|e| wrong(e.to_string()))?;
        // Nobody comes twice: nothing is kept for resumption.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), pin })
    }

    /// What invites carry.
    pub fn pin(&self) -> KeyPin {
        self.pin
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

/// A fresh key (P-256) and a certificate that it signs itself; PEM.
fn made() -> Result<Zeroizing<String>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "fabric leaf API");
    let certificate = params.self_signed(&key)?;
    let private = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{}", *private, certificate.pem())))
}

fn pin_of(certificate: &CertificateDer<'_>) -> Result<KeyPin, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(KeyPin::of(parsed.subject_public_key_info().as_ref()))
}

/// Believes the pinned key alone; that the server holds it is proved by its signature of the handshake.
#[derive(Debug)]
struct Pinned {
    pin: KeyPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // A public value: the time of the comparison tells nothing.
        if pin_of(end_entity)? == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A client that believes this key alone.
pub(super) fn connector(pin: KeyPin) -> Result<TlsConnector, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let verifier = Arc::new(Pinned { pin, provider });
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether a handshake failed because the server's key is not the one, or not proved to be held.
pub(super) fn is_of_the_key(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The key is made once, 0600, and stays; a file that others may read, or that holds something else, is refused.
    #[test]
    fn the_key_stays() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServerKey::load_or_create(folder.path()).unwrap();
        assert_eq!(ServerKey::load_or_create(folder.path()).unwrap().pin(), first.pin());
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let other = made().unwrap();
        let mixed = std::fs::read_to_string(&path)
            .unwrap()
            .split_inclusive("-----END PRIVATE KEY-----\n")
            .next()
            .unwrap()
            .to_owned()
            + other.split("-----END PRIVATE KEY-----\n").nth(1).unwrap();
        for content in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &mixed] {
            private_file::write(&path, content.as_bytes()).unwrap();
            assert!(
                matches!(ServerKey::load_or_create(folder.path()), Err(ServerKeyError::Content { .. })),
                "{content}"
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ServerKey::load_or_create(folder.path()), Err(ServerKeyError::File(_))));
    }
}
