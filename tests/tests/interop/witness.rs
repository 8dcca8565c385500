//! ExaBGP, which has no table and no opinion: it announces what it is told, with every kind of community, and writes
//! down every UPDATE that it hears. It is the third router of each row, and in one row the other make itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::space::{Check, End, Space};

/// An ExaBGP.
pub struct Witness {
    /// Its name, and that of its files.
    pub name: &'static str,
    /// On which end it runs.
    pub end: End,
    /// Its address and router id.
    pub local: &'static str,
    /// Whom it dials.
    pub remote: &'static str,
    /// The next hops of its routes.
    pub hops: [&'static str; 2],
}

/// What it heard: each prefix that is announced now, and how often each was withdrawn, lost sessions left out.
#[derive(Default)]
pub struct Heard {
    /// Attributes and next hop, as text without spaces.
    pub routes: BTreeMap<String, String>,
    /// How many withdrawals.
    pub withdrawn: BTreeMap<String, usize>,
    /// Whether the session is up.
    pub up: bool,
    /// Route refresh requests.
    pub refreshes: usize,
}

impl Witness {
    /// Starts it with these prefixes.
    pub fn start(&self, space: &mut Space, prefixes: &[&str], key: Option<&str>) -> Check {
        let key = key.map(|k| format!("md5-password {k}; ")).unwrap_or_default();
        let (name, local, remote) = (self.name, self.local, self.remote);
        space.write(&format!("{name}.commands"), "")?;
        let script = format!(
            "#!/bin/sh\ntail -n +1 -F --pid=$PPID {} 2>/dev/null &\nexec cat >> {}\n",
            space.path(&format!("{name}.commands")),
            space.path(&format!("{name}.heard"))
        );
        let feed = space.write(&format!("{name}.sh"), &script)?;
        std::fs::set_permissions(&feed, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(|e| e.to_string())?;
        let config = space.write(
            &format!("{name}.conf"),
            &format!(
                "process feed {{ run {feed}; encoder json; }}\nneighbor {remote} {{\n router-id {local}; local-address {local}; \
                 local-as 64512; peer-as 64512; hold-time 90; {key}\n family {{ ipv4 unicast; ipv6 unicast; }}\n \
                 capability {{ graceful-restart 120; route-refresh enable; asn4 enable; }}\n \
                 api {{ processes [feed]; receive {{ parsed; update; refresh; }} neighbor-changes; }}\n}}\n"
            ),
        )?;
        prefixes.iter().try_for_each(|prefix| self.tell(space, "announce", prefix))?;
        let argv = [
            "env",
            "exabgp.log.destination=stdout",
            "exabgp.daemon.drop=false",
            "exabgp.api.cli=false",
            "exabgp.tcp.delay=0",
            "exabgp",
            &config,
        ];
        space.start(self.end, name, &argv)
    }

    /// `announce` or `withdraw` a route.
    pub fn tell(&self, space: &Space, what: &str, prefix: &str) -> Check {
        let hop = self.hops[usize::from(prefix.contains(':'))];
        self.command(
            space,
            &format!(
                "{what} route {prefix} next-hop {hop} community [65001:7] extended-community [target:65001:7] \
                 large-community [65001:7:8]"
            ),
        )
    }

    /// Any other command.
    pub fn command(&self, space: &Space, line: &str) -> Check {
        let file = std::fs::File::options().append(true).open(space.file(&format!("{}.commands", self.name)));
        let write =
            |mut file: std::fs::File| std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes());
        file.and_then(write).map_err(|e| format!("{}: {e}", self.name))
    }

    /// What it has heard until now.
    pub fn heard(&self, space: &Space) -> Heard {
        let text = std::fs::read_to_string(space.file(&format!("{}.heard", self.name))).unwrap_or_default();
        let mut heard = Heard::default();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let neighbor = &event["neighbor"];
            match event["type"].as_str() {
                Some("state") => {
                    heard.up = neighbor["state"] == "up";
                    if !heard.up {
                        heard.routes.clear();
                    }
                }
                Some("refresh") => heard.refreshes += 1,
                Some("update") => heard.update(&neighbor["message"]["update"]),
                _ => {}
            }
        }
        heard
    }
}

impl Heard {
    fn update(&mut self, update: &Value) {
        let families = |part: &str| update[part].as_object().into_iter().flatten().map(|(_, v)| v.clone());
        for family in families("withdraw") {
            for route in family.as_array().into_iter().flatten() {
                let prefix = route["nlri"].as_str().unwrap_or_default().to_string();
                self.routes.remove(&prefix);
                *self.withdrawn.entry(prefix).or_default() += 1;
            }
        }
        for family in families("announce") {
            for (hop, routes) in family.as_object().into_iter().flatten() {
                for route in routes.as_array().into_iter().flatten() {
                    let prefix = route["nlri"].as_str().unwrap_or_default().to_string();
                    self.routes.insert(prefix, format!("{} next-hop={hop}", update["attribute"]));
                }
            }
        }
    }
}
