//! Long-lived graceful restart (RFC 9494) with BIRD: a BIRD that is killed and stays away keeps its route, marked, at
//! another BIRD that knows the mark, until its long-lived stale time is over; one that does not is told to withdraw.

use std::path::Path;
use std::time::Duration;

use fabric_tests::space::stale::{HUB, REFLECTOR, bird, has_and_marked};
use fabric_tests::space::{Space, peers, until};

const ROUTE: &str = "10.77.0.1/32";
const LIMIT: Duration = Duration::from_secs(40);
/// What each BIRD asks for, in seconds.
const RESTART: u64 = 3;

/// Waits until both receivers show the route as wanted: there or not, and with the mark or not.
async fn seen(space: &Space, dir: &Path, [knows, plain]: [&Path; 2], wanted: [(bool, bool); 2]) {
    until(dir, LIMIT, async || {
        let shown = [knows, plain].map(|d| space.birdc(d, &format!("show route for {ROUTE} all")));
        let has = shown.each_ref().map(|s| has_and_marked(s, ROUTE));
        (has != wanted).then(|| format!("{has:?}\n{shown:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_outlives_its_restart_time_where_the_mark_is_known() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let [source, knows, plain] = ["source", "knows", "plain"].map(|name| dir.join(name));
    [&source, &knows, &plain].iter().for_each(|d| std::fs::create_dir(d).unwrap());
    let mut space = Space::new("llgr", &[HUB, "10.8.0.2", "10.8.0.3", "10.8.0.4"]);
    space.start_reflector(dir, REFLECTOR);
    space.start_bird(&knows, &bird("10.8.0.3", RESTART, "aware", None));
    space.start_bird(&plain, &bird("10.8.0.4", RESTART, "off", None));
    let announces = bird("10.8.0.2", RESTART, "on; long lived stale time 8", Some(ROUTE));
    space.start_bird_as("source", &source, &announces);
    let both = [knows.as_path(), plain.as_path()];
    seen(&space, dir, both, [(true, false); 2]).await;
    for peer in peers(dir).await {
        let long_lived = peer.capabilities.iter().any(|c| c == "long-lived-graceful-restart");
        assert_eq!(long_lived, peer.address.to_string() != "10.8.0.4", "{peer:#?}");
    }

    space.kill("source");
    seen(&space, dir, both, [(true, true), (false, false)]).await;
    let all = peers(dir).await;
    let away = all.iter().find(|p| p.address.to_string() == "10.8.0.2").expect("it is shown");
    assert_eq!((away.prefixes_stale, away.prefixes_long_lived_stale), (1, 1), "{away:#?}");
    seen(&space, dir, both, [(false, false); 2]).await;
}
