//! What holds for any input.

use config::{Config, Kind, Mistakes, Source, parse};
use proptest::prelude::*;

fn read(text: String) -> Result<Config, Mistakes> {
    parse(&[Source { name: "test.yaml".into(), text }])
}

/// Text that is nearly a configuration: lines of the kind that occur, in any order.
fn nearly() -> impl Strategy<Value = String> {
    let keys =
        Kind::ALL.into_iter().flat_map(|kind| config::fields(kind).1).map(|field| field.name.to_string());
    let mut words: Vec<String> = keys.collect();
    words.extend(Kind::ALL.iter().flat_map(|kind| [kind.to_string(), kind.api_version().to_string()]));
    let others = [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "---",
        "-",
        "[",
        "]",
        "{",
        "}",
        ":",
        "&a",
        "*a",
        "!x",
        "|",
        ">",
        "\"",
        "'",
        "#",
        "10.0.0.0/8",
        "10.0.0.1",
        "179",
        "-1",
        "true",
        "open",
        "~",
        "\t",
        "é",
    ];
    words.extend(others.map(str::to_string));
    let word = prop::sample::select(words);
    let line = (0usize..5, prop::collection::vec(word, 1..5)).prop_map(|(indent, words)| {
        format!("{}{}", "  ".repeat(indent), words.join(if indent % 2 == 0 { ": " } else { " " }))
    });
    prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

fn hub() -> impl Strategy<Value = String> {
    let router = prop::option::of((1u32.., prop_oneof![Just(0u16), 3u16..], 0u16..=4095));
    let policy = (10u64..1_000_000, 1u32..=65_536, 8u8..=23);
    let peers = prop::collection::vec((1u8..=254, 1u16.., any::<bool>()), 0..4);
    (router, policy, peers, 1u16..).prop_map(|(router, (lease, claims, length), peers, port)| {
        let mut text = format!(
            "apiVersion: mobility.routerd.net/v1alpha1\nkind: SAMEnrollmentPolicy\nmetadata: {{name: fabric}}\n\
             spec: {{overlayPrefix: 11.0.0.0/{length}, endpoints: ['[2001:db8::1]:{port}', 'hub.example:{port}'], \
             leaseSecs: {lease}, failStaticSecs: {}, maxClaims: {claims}}}\n",
            (lease / 2).max(5)
        );
        if let Some((asn, hold, restart)) = router {
            text += &format!(
                "---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {{name: rr}}\n\
                 spec: {{asn: {asn}, holdTimeSecs: {hold}, gracefulRestartSecs: {restart}, listen: ['[::1]:{port}']}}\n"
            );
        }
        for (index, (host, port, client)) in peers.iter().enumerate() {
            text += &format!(
                "---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPPeer\nmetadata: {{name: p{index}}}\n\
                 spec: {{address: 192.0.{index}.{host}, port: {port}, routeReflectorClient: {client}}}\n"
            );
        }
        text
    })
}

fn leaf() -> impl Strategy<Value = String> {
    let clients = prop::collection::btree_set(1u8..=254, 0..5);
    let dataplanes = prop::sample::select(vec!["auto", "kernel", "in-process"]);
    (clients, any::<bool>(), dataplanes, 0u64..1000).prop_map(|(clients, captures, dataplane, grace)| {
        let clients: Vec<_> = clients.iter().map(|host| format!("10.81.10.{host}")).collect();
        let capture = if captures { ", capture: proxy-arp, captureInterface: eth1.7" } else { "" };
        format!(
            "apiVersion: mobility.routerd.net/v1alpha1\nkind: SAMEnrollmentClient\nmetadata: {{name: x}}\n\
                 spec: {{clients: [{}], dataplane: {dataplane}{capture}}}\n---\n\
                 apiVersion: federation.routerd.net/v1alpha1\nkind: EventGroup\nmetadata: {{name: g}}\n\
                 spec: {{graceSecs: {grace}}}\n",
            clients.join(", ")
        )
    })
}

proptest! {
    /// No text makes the parser panic, and a refusal always says why.
    #[test]
    fn any_text(text in prop_oneof![any::<String>(), nearly()]) {
        if let Err(mistakes) = read(text) {
            prop_assert!(!mistakes.is_empty());
        }
    }

    /// A damaged configuration never panics, and each mistake lies inside the file.
    #[test]
    fn damaged(text in prop_oneof![hub(), leaf()], at in any::<prop::sample::Index>(), with in "[\\PC\n]{0,3}", cut in 0usize..9) {
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let damaged: String =
            chars[..at].iter().copied().chain(with.chars()).chain(chars.iter().copied().skip(at + cut)).collect();
        let lines = damaged.split('\n').count();
        if let Err(mistakes) = read(damaged) {
            prop_assert!(!mistakes.is_empty());
            prop_assert!(mistakes.iter().all(|mistake| mistake.at.line <= lines + 1));
        }
    }

    /// Writing the effective configuration and reading it again changes nothing.
    #[test]
    fn round_trip(text in prop_oneof![hub(), leaf()]) {
        let config = read(text).map_err(|mistakes| TestCaseError::fail(mistakes.to_string()))?;
        let written = config.to_yaml();
        let again = read(written.clone()).map_err(|mistakes| TestCaseError::fail(format!("{mistakes}\n{written}")))?;
        prop_assert_eq!(&again, &config);
        prop_assert_eq!(again.to_yaml(), written);
    }
}
