//! What is kept for a session that takes nothing is bounded, whatever the others do.

use super::*;

/// One client announces and withdraws ever new prefixes while another one reads nothing at all: the set of what it
/// must be told grows to its bound and not beyond, then that session alone is ended (Cease/8).
#[test]
fn ever_new_prefixes_cannot_grow_what_is_kept_for_a_stalled_session() {
    let mut config = config();
    config.log_limit_bytes = 20_000;
    let mut s = Speaker::new(config, 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
    let mut a = Client::connect(&mut s, address(2), None, 0);
    let mut fast = Client::connect(&mut s, address(4), None, 0);
    fast.listen(&mut s, 0);
    let stalled = Client::connect(&mut s, address(3), None, 0);
    let kept =
        |s: &Speaker| s.conns.iter().flatten().filter_map(|c| c.out.behind.as_ref()).map(|b| b.len()).max();
    let (mut most, mut ended_at) = (0, None);
    for round in 0..200u32 {
        let hosts: Vec<Prefix> =
            (0..500).map(|i| Prefix::host(Ipv4Addr::from(0x0a50_0000 + round * 500 + i).into())).collect();
        a.send(&mut s, &announce(v4(address(2)), &hosts, &[]), 0);
        fast.listen(&mut s, 0);
        a.send(&mut s, &withdraw(&hosts), 0);
        fast.listen(&mut s, 0);
        a.listen(&mut s, 0);
        most = most.max(kept(&s).unwrap_or(0));
        assert!(s.summary(0).log_bytes <= 20_000 + 60_000);
        if s.deadline() == 0 {
            s.tick(0);
            ended_at = ended_at.or(Some(round));
        }
    }
    assert!(fast.told.is_empty(), "the others notice nothing");
    assert!(most <= 65_536 + 2 * 500 + 500, "{most}");
    assert!(ended_at.is_some_and(|round| round >= 130), "{ended_at:?}: only at the bound");
    assert!(!s.live(stalled.id));
    let peers = s.peers(0);
    let peer = peers.iter().find(|p| p.address == address(3)).unwrap();
    assert_eq!(peer.last_error.as_deref(), Some(format!("sent {}", Notification::cease(8)).as_str()));
    assert_eq!(s.summary(0).established, 2);
}

/// A joining session gets a large table in pieces that are bounded by their attribute sets too.
#[test]
fn a_piece_of_the_table_is_bounded_by_its_attribute_sets() {
    let mut s = open_speaker();
    let mut a = Client::connect(&mut s, address(2), None, 0);
    for i in 0..3000u32 {
        let one = [Prefix::host(Ipv4Addr::from(0x0a50_0000 + i).into())];
        a.send(&mut s, &announce(Ipv4Addr::from(0x0aff_0100 + i), &one, &[]), 0);
    }
    s.flush();
    let mut late = Client::connect(&mut s, address(3), None, 0);
    let mut slices = [IoSlice::new(&[]); SLICES];
    let n = s.gather(late.id, &mut slices);
    let piece: usize = slices[..n].iter().map(|s| s.len()).sum();
    assert!(piece < 512 * 128, "{piece}");
    late.listen(&mut s, 0);
    assert_eq!(late.told.len(), 3000);
    assert_eq!(late.end_of_rib, [1, 1]);
}
