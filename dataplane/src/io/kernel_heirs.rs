//! Peers that take fresh keys, in the kernel. It answers a call before anybody can see it, so that answer is dropped by
//! our nft table; the interface is asked whether the fresh key has called, which then gets the former one's place in one
//! request, and is called back. What its owner sends waits in its tunnel until then. (In process: [`crate::io::heirs`].)

use std::collections::BTreeMap;
use std::io;

use crate::io::host::kernel_name;
use crate::io::nft::Table;
use crate::io::wireguard::{GenericNetlink, KernelWireguard};
use crate::state::{Line, PublicKey};

/// Fresh keys that are awaited, with the former ones.
#[derive(Default)]
pub(crate) struct Awaited(BTreeMap<(Line, PublicKey), PublicKey>);

impl Awaited {
    /// Whether anybody is awaited.
    pub(crate) fn any(&self, line: Line) -> bool {
        self.0.keys().any(|(of, _)| *of == line)
    }

    /// From now on `fresh` is heard, and has no say.
    pub(crate) async fn add(
        &mut self,
        socket: &mut GenericNetlink,
        table: &Table,
        line: Line,
        (fresh, former): (PublicKey, PublicKey),
    ) -> io::Result<()> {
        let place = socket.get(kernel_name(line))?.peers.get(&former).and_then(|peer| peer.endpoint);
        if let Some(place) = place {
            table.hold(place, true).await;
        }
        socket.set_peer(kernel_name(line), fresh, &Default::default())?;
        self.0.insert((line, fresh), former);
        Ok(())
    }

    /// Nobody is awaited by this key any more, be it a fresh or a former one.
    pub(crate) fn forget(
        &mut self,
        socket: &mut GenericNetlink,
        line: Line,
        key: PublicKey,
    ) -> io::Result<()> {
        let of =
            |of: &Line, fresh: &PublicKey, former: &PublicKey| *of == line && [fresh, former].contains(&&key);
        let gone = self.0.extract_if(.., |(line, fresh), former| of(line, fresh, former));
        for ((_, fresh), _) in gone.filter(|((_, fresh), _)| *fresh != key) {
            socket.remove_peer(kernel_name(line), fresh)?;
        }
        Ok(())
    }

    /// A fresh key is a peer like any other now.
    pub(crate) fn has_its_place(&mut self, line: Line, key: PublicKey) {
        self.0.remove(&(line, key));
    }

    /// The interface is gone.
    pub(crate) fn end(&mut self, line: Line) {
        self.0.retain(|(of, _), _| *of != line);
    }

    /// The kernel's interface, in which those who have called have their places. Those who have not are no peers yet:
    /// they are given by fresh key with the former one.
    pub(crate) async fn settle(
        &mut self,
        socket: &mut GenericNetlink,
        table: &Table,
        line: Line,
    ) -> io::Result<(KernelWireguard, BTreeMap<PublicKey, Vec<PublicKey>>)> {
        let name = kernel_name(line);
        loop {
            let mut device = socket.get(name)?;
            let (mut waiting, mut called) = (BTreeMap::new(), Vec::new());
            for ((_, fresh), former) in self.0.clone().into_iter().filter(|((of, _), _)| *of == line) {
                let peer = device.peers.get(&former).cloned();
                // Only its own packets show where it is: nobody was told.
                match (device.peers.get(&fresh).map(|heir| heir.endpoint), peer) {
                    (Some(None), Some(_)) => {
                        device.forget(fresh);
                        waiting.insert(fresh, vec![former]);
                    }
                    (Some(Some(from)), Some(peer)) => {
                        self.0.remove(&(line, fresh));
                        socket.succeed(name, (fresh, from), former, &peer)?;
                        called.push(from);
                    }
                    // Somebody else took one of them away.
                    _ => drop(self.0.remove(&(line, fresh))),
                }
            }
            if called.is_empty() {
                return Ok((device, waiting));
            }
            for peer in called {
                table.hold(peer, false).await;
            }
        }
    }
}
