//! The handle's questions that people ask: each a short look, or many short ones with routes passing in between.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::handle::{Command, Speaker};
use crate::explain::{Asked, Explanation};
use crate::session::Millis;
use crate::speaker::{Cursor, Dump, Listing, OperateError, RefreshError};
use crate::view::{OperatedView, RefreshView, RejectedView, RoutePage, RouteQuery, RouteView};

impl Speaker {
    /// Has the speaker answer a question on its own thread.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut crate::speaker::Speaker, Millis) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask(|done| {
            Command::Look(Box::new(move |speaker, now| {
                // Who asked may have gone; that is no fault.
                let _ = done.send(question(speaker, now));
            }))
        })
        .await
    }

    /// The neighbours with an established session, by address; `None` once the speaker has been shut down. May answer
    /// otherwise whenever [`Speaker::remembered_changes`] says so.
    pub async fn established(&self) -> Option<BTreeSet<IpAddr>> {
        self.look(|speaker, _| speaker.all_established()).await
    }

    /// Everything that is known of a prefix; `None` once the speaker has been shut down.
    pub async fn explain(&self, asked: Asked) -> Option<Explanation> {
        self.look(move |speaker, now| {
            speaker.flush();
            speaker.explain(asked, now)
        })
        .await
    }

    /// The rejected routes that are kept of the neighbour with this address.
    pub async fn rejected_from(&self, address: IpAddr) -> Vec<RejectedView> {
        self.look(move |speaker, _| speaker.rejected_from(address)).await.unwrap_or_default()
    }

    /// Whether a neighbour of this name or address is known.
    pub async fn knows(&self, peer: String) -> bool {
        self.look(move |speaker, _| speaker.knows(&peer)).await.unwrap_or_default()
    }

    /// Asks the neighbour of this name or address for all its routes again (RFC 2918); `None` once the speaker has been
    /// shut down.
    pub async fn refresh(&self, peer: String) -> Option<Result<RefreshView, RefreshError>> {
        self.look(move |speaker, _| speaker.ask_refresh(&peer)).await
    }

    /// Keeps the neighbour of this name or address down, and tells it why (RFC 9003, at most
    /// [`crate::speaker::TEXT_MAX`] octets); `None` once the speaker has been shut down.
    pub async fn keep_down(&self, peer: String, text: String) -> Option<Result<OperatedView, OperateError>> {
        self.look(move |speaker, now| speaker.keep_down(&peer, &text, now)).await
    }

    /// Lets it back; `None` once the speaker has been shut down.
    pub async fn enable(&self, peer: String) -> Option<Result<OperatedView, OperateError>> {
        self.look(move |speaker, now| speaker.enable(&peer, now)).await
    }

    /// Has its session begin afresh; `None` once the speaker has been shut down.
    pub async fn reset(&self, peer: String, text: String) -> Option<Result<OperatedView, OperateError>> {
        self.look(move |speaker, now| speaker.reset(&peer, &text, now)).await
    }

    /// The paths that `query` selects, by prefix, the best first, and how many there are beside.
    pub async fn routes(&self, query: RouteQuery) -> RoutePage {
        if query.prefix.is_some() && !query.longer {
            let routes = self.look(move |speaker, _| {
                speaker.flush();
                speaker.routes(&query)
            });
            let routes = routes.await.unwrap_or_default();
            return RoutePage { total: routes.len(), routes };
        }
        let limit = query.limit;
        self.list(Listing::Routes(query), limit).await
    }

    /// Everything that a neighbour has sent: accepted and rejected, by prefix.
    pub async fn received(&self, peer: String, limit: usize) -> RoutePage {
        self.list(Listing::Received(peer), limit).await
    }

    /// What a neighbour has been told, by prefix.
    pub async fn advertised(&self, peer: String, limit: usize) -> RoutePage {
        self.list(Listing::Advertised(peer), limit).await
    }

    /// A listing, gathered piece by piece; never more than twice `limit` routes are held.
    async fn list(&self, what: Listing, limit: usize) -> RoutePage {
        let mut page = RoutePage::default();
        let mut next = Some(Cursor::START);
        while let Some(from) = next {
            let what = what.clone();
            let Some((rows, cursor)) = self.look(move |speaker, _| speaker.list(&what, from)).await else {
                break;
            };
            next = cursor;
            page.total += rows.len();
            page.routes.extend(rows);
            if page.routes.len() > 2 * limit {
                cut(&mut page.routes, limit);
            }
        }
        cut(&mut page.routes, limit);
        page
    }

    /// Starts an MRT dump of every accepted path (RFC 6396).
    pub async fn dump(&self) -> TableDump {
        TableDump { speaker: self.clone(), state: Progress::New }
    }
}

/// The first `limit` routes by prefix; those of one prefix stay in their order.
fn cut(routes: &mut Vec<RouteView>, limit: usize) {
    routes.sort_by_key(|r| r.prefix);
    routes.truncate(limit);
}

/// An MRT dump under way.
pub struct TableDump {
    speaker: Speaker,
    state: Progress,
}

enum Progress {
    New,
    At(Dump, Cursor),
    Done,
}

impl TableDump {
    /// The next octets; `None` at the end, or when the speaker has ended.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.state, Progress::Done) {
            Progress::Done => None,
            Progress::New => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let secs = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
                let started = self.speaker.look(move |speaker, _| {
                    let mut out = Vec::new();
                    (speaker.dump_start(secs, &mut out), out)
                });
                let (dump, out) = started.await?;
                self.state = Progress::At(dump, Cursor::START);
                Some(out)
            }
            Progress::At(mut dump, from) => {
                let piece = self.speaker.look(move |speaker, _| {
                    let mut out = Vec::new();
                    let next = speaker.dump(&mut dump, from, &mut out);
                    (dump, next, out)
                });
                let (dump, next, out) = piece.await?;
                if let Some(next) = next {
                    self.state = Progress::At(dump, next);
                }
                Some(out)
            }
        }
    }
}
