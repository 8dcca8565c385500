//! Where a node keeps what it is told, what it knows and what it says.

use std::path::{Path, PathBuf};

/// Which daemon a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// `fabric-rr`
    Hub,
    /// `fabric-leaf`
    Leaf,
}

impl Node {
    /// The word used in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Node::Hub => "hub",
            Node::Leaf => "leaf",
        }
    }

    /// The daemon's program name.
    pub fn daemon(self) -> &'static str {
        match self {
            Node::Hub => "fabric-rr",
            Node::Leaf => "fabric-leaf",
        }
    }
}

/// The three directories of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Configuration written by people, `/etc/fabric`.
    pub etc: PathBuf,
    /// Keys, registry and events, `/var/lib/fabric`; must survive a reboot.
    pub state: PathBuf,
    /// Sockets and pid files, `/run/fabric`.
    pub run: PathBuf,
}

impl Paths {
    /// The usual directories, below `root` where one is given (many nodes on one machine).
    pub fn below(root: Option<&Path>) -> Paths {
        let root = root.unwrap_or(Path::new("/"));
        Paths {
            etc: root.join("etc/fabric"),
            state: root.join("var/lib/fabric"),
            run: root.join("run/fabric"),
        }
    }

    /// The configuration file of a node.
    pub fn config(&self, node: Node) -> PathBuf {
        self.etc.join(format!("{}.yaml", node.as_str()))
    }

    /// The administration socket of a node.
    pub fn socket(&self, node: Node) -> PathBuf {
        self.run.join(format!("{}.sock", node.as_str()))
    }

    /// The pid file of a node's daemon.
    pub fn pid_file(&self, node: Node) -> PathBuf {
        self.run.join(format!("{}.pid", node.daemon()))
    }

    /// The WireGuard private key of this node (mode 0600).
    pub fn wireguard_key(&self) -> PathBuf {
        self.state.join("wireguard.key")
    }

    /// The Ed25519 signing key of this node (mode 0600).
    pub fn signing_key(&self) -> PathBuf {
        self.state.join("signing.key")
    }

    /// The hub's registry (SQLite).
    pub fn registry(&self) -> PathBuf {
        self.state.join("registry.sqlite")
    }

    /// The neighbours that the hub's reflector had, to be waited for after a restart.
    pub fn remembered_peers(&self) -> PathBuf {
        self.state.join("bgp-peers.json")
    }

    /// The string by which a second hub joins (mode 0600), until it has.
    pub fn join_string(&self) -> PathBuf {
        self.state.join("join")
    }

    /// The leaf's last admission and topology.
    pub fn leaf_state(&self) -> PathBuf {
        self.state.join("admission.json")
    }

    /// The remote clients that the leaf last routed to.
    pub fn remembered_routes(&self) -> PathBuf {
        self.state.join("routes.json")
    }

    /// The federation's store (SQLite).
    pub fn federation(&self) -> PathBuf {
        self.state.join("federation.sqlite")
    }

    /// Creates the state and run directories, readable by their owner alone. Refused while a restore is under way,
    /// or where one was interrupted: nothing may start on half a node.
    pub fn create(&self) -> std::io::Result<()> {
        let mark = self.state.join(enrollment::io::backup::RESTORING_FILE);
        if mark.exists() {
            let what = format!(
                "{}: a restore was interrupted; run `routerctl restore FILE --force` again",
                mark.display()
            );
            return Err(std::io::Error::other(what));
        }
        use std::os::unix::fs::DirBuilderExt;
        for dir in [&self.state, &self.run] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }

    /// The node whose configuration or socket is here; the hub where both are, nothing where neither is.
    pub fn node_here(&self) -> Option<Node> {
        [Node::Hub, Node::Leaf].into_iter().find(|&n| self.socket(n).exists() || self.config(n).exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root moves all three directories and nothing else.
    #[test]
    fn root_moves_every_directory() {
        let p = Paths::below(Some(Path::new("/lab/aws")));
        assert_eq!(p.socket(Node::Leaf), Path::new("/lab/aws/run/fabric/leaf.sock"));
        assert_eq!(Paths::below(None).config(Node::Hub), Path::new("/etc/fabric/hub.yaml"));
    }
}
