//! Looks the names of hubs up beside whatever else a daemon does, and hands on what a daemon derives its tunnels from
//! with addresses in the place of names. The rules are in `names`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enrollment::endpoint::Endpoint;
use enrollment::io::private_file;
use enrollment::reason::{ReasonCode, Refusal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::names::{NameView, Names, Standing, usable};

/// Longest time for one look-up.
const LIMIT: Duration = Duration::from_secs(5);
/// How often it is judged whether one is due.
const TICK: Duration = Duration::from_secs(1);

/// How the hubs behind names stand, by name.
pub type Standings =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = BTreeMap<Endpoint, Standing>> + Send>> + Send + Sync>;

/// The addresses of an endpoint, by the system's resolver; those for which `own` holds are of the fabric itself, and
/// none of a hub's.
///
/// # Errors
/// `name-unresolved`, with the resolver's word.
pub async fn lookup(endpoint: &Endpoint, own: impl Fn(IpAddr) -> bool) -> Result<Vec<SocketAddr>, Refusal> {
    let Some(name) = endpoint.name() else { return Ok(endpoint.address().into_iter().collect()) };
    let refused = |why: String| Refusal::new(ReasonCode::NameUnresolved, format!("{endpoint}: {why}"));
    let asked = tokio::net::lookup_host((name.as_str(), endpoint.port()));
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(found)) => match usable(found, own) {
            none if none.is_empty() => Err(refused("no address that a hub can have".into())),
            found => Ok(found),
        },
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {LIMIT:?}"))),
    }
}

/// What is handed on, and how.
pub struct Resolving<T> {
    /// What may have names in it.
    pub source: watch::Receiver<T>,
    /// The endpoints in it.
    pub endpoints: fn(&T) -> Vec<Endpoint>,
    /// Whether an address is the fabric's own.
    pub own: fn(&T, IpAddr) -> bool,
    /// The same with other endpoints.
    pub with: fn(&T, &Names) -> T,
    /// How the hubs stand.
    pub standings: Standings,
    /// Where the last addresses are kept over a restart.
    pub file: PathBuf,
}

/// The names of a daemon, for its status.
pub type NameViews = watch::Receiver<Vec<NameView>>;

impl<T: Clone + Send + Sync + 'static> Resolving<T> {
    /// Begins; gives what is handed on, and the names. Without a name everything is handed on as it is.
    pub fn start(mut self) -> (watch::Receiver<T>, NameViews) {
        let mut names = Names::remembered(self.remembered());
        let first = self.source.borrow_and_update().clone();
        names.follow((self.endpoints)(&first).iter());
        let (tell, told) = watch::channel((self.with)(&first, &names));
        let (show, shown) = watch::channel(Vec::new());
        tokio::spawn(self.run(names, tell, show));
        (told, shown)
    }

    fn remembered(&self) -> BTreeMap<Endpoint, Vec<SocketAddr>> {
        let read = private_file::read(&self.file).map_err(|error| error.to_string());
        let read = read.and_then(|bytes| match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            None => Ok(BTreeMap::new()),
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(file = %self.file.display(), "the names' last addresses cannot be read: {error}");
            BTreeMap::new()
        })
    }

    fn remember(&self, names: &Names) {
        let known = names.to_remember();
        let kept = match known.is_empty() {
            true => match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            },
            false => serde_json::to_vec(&known)
                .map_err(|error| error.to_string())
                .and_then(|bytes| private_file::write(&self.file, &bytes).map_err(|error| error.to_string())),
        };
        if let Err(error) = kept {
            tracing::warn!(file = %self.file.display(), "the names' last addresses are not kept: {error}");
        }
    }

    async fn run(mut self, mut names: Names, tell: watch::Sender<T>, show: watch::Sender<Vec<NameView>>) {
        let mut looking: JoinSet<(Endpoint, Result<Vec<SocketAddr>, Refusal>)> = JoinSet::new();
        let mut under_way: BTreeSet<Endpoint> = BTreeSet::new();
        let mut kept = names.to_remember();
        loop {
            if !names.is_empty() {
                self.look_up(&mut names, &mut looking, &mut under_way).await;
            }
            show.send_if_modified(|shown| {
                let now = names.views(Instant::now());
                let news = *shown != now;
                *shown = now;
                news
            });
            let news = tokio::select! {
                changed = self.source.changed() => {
                    if changed.is_err() { return }
                    names.follow((self.endpoints)(&self.source.borrow_and_update()).iter());
                    true
                }
                Some(Ok((name, answer))) = looking.join_next() => {
                    under_way.remove(&name);
                    self.heard(&mut names, name, answer).await
                }
                () = tokio::time::sleep(TICK), if !names.is_empty() => false,
            };
            if news {
                tell.send_replace((self.with)(&self.source.borrow(), &names));
            }
            let now = names.to_remember();
            if now != kept {
                self.remember(&names);
                kept = now;
            }
        }
    }

    /// Begins what is due; one look a name at a time.
    async fn look_up(
        &self,
        names: &mut Names,
        looking: &mut JoinSet<(Endpoint, Result<Vec<SocketAddr>, Refusal>)>,
        under_way: &mut BTreeSet<Endpoint>,
    ) {
        let standings = (self.standings)().await;
        let alive = |name: &Endpoint| standings.get(name).is_some_and(|stands| stands.alive);
        for name in names.due(Instant::now(), alive) {
            if under_way.insert(name.clone()) {
                let (whole, own) = (self.source.borrow().clone(), self.own);
                looking.spawn(async move {
                    let answer = lookup(&name, |ip| own(&whole, ip)).await;
                    (name, answer)
                });
            }
        }
    }

    /// Takes an answer in, and says whether it changes anything.
    async fn heard(
        &self,
        names: &mut Names,
        name: Endpoint,
        answer: Result<Vec<SocketAddr>, Refusal>,
    ) -> bool {
        let stands = (self.standings)().await.get(&name).copied().unwrap_or_default();
        if let Err(refusal) = &answer {
            tracing::warn!(code = refusal.code.as_str(), "{}", refusal.message);
        }
        let changed =
            names.answered(&name, answer.map_err(|refusal| refusal.message), stands, Instant::now());
        if changed {
            let leads = names.resolved(std::slice::from_ref(&name));
            let leads: Vec<_> = leads.iter().map(ToString::to_string).collect();
            tracing::info!(%name, "leads to {}", leads.join(", "));
        }
        changed
    }
}
