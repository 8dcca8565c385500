//! What is published change by change is what looking at everything would give.

use std::sync::Arc;

use super::*;
use crate::routes::Routes;

proptest! {
    #[test]
    fn best_paths_by_changes_are_those_of_the_whole_table(
        steps in proptest::collection::vec((0..2usize, any::<bool>(), 0..12u8, 0..4u8), 1..120),
        lost_at in 0..120usize,
    ) {
        let mut config = config();
        config.publish_best_paths = true;
        let mut s = Speaker::new(config, 7, 0);
        s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
        let mut peers = [2, 3].map(|n| Client::connect(&mut s, address(n), helper(120), 0));
        s.flush();
        s.take_best_paths();
        let mut last = s.published_now();
        for (i, (from, add, n, hop)) in steps.into_iter().enumerate() {
            if i == lost_at {
                s.closed(peers[0].id, "reset", 1000);
                peers[0] = Client::connect(&mut s, address(2), helper(120), 2000);
            }
            let message = if add {
                announce(Ipv4Addr::new(10, 255, 0, 10 + hop), &[host(n)], &[])
            } else {
                withdraw(&[host(n)])
            };
            peers[from].send(&mut s, &message, 3000);
            s.flush();
            if let Some(paths) = s.take_best_paths() {
                prop_assert_eq!(paths.generation, last.generation + 1);
                let whole: Routes = s.prefixes().filter_map(|p| Some((p, s.best(p)?))).collect();
                prop_assert!(paths.stale || paths.routes == whole, "step {}", i);
                prop_assert_eq!(paths.stale, whole.values().any(|r| r.stale), "step {}", i);
                last = paths;
            }
        }
    }
}

impl Speaker {
    fn published_now(&self) -> Arc<crate::view::BestPaths> {
        self.published.last()
    }
}
