//! The rule from events to claims, for any events in any order.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use federation::claims::ClaimTable;
use federation::event::{Event, EventType};
use proptest::prelude::*;

const GRACE_MS: u64 = 600;
const DEBOUNCE_MS: u64 = 60;

fn client(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 81, 10, host)
}

fn event(id: usize, host: u8, event_type: EventType, observed_at: u64, life: u64) -> Event {
    Event {
        id: format!("{id:03}"),
        group: "fabric".into(),
        source_node: "aws".into(),
        event_type,
        subject: client(host).to_string(),
        dedupe_key: String::new(),
        payload: serde_json::Value::Null,
        observed_at,
        expires_at: observed_at + life,
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let types = prop::sample::select(vec![
        EventType::ClientObserved,
        EventType::ClientObserved,
        EventType::ClientExpired,
        EventType::PartAccepted,
    ]);
    prop::collection::vec((1u8..4, types, 0u64..2000, 1u64..1000), 0..12).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        numbered.map(|(id, (host, event_type, at, life))| event(id, host, event_type, at, life)).collect()
    })
}

fn table(events: &[Event]) -> ClaimTable {
    let mut table = ClaimTable::new(Duration::from_millis(GRACE_MS), Duration::from_millis(DEBOUNCE_MS));
    for event in events {
        table.apply(event);
    }
    table
}

/// A claim stands from its observation to expiry + grace + debounce, to the millisecond.
#[test]
fn up_at_once_down_slowly() {
    let table = table(&[event(0, 1, EventType::ClientObserved, 1000, 300)]);
    let end = 1300 + GRACE_MS + DEBOUNCE_MS;
    assert!(table.claimed(1000).contains(client(1)));
    assert!(table.claimed(end - 1).contains(client(1)));
    assert!(!table.claimed(end).contains(client(1)));
    assert_eq!((table.next_deadline(1000), table.next_deadline(end)), (Some(end), None));
}

/// An emitted `expired` withdraws at once, and an observation from before it does not bring the claim back.
#[test]
fn expired_withdraws_at_once() {
    let mut table = table(&[event(0, 1, EventType::ClientObserved, 1000, 300)]);
    table.apply(&event(1, 1, EventType::ClientExpired, 1100, 300));
    assert!(table.claimed(1100).is_empty());
    table.apply(&event(2, 1, EventType::ClientObserved, 1050, 300));
    assert!(table.claimed(1100).is_empty());
    table.apply(&event(3, 1, EventType::ClientObserved, 1101, 300));
    assert!(table.claimed(1101).contains(client(1)));
}

proptest! {
    /// The order in which events arrive never matters.
    #[test]
    fn order_does_not_matter(events in events(), shuffled in any::<u64>(), now in 0u64..4000) {
        let mut other = events.clone();
        let mut seed = shuffled;
        for index in (1..other.len()).rev() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            other.swap(index, (seed >> 33) as usize % (index + 1));
        }
        prop_assert_eq!(table(&events).claimed(now), table(&other).claimed(now));
    }

    /// A repeated event changes nothing.
    #[test]
    fn repetition_changes_nothing(events in events(), now in 0u64..4000) {
        let twice: Vec<_> = events.iter().chain(&events).cloned().collect();
        prop_assert_eq!(table(&events).claimed(now), table(&twice).claimed(now));
    }

    /// Whatever was observed, an address that the node captures is not claimed, and no other is touched.
    #[test]
    fn captured_is_never_claimed(events in events(), captured in prop::collection::btree_set(1u8..4, 0..3), now in 0u64..4000) {
        let captured: BTreeSet<_> = captured.into_iter().map(client).collect();
        let free = table(&events).claimed(now);
        let mut table = table(&events);
        table.set_captured(captured.clone());
        let claimed: BTreeSet<_> = table.claimed(now).addresses().collect();
        prop_assert!(claimed.is_disjoint(&captured));
        let expected: BTreeSet<_> = free.addresses().filter(|address| !captured.contains(address)).collect();
        prop_assert_eq!(claimed, expected);
    }

    /// Between an instant and the deadline that it names, time alone changes nothing; at the deadline it does.
    #[test]
    fn deadline_is_exact(events in events(), now in 0u64..4000, part in 0.0f64..1.0) {
        let table = table(&events);
        let claimed = table.claimed(now);
        match table.next_deadline(now) {
            None => prop_assert_eq!(&table.claimed(u64::MAX), &claimed),
            Some(at) => {
                let between = now + ((at - now - 1) as f64 * part) as u64;
                prop_assert_eq!(&table.claimed(between), &claimed);
                prop_assert_ne!(&table.claimed(at), &claimed);
            }
        }
    }

    /// What forgetting drops claims nothing, now or later.
    #[test]
    fn forgetting_keeps_claims(events in events(), now in 0u64..4000, later in 0u64..4000) {
        let full = table(&events);
        let mut table = full.clone();
        table.forget(now, now);
        prop_assert_eq!(table.claimed(now + later), full.claimed(now + later));
    }
}
