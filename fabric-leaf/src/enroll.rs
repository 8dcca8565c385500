//! One enrollment, step by step, each told with its time as it ends. It ends well only when the site works.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::Speaker;
use control::foyer;
use control::wire::{ApiError, EnrollProgress, EnrollStep, EnrollSummary};
use dataplane::state::Wished;
use enrollment::endpoint::Endpoint;
use enrollment::identity::{SigningKey, WireguardKey};
use enrollment::invite::{Invite, InviteHub};
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::NodeKeys;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::Admission;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use crate::converge::{Current, Wishes};
use crate::leaf::Underlay;
use crate::lines::{Keys, LineKeys};
use crate::membership::{Ask, Owner, ask_elsewhere, prefer};
use crate::settings::{self, Settings};
use crate::waiting::{ASK_FOLLOWED, Waiting};

/// Longest time for the dataplane to have what was wished.
const DATAPLANE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the foyer's answer over all endpoints and attempts.
const FOYER_LIMIT: Duration = Duration::from_secs(8);
/// How long names are looked up while none of the invite's leads anywhere.
const NAME_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the session and its routes.
const SESSION_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the probe's answer.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What an enrollment works with, beside the membership that it makes.
pub struct Enroller {
    /// The state directory, where keys are made.
    pub state: PathBuf,
    /// The leaf's configuration file.
    pub config_file: PathBuf,
    /// Where wishes go.
    pub wishes: Wishes,
    /// The UDP port of WireGuard.
    pub listen_port: u16,
    /// The leaf's configuration as the daemon uses it.
    pub settings: watch::Sender<Arc<Settings>>,
    /// The leaf's keys as the daemon uses them.
    pub keys: Keys,
    /// The speaker, once there is one.
    pub speaker: watch::Receiver<Option<Speaker>>,
    /// What was wished last.
    pub current: watch::Receiver<Option<Current>>,
}

/// What is asked of a hub in order to join.
struct Question<'a> {
    invite: &'a Invite,
    keys: &'a NodeKeys,
    claims: &'a [Ipv4Addr],
    replace: bool,
}

impl Question<'_> {
    /// Asks over TLS on the underlay; no tunnel is needed for that.
    async fn at_door(&self, endpoint: &Endpoint) -> Result<(Admission, String), Refusal> {
        let mut outcome = Err(Refusal::of(ReasonCode::HubSilent));
        for address in self.lookup(endpoint).await? {
            outcome = self.at_address(address).await;
            if !outcome.as_ref().is_err_and(|refusal| refusal.code == ReasonCode::HubSilent) {
                break;
            }
        }
        outcome
    }

    /// Where an endpoint of the invite leads now.
    async fn lookup(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Refusal> {
        let foyer = IpNet::V4(self.invite.foyer_prefix);
        control::resolving::lookup(endpoint, |ip| foyer.contains(&ip)).await
    }

    async fn at_address(&self, endpoint: SocketAddr) -> Result<(Admission, String), Refusal> {
        let pin = self.invite.tls.as_ref().map(|door| door.pin);
        let pin = pin.ok_or_else(|| Refusal::of(ReasonCode::HubSilent))?;
        let api = HubApi::of_door(self.invite, endpoint, pin);
        let admission = client::join(&api, self.invite, self.keys, self.claims, self.replace).await?;
        let detail = format!("{} is {} by https://{endpoint}", admission.leaf, admission.overlay);
        Ok((admission, detail))
    }
}

/// One enrollment, and who follows it.
pub struct Followed {
    ask: Ask,
    steps: Steps,
    /// What the leaf was when it began.
    before: Option<Identity>,
}

impl Followed {
    /// An enrollment that begins now.
    pub fn begin(owner: &Owner, ask: Ask) -> Followed {
        let now = Instant::now();
        let steps = Steps { progress: ask.progress.clone(), done: Vec::new(), started: now, mark: now };
        Followed { ask, steps, before: identity(&owner.admission()) }
    }

    /// Whether somebody listens still, and has patience.
    fn is_followed(&self) -> bool {
        !self.ask.progress.is_closed() && self.steps.started.elapsed() < self.ask.patience
    }
}

/// Tells each step as it ends.
struct Steps {
    progress: mpsc::Sender<EnrollProgress>,
    done: Vec<EnrollStep>,
    started: Instant,
    mark: Instant,
}

impl Steps {
    async fn run<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<(T, String), Refusal>>,
    ) -> Result<T, Refusal> {
        let outcome = work.await;
        if outcome.is_ok() && self.done.iter().any(|step| step.ok && step.name == name) {
            // Told before: the enrollment was taken up again.
            return outcome.map(|(value, _)| value);
        }
        let (ok, detail) = match &outcome {
            Ok((_, detail)) => (true, detail.clone()),
            Err(refusal) => (false, refusal.to_string()),
        };
        let ms = u64::try_from(self.mark.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.mark = Instant::now();
        let step = EnrollStep { name: name.into(), ms, ok, detail };
        self.done.push(step.clone());
        // Nobody listens any more: the enrollment goes on all the same.
        let _ = self.progress.send(EnrollProgress::Step(step)).await;
        outcome.map(|(value, _)| value)
    }
}

impl Enroller {
    /// Enrolls, or finds that it was done before; tells every step and the end.
    pub async fn enroll(&mut self, owner: &mut Owner, ask: Ask) {
        let begun = Followed::begin(owner, ask);
        self.go_on(owner, begun).await;
    }

    /// Begins, or takes up again what waits for approval. A machine that waits to take its own place has other things to
    /// do meanwhile: it is left to its owner then, to be taken up later.
    pub async fn go_on(&mut self, owner: &mut Owner, mut run: Followed) {
        let outcome = self.steps(owner, &run.ask, &mut run.steps).await;
        let waits = outcome.as_ref().is_err_and(|refusal| refusal.code.is_transient())
            && owner.waits_by(run.ask.request.invite.as_deref());
        if !(waits && run.is_followed()) {
            return self.end(owner, run, outcome).await;
        }
        if let Some(former) = owner.followed.replace(run) {
            // One person follows it, the last who asked.
            self.end(owner, former, outcome).await;
        }
    }

    /// Tells the end.
    async fn end(&self, owner: &Owner, run: Followed, outcome: Result<(), Refusal>) {
        let Followed { ask, steps, before } = run;
        if ask.progress.is_closed() {
            return;
        }
        // The host as it is now: what keeps packets away is told at once, with its fix.
        let report = self.wishes.recheck().await;
        let after = owner.admission();
        let summary = EnrollSummary {
            ok: outcome.is_ok(),
            changed: before != identity(&after),
            elapsed_ms: u64::try_from(steps.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            steps: steps.done,
            overlay: after.map(|a| a.overlay),
            dataplane: Some(report.dataplane.to_string()),
            findings: report.findings.clone(),
            reason: outcome.err().map(|refusal| api_error(&refusal)),
        };
        // Who asked may be gone.
        let _ = ask.progress.send(EnrollProgress::Done(summary)).await;
    }

    async fn steps(&mut self, owner: &mut Owner, ask: &Ask, steps: &mut Steps) -> Result<(), Refusal> {
        let invite = steps.run("invite", async { self.invite(owner, ask) }).await?;
        let admission = match (invite, owner.admission()) {
            (Some(invite), Some(before)) if knows(&before, &invite) && ask.request.replace => {
                self.replaced(owner, ask, &invite, before, steps).await?
            }
            (Some(invite), Some(before)) if knows(&before, &invite) => {
                steps.run("widening", self.widened(owner, ask, &invite, before)).await?
            }
            (Some(invite), _) => self.join(owner, ask, &invite, steps).await?,
            (None, Some(admission)) => {
                if owner.waits_by(ask.request.invite.as_deref()) {
                    // The answer that granted it got lost, and its keys were tried since.
                    owner.replaces_no_more(None)?;
                }
                admission
            }
            (None, None) => return Err(Refusal::of(ReasonCode::InviteMalformed)),
        };
        steps.run("session", self.session(&admission)).await?;
        let current = steps.run("routes", self.routes(admission.overlay)).await?;
        steps.run("overlay", self.overlay(owner, &admission)).await?;
        steps.run("probe", probe(&admission, current.underlay)).await
    }

    /// The invite to use: none when the leaf is enrolled at that hub already, or none is given.
    fn invite(&self, owner: &Owner, ask: &Ask) -> Result<(Option<Box<Invite>>, String), Refusal> {
        let before = owner.admission();
        let enrolled = |a: &Admission| format!("enrolled before as {} ({})", a.leaf, a.overlay);
        let Some(text) = &ask.request.invite else {
            let message = "this leaf is not enrolled: run `routerctl enroll` with an invite";
            let admission = before.ok_or_else(|| Refusal::new(ReasonCode::InviteMalformed, message))?;
            settings::adopt(&self.config_file, admission.leaf.as_str(), &ask.request)?;
            return Ok((None, enrolled(&admission)));
        };
        let invite = Invite::decode(text.trim())?;
        settings::adopt(&self.config_file, invite.site.as_str(), &ask.request)?;
        match before.filter(|a| knows(a, &invite) && a.invite == invite.id) {
            Some(admission) => Ok((None, enrolled(&admission))),
            None => Ok((Some(Box::new(invite.clone())), format!("site {}, id {}", invite.site, invite.id))),
        }
    }

    /// Another invite of the hub that this leaf is enrolled at: it widens what the leaf may. It is used through the
    /// leaf's own tunnel, which stays.
    async fn widened(
        &self,
        owner: &mut Owner,
        ask: &Ask,
        invite: &Invite,
        before: Admission,
    ) -> Result<(Admission, String), Refusal> {
        let silent = || Refusal::of(ReasonCode::HubSilent);
        let keys = owner.keys.clone().ok_or_else(silent)?;
        let clients: Vec<_> = before.claims.keys().chain(&ask.request.clients).copied().collect();
        let mut answer = Err(silent());
        for api in owner.hubs(&before) {
            answer = client::enroll(&api, invite, &keys, &clients).await;
            if !answer.as_ref().is_err_and(ask_elsewhere) {
                break;
            }
        }
        match answer {
            Ok(admission) => {
                owner.accept(admission.clone())?;
                let permitted: Vec<_> = admission.permitted.iter().map(ToString::to_string).collect();
                Ok((admission, format!("may claim out of {}", permitted.join(", "))))
            }
            // The string of an earlier enrollment: what it gave is there.
            Err(refusal) if refusal.code == ReasonCode::InviteSpent => {
                let detail = format!("enrolled before as {} ({})", before.leaf, before.overlay);
                Ok((before, detail))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// This machine takes its own place with fresh keys, while its tunnel, session and routes go on.
    async fn replaced(
        &self,
        owner: &mut Owner,
        ask: &Ask,
        invite: &Invite,
        before: Admission,
        steps: &mut Steps,
    ) -> Result<Admission, Refusal> {
        if invite.site != before.leaf {
            let message = format!("this machine is {}, the invite is for {}", before.leaf, invite.site);
            return Err(Refusal::new(ReasonCode::SiteTaken, message));
        }
        let mut claims: BTreeSet<_> = before.claims.keys().chain(&ask.request.clients).copied().collect();
        let text = ask.request.invite.as_deref();
        if let Some(asked) = owner.waiting.as_ref().and_then(|waiting| waiting.asked_before(text, &claims)) {
            claims = asked;
        }
        let outcome = owner.replace_itself(self, invite, &claims).await;
        let concerns = !owner.waits_in_place() || owner.waits_by(text);
        match &outcome {
            Err(refusal) if refusal.code == ReasonCode::ApprovalPending => {
                let told = format!("{}; {}", refusal.message, refusal.fix());
                steps.run("approval", async { Ok(((), told)) }).await?;
                if !owner.waits_by(text) {
                    owner.wait_for(Some(Waiting::new(ask.request.clone(), Some(claims))))?;
                }
                owner.publish.send_modify(|m| m.replacement = Some(refusal.clone()));
                return Err(refusal.clone());
            }
            Err(refusal) if refusal.code.is_transient() && owner.waits_by(text) => {
                return Err(refusal.clone());
            }
            Err(refusal) if concerns => owner.replaces_no_more(Some(refusal))?,
            Err(_) => {}
            Ok(_) => owner.replaces_no_more(None)?,
        }
        steps.run("replacement", async { outcome.map(|detail| ((), detail)) }).await?;
        owner.admission().ok_or_else(|| Refusal::of(ReasonCode::HubSilent))
    }

    async fn join(
        &mut self,
        owner: &mut Owner,
        ask: &Ask,
        invite: &Invite,
        steps: &mut Steps,
    ) -> Result<Admission, Refusal> {
        let keys = steps.run("keys", async { self.make_keys() }).await?;
        let claims: Vec<Ipv4Addr> = ask.request.clients.clone();
        let mut outcome = self.admitted(invite, &keys, &claims, ask.request.replace).await;
        if let Err(refusal) = &outcome
            && refusal.code == ReasonCode::ApprovalPending
        {
            owner.wait_for(Some(Waiting::new(ask.request.clone(), None)))?;
            outcome = self.approved(owner, ask, invite, &keys, refusal.clone(), steps).await;
        }
        if outcome.as_ref().is_err_and(|refusal| !refusal.code.is_transient()) || outcome.is_ok() {
            owner.wait_for(None)?;
        }
        if let Err(refusal) = &outcome {
            owner.publish.send_modify(|m| m.last_error = Some(refusal.clone()));
        }
        let admission = steps.run("admission", async { outcome }).await?;
        owner.keys = Some(keys.clone());
        self.keys.send_replace(Some(LineKeys::of(keys)));
        let config = settings::load(&self.config_file)
            .map_err(|mistakes| Refusal::new(ReasonCode::ConfigDiffers, mistakes.to_string()))?;
        self.settings.send_replace(Arc::new(Settings::of(&config)));
        owner.accept(admission.clone())?;
        Ok(admission)
    }

    fn make_keys(&self) -> Result<(Arc<NodeKeys>, String), Refusal> {
        let keys = NodeKeys::load_or_create(&self.state)
            .map_err(|e| Refusal::new(ReasonCode::KeyFileUnsafe, e.to_string()))?;
        let shown = format!("WireGuard {}", keys.wireguard_key());
        Ok((Arc::new(keys), shown))
    }

    /// Asks again and again until the operator has spoken, or patience is over.
    async fn approved(
        &self,
        owner: &Owner,
        ask: &Ask,
        invite: &Invite,
        keys: &NodeKeys,
        refusal: Refusal,
        steps: &mut Steps,
    ) -> Result<(Admission, String), Refusal> {
        let told = (refusal.message.clone(), refusal.fix());
        owner.publish.send_modify(|m| m.last_error = Some(refusal.clone()));
        steps.run("approval", async { Ok(((), format!("{}; {}", told.0, told.1))) }).await?;
        let end = Instant::now() + ask.patience;
        let mut last = refusal;
        while Instant::now() < end && !ask.progress.is_closed() {
            tokio::time::sleep(ASK_FOLLOWED).await;
            match self.admitted(invite, keys, &ask.request.clients, ask.request.replace).await {
                Err(refusal) if refusal.code.is_transient() => last = refusal,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// Ends session and tunnel of a leaf that has left.
    pub async fn gone(&self) -> Result<(), Refusal> {
        self.keys.send_replace(None);
        let mut speaker = self.speaker.clone();
        let ended = tokio::time::timeout(DATAPLANE_LIMIT, speaker.wait_for(Option::is_none)).await.is_ok();
        if !ended {
            tracing::warn!("the session did not end in time; the tunnel is taken away all the same");
        }
        let generation = self.wishes.wish(Wished::default());
        self.wishes.done(generation, DATAPLANE_LIMIT).await.map_err(dataplane_failed)
    }

    /// Asks at the invite's door on the underlay, if it has one, else through the foyer; whoever answers first has the
    /// last word.
    async fn admitted(
        &self,
        invite: &Invite,
        keys: &NodeKeys,
        claims: &[Ipv4Addr],
        replace: bool,
    ) -> Result<(Admission, String), Refusal> {
        let question = Question { invite, keys, claims, replace };
        for endpoint in invite.tls.iter().flat_map(|door| door.endpoints.iter()) {
            match question.at_door(endpoint).await {
                // Another place may answer.
                Err(refusal)
                    if matches!(refusal.code, ReasonCode::HubSilent | ReasonCode::NameUnresolved) =>
                {
                    tracing::warn!("no answer over TLS: {}", refusal.message);
                }
                outcome => return outcome,
            }
        }
        self.in_foyer(&question).await
    }

    /// Brings up the one-time tunnel and asks in the foyer, at each endpoint of each hub in turn until one answers.
    async fn in_foyer(&self, question: &Question<'_>) -> Result<(Admission, String), Refusal> {
        let hubs = question.invite.hubs();
        let places: Vec<_> =
            hubs.iter().flat_map(|hub| hub.endpoints.iter().map(move |at| (hub, at))).collect();
        let (begin, end) = (Instant::now(), Instant::now() + FOYER_LIMIT);
        let mut last = Refusal::of(ReasonCode::HubSilent);
        while Instant::now() < end {
            let mut unresolved = 0;
            for &(hub, endpoint) in &places {
                match self.in_foyer_of(question, hub, endpoint).await {
                    Ok(mut admission) => {
                        prefer(&mut admission, endpoint);
                        let detail = format!("{} is {} by {endpoint}", admission.leaf, admission.overlay);
                        return Ok((admission, detail));
                    }
                    Err(refusal) if refusal.code == ReasonCode::HubSilent => last = refusal,
                    Err(refusal) if refusal.code == ReasonCode::NameUnresolved => {
                        tokio::time::sleep(ASK_FOLLOWED / 4).await;
                        unresolved += 1;
                        last = refusal;
                    }
                    // Made at another hub a moment ago, and that one may answer in the next round.
                    Err(refusal) if ask_elsewhere(&refusal) && hubs.len() > 1 => {
                        tokio::time::sleep(ASK_FOLLOWED / 4).await;
                        last = refusal;
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
            if unresolved == places.len() && begin.elapsed() >= NAME_LIMIT {
                // A name that nobody knows: a person is told soon.
                break;
            }
        }
        Err(last)
    }

    /// Asks one hub at one endpoint: at each of the addresses that it leads to, until one answers.
    async fn in_foyer_of(
        &self,
        question: &Question<'_>,
        hub: &InviteHub,
        endpoint: &Endpoint,
    ) -> Result<Admission, Refusal> {
        let Question { invite, keys, claims, replace } = *question;
        let api = HubApi::of_invite_hub(invite, hub);
        let mut outcome = Err(Refusal::of(ReasonCode::HubSilent));
        for address in question.lookup(endpoint).await? {
            let tunnel = foyer::wished(invite, &hub.wireguard_key, address, self.listen_port);
            let generation = self.wishes.wish(tunnel);
            self.wishes.done(generation, DATAPLANE_LIMIT).await.map_err(dataplane_failed)?;
            outcome = client::join(&api, invite, keys, claims, replace).await;
            if !outcome.as_ref().is_err_and(|refusal| refusal.code == ReasonCode::HubSilent) {
                break;
            }
        }
        outcome
    }

    async fn session(&self, admission: &Admission) -> Result<((), String), Refusal> {
        let up = async {
            loop {
                let speaker = self.speaker.borrow().clone();
                if let Some(speaker) = speaker {
                    let up: Vec<String> = speaker
                        .peers()
                        .await
                        .into_iter()
                        .filter(|p| p.state == "Established")
                        .map(|p| format!("{} ({})", p.name, p.address))
                        .collect();
                    if !up.is_empty() {
                        return up.join(", ");
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(SESSION_LIMIT, up).await {
            Ok(up) => Ok(((), format!("Established with {up}"))),
            Err(_) => {
                let hubs: Vec<String> =
                    admission.topology.hubs.iter().map(|h| h.overlay.to_string()).collect();
                let message = format!("no session with {} within {SESSION_LIMIT:?}", hubs.join(", "));
                Err(Refusal::new(ReasonCode::SessionDown, message))
            }
        }
    }

    /// Waits for the hub's whole table, and for the kernel to have it.
    async fn routes(&self, overlay: Ipv4Addr) -> Result<(Current, String), Refusal> {
        let late = || {
            let message = format!("the hub's routes for {overlay} did not come within {SESSION_LIMIT:?}");
            Refusal::new(ReasonCode::SessionDown, message)
        };
        let speaker = self.speaker.borrow().clone().ok_or_else(late)?;
        let mut best = speaker.best_paths();
        let whole = best.wait_for(|paths| !paths.stale || paths.whole);
        let generation = match tokio::time::timeout(SESSION_LIMIT, whole).await {
            Ok(Ok(paths)) => paths.generation,
            _ => return Err(late()),
        };
        let mut current = self.current.clone();
        let wished = current.wait_for(|c| c.is_some_and(|c| c.best_paths >= generation));
        let current = match tokio::time::timeout(SESSION_LIMIT, wished).await {
            Ok(Ok(current)) => (*current).ok_or_else(late)?,
            _ => return Err(late()),
        };
        self.wishes.done(current.generation, DATAPLANE_LIMIT).await.map_err(dataplane_failed)?;
        let report = self.wishes.report().borrow().clone();
        let underlay = current.underlay.path_mtu;
        Ok((current, format!("{} installed, path MTU {underlay}", report.routes_installed)))
    }

    /// The hub answers on the overlay, to the leaf's own key: the lasting tunnel works.
    async fn overlay(&self, owner: &mut Owner, admission: &Admission) -> Result<((), String), Refusal> {
        let silent = || Refusal::of(ReasonCode::HubSilent);
        let keys = owner.keys.clone().ok_or_else(silent)?;
        let mut last = silent();
        for api in owner.hubs(admission) {
            match client::topology(&api, &keys, &owner.admission().ok_or_else(silent)?).await {
                Ok(now) => {
                    let (left, claims) = (now.lease_left_secs, now.claims.len());
                    owner.accept(now)?;
                    return Ok(((), format!("{} answers; {claims} claims, lease {left} s", api.address)));
                }
                Err(refusal) if ask_elsewhere(&refusal) => last = refusal,
                Err(refusal) => return Err(refusal),
            }
        }
        Err(last)
    }
}

/// An echo as large as the tunnel carries, to a hub and back.
async fn probe(admission: &Admission, underlay: Underlay) -> Result<((), String), Refusal> {
    let mut outcome = Err(Refusal::new(ReasonCode::ProbeFailed, "the hub named no hub"));
    for hub in &admission.topology.hubs {
        outcome = probe_hub(admission, hub.overlay, underlay).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn probe_hub(
    admission: &Admission,
    hub: Ipv4Addr,
    underlay: Underlay,
) -> Result<((), String), Refusal> {
    let failed = |message: String| Refusal::new(ReasonCode::ProbeFailed, message);
    let from = admission.overlay;
    let size = dataplane::mtu::mtus(underlay.path_mtu, underlay.ipv6).wireguard;
    let echo = tokio::task::spawn_blocking(move || crate::probe::echo(from, hub, size, PROBE_LIMIT));
    match echo.await {
        Ok(Ok(time)) => {
            Ok(((), format!("{size} octets to {hub} and back in {:.1} ms", time.as_secs_f64() * 1e3)))
        }
        Ok(Err(error)) => Err(failed(format!("{size} octets to {hub}: {error}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Whether an invite is of a fabric in which the leaf is enrolled.
fn knows(admission: &Admission, invite: &Invite) -> bool {
    let named = invite.hubs();
    let known = &admission.topology.hubs;
    known.iter().any(|hub| named.iter().any(|other| other.signing_key == hub.signing_key))
}

fn dataplane_failed(message: String) -> Refusal {
    Refusal::new(ReasonCode::DataplaneFailed, message)
}

/// What a second run must not change: overlay address, claims, hub and key.
type Identity = (Ipv4Addr, Vec<Ipv4Addr>, SigningKey, WireguardKey);

fn identity(admission: &Option<Admission>) -> Option<Identity> {
    let a = admission.as_ref()?;
    let hub = a.topology.hubs.first()?.signing_key;
    Some((a.overlay, a.claims.keys().copied().collect(), hub, a.wireguard_key))
}

/// A refusal as the administration socket shows it.
pub fn api_error(refusal: &Refusal) -> ApiError {
    ApiError {
        code: refusal.code.as_str().into(),
        message: refusal.message.clone(),
        fix: Some(refusal.fix().into()),
    }
}
