//! The cells on BFD.

use std::time::{Duration, Instant};

use super::{Row, WATCH, WITNESSED, that};
use crate::Feature;
use crate::make::{Make, route};
use crate::space::{Check, End};

/// How long BFD must stay up without a break.
const STEADY: Duration = Duration::from_secs(3);

impl Row {
    /// BFD comes up beside the session, on both sides, at the role's interval x 3.
    pub(super) fn bfd_up(&mut self) -> Check {
        let millis = self.role.bfd_millis().ok_or("a role without BFD")?;
        self.start_reflector()?;
        self.make.start(&mut self.space, self.role, &[1])?;
        self.witness.start(&mut self.space, &WITNESSED, None)?;
        self.space.until(|| {
            let bfd = &self.peer()["bfd"];
            let ours = bfd["txIntervalMillis"] == millis && bfd["detectionTimeMillis"] == 3 * millis;
            that(ours && bfd["state"] == "Up", || format!("ours: {bfd}"))?;
            self.make.bfd_is_up(&self.space, millis)?;
            that(self.heard().routes.contains_key(&route(1)), || "the witness has no route".into())
        })
    }

    /// BFD packets to us are dropped, nothing else: the session ends long before its hold time of 90 s, for that
    /// reason, its routes are kept, and it comes back when the packets do. The cell's time is that of the detection.
    pub(super) fn bfd_cut(&mut self) -> Check {
        let rules =
            "table inet cut {\n chain input { type filter hook input priority 0; udp dport 3784 drop; }\n}\n";
        let file = self.space.write("cut.nft", rules)?;
        let sessions = self.number("establishedCount");
        let answer = self.space.ask(End::Near, &["nft", "-f", &file]);
        that(answer.is_empty(), || answer.clone())?;
        let begin = Instant::now();
        self.space.until(|| {
            let peer = self.peer();
            let error = peer["lastError"].as_str().unwrap_or_default();
            that(error.starts_with("BFD down: Control Detection Time Expired"), || format!("{peer}"))
        })?;
        let detected = begin.elapsed();
        that(detected < Duration::from_secs(10), || format!("noticed after {detected:?} only"))?;
        // Until it is back: without the F bit of RFC 4724, which BIRD sets after a restart alone, a new session ends it.
        self.space.throughout(WATCH, || {
            let heard = self.heard();
            let kept = heard.routes.contains_key(&route(1)) && heard.withdrawn.is_empty();
            let back = self.peer()["establishedCount"].as_u64() > Some(sessions);
            that(kept || back, || "the witness lost a route that is kept".into())
        })?;
        self.space.ask(End::Near, &["nft", "delete", "table", "inet", "cut"]);
        self.space.until(|| {
            let peer = self.peer();
            let back = peer["establishedCount"].as_u64() > Some(sessions) && peer["bfd"]["state"] == "Up";
            that(back && peer["prefixesStale"] == 0, || format!("not back: {peer}"))
        })?;
        self.cells.insert(Feature::BfdCut, Ok(detected));
        Ok(())
    }

    /// The session and its BFD (RFC 5881) over IPv6: up, and down when the BFD packets are lost.
    pub(super) fn bfd_on_ipv6(&mut self) -> Check {
        self.bfd_up()?;
        self.bfd_cut()?;
        let detected = self.cells.remove(&Feature::BfdCut).ok_or("no detection")?;
        self.cells.insert(Feature::BfdIpv6, detected);
        Ok(())
    }

    /// BFD at 50 ms x 3 stays up, and ends the session when they are killed and the end of their TCP connection is not
    /// heard, as when a machine dies. How soon is not judged: this machine is busy with other rows.
    pub(super) fn bfd_quick(&mut self) -> Check {
        self.bfd_up()?;
        // A break of 150 ms on a busy machine is no fault of BFD's; one in each three seconds is.
        let mut since = (Instant::now(), None);
        self.space.until(|| {
            let bfd = &self.peer()["bfd"];
            let now = (bfd["state"] == "Up").then(|| bfd["downs"].as_u64()).flatten();
            if now.is_none() || now != since.1 {
                since = (Instant::now(), now);
            }
            that(since.0.elapsed() > STEADY, || format!("not up for {STEADY:?}: {bfd}"))
        })?;
        let rules = "table inet deaf {\n chain input { type filter hook input priority 0; ip saddr 10.9.0.2 tcp sport 179 \
                     drop; ip saddr 10.9.0.2 tcp dport 179 drop; }\n}\n";
        let file = self.space.write("deaf.nft", rules)?;
        let answer = self.space.ask(End::Near, &["nft", "-f", &file]);
        that(answer.is_empty(), || answer.clone())?;
        // FRR's BFD first: told that its bgpd is gone, it would say that it goes down, and not fall silent.
        if self.make == Make::Frr {
            self.space.kill(&["bfdd"])?;
        }
        self.space.kill(self.make.processes())?;
        let begin = Instant::now();
        self.space.until(|| {
            let peer = self.peer();
            let error = peer["lastError"].as_str().unwrap_or_default();
            let fell = error.starts_with("BFD down: Control Detection Time Expired");
            that(fell && peer["state"] != "Established", || format!("{peer}"))
        })?;
        self.cells.insert(Feature::BfdQuick, Ok(begin.elapsed()));
        Ok(())
    }
}
