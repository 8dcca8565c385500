//! Who may administer a node: root, the user that its daemon runs as, and the members of the group that the
//! configuration names. The socket's mode keeps everybody else out already; the peer's credentials, which the kernel
//! vouches for (`SO_PEERCRED`), keep them out also where somebody has opened the mode.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use tokio::net::UnixListener;

use crate::server::Refusal;

/// The code of the refusal.
pub const NOT_ADMINISTRATOR: &str = "not-administrator";
/// How long the group database may take; it may be on the network.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Who may administer this node, and how many others tried. Clones share the count.
#[derive(Debug, Clone)]
pub struct Administrators {
    group: Option<(Gid, String)>,
    refused: Arc<AtomicU64>,
}

/// Whose connection it is; none where the kernel does not tell, which permits nothing.
#[derive(Debug, Clone, Copy)]
struct Caller(Option<(Uid, Gid)>);

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let peer = stream.io().peer_cred();
        Caller(peer.ok().map(|peer| (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()))))
    }
}

impl Administrators {
    /// Root, the daemon's own user, and this group if one is named.
    pub fn new(group: Option<&str>) -> std::io::Result<Administrators> {
        let missing = |name| std::io::Error::other(format!("adminGroup: this host has no group {name}"));
        let found = group.map(|name| match Group::from_name(name)? {
            Some(group) => Ok((group.gid, name.to_string())),
            None => Err(missing(name)),
        });
        Ok(Administrators { group: found.transpose()?, refused: Arc::default() })
    }

    /// How many requests of others were refused since the daemon started.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Opens a socket for them. With a group its members reach it: the socket is 0660 and its directory 0710.
    pub fn listen(&self, path: &Path) -> std::io::Result<UnixListener> {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::{PermissionsExt, chown};
        let listener = crate::server::listen(path)?;
        if let Some((gid, _)) = &self.group {
            let places = path.parent().map(|folder| (folder, 0o710)).into_iter().chain([(path, 0o660)]);
            for (place, mode) in places {
                chown(place, None, Some(gid.as_raw()))?;
                set_permissions(place, Permissions::from_mode(mode))?;
            }
        }
        Ok(listener)
    }

    /// Serves them until the task is dropped; whoever else connects is refused whatever he asks.
    pub async fn serve(self, listener: UnixListener, routes: Router) -> std::io::Result<()> {
        let guarded = routes.layer(from_fn_with_state(self, guard));
        axum::serve(listener, guarded.into_make_service_with_connect_info::<Caller>()).await
    }

    async fn permits(&self, caller: Caller) -> bool {
        let Some((uid, gid)) = caller.0 else { return false };
        if uid.is_root() || uid == geteuid() {
            return true;
        }
        let Some((wanted, _)) = self.group else { return false };
        if gid == wanted {
            return true;
        }
        let lookup = tokio::task::spawn_blocking(move || is_member(uid, wanted));
        matches!(tokio::time::timeout(LOOKUP_LIMIT, lookup).await, Ok(Ok(true)))
    }

    fn refuse(&self, caller: Caller) -> Refusal {
        let count = self.refused.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let who = caller.0.map_or("who".into(), |(uid, gid)| format!("uid {uid} (gid {gid})"));
        let group =
            self.group.as_ref().map_or(String::new(), |(_, name)| format!(" and members of group {name}"));
        let message = format!("{who} may not administer this node: root{group} may");
        // Whoever asks without end does not fill the log.
        if count.is_power_of_two() {
            tracing::warn!(count, "administration refused: {message}");
        }
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, NOT_ADMINISTRATOR, message);
        refusal.1.fix = Some(match &self.group {
            Some((_, name)) => {
                format!("run it as root, or have root add this user to the group: usermod -aG {name} USER")
            }
            None => "run it as root, or have root name a group as `adminGroup` of the BGPRouter".into(),
        });
        refusal
    }
}

async fn guard(
    State(administrators): State<Administrators>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match administrators.permits(caller).await {
        true => next.run(request).await,
        false => administrators.refuse(caller).into_response(),
    }
}

/// Whether the user is in the group by the host's databases; the kernel tells the primary group alone.
fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root and the daemon's own user are let in, others by the group alone, and nobody whom the kernel does not name.
    #[tokio::test]
    async fn who_may() {
        let of = |uid, gid| Caller(Some((Uid::from_raw(uid), Gid::from_raw(gid))));
        let nobody_else = Administrators::new(None).unwrap();
        assert!(
            nobody_else.permits(of(0, 65534)).await
                && nobody_else.permits(Caller(Some((geteuid(), Gid::from_raw(1))))).await
        );
        assert!(!nobody_else.permits(of(65534, 0)).await, "group 0 is not root");
        assert!(!nobody_else.permits(Caller(None)).await);
        let daemons = Administrators::new(Some("daemon")).unwrap();
        let gid = Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
        assert!(daemons.permits(of(65534, gid)).await && !daemons.permits(of(65534, 65534)).await);
        assert!(!daemons.permits(of(4_000_000, 4_000_000)).await, "a user that the host does not know");
        let refusal = daemons.refuse(of(65534, 65534));
        assert_eq!((refusal.0, refusal.1.code.as_str()), (StatusCode::FORBIDDEN, NOT_ADMINISTRATOR));
        assert!(refusal.1.message.contains("65534") && refusal.1.message.contains("daemon"), "{refusal:?}");
        assert_eq!(daemons.clone().refused(), 1);
        assert!(
            Administrators::new(Some("no-such-group-here"))
                .unwrap_err()
                .to_string()
                .contains("no-such-group")
        );
    }
}
