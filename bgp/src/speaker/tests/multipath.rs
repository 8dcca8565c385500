//! Equal paths, and how far next hops are.

use super::*;
use crate::explain::{Asked, Verdict};

/// Neighbours of 10.255.0.0/28 may be one of several, those of 10.255.0.16/28 may not.
fn speaker(maximum_paths: u8) -> Speaker {
    let mut config = config();
    (config.maximum_paths, config.publish_best_paths) = (maximum_paths, true);
    let mut s = Speaker::new(config, 7, 0);
    let mut several = group(true, "10.255.0.0/28", Admission::Open);
    several.options.multipath = true;
    s.set_dynamic_peers(vec![several, group(true, "10.255.0.16/28", Admission::Open)], 0);
    s
}

fn hops(s: &mut Speaker) -> Option<Vec<u8>> {
    s.flush();
    let paths = s.take_best_paths()?;
    let last = |a: &IpAddr| v4(*a).octets()[3];
    let path = paths.routes.get(&host(1))?;
    Some(std::iter::once(&path.next_hop).chain(path.others.iter()).map(last).collect())
}

/// The best and its equals are published, each change of any of them is, and no more than permitted; what comes from a
/// neighbour that speaks for claims is never one of several.
#[test]
fn equal_paths_are_published_with_the_best() {
    let mut s = speaker(3);
    let say = |s: &mut Speaker, n: u8, hop: u8| {
        let mut c = Client::connect(s, address(n), None, 0);
        c.send(s, &announce(v4(address(hop)), &[host(1)], &[]), 0);
        c
    };
    let _a = say(&mut s, 2, 2);
    assert_eq!(hops(&mut s), Some(vec![2]));
    let mut b = say(&mut s, 3, 9);
    assert_eq!(hops(&mut s), Some(vec![2, 9]));
    let _same_hop = say(&mut s, 4, 2);
    assert_eq!(hops(&mut s), Some(vec![2, 9]), "one way for one next hop");
    let _claim = say(&mut s, 17, 7);
    assert_eq!(hops(&mut s), Some(vec![2, 9]), "a claim has one owner");
    let mut c = say(&mut s, 5, 8);
    let _d = say(&mut s, 6, 6);
    assert_eq!(hops(&mut s), Some(vec![2, 6, 8]), "three at most, the lowest next hops");
    c.send(&mut s, &withdraw(&[host(1)]), 0);
    assert_eq!(hops(&mut s), Some(vec![2, 6, 9]), "the next one moves up");
    let explained = s.explain(Asked::Prefix(host(1)), 0);
    let verdicts: Vec<_> = explained.candidates.iter().map(|c| c.verdict).collect();
    let (lost, equal) = (Verdict::Lost, Verdict::Equal);
    assert_eq!(verdicts[..3], [Verdict::Chosen, equal, equal]);
    assert!(verdicts[3..].iter().all(|v| *v == lost), "{verdicts:?}");
    assert!(explained.outcome.starts_with("chosen: 3 equal paths of 5"), "{}", explained.outcome);
    let shown = s.routes(&RouteQuery::default());
    assert_eq!(shown.iter().map(|r| (r.best, r.equal)).filter(|m| m.1).count(), 2);
    b.send(&mut s, &announce(v4(address(9)), &[host(1)], &[0x80, 4, 4, 0, 0, 0, 5]), 0);
    assert_eq!(hops(&mut s), Some(vec![2, 6]), "a worse MED does not tie");
}

/// The best path of a neighbour that speaks for claims stays alone, and one path is what everybody has by default.
#[test]
fn a_claim_is_never_shared() {
    let mut s = speaker(8);
    let say = |s: &mut Speaker, n: u8| {
        Client::connect(s, address(n), None, 0).send(s, &announce(v4(address(n)), &[host(1)], &[]), 0);
    };
    [17, 18].iter().for_each(|n| say(&mut s, *n));
    assert_eq!(hops(&mut s), Some(vec![17]));
    let mut s = speaker(1);
    [2, 3].iter().for_each(|n| say(&mut s, *n));
    assert_eq!(hops(&mut s), Some(vec![2]));
}

/// The nearest next hop wins before router ids are asked; a change of the distances is a change of the choice, and
/// without distances nothing of this decides.
#[test]
fn the_nearest_next_hop_is_chosen() {
    let mut s = speaker(8);
    for n in [2, 3] {
        Client::connect(&mut s, address(n), None, 0).send(
            &mut s,
            &announce(v4(address(n)), &[host(1)], &[]),
            0,
        );
    }
    assert_eq!(hops(&mut s), Some(vec![2, 3]));
    let costs = |direct: &str| vec![(direct.parse().unwrap(), 10), ("10.255.0.0/20".parse().unwrap(), 20)];
    s.set_next_hop_costs(costs("10.255.0.3/32"));
    assert_eq!(hops(&mut s), Some(vec![3]), "no tie any more");
    let lost = s.explain(Asked::Prefix(host(1)), 0).candidates[1].lost_at.clone().unwrap();
    assert_eq!((lost.step.as_str(), lost.rule.as_str()), ("nearest next hop", "RFC 4271 9.1.2.2 e"));
    assert_eq!(
        (lost.had.as_str(), lost.against.as_str()),
        ("10.255.0.2 at cost 20", "10.255.0.3 at cost 10")
    );
    s.set_next_hop_costs(costs("10.255.0.2/32"));
    assert_eq!(hops(&mut s), Some(vec![2]));
    s.set_next_hop_costs(vec![("192.0.2.0/24".parse().unwrap(), 1)]);
    assert_eq!(hops(&mut s), Some(vec![2, 3]), "both are as far as can be");
    s.set_next_hop_costs(Vec::new());
    assert_eq!(hops(&mut s), Some(vec![2, 3]));
}
