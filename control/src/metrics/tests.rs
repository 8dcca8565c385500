use super::*;

#[path = "strict.rs"]
mod strict;

fn peer(n: u32) -> PeerView {
    let text = include_str!("../../../cli/tests/golden/peer.json");
    let peer: PeerView = serde_json::from_str(text).unwrap();
    PeerView { name: format!("leaf-{n:04}"), ..peer }
}

/// Every family is well named, told about, and in the operator's page.
#[test]
fn every_family_is_documented() {
    let page = include_str!("../../../docs/operations.md");
    for family in FAMILIES {
        assert!(
            page.contains(&format!("`{}`", family.name)),
            "docs/operations.md does not name {}",
            family.name
        );
        assert!(family.help.ends_with('.') || family.help.ends_with(')'), "{}", family.name);
    }
    let names: std::collections::BTreeSet<_> = FAMILIES.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), FAMILIES.len());
}

/// A page of every family is what Prometheus takes: checked by a strict reader, which finds each mistake that is put in.
#[test]
fn a_page_of_everything_is_strictly_right() {
    let mut page = Page::default();
    for family in FAMILIES {
        let hard = family.labels.iter().map(|l| format!("{l} \"of\" \\ a\nkind")).collect();
        page.family(family, [(hard, 1.5)]);
    }
    let text = page.into_text();
    assert_eq!(strict::read(&text).unwrap().len(), FAMILIES.len());
    for (from, to) in [
        ("# TYPE fabric_ready gauge\n", ""),
        ("# TYPE fabric_ready gauge", "# TYPE fabric_ready counter"),
        ("fabric_ready 1.5\n", "fabric_ready 1.5\nfabric_ready 1.5\n"),
        ("fabric_ready 1.5\n", "fabric_ready x\n"),
        ("fabric_ready 1.5\n", "fabric_readiness 1.5\n"),
        ("kind\",version", "kind\"version"),
        ("_uptime_seconds", "_uptime_secs"),
    ] {
        assert!(
            strict::read(&text.replacen(from, to, 9)).is_err() && text.contains(from),
            "{from:?} to {to:?}"
        );
    }
    assert!(strict::read(text.trim_end()).is_err());
}

/// However many neighbours there are, the lines are bounded; the sums still have them all.
#[test]
fn many_neighbours_make_a_bounded_page() {
    let peers = |n| Observed { peers: (0..n).map(peer).collect(), ..Observed::default() };
    let [some, many] = [500, 5000].map(|n| page(&peers(n)));
    assert_eq!(some.lines().count(), many.lines().count());
    let samples = strict::read(&many).unwrap();
    assert_eq!(samples["fabric_bgp_peers_omitted"], 4500.0);
    let state = peer(0).state;
    assert_eq!(samples[&format!("fabric_bgp_sessions{{state=\"{state}\"}}")], 5000.0);
}

/// Two neighbours of one name do not make one sample twice.
#[test]
fn a_name_that_is_taken_has_its_address_beside_it() {
    let observed = Observed { peers: vec![peer(1), peer(1)], ..Observed::default() };
    strict::read(&page(&observed)).unwrap();
}

/// The page is served at its own address; anything else there is not.
#[tokio::test]
async fn served_at_its_own_address() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let observe: Observe =
        Arc::new(|| Box::pin(async { Observed { peers: vec![peer(1)], ..Observed::default() } }));
    let at = serve("127.0.0.1:0".parse().unwrap(), observe).await.unwrap();
    for (path, status) in [("/metrics", "200 OK"), ("/v1/status", "404 Not Found")] {
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        assert_eq!(text.contains("text/plain; version=0.0.4"), path == "/metrics");
    }
}
