//! `routerctl` as a script meets it: exit codes, formats and fixes, against a daemon of this test on a real
//! administration socket.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use control::server::{Refusal, listen};
use control::{Node, Paths};
use serde_json::{Value, json};

/// A daemon that answers from a table, for as long as the test runs.
struct Fake {
    root: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn fake(node: Node, routes: Router) -> Fake {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(Some(root.path()));
    paths.create().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = {
        let _inside = runtime.enter();
        listen(&paths.socket(node)).unwrap()
    };
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Fake { root, _runtime: runtime }
}

fn run(root: &Path, words: &str) -> Output {
    run_with(root, words, "")
}

fn run_with(root: &Path, words: &str, input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_routerctl"))
        .arg("--root")
        .arg(root)
        .args(words.split_whitespace())
        .env_remove("FABRIC_ROOT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn status(phase: &str) -> Value {
    json!({"role": "hub", "name": "hub", "version": "0.1.0", "uptime_secs": 5, "phase": phase,
           "why": if phase == "Ready" { vec![] } else { vec!["no registry"] }, "overlay": "10.255.0.1",
           "bgp": {"established": 4, "peers": 4, "accepted": 4, "rejected": 0}, "leaves": 4})
}

/// Nothing set up, no daemon: 3, and the fix says what to start.
#[test]
fn silence_is_three() {
    let root = tempfile::tempdir().unwrap();
    for verb in ["status", "bgp peers", "get BGPRouter", "claims"] {
        let output = run(root.path(), verb);
        assert_eq!(code(&output), 3, "{verb}: {}", err(&output));
        assert!(err(&output).contains("fix: "), "{verb}");
    }
    let output = run(root.path(), "--node hub leaves");
    assert_eq!(code(&output), 3);
    assert!(err(&output).contains("systemctl start fabric-rr"), "{}", err(&output));
}

/// Wrong words: 2; an unknown Kind is answered with the one that was meant, in the chosen format.
#[test]
fn wrong_usage_is_two() {
    let root = tempfile::tempdir().unwrap();
    for words in [
        "frobnicate",
        "invite",
        "hub init",
        "invite --site a --expires soon",
        "get BGPPears",
        "status --node moon",
    ] {
        assert_eq!(code(&run(root.path(), words)), 2, "{words}");
    }
    let output = run(root.path(), "get BGPDynamicPeers -o json");
    let error: Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(error["error"]["code"], "kind-unknown");
    assert!(error["error"]["fix"].as_str().unwrap().contains("BGPDynamicPeer"));
    assert!(out(&output).is_empty());
}

/// A good status is 0 and one that is not ready is 1, in every format.
#[test]
fn a_bad_answer_is_one() {
    for (phase, expected) in [("Ready", 0), ("Degraded", 1)] {
        let fake = fake(
            Node::Hub,
            Router::new().route("/v1/status", get(move || async move { Json(status(phase)) })),
        );
        for format in ["table", "json", "yaml"] {
            let output = run(fake.root.path(), &format!("status -o {format}"));
            assert_eq!(code(&output), expected, "{format}: {}", err(&output));
            assert!(out(&output).contains(phase), "{format}");
        }
    }
}

/// The formats say the same: JSON keeps the order of its keys, YAML reads back as the same value.
#[test]
fn formats_of_one_view() {
    let claims = json!([{"address": "10.81.10.20", "owner": "aws", "generation": 1, "age_secs": 192}]);
    let answer = claims.clone();
    let fake = fake(Node::Hub, Router::new().route("/v1/claims", get(|| async { Json(answer) })));
    let table = out(&run(fake.root.path(), "claims"));
    assert_eq!(table, "ADDRESS      OWNER  GENERATION  FOR\n10.81.10.20  aws    1           3m12s\n");
    let text = out(&run(fake.root.path(), "claims list -o json"));
    let expected = "[\n  {\n    \"address\": \"10.81.10.20\",\n    \"owner\": \"aws\",\n    \
                    \"generation\": 1,\n    \"age_secs\": 192\n  }\n]\n";
    assert_eq!(text, expected);
    let yaml = out(&run(fake.root.path(), "claims -o yaml"));
    assert_eq!(yaml, "- address: \"10.81.10.20\"\n  owner: aws\n  generation: 1\n  age_secs: 192\n");
}

/// User-data is YAML that cloud-init takes, with the string in it once, in a file of root's alone, and on no command line.
#[test]
fn user_data_is_yaml_with_one_secret() {
    let invite = json!({"invite": "fabric1-aB3_-x", "id": "0011", "site": "aws", "expires_secs": 1800});
    let make = move || {
        let invite = invite.clone();
        async move { Json(invite) }
    };
    let hub = fake(Node::Hub, Router::new().route("/v1/invites", post(make)));
    let output = run(hub.root.path(), "invite --site aws --cloud-init");
    let text = out(&output);
    assert!(text.starts_with("#cloud-config\n"), "{text}");
    assert_eq!(text.matches("fabric1-").count(), 1);
    let data: Value = serde_saphyr::from_str(&text).unwrap();
    let file = &data["write_files"][0];
    assert_eq!(
        (file["content"].as_str(), file["permissions"].as_str()),
        (Some("fabric1-aB3_-x"), Some("0600"))
    );
    let command = data["runcmd"][0].as_array().unwrap();
    assert!(command[2].as_str().unwrap().contains(&format!("enroll - < {}", file["path"].as_str().unwrap())));
    let drawn = out(&run(hub.root.path(), "invite --site aws --qr"));
    assert!(drawn.trim_end().ends_with("fabric1-aB3_-x") && drawn.contains('\u{2588}'), "{drawn}");
}

/// The invite is alone on stdout, so that it can be piped; a refusal shows its code and its fix.
#[test]
fn invites_and_refusals() {
    let refuse = || async { Refusal::new(StatusCode::NOT_FOUND, "leaf-unknown", "no leaf is named aws") };
    let invite = json!({"invite": "fabric1-abc", "id": "0011", "site": "aws", "expires_secs": 1800});
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let seen = asked.clone();
    let make = move |Json(request): Json<Value>| {
        let (invite, seen) = (invite.clone(), seen.clone());
        async move {
            *seen.lock().unwrap() = request;
            Json(invite)
        }
    };
    let routes =
        Router::new().route("/v1/invites", post(make)).route("/v1/leaves/{name}/revoke", post(refuse));
    let fake = fake(Node::Hub, routes);
    let output = run(
        fake.root.path(),
        "invite --site aws --permit 10.81.0.0/16,10.91.0.0/16 --expires 30m --max-claims 8",
    );
    assert_eq!((code(&output), out(&output).as_str()), (0, "fabric1-abc\n"), "{}", err(&output));
    let expected = json!({"site": "aws", "permitted": ["10.81.0.0/16", "10.91.0.0/16"], "max_claims": 8,
                          "expires_secs": 1800, "uses": 1, "sources": [], "approve": false, "replace": false});
    assert_eq!(*asked.lock().unwrap(), expected);
    let output = run(fake.root.path(), "leaves revoke aws");
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).contains("leaf-unknown") && err(&output).contains("fix: Enroll the leaf"),
        "{}",
        err(&output)
    );
}

fn enroll_lines(ok: bool) -> String {
    let step = json!({"line": "step", "name": "tunnel", "ms": 212, "ok": ok, "detail": "handshake with 203.0.113.10:51820"});
    let reason = (!ok).then(|| json!({"code": "invite-spent", "message": "used once"}));
    let finding = json!({"code": "ip-forward-off", "severity": "error", "message": "no forwarding",
                         "fix": "sysctl -w net.ipv4.ip_forward=1"});
    let mut done = json!({"line": "done", "ok": ok, "changed": ok, "elapsed_ms": 640, "overlay": "10.255.0.2",
                          "dataplane": "in-process", "findings": [finding],
                          "steps": [{"name": "tunnel", "ms": 212, "ok": ok, "detail": ""}]});
    if let Some(reason) = reason {
        done["reason"] = reason;
    }
    format!("{step}\n{done}\n")
}

/// Enrolling shows each step, the findings with their commands, and on failure the reason with its fix; the
/// invite comes from stdin and is never shown.
#[test]
fn enrolling() {
    for ok in [true, false] {
        let routes = Router::new()
            .route("/v1/status", get(|| async { Json(json!({})) }))
            .route("/v1/enroll", post(move || async move { enroll_lines(ok) }));
        let fake = fake(Node::Leaf, routes);
        let words = "enroll - --client 10.81.10.20 --capture proxy-arp --capture-interface eth1";
        let output = run_with(fake.root.path(), words, "fabric1-secret\n");
        assert_eq!(code(&output), i32::from(!ok), "{}", err(&output));
        let text = out(&output);
        assert!(text.contains("tunnel") && text.contains("212 ms"), "{text}");
        assert!(text.contains("fix: sysctl -w net.ipv4.ip_forward=1"), "{text}");
        assert!(!text.contains("secret"));
        assert_eq!(
            text.contains("works after 640 ms: overlay 10.255.0.2, in-process dataplane"),
            ok,
            "{text}"
        );
        assert_eq!(text.contains("(invite-spent)\n  fix: Make a new one on the hub"), !ok, "{text}");

        let output = run_with(fake.root.path(), &format!("{words} -o json"), "fabric1-secret\n");
        assert_eq!(code(&output), i32::from(!ok));
        let summary: Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!((&summary["ok"], &summary["steps"][0]["ms"]), (&json!(ok), &json!(212)));
    }
}

/// A verb of the hub, asked on a leaf, says where to ask it.
#[test]
fn hub_verbs_on_a_leaf() {
    let fake = fake(Node::Leaf, Router::new());
    let output = run(fake.root.path(), "invite --site aws");
    assert_eq!(code(&output), 3);
    assert!(err(&output).contains("run it on the hub"), "{}", err(&output));
    assert_eq!(code(&run(fake.root.path(), "--node leaf invite --site aws")), 2);
}

/// `hub init` writes once, changes nothing the second time, leaves another file alone, and its file is valid.
#[test]
fn hub_init_twice() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(Some(root.path()));
    let words = "hub init --endpoint 203.0.113.10 --no-start -o json";
    let first: Value = serde_json::from_str(&out(&run(root.path(), words))).unwrap();
    assert_eq!((&first["changed"], &first["endpoints"]), (&json!(true), &json!(["203.0.113.10:51820"])));
    let again: Value = serde_json::from_str(&out(&run(root.path(), words))).unwrap();
    assert_eq!(again["changed"], json!(false));
    assert_eq!(again["wireguard_key"], first["wireguard_key"]);
    for key in [paths.wireguard_key(), paths.signing_key()] {
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let other = run(root.path(), "hub init --endpoint 203.0.113.11 --no-start");
    assert_eq!(code(&other), 1);
    assert!(err(&other).contains("203.0.113.11:51820") && err(&other).contains("fix: "), "{}", err(&other));
    let file = paths.config(Node::Hub);
    assert_eq!(code(&run(root.path(), &format!("validate {}", file.display()))), 0);
    std::fs::write(&file, "kind: BGPRuter\n---\nkind: Nothing\n").unwrap();
    let wrong = run(root.path(), &format!("validate {} -o json", file.display()));
    let verdict: Value = serde_json::from_str(&out(&wrong)).unwrap();
    assert_eq!(code(&wrong), 1);
    assert!(verdict["mistakes"].as_array().unwrap().len() >= 2, "{verdict}");
}

/// What needs no daemon works without one: completions, schema.
#[test]
fn without_a_daemon() {
    let root = tempfile::tempdir().unwrap();
    for words in
        ["completions bash", "completions zsh", "completions fish", "schema", "schema bgprouter -o yaml"]
    {
        let output = run(root.path(), words);
        assert!(code(&output) == 0 && !out(&output).is_empty(), "{words}: {}", err(&output));
    }
}
