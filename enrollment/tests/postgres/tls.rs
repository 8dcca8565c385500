//! A database behind TLS and a password, as an operator would run it: what is right works, and what is wrong is
//! refused with a reason that says what to mend and holds no secret.

#[path = "../common/mod.rs"]
mod common;

use common::*;
use enrollment::io::database::Address;
use enrollment::io::http::Limits;
use enrollment::io::store::{Registry, system_clock};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);
const PASSWORD: &str = "correct-horse-9f2c";
const WRONG: &str = "battery-staple-77d1";

fn authority(called: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, called);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A file of mode 0600 that belongs to whom the folder belongs to.
fn private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(path.parent().unwrap()).unwrap();
    chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// A loopback address that no other server of this machine listens on, not that of Debian's own cluster either.
fn own_loopback() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.77.{high}.{}", low.max(1))
}

/// A server that lets the role in by SCRAM through TLS alone, with a certificate for this name.
fn server(listen: &str, name: &str, signed_by: &CertifiedIssuer<'_, KeyPair>) -> Cluster {
    let listen = format!("listen_addresses={listen}");
    let settings = ["-c", &listen, "-c", "ssl=on", "-c", "password_encryption=scram-sha-256"];
    let cluster = Cluster::start_with(&settings, |data| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, signed_by).unwrap();
        private(&data.join("server.crt"), &certificate.pem());
        private(&data.join("server.key"), &key.serialize_pem());
        let rules = "local all postgres trust\nhostssl all fabric 127.0.0.0/8 scram-sha-256\n";
        private(&data.join("pg_hba.conf"), rules);
    });
    assert!(cluster.sql(&format!("CREATE ROLE fabric LOGIN PASSWORD '{PASSWORD}'")));
    assert!(cluster.sql("CREATE SCHEMA fabric AUTHORIZATION fabric"));
    cluster
}

/// What a hub with a copy of the registry says of a database that it cannot use.
async fn why_lost(folder: &Path, number: usize, database: Address) -> String {
    let path = folder.join(format!("copy{number}.sqlite"));
    std::fs::copy(folder.join("registry.sqlite"), &path).unwrap();
    let keys = Arc::new(enrollment::io::keys::NodeKeys::load_or_create(folder).ok().unwrap());
    let opening = Registry::open_shared(&path, Some(database), settings(&keys), keys.clone(), system_clock());
    let registry = opening.await.unwrap();
    let view = registry.database().unwrap();
    assert_eq!(view.state, "lost", "{view:?}");
    let refusal = registry.create_invite(order("oci", &[])).await.err().expect("nothing is decided");
    assert_eq!(refusal.code, enrollment::reason::ReasonCode::RegistryLost);
    let all = format!("{} / {refusal} / {view:?}", view.error.clone().unwrap_or_default());
    assert!(!all.contains(WRONG) && !all.contains(PASSWORD), "a password is told: {all}");
    view.error.unwrap_or_default()
}

/// The right password through TLS that is checked in full works, also after it was changed in both places; a wrong
/// one, a certificate of another authority or for another name, clear text, and a password that others may read are
/// each refused with what is wrong, and no password is in what is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_and_password() {
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { files.path().join(name) };
    let (ours, other) = (authority("ours"), authority("another"));
    std::fs::write(at("ours.pem"), ours.pem()).unwrap();
    std::fs::write(at("another.pem"), other.pem()).unwrap();
    private(&at("right"), &format!("{PASSWORD}\n"));
    private(&at("wrong"), WRONG);
    std::fs::write(at("readable"), PASSWORD).unwrap();
    std::fs::set_permissions(at("readable"), std::fs::Permissions::from_mode(0o644)).unwrap();

    let listen = own_loopback();
    let cluster = server(&listen, &listen, &ours);
    let address = |tls: &str, password: &str| {
        let url = format!("postgres://fabric@{listen}/postgres?options=-c%20search_path%3Dfabric&{tls}");
        let mut address: Address = url.parse().unwrap();
        address.password_file = Some(at(password));
        address
    };
    let root = |name: &str| format!("sslmode=verify-full&sslrootcert={}", at(name).display());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let start = |address: Address| {
        let folder = folder.clone();
        Hub::start_on(folder, Some(address), Limits::default(), applied_at_once(), |_| {})
    };
    let hub = start(address(&root("ours.pem"), "right")).await;
    let view = hub.registry.database().unwrap();
    assert_eq!((view.state.as_str(), view.tls.as_str()), ("in-step", "verify-full"), "{view:?}");
    hub.invite(order("aws", &[])).await;

    // The password is changed while the hub runs; each new connection reads the file anew.
    private(&at("right"), WRONG);
    assert!(cluster.sql(&format!("ALTER ROLE fabric PASSWORD '{WRONG}'")));
    cluster.stop();
    cluster.go();
    let begin = Instant::now();
    while hub.registry.create_invite(order("azure", &[])).await.is_err() {
        assert!(begin.elapsed() < LIMIT, "{:?}", hub.registry.database());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cluster.sql(&format!("ALTER ROLE fabric PASSWORD '{PASSWORD}'")));
    private(&at("right"), PASSWORD);
    drop(hub);
    // Its owner closes the file by itself; only then is all of it in one file.
    let begin = Instant::now();
    while folder.path().join("registry.sqlite-wal").exists() {
        assert!(begin.elapsed() < LIMIT, "the registry is closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let cases = [
        (address(&root("ours.pem"), "wrong"), "password authentication failed"),
        (address(&root("another.pem"), "right"), "UnknownIssuer"),
        (address("sslmode=disable", "right"), "no encryption"),
        (address(&root("ours.pem"), "readable"), "chmod 600"),
        (address(&root("ours.pem"), "absent"), "no such file"),
        (address(&root("absent.pem"), "right"), "absent.pem"),
    ];
    let mut tries = tokio::task::JoinSet::new();
    for (number, (address, word)) in cases.into_iter().enumerate() {
        let folder = folder.clone();
        tries.spawn(async move {
            let why = why_lost(folder.path(), number, address).await;
            assert!(why.contains(word), "wanted {word:?}: {why}");
            println!("{why}");
        });
    }
    while let Some(outcome) = tries.join_next().await {
        outcome.unwrap();
    }

    // The same authority, but for another host: `verify-full` sees it, `verify-ca` is not asked to.
    drop(cluster);
    let cluster = server(&listen, "db.example.net", &ours);
    let why = why_lost(folder.path(), 9, address(&root("ours.pem"), "right")).await;
    assert!(why.contains("not valid for name"), "{why}");
    let lenient = root("ours.pem").replace("full", "ca");
    let hub = start(address(&lenient, "right")).await;
    assert_eq!(hub.registry.database().unwrap().state, "in-step", "the same registry, in an empty database");
    drop((hub, cluster));
}
