//! The acceptance scenario: each of its seven points on a real lab, and for each a mutation that proves that the
//! check of the point can fail. A mutation breaks one thing, wants the point's check to say so, and mends it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fabric_tests::ask::{
    Guest, eventually, exec, exec_words, json, kernel_clients, routerctl, start, stop, words,
};
use fabric_tests::harness::{Case, Fabric, case, main as run};
use fabric_tests::{Check, evidence, explain, points};
use lab::layout::{Node, SITES};
use nix::sys::signal::Signal;

/// A `/32` in the aws site that nobody claimed.
const ROGUE: &str = "10.81.10.66";
/// Longest time for the fabric to converge after something was broken or mended.
const CONVERGE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut cases: Vec<Case> = vec![
        case("point_1_hub_configures_no_claim_and_no_peer", |f| async move {
            points::hub_configures_nobody(&f.lab).await
        }),
        case("point_2_client_says_ready_on_all_leaves", |f| async move {
            soon(|| points::leaves_are_ready(&f.lab)).await
        }),
        case("point_3_four_dynamic_peers_established", |f| async move {
            soon(|| points::four_dynamic_peers(&f.lab)).await
        }),
        case("point_4_exactly_four_routes_accepted_none_rejected", |f| async move {
            soon(|| points::hub_accepts_exactly_the_clients(&f.lab)).await
        }),
        case("point_5_leaves_installed_all_other_clients", |f| async move {
            soon(|| points::leaves_installed_the_others(&f.lab)).await
        }),
        case("point_6_twelve_pairs_pass", |f| async move { points::all_pairs_pass(&f.lab).await }),
        case(
            "point_7_evidence_is_whole_and_holds_no_secret",
            |f| async move { evidence_of(&f).await.map(drop) },
        ),
        case("every_leaf_says_which_dataplane_it_uses", |f| async move { dataplanes(&f).await }),
        case("every_route_is_explained_from_its_source_to_the_kernel", |f| async move {
            soon(|| explain::routes_are_explained(&f.lab)).await
        }),
        case("a_second_run_of_enroll_changes_nothing", second_enroll),
    ];
    cases.extend(mutations());
    run("acc", cases)
}

fn mutations() -> Vec<Case> {
    vec![
        mutation("mutation_1_a_static_peer_on_the_hub_is_seen", static_peer),
        mutation("mutation_2_a_leaf_that_is_down_is_not_ready", leaf_down),
        mutation("mutation_3_a_lost_session_is_seen", lost_session),
        mutation("mutation_4_a_rogue_fifth_route_is_rejected_and_reaches_nobody", rogue_route),
        mutation("mutation_5_a_missing_route_is_seen_and_repaired", missing_route),
        mutation("mutation_6_a_client_cut_off_makes_six_pairs_red", client_cut_off),
        mutation("mutation_6_a_hidden_source_address_is_seen", hidden_source),
        mutation("mutation_7_a_changed_file_and_a_secret_are_seen", spoiled_evidence),
    ]
}

/// A case that breaks something in a lab that is whole, and leaves a lab that is whole: what it meets and what it sees is
/// its own doing.
fn mutation<F, R>(name: &'static str, run: F) -> Case
where
    F: FnOnce(Arc<Fabric>) -> R + Send + 'static,
    R: Future<Output = Check> + Send + 'static,
{
    case(name, |f| async move {
        whole(&f).await.map_err(|wrong| format!("before anything was broken: {wrong}"))?;
        run(f.clone()).await?;
        whole(&f).await.map_err(|wrong| format!("after it was mended: {wrong}"))
    })
}

/// Everything that the points ask of hub and leaves, within [`CONVERGE`] in all.
async fn whole(f: &Fabric) -> Check {
    soon(|| async {
        points::hub_configures_nobody(&f.lab).await?;
        points::leaves_are_ready(&f.lab).await?;
        points::four_dynamic_peers(&f.lab).await?;
        points::hub_accepts_exactly_the_clients(&f.lab).await?;
        points::leaves_installed_the_others(&f.lab).await
    })
    .await
}

async fn soon<F, R>(check: F) -> Check
where
    F: FnMut() -> R,
    R: Future<Output = Check>,
{
    eventually(CONVERGE, check).await.map(drop)
}

/// The check must fail, and say `what`.
async fn must_fail<F, R>(what: &str, mut check: F) -> Check
where
    F: FnMut() -> R,
    R: Future<Output = Check>,
{
    soon(|| {
        let found = check();
        async {
            match found.await {
                Err(said) if said.contains(what) => Ok(()),
                Err(said) => Err(format!("the check failed for another reason: {said}")),
                Ok(()) => Err("the check sees nothing wrong".into()),
            }
        }
    })
    .await
}

async fn evidence_of(f: &Fabric) -> Result<PathBuf, String> {
    let dir = f.lab.dir().join("evidence-of-test");
    if !dir.exists() {
        fabric_tests::ask::write_evidence(&f.lab, &dir).await?;
    }
    points::evidence_is_sound(&f.lab, &dir)?;
    Ok(dir)
}

async fn dataplanes(f: &Fabric) -> Check {
    let wanted = std::env::var("FABRIC_EXPECT_DATAPLANE").ok();
    for site in &SITES {
        let status = json(&f.lab, &Node::Leaf(site).name(), "status").await?;
        let said = status.pointer("/dataplane/dataplane").and_then(|word| word.as_str()).unwrap_or("nothing");
        if !["kernel", "in-process"].contains(&said) || wanted.as_deref().is_some_and(|wanted| wanted != said)
        {
            return Err(format!("{} says {said}, {wanted:?} was expected", site.name));
        }
    }
    Ok(())
}

async fn second_enroll(f: Arc<Fabric>) -> Check {
    let before = json(&f.lab, "hub", "leaves").await?;
    let output = routerctl(&f.lab, "aws-leaf", "enroll --client 10.81.10.20 -o json", None).await?;
    let answer = lab::report::EnrollAnswer::read(&output.stdout).ok_or_else(|| output.detail())?;
    let changed = output.stdout.contains("\"changed\": false") || output.stdout.contains("\"changed\":false");
    if !answer.ok || !changed {
        return Err(format!("the second run says {}", output.stdout.trim()));
    }
    let after = json(&f.lab, "hub", "leaves").await?;
    let of = |answer: &serde_json::Value| {
        let leaves = answer.as_array().cloned().unwrap_or_default();
        let kept =
            |leaf: &serde_json::Value| format!("{} {} {}", leaf["name"], leaf["overlay"], leaf["claims"]);
        leaves.iter().map(kept).collect::<Vec<_>>()
    };
    if of(&before) == of(&after) { Ok(()) } else { Err(format!("{:?} became {:?}", of(&before), of(&after))) }
}

async fn restart_hub(f: &Fabric) -> Check {
    stop(&f.lab, "hub", Signal::SIGKILL).await?;
    start(&f.lab, "hub").await
}

async fn static_peer(f: Arc<Fabric>) -> Check {
    let file = control::Paths::below(Some(&f.lab.node_dir(&Node::Hub))).config(control::Node::Hub);
    let whole = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let peer = "---\napiVersion: net.routerd.net/v1alpha1\nkind: BGPPeer\nmetadata: {name: by-hand}\nspec: {address: 10.255.14.9}\n";
    std::fs::write(&file, format!("{whole}\n{peer}")).map_err(|error| error.to_string())?;
    let restarted = restart_hub(&f).await;
    let in_file = must_fail("BGPPeer", || points::hub_configures_nobody(&f.lab)).await;
    // The daemon counts it too, whatever its file says by now.
    std::fs::write(&file, &whole).map_err(|error| error.to_string())?;
    restarted?;
    let in_daemon = must_fail("1 static peers", || points::hub_configures_nobody(&f.lab)).await;
    restart_hub(&f).await?;
    in_file?;
    in_daemon
}

async fn leaf_down(f: Arc<Fabric>) -> Check {
    stop(&f.lab, "oci-leaf", Signal::SIGKILL).await?;
    let seen = must_fail("oci-leaf", || points::leaves_are_ready(&f.lab)).await;
    start(&f.lab, "oci-leaf").await?;
    seen
}

async fn lost_session(f: Arc<Fabric>) -> Check {
    stop(&f.lab, "pve-leaf", Signal::SIGTERM).await?;
    let seen = must_fail("\"pve\" is", || points::four_dynamic_peers(&f.lab)).await;
    start(&f.lab, "pve-leaf").await?;
    seen
}

/// A hostile leaf, with the right keys, announces a fifth `/32`: the hub's counter says 1 rejected, its reason is
/// shown, and no other leaf hears of the route, in BGP or in its kernel.
async fn rogue_route(f: Arc<Fabric>) -> Check {
    stop(&f.lab, "aws-leaf", Signal::SIGKILL).await?;
    let root = f.lab.node_dir(&Node::Leaf(&SITES[0])).display().to_string();
    let rogue = words(&format!("{} {root} {ROGUE}", env!("CARGO_BIN_EXE_rogue-leaf")));
    let rogue = Guest::start(&f.lab, "aws-leaf", &rogue)?;
    let seen = rejected_and_absent(&f).await;
    let ended = rogue.end().await;
    start(&f.lab, "aws-leaf").await?;
    seen.map_err(|wrong| format!("{wrong}; the rogue: {ended:?}"))?;
    ended
}

async fn rejected_and_absent(f: &Fabric) -> Check {
    must_fail("accepted 4, rejected 1", || points::hub_accepts_exactly_the_clients(&f.lab)).await?;
    let peers = json(&f.lab, "hub", "bgp peers").await?;
    if !peers.to_string().contains("not-owned") {
        return Err(format!("no reason is shown: {peers}"));
    }
    explain::rejection_is_explained(&f.lab, ROGUE, "aws").await?;
    soon(|| hub_rejects_are_shown_on_the_leaf(f)).await?;
    let rogue = ROGUE.parse().map_err(|_| "no address")?;
    for site in SITES.iter().filter(|site| site.name != "aws") {
        let leaf = Node::Leaf(site).name();
        if points::best_routes(&f.lab, &leaf).await?.contains(&rogue) {
            return Err(format!("{leaf} has the rogue route in BGP"));
        }
        if kernel_clients(&f.lab, site).await?.contains(&rogue) {
            return Err(format!("{leaf} has the rogue route in its kernel"));
        }
    }
    Ok(())
}

/// The rogue's own operator is told by its hub what is rejected and why; another leaf's is told nothing of it.
async fn hub_rejects_are_shown_on_the_leaf(f: &Fabric) -> Check {
    let rejected = json(&f.lab, "aws-leaf", "bgp rejected").await?;
    let [route] = rejected.as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(format!("not one rejected route: {rejected}"));
    };
    let said = ["prefix", "reason", "by", "peer"].map(|key| route[key].as_str().unwrap_or_default());
    let want = [&format!("{ROGUE}/32"), "not-owned", "hub", "local"];
    if said != want {
        return Err(format!("{said:?}, not {want:?}"));
    }
    let other = json(&f.lab, "azure-leaf", "bgp rejected").await?;
    if other.as_array().is_none_or(|routes| !routes.is_empty()) {
        return Err(format!("azure-leaf is told of what is not its own: {other}"));
    }
    Ok(())
}

/// The leaf's daemon is paused meanwhile: awake, it repairs the route before anybody can look.
async fn missing_route(f: Arc<Fabric>) -> Check {
    let signal = async |signal| f.lab.kill("azure-leaf", signal).await.map_err(|error| error.to_string());
    signal(Signal::SIGSTOP).await?;
    let deleted = exec(
        &f.lab,
        "azure-leaf",
        &format!("ip route del 10.99.9.10/32 proto {}", dataplane::state::ROUTE_PROTOCOL),
    )
    .await;
    let seen = points::leaves_installed_the_others(&f.lab).await;
    signal(Signal::SIGCONT).await?;
    deleted?;
    match seen {
        Err(said) if said.contains("azure has routes") => Ok(()),
        other => Err(format!("the check says {other:?}")),
    }
}

async fn client_cut_off(f: Arc<Fabric>) -> Check {
    f.lab.cut("pve-client").await.map_err(|error| error.to_string())?;
    let matrix = f.lab.matrix(&lab::MatrixOptions::default()).await;
    f.lab.heal("pve-client").await.map_err(|error| error.to_string())?;
    let matrix = matrix.map_err(|error| error.to_string())?;
    for pair in &matrix.pairs {
        let touches = pair.from == "pve" || pair.to == "pve";
        if pair.ok == touches {
            return Err(format!("{} to {} is {}", pair.from, pair.to, if touches { "green" } else { "red" }));
        }
    }
    if (matrix.pairs_ok, matrix.pairs_total) != (6, 12) {
        return Err(format!("{} of {} pairs are green", matrix.pairs_ok, matrix.pairs_total));
    }
    soon(|| points::all_pairs_pass(&f.lab)).await
}

/// A NAT on the way leaves every connection working and hides who calls: only the source check may turn red.
async fn hidden_source(f: Arc<Fabric>) -> Check {
    let table = "add table ip lab_hide; add chain ip lab_hide post { type nat hook postrouting priority 100 ; }; \
                 add rule ip lab_hide post ip saddr 10.81.10.20 ip daddr 10.82.10.20 masquerade";
    let nft = |text: &str| vec!["nft".to_string(), text.to_string()];
    exec_words(&f.lab, "azure-leaf", &nft(table)).await?;
    let seen = points::all_pairs_pass(&f.lab).await;
    exec_words(&f.lab, "azure-leaf", &nft("delete table ip lab_hide")).await?;
    match seen {
        Ok(()) => return Err("the check sees nothing wrong".into()),
        Err(said) if said.split("; ").all(|one| one.starts_with("aws to azure: source:")) => {}
        Err(said) => return Err(format!("more than the source is wrong: {said}")),
    }
    soon(|| points::all_pairs_pass(&f.lab)).await
}

async fn spoiled_evidence(f: Arc<Fabric>) -> Check {
    let dir = evidence_of(&f).await?;
    let some =
        evidence::files(&dir)?.into_keys().find(|name| name != "manifest.json").ok_or("an empty folder")?;
    let file = dir.join(some);
    let whole = std::fs::read(&file).map_err(|error| error.to_string())?;
    let spoil =
        |more: &[u8]| std::fs::write(&file, [&whole, more].concat()).map_err(|error| error.to_string());
    spoil(b" ")?;
    if evidence::manifest_holds(&dir).is_ok() {
        return Err("a changed file goes unseen".into());
    }
    let key = control::Paths::below(Some(&f.lab.node_dir(&Node::Leaf(&SITES[1])))).wireguard_key();
    spoil(&std::fs::read(key).map_err(|error| error.to_string())?)?;
    let seen = evidence::no_secret(&dir, &evidence::secrets_of(&f.lab.dir())?);
    spoil(b"")?;
    match seen {
        Err(said) if said.contains("wireguard.key") => points::evidence_is_sound(&f.lab, &dir),
        other => Err(format!("a private key in the evidence goes unseen: {other:?}")),
    }
}
