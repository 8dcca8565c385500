//! Who may administer a node, asked by real processes of other users: root, members of the group that the
//! configuration names, and nobody else, whatever the socket's mode is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fabric_tests::switch::Switch;

/// A group and its only member on every Debian that has postgresql, which these tests need anyway.
const GROUP: &str = "ssl-cert";
const MEMBER: [&str; 5] = ["--reuid", "postgres", "--regid", "postgres", "--init-groups"];
const NOBODY: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What `routerctl status` answers to somebody else: its exit code and all that it says.
fn status_as(net: &Switch, node: &str, who: &[&str], of: &str) -> (Option<i32>, String) {
    let (program, root) = (net.path("routerctl"), net.path(node));
    let (program, root) = (program.display().to_string(), root.display().to_string());
    let argv = [&["setpriv"][..], who, &["--", &program, "--root", &root, "--node", of, "status"]].concat();
    let output = net.run(node, &argv).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// Names the group in a node's configuration.
fn administered_by(net: &Switch, node: &str, of: &str) {
    let file = net.path(node).join(format!("etc/fabric/{of}.yaml"));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let router = "kind: BGPRouter, metadata: {name: fabric}, spec: {";
    let text = match text.contains(router) {
        true => text.replace(router, &format!("{router}adminGroup: {GROUP}")),
        false => {
            let router = String::from(
                "apiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {name: fabric}\n",
            );
            format!("{text}---\n{router}spec: {{adminGroup: {GROUP}}}\n")
        }
    };
    std::fs::write(&file, text).unwrap();
}

#[test]
fn root_and_a_named_group_administer_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o755);
    let mut net = Switch::new("rl", dir.path(), &["a", "c"]);
    let program = fabric_tests::harness::bin_dir().unwrap().join("routerctl");
    std::fs::copy(program, net.path("routerctl")).unwrap();
    mode(&net.path("routerctl"), 0o755);
    net.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--no-start"]);
    net.start("a", "fabric-rr");
    net.until("the hub starts", || net.ask("a", &["status"]).0);
    let invite = net.must("a", &["invite", "--site", "aws"]);
    let leaf = net.path("c").join("run/fabric/leaf.sock");
    net.start("c", "fabric-leaf");
    net.until("the leaf's daemon starts", || leaf.exists());
    net.must("c", &["enroll", &invite]);

    for (node, of, daemon) in [("a", "hub", "fabric-rr"), ("c", "leaf", "fabric-leaf")] {
        let folder = net.path(node).join("run/fabric");
        let socket = folder.join(format!("{of}.sock"));
        // As the directories above are on a host.
        for above in [net.path(node), net.path(node).join("run")] {
            mode(&above, 0o755);
        }
        // As it is shipped: the kernel lets nobody else connect.
        let (code, told) = status_as(&net, node, &NOBODY, of);
        assert!(code == Some(1) && told.contains("not-administrator"), "{code:?} {told}");
        assert_eq!(net.json(node, &["status"])["administration_refused"], 0);

        // Opened by mistake: the daemon sees who asks, refuses whatever is asked, and counts it.
        mode(&folder, 0o755);
        mode(&socket, 0o666);
        for who in [&NOBODY, &MEMBER] {
            let (code, told) = status_as(&net, node, who, of);
            assert!(code == Some(1) && told.contains("not-administrator"), "{code:?} {told}");
            assert!(told.contains("may not administer") && told.contains("uid "), "{told}");
        }
        let refused = net.json(node, &["status"])["administration_refused"].clone();
        assert!(refused.as_u64() >= Some(2), "{refused}");
        // Whether the session is up again is another matter.
        assert!(net.ask(node, &["status"]).1.contains("refused for who asked"), "a person sees it");
        assert!(net.logs().contains("administration refused: uid 65534"), "{}", net.logs());

        // A group is named: its members administer, by their further groups too; others do not.
        net.kill(node);
        administered_by(&net, node, of);
        net.start(node, daemon);
        net.until("it starts again", || socket.exists() && net.ask(node, &["status"]).1.contains("phase"));
        let (code, told) = status_as(&net, node, &MEMBER, of);
        assert!(code.is_some_and(|code| code <= 1) && told.contains("phase"), "{code:?} {told}");
        let (code, told) = status_as(&net, node, &NOBODY, of);
        assert!(code == Some(1) && told.contains("not-administrator"), "{code:?} {told}");
        mode(&folder, 0o755);
        mode(&socket, 0o666);
        let (code, told) = status_as(&net, node, &NOBODY, of);
        assert!(code == Some(1) && told.contains(&format!("members of group {GROUP}")), "{code:?} {told}");
    }
}
