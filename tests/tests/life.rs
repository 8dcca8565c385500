//! The life of a leaf after its enrollment, on a whole fabric: approval, claims by hand and moved, fresh keys, leaving,
//! a replaced machine, and revocation with its times.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_tests::Check;
use fabric_tests::ask::{
    Guest, eventually, exec, json, kernel_clients, leaf, note, now_secs, ping, routerctl, site, start, stop,
    words,
};
use fabric_tests::flow::{flow, invited, replace_in_place, rotate, unnoticed};
use fabric_tests::harness::{Fabric, case, main as run};
use fabric_tests::stall::Stalls;
use lab::layout::Site;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longest time for one step of the fabric.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest time for each effect of a revocation, seconds.
const REVOKED_SECS: f64 = 1.0;
/// An address of the aws site that no client has.
const SPARE: &str = "10.81.10.77";
/// Another one, claimed while its leaf waits.
const LATE: &str = "10.81.10.78";

fn main() -> ExitCode {
    run(
        "life",
        vec![
            case("a_claim_by_hand_is_everywhere_and_a_conflict_names_the_owner", claims),
            case("a_moved_claim_has_a_route_at_every_moment_and_fences_its_former_owner", moved),
            case("fresh_keys_cost_a_running_ping_and_a_tcp_stream_nothing", rotated),
            case("enroll_replace_costs_a_running_ping_and_a_tcp_stream_nothing", replaced_in_place),
            case("a_replacement_in_place_waits_for_approval_and_disturbs_nothing", replacement_judged),
            case("a_replacement_that_waits_outlives_hub_leaf_and_who_typed_it", replacement_waits),
            case("a_leaf_that_missed_the_answer_has_the_keys_that_the_hub_has", missed),
            case("a_machine_waits_for_approval_joins_by_itself_and_leaves_nothing", approved_and_left),
            case("a_restarted_machine_goes_on_waiting_and_a_clock_off_by_a_year_harms_nothing", waited),
            case("a_replaced_machine_takes_over_name_address_and_claims", replaced),
            case("a_revoked_leaf_is_gone_within_a_second", revoked),
        ],
    )
}

async fn owner(f: &Fabric, address: &str) -> Result<Option<String>, String> {
    let claims = json(&f.lab, "hub", "claims").await?;
    let mut claims = claims.as_array().into_iter().flatten();
    Ok(claims.find(|c| c["address"] == address).and_then(|c| c["owner"].as_str()).map(String::from))
}

async fn has_route(f: &Fabric, at: &'static Site, address: &str, wanted: bool) -> Check {
    let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
    match kernel_clients(&f.lab, at).await?.contains(&address) {
        has if has == wanted => Ok(()),
        has => Err(format!("{}: route to {address}: {has}", at.name)),
    }
}

async fn claims(f: Arc<Fabric>) -> Check {
    json(&f.lab, "aws-leaf", &format!("claims add {SPARE}")).await?;
    for other in site("aws").others() {
        eventually(LIMIT, || has_route(&f, other, SPARE, true)).await?;
    }
    let refused = routerctl(&f.lab, "azure-leaf", "claims add 10.81.10.20 -o json", None).await?;
    let named = refused.code == Some(1)
        && refused.stderr.contains("claim-conflict")
        && refused.stderr.contains("aws");
    if !named {
        return Err(format!("{:?} {}", refused.code, refused.detail()));
    }
    let refused = routerctl(&f.lab, "aws-leaf", "claims release 10.81.10.20 -o json", None).await?;
    if refused.code != Some(1) || !refused.stderr.contains("claim-wished") {
        return Err(format!("{:?} {}", refused.code, refused.detail()));
    }
    stop(&f.lab, "aws-leaf", Signal::SIGTERM).await?;
    start(&f.lab, "aws-leaf").await?;
    let azure = site("azure");
    eventually(LIMIT, || has_route(&f, azure, SPARE, true)).await?;
    Ok(())
}

/// The claim goes from aws to azure, whose machine asks for it; oci never sees a moment without a route.
async fn moved(f: Arc<Fabric>) -> Check {
    let oci = site("oci");
    eventually(LIMIT, || has_route(&f, oci, SPARE, true)).await?;
    let watched = tokio::spawn({
        let f = f.clone();
        async move {
            let begin = Instant::now();
            let mut gaps = 0;
            while begin.elapsed() < Duration::from_secs(6) {
                gaps += usize::from(has_route(&f, oci, SPARE, true).await.is_err());
            }
            gaps
        }
    });
    let refused = routerctl(&f.lab, "hub", &format!("claims move {SPARE} --to azure -o json"), None).await?;
    if !refused.stderr.contains("claim-not-permitted") {
        return Err(format!("azure may not own it yet: {}", refused.detail()));
    }
    let invite = invited(&f, "--site azure --permit 10.81.10.0/24").await?;
    let widened = routerctl(&f.lab, "azure-leaf", "enroll - -o json", Some(&format!("{invite}\n"))).await?;
    if !widened.ok() {
        return Err(format!("widening: {}", widened.detail()));
    }
    json(&f.lab, "hub", &format!("claims move {SPARE} --to azure")).await?;
    if owner(&f, SPARE).await?.as_deref() != Some("azure") {
        return Err("the owner did not change at once".into());
    }
    let refused = routerctl(&f.lab, "pve-leaf", &format!("claims add {SPARE} -o json"), None).await?;
    if !refused.stderr.contains("azure") {
        return Err(format!("the conflict does not name the new owner: {}", refused.detail()));
    }
    // The new owner asks at its next look, or now, when a person tells it.
    json(&f.lab, "azure-leaf", &format!("claims add {SPARE}")).await?;
    let done = || async {
        let claims = json(&f.lab, "hub", "claims").await?;
        let mut claims = claims.as_array().into_iter().flatten();
        let found = claims.find(|c| c["address"] == SPARE).cloned().unwrap_or_default();
        if found["moving_from"].is_null() && found["owner"] == "azure" {
            Ok(())
        } else {
            Err(found.to_string())
        }
    };
    eventually(LIMIT, done).await?;
    let gaps = watched.await.map_err(|e| e.to_string())?;
    if gaps > 0 {
        return Err(format!("oci had no route in {gaps} looks"));
    }
    let late = routerctl(&f.lab, "aws-leaf", &format!("claims release {SPARE} -o json"), None).await?;
    let history = json(&f.lab, "hub", &format!("claims history {SPARE}")).await?;
    let steps: Vec<_> =
        history.as_array().into_iter().flatten().map(|e| format!("{} {}", e["leaf"], e["step"])).collect();
    let kept = owner(&f, SPARE).await?.as_deref() == Some("azure");
    if !kept || steps.len() != 3 {
        return Err(format!("after the former owner's word ({}): {steps:?}", late.detail()));
    }
    json(&f.lab, "azure-leaf", &format!("claims release {SPARE}")).await?;
    eventually(LIMIT, || has_route(&f, oci, SPARE, false)).await?;
    Ok(())
}

async fn rotated(f: Arc<Fabric>) -> Check {
    unnoticed(&f, || rotate(&f)).await
}

/// The machine itself enrolls anew, by the hub's word; what it was before stays, but for the keys.
async fn replaced_in_place(f: Arc<Fabric>) -> Check {
    let before = json(&f.lab, "hub", "leaves show aws").await?;
    unnoticed(&f, || replace_in_place(&f)).await?;
    let after = json(&f.lab, "hub", "leaves show aws").await?;
    let foreign = invited(&f, "--replace oci").await?;
    let refused =
        routerctl(&f.lab, "aws-leaf", "enroll - --replace -o json", Some(&format!("{foreign}\n"))).await?;
    match before["overlay"] == after["overlay"] && before["claims"] == after["claims"] {
        true if !refused.ok() && refused.stdout.contains("site-taken") => Ok(()),
        same => Err(format!("same: {same}; with another site's invite: {}", refused.detail())),
    }
}

/// Types `enroll --replace` at the aws leaf; it ends when the hub's operator has spoken.
fn typed(f: &Arc<Fabric>, invite: &str) -> tokio::task::JoinHandle<Result<lab::Output, String>> {
    let (f, line) = (f.clone(), format!("{invite}\n"));
    tokio::spawn(
        async move { routerctl(&f.lab, "aws-leaf", "enroll - --replace -o json", Some(&line)).await },
    )
}

/// The one machine that waits at the hub, as a person is shown it.
async fn waits(f: &Fabric) -> Result<Value, String> {
    let look = || async {
        let pending = json(&f.lab, "hub", "leaves pending").await?;
        let waiting = |one: &&Value| one["verdict"] == "waiting";
        let all: Vec<_> = pending.as_array().into_iter().flatten().filter(waiting).cloned().collect();
        if let [one] = all.as_slice() { Ok(one.clone()) } else { Err(pending.to_string()) }
    };
    found(look).await
}

/// The operator's word; `word` is `approve` or `deny`.
async fn judge(f: &Fabric, machine: &Value, word: &str) -> Check {
    let print = machine["fingerprint"].as_str().unwrap_or_default();
    json(&f.lab, "hub", &format!("leaves {word} {print}")).await.map(drop)
}

/// Refused, and then approved, while flows go on; between the two the machine is what it was, and does what it did.
async fn replacement_judged(f: Arc<Fabric>) -> Check {
    let before = json(&f.lab, "hub", "leaves show aws").await?;
    let invite = invited(&f, "--replace aws --approve").await?;
    let crossed = flow(&f, site("aws"), site("oci"), 5);
    let enrolls = typed(&f, &invite);
    let shown = waits(&f).await?;
    let all = shown["site"] == "aws" && shown["replaces"] == "aws" && shown["source"].is_string();
    let claims = shown["claims"] == before["claims"] && shown["claims"][0].is_string();
    if !all || !claims || shown["wireguard_key"] == before["wireguard_key"] {
        return Err(format!("shown at the hub: {shown}; the leaf was {before}"));
    }
    let status = json(&f.lab, "aws-leaf", "status").await?;
    let print = shown["fingerprint"].as_str().unwrap_or_default();
    let told = status["enrollment"]["replacement"].as_str().unwrap_or_default();
    if status["phase"] != "Ready" || !told.contains("approval-pending") || !told.contains(print) {
        return Err(format!("the leaf says {status}"));
    }
    // Its other words to the hub go on; fresh keys of another kind would overtake those that wait.
    json(&f.lab, "aws-leaf", &format!("claims add {LATE}")).await?;
    json(&f.lab, "aws-leaf", &format!("claims release {LATE}")).await?;
    let refused = routerctl(&f.lab, "aws-leaf", "rotate -o json", None).await?;
    if refused.ok() || !refused.stderr.contains("approval-pending") {
        return Err(format!("rotate meanwhile: {}", refused.detail()));
    }
    judge(&f, &shown, "deny").await?;
    let ended = enrolls.await.map_err(|e| e.to_string())??;
    let after = json(&f.lab, "hub", "leaves show aws").await?;
    if ended.ok() || !ended.stdout.contains("approval-denied") || identity(&before) != identity(&after) {
        return Err(format!("denied: {}; {before}; {after}", ended.detail()));
    }
    let crossed = crossed.await.map_err(|e| e.to_string())??;
    note(&format!("waiting and denied: {crossed}"));
    if crossed.lost > 0 || !crossed.stream {
        return Err(format!("waiting and being denied cost a flow: {crossed}"));
    }
    let invite = invited(&f, "--replace aws --approve").await?;
    let stalls = Stalls::watch();
    let crossed = flow(&f, site("aws"), site("oci"), 5);
    let enrolls = typed(&f, &invite);
    let shown = waits(&f).await?;
    judge(&f, &shown, "approve").await?;
    let ended = enrolls.await.map_err(|e| e.to_string())??;
    let said: Value = serde_json::from_str(&ended.stdout).map_err(|e| format!("{e}: {}", ended.detail()))?;
    let steps: Vec<_> =
        said["steps"].as_array().into_iter().flatten().filter_map(|s| s["name"].as_str()).collect();
    let crossed = crossed.await.map_err(|e| e.to_string())??;
    let allowed = stalls.allow(1.0);
    note(&format!("approved, {allowed:.2} s allowed: {crossed}"));
    let wanted = ["invite", "approval", "replacement", "session", "routes", "overlay", "probe"];
    if said["changed"] != true || steps != wanted || !crossed.stream || crossed.gap >= allowed {
        return Err(format!("approved: {crossed}; {said}"));
    }
    took_its_place(&f, &before, &shown).await
}

/// What a replacement must leave as it was.
fn identity(leaf: &Value) -> [Value; 3] {
    [&leaf["overlay"], &leaf["claims"], &leaf["wireguard_key"]].map(Value::clone)
}

/// The machine has the keys that were shown, and everything else as before; nothing waits any more.
async fn took_its_place(f: &Fabric, before: &Value, shown: &Value) -> Check {
    let done = || async {
        let after = json(&f.lab, "hub", "leaves show aws").await?;
        let status = json(&f.lab, "aws-leaf", "status").await?;
        let same = before["overlay"] == after["overlay"] && before["claims"] == after["claims"];
        let fresh = after["wireguard_key"] == shown["wireguard_key"];
        let told = &status["enrollment"]["replacement"];
        match same && fresh && told.is_null() && status["phase"] == "Ready" {
            true => Ok(()),
            false => Err(format!("before {before}, shown {shown}, after {after}; the leaf says {status}")),
        }
    };
    eventually(LIMIT, done).await?;
    let state = state_of_aws(f)?;
    let left: Vec<_> =
        ["waiting.json", "next-keys"].into_iter().filter(|name| state.join(name).exists()).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

/// Who typed it goes away, it is typed again, the leaf and the hub are restarted: one question waits all the while, and
/// when it is approved nobody has to type anything.
async fn replacement_waits(f: Arc<Fabric>) -> Check {
    let before = json(&f.lab, "hub", "leaves show aws").await?;
    let invite = invited(&f, "--replace aws --approve").await?;
    let line = format!("{invite}\n");
    let shown = tokio::select! {
        ended = routerctl(&f.lab, "aws-leaf", "enroll - --replace", Some(&line)) => {
            return Err(format!("did not wait: {ended:?}"));
        }
        shown = waits(&f) => shown?,
    };
    let again = typed(&f, &invite);
    stop(&f.lab, "aws-leaf", Signal::SIGTERM).await?;
    again.abort();
    start(&f.lab, "aws-leaf").await?;
    stop(&f.lab, "hub", Signal::SIGTERM).await?;
    start(&f.lab, "hub").await?;
    let up = || async {
        let status = json(&f.lab, "aws-leaf", "status").await?;
        let told = status["enrollment"]["replacement"].as_str().unwrap_or_default();
        let waits = told.contains("approval-pending");
        if status["phase"] == "Ready" && waits { Ok(()) } else { Err(status.to_string()) }
    };
    eventually(LIMIT, up).await?;
    let still = waits(&f).await?;
    let after = json(&f.lab, "hub", "leaves show aws").await?;
    if still["fingerprint"] != shown["fingerprint"] || identity(&before) != identity(&after) {
        return Err(format!("first {shown}, then {still}; before {before}, after {after}"));
    }
    judge(&f, &shown, "approve").await?;
    took_its_place(&f, &before, &shown).await?;
    let ended = typed(&f, &invite).await.map_err(|e| e.to_string())??;
    let said: Value = serde_json::from_str(&ended.stdout).map_err(|e| format!("{e}: {}", ended.detail()))?;
    if ended.ok() && said["changed"] == false { Ok(()) } else { Err(format!("typed once more: {said}")) }
}

/// The state directory of the aws leaf.
fn state_of_aws(f: &Fabric) -> Result<PathBuf, String> {
    let node = lab::layout::node("aws-leaf").map_err(|e| e.to_string())?;
    Ok(f.lab.node_dir(&node).join("var/lib/fabric"))
}

/// Copies a folder over another, or a file.
async fn copied(f: &Fabric, from: &std::path::Path, to: &std::path::Path) -> Check {
    exec(&f.lab, "aws-leaf", &format!("cp -aT {} {}", from.display(), to.display())).await.map(drop)
}

/// The leaf works with this key, and nothing is left of the doubt.
async fn settled(f: &Fabric, key: &Value) -> Check {
    let state = state_of_aws(f)?;
    let done = || async {
        let status = json(&f.lab, "aws-leaf", "status").await?;
        let shown = json(&f.lab, "hub", "leaves show aws").await?;
        let left = ["waiting.json", "next-keys"].iter().any(|name| state.join(name).exists());
        let same = shown["wireguard_key"] == *key && status["phase"] == "Ready";
        let told = &status["enrollment"]["replacement"];
        if same && !left && told.is_null() { Ok(()) } else { Err(format!("left {left}; {shown}; {status}")) }
    };
    let took = eventually(LIMIT * 3, done).await?;
    note(&format!("the keys that the hub has after {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// The hub agrees, and the leaf dies before it hears that: after a rotation, and while it waited for approval.
async fn missed(f: Arc<Fabric>) -> Check {
    let (state, before) = (state_of_aws(&f)?, f.lab.dir().join("aws-before"));
    copied(&f, &state, &before).await?;
    rotate(&f).await?;
    let key = json(&f.lab, "hub", "leaves show aws").await?["wireguard_key"].clone();
    stop(&f.lab, "aws-leaf", Signal::SIGKILL).await?;
    std::fs::create_dir_all(state.join("next-keys")).map_err(|e| e.to_string())?;
    for file in ["wireguard.key", "signing.key"] {
        copied(&f, &state.join(file), &state.join("next-keys").join(file)).await?;
        copied(&f, &before.join(file), &state.join(file)).await?;
    }
    copied(&f, &before.join("admission.json"), &state.join("admission.json")).await?;
    start(&f.lab, "aws-leaf").await?;
    settled(&f, &key).await?;

    let invite = invited(&f, "--replace aws --approve").await?;
    let enrolls = typed(&f, &invite);
    let shown = waits(&f).await?;
    let there =
        || async { if state.join("waiting.json").exists() { Ok(()) } else { Err("no file".to_string()) } };
    eventually(LIMIT, there).await?;
    let waiting = f.lab.dir().join("aws-waiting");
    copied(&f, &state, &waiting).await?;
    judge(&f, &shown, "approve").await?;
    enrolls.await.map_err(|e| e.to_string())??;
    stop(&f.lab, "aws-leaf", Signal::SIGKILL).await?;
    copied(&f, &waiting, &state).await?;
    start(&f.lab, "aws-leaf").await?;
    settled(&f, &shown["wireguard_key"]).await
}

/// What a look finds, as soon as it finds it.
async fn found<T, R>(mut look: impl FnMut() -> R) -> Result<T, String>
where
    R: Future<Output = Result<T, String>>,
{
    let begin = Instant::now();
    loop {
        match look().await {
            Err(_) if begin.elapsed() < LIMIT => tokio::time::sleep(Duration::from_millis(50)).await,
            outcome => return outcome,
        }
    }
}

/// A second machine in the place of the pve leaf.
struct Stranger {
    f: Arc<Fabric>,
    root: String,
    /// By how much its clock is off, as faketime has it: `+365d`.
    clock: Option<&'static str>,
    running: Guest,
}

impl Stranger {
    async fn begin(f: Arc<Fabric>, name: &str, clock: Option<&'static str>) -> Result<Stranger, String> {
        stop(&f.lab, "pve-leaf", Signal::SIGTERM).await?;
        let root = f.lab.dir().join(name);
        std::fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let root = root.display().to_string();
        let running = Stranger::daemon(&f, &root, clock).await?;
        Ok(Stranger { f, root, clock, running })
    }

    /// Starts the daemon, and ends when it listens.
    async fn daemon(f: &Arc<Fabric>, root: &str, clock: Option<&str>) -> Result<Guest, String> {
        let daemon = format!("{} --root {root}", f.lab.bin("fabric-leaf").display());
        let daemon = match clock {
            // The wall clock alone is off, as it is on a machine without a battery; timers go by the monotonic one.
            Some(clock) => words(&format!("env DONT_FAKE_MONOTONIC=1 faketime -f {clock} {daemon}")),
            None => words(&daemon),
        };
        let running = Guest::start(&f.lab, "pve-leaf", &daemon)?;
        let socket = PathBuf::from(root).join("run/fabric/leaf.sock");
        let there =
            || async { tokio::net::UnixStream::connect(&socket).await.map(drop).map_err(|e| e.to_string()) };
        eventually(LIMIT, there).await?;
        Ok(running)
    }

    /// Ends the daemon and starts it again, with nothing typed.
    async fn again(self) -> Result<Stranger, String> {
        let (f, root, clock) = (self.f.clone(), self.root.clone(), self.clock);
        self.end().await?;
        let running = Stranger::daemon(&f, &root, clock).await?;
        Ok(Stranger { f, root, clock, running })
    }

    /// Its status, once it says this of its enrollment.
    async fn eventually_says(&self, key: &str, wanted: &str) -> Result<Value, String> {
        let looked = || async {
            let (_, said) = self.tell("status", None).await?;
            let status: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
            if status["enrollment"][key] == wanted { Ok(status) } else { Err(said) }
        };
        found(looked).await
    }

    async fn tell(&self, line: &str, input: Option<&str>) -> Result<(Option<i32>, String), String> {
        let routerctl = self.f.lab.bin("routerctl");
        let argv = words(&format!("{} --root {} {line} -o json", routerctl.display(), self.root));
        let limit = Duration::from_secs(60);
        let output =
            self.f.lab.exec_with("pve-leaf", &argv, input, limit).await.map_err(|e| e.to_string())?;
        Ok((output.code, format!("{}{}", output.stdout, output.stderr)))
    }

    /// Ends the daemon by its own pid, as an init system would.
    async fn end(self) -> Check {
        let file = PathBuf::from(&self.root).join("run/fabric/fabric-leaf.pid");
        let pid = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        exec(&self.f.lab, "pve-leaf", &format!("kill -TERM {}", pid.trim())).await?;
        self.running.ended(LIMIT).await
    }
}

async fn approved_and_left(f: Arc<Fabric>) -> Check {
    let elsewhere = invited(&f, "--site far --source 192.0.2.0/24").await?;
    let invite = invited(&f, "--site shop --permit 10.99.9.0/24 --approve").await?;
    let stranger = Stranger::begin(f.clone(), "shop", Some("+365d")).await?;
    let (code, said) = stranger.tell("enroll -", Some(&format!("{elsewhere}\n"))).await?;
    if code != Some(1) || !said.contains("underlay-forbidden") {
        return Err(format!("from elsewhere: {code:?} {said}"));
    }
    std::fs::remove_file(PathBuf::from(&stranger.root).join("etc/fabric/leaf.yaml"))
        .map_err(|e| e.to_string())?;
    let (f2, line) = (f.clone(), format!("{invite}\n"));
    let approve = tokio::spawn(async move {
        let pending = waits(&f2).await?;
        judge(&f2, &pending, "approve").await?;
        let print = pending["fingerprint"].as_str().unwrap_or_default().to_string();
        Ok::<_, String>((pending, print))
    });
    let (code, said) = stranger.tell("enroll - --client 10.99.9.99", Some(&line)).await?;
    let (pending, print) = approve.await.map_err(|e| e.to_string())??;
    if code != Some(0)
        || !said.contains(&print)
        || !pending["source"].is_string()
        || pending["claims"][0] != "10.99.9.99"
    {
        return Err(format!("enroll: {code:?} {said}; shown at the hub: {pending}"));
    }
    let aws = site("aws");
    eventually(LIMIT, || has_route(&f, aws, "10.99.9.99", true)).await?;
    clock_is_told(&stranger, 365).await?;

    let state = PathBuf::from(&stranger.root).join("var/lib/fabric");
    let routes = || async {
        if state.join("routes.json").exists() { Ok(()) } else { Err("no routes.json".to_string()) }
    };
    eventually(LIMIT, routes).await?;
    let (code, said) = stranger.tell("leave", None).await?;
    if code != Some(0) {
        return Err(format!("leave: {said}"));
    }
    eventually(LIMIT, || has_route(&f, aws, "10.99.9.99", false)).await?;
    let shown: Value = json(&f.lab, "hub", "leaves show shop").await?;
    let links = exec(&f.lab, "pve-leaf", "ip -o link").await?;
    let forgotten = eventually(LIMIT, || async {
        if routes().await.is_err() { Ok(()) } else { Err("routes.json is kept".to_string()) }
    });
    forgotten.await?;
    let files: Vec<_> = ["wireguard.key", "signing.key", "admission.json", "waiting.json"]
        .into_iter()
        .filter(|file| state.join(file).exists())
        .collect();
    stranger.end().await?;
    start(&f.lab, "pve-leaf").await?;
    match (shown["phase"].as_str(), links.contains("fab-"), files.is_empty()) {
        (Some("Left"), false, true) => Ok(()),
        _ => Err(format!("left behind: {files:?} {links}; at the hub: {shown}")),
    }
}

/// The leaf works, and says by how many days its clock is off.
async fn clock_is_told(stranger: &Stranger, days: i64) -> Check {
    let status = stranger.eventually_says("phase", "Ready").await?;
    let ahead = status["enrollment"]["clock_ahead_secs"].as_i64().unwrap_or_default();
    let left = status["enrollment"]["valid_until"].as_u64().unwrap_or_default() as f64 - now_secs();
    // The lease goes by the hub's clock, which is this test's.
    match (ahead - days * 86_400).abs() < 60 && left > 0.0 {
        true => Ok(()),
        false => Err(format!("{ahead} s ahead, {left} s of the lease left: {status}")),
    }
}

/// A leaf whose clock is a year behind is restarted while it waits for approval; nobody types anything on it any more.
async fn waited(f: Arc<Fabric>) -> Check {
    let address = "10.99.9.98";
    let invite = invited(&f, "--site late --permit 10.99.9.0/24 --approve").await?;
    let stranger = Stranger::begin(f.clone(), "late", Some("-365d")).await?;
    let line = format!("{invite}\n");
    let typed = format!("enroll - --client {address}");
    let asked = async {
        let waits = || async {
            let pending = json(&f.lab, "hub", "leaves pending").await?;
            let late = pending.as_array().into_iter().flatten().find(|one| one["site"] == "late").cloned();
            late.and_then(|one| one["fingerprint"].as_str().map(String::from)).ok_or(pending.to_string())
        };
        found(waits).await
    };
    // The person who typed it goes away.
    let print = tokio::select! {
        ended = stranger.tell(&typed, Some(&line)) => Err(format!("did not wait: {ended:?}")),
        print = asked => print,
    }?;
    stranger.eventually_says("reason", "approval-pending").await?;
    let stranger = stranger.again().await?;
    stranger.eventually_says("reason", "approval-pending").await?;
    json(&f.lab, "hub", &format!("leaves approve {print}")).await?;
    eventually(LIMIT, || has_route(&f, site("aws"), address, true)).await?;
    clock_is_told(&stranger, -365).await?;
    let (code, said) = stranger.tell("claims add 10.99.9.97", None).await?;
    if code != Some(0) {
        return Err(format!("a claim by a leaf whose clock is behind: {said}"));
    }
    let (code, said) = stranger.tell("leave", None).await?;
    if code != Some(0) {
        return Err(format!("leave: {said}"));
    }
    stranger.end().await?;
    start(&f.lab, "pve-leaf").await
}

async fn replaced(f: Arc<Fabric>) -> Check {
    let before = json(&f.lab, "hub", "leaves show pve").await?;
    let invite = invited(&f, "--replace pve").await?;
    // Its clients' flows wait for the machine that comes in place of the one that died.
    let crossed = flow(&f, site("pve"), site("aws"), 10);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stranger = Stranger::begin(f.clone(), "new-pve", None).await?;
    let (code, said) =
        stranger.tell("enroll - --replace --client 10.99.9.10", Some(&format!("{invite}\n"))).await?;
    if code != Some(0) {
        return Err(format!("enroll --replace: {said}"));
    }
    let after = json(&f.lab, "hub", "leaves show pve").await?;
    let aws = site("aws");
    eventually(LIMIT, || has_route(&f, aws, "10.99.9.10", true)).await?;
    let crossed = crossed.await.map_err(|e| e.to_string())??;
    note(&format!("old machine stopped, new one enrolled: {crossed}"));
    if !crossed.stream {
        return Err("the TCP stream did not outlive the change of machines".into());
    }
    let same = before["overlay"] == after["overlay"] && before["claims"] == after["claims"];
    let fresh = before["wireguard_key"] != after["wireguard_key"];
    stranger.end().await?;
    // The old machine comes back from the dead: it is told nothing, because its tunnel is gone, and takes nothing.
    start(&f.lab, "pve-leaf").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = json(&f.lab, "hub", "leaves show pve").await?;
    if same && fresh && late["wireguard_key"] == after["wireguard_key"] {
        Ok(())
    } else {
        Err(format!("before {before}, after {after}, with the old machine back {late}"))
    }
}

/// Revokes oci while its client pings aws; prints when each effect was seen.
async fn revoked(f: Arc<Fabric>) -> Check {
    let pinged = tokio::spawn({
        let f = f.clone();
        async move { ping(&f.lab, site("oci"), site("aws").client, 4, 20).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (stalls, begin) = (Stalls::watch(), (now_secs(), Instant::now()));
    json(&f.lab, "hub", "leaves revoke oci").await?;
    let told = begin.1.elapsed().as_secs_f64();
    let address = site("oci").client.to_string();
    for other in [site("aws"), site("azure")] {
        eventually(LIMIT, || has_route(&f, other, &address, false)).await?;
    }
    let routes = begin.1.elapsed().as_secs_f64();
    let overlay =
        json(&f.lab, "hub", "leaves show oci").await?["overlay"].as_str().unwrap_or_default().to_string();
    let ceased = || async {
        let peers = json(&f.lab, "hub", "bgp peers").await?;
        let mut peers = peers.as_array().into_iter().flatten();
        match peers.find(|p| p["address"] == overlay.as_str() && p["state"] == "Established") {
            None => Ok(()),
            Some(peer) => Err(peer.to_string()),
        }
    };
    eventually(LIMIT, ceased).await?;
    let session = begin.1.elapsed().as_secs_f64();
    let replies = pinged.await.map_err(|e| e.to_string())??;
    let last =
        replies.last().copied().ok_or_else(|| format!("{} hears nothing", leaf(site("oci"))))? - begin.0;
    let allowed = stalls.allow(REVOKED_SECS);
    let times = format!(
        "revoked, {allowed:.2} s allowed: command {told:.3} s, last packet {last:.3} s, routes gone {routes:.3} s, session ceased {session:.3} s"
    );
    note(&times);
    if last.max(routes).max(session) < allowed { Ok(()) } else { Err(times) }
}
