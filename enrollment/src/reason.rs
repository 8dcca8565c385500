//! The closed list of reason codes: one place, from which HTTP answers, logs, metrics labels and docs come.

use crate::identity::LeafName;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Who produces a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The hub, in the HTTP answer of its leaf API.
    Hub,
    /// The leaf, about something it found itself.
    Leaf,
    /// The hub, to the operator on the administration socket.
    Operator,
}

impl Side {
    /// The word used in the docs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Hub => "hub",
            Side::Leaf => "leaf",
            Side::Operator => "hub, to the operator",
        }
    }
}

macro_rules! reasons {
    ($($name:ident $code:literal $side:ident $status:literal $meaning:literal $fix:literal;)*) => {
        /// Why something was refused; the same word in the HTTP answer, the CLI, the log and the metrics label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum ReasonCode {
            $(#[doc = $meaning] $name,)*
        }

        impl ReasonCode {
            /// Every code, in the order of the docs.
            pub const ALL: &[ReasonCode] = &[$(ReasonCode::$name,)*];

            /// The code as it is written everywhere.
            pub const fn as_str(self) -> &'static str {
                match self { $(ReasonCode::$name => $code,)* }
            }

            /// One sentence that says what happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(ReasonCode::$name => $meaning,)* }
            }

            /// What a person does about it.
            pub const fn fix(self) -> &'static str {
                match self { $(ReasonCode::$name => $fix,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn http_status(self) -> u16 {
                match self { $(ReasonCode::$name => $status,)* }
            }

            /// Who produces it.
            pub const fn side(self) -> Side {
                match self { $(ReasonCode::$name => Side::$side,)* }
            }
        }
    };
}

reasons! {
    InviteMalformed "invite-malformed" Leaf 400
        "The invite string is damaged: its checksum does not match, or it is not an invite."
        "Copy the whole string again, from `fabric` to its end; nothing was sent to the hub.";
    HubSilent "hub-silent" Leaf 504
        "No answer came from the hub within the time limit."
        "Check that the hub runs (`routerctl status` there) and that UDP 51820 to its endpoint is open.";
    NameUnresolved "name-unresolved" Leaf 504
        "The name of a hub's endpoint could not be looked up; the addresses that it had last stay in use."
        "Check the name and this machine's DNS (`getent hosts NAME`); it is looked up again by itself.";
    AnswerInvalid "answer-invalid" Leaf 502
        "An answer came that the pinned hub did not sign for this request; it was thrown away."
        "Something between here and the hub alters packets, or the hub was reinstalled: ask for a new invite.";
    PinMismatch "pin-mismatch" Leaf 502
        "Who answers at the hub's address on the underlay does not hold the key that the invite pins; nothing was sent there."
        "Look for something in between, or at the wrong address; if the hub's `http-tls.pem` was made anew, ask for a new invite.";
    KeyFileUnsafe "key-file-unsafe" Leaf 500
        "A private key file can be read by others than its owner, or does not hold a key."
        "Run `chmod 600` on the file that the message names; if others had access, enroll with fresh keys.";
    StateFileFailed "state-file-failed" Leaf 500
        "The leaf's state file could not be read or written."
        "Check free space and permissions of the state directory that the message names.";
    ConfigDiffers "config-differs" Leaf 409
        "The leaf's configuration file does not have what the enrollment asks for; the file was not changed."
        "Edit the file that the message names, or run `routerctl enroll` without the flags that contradict it.";
    DataplaneFailed "dataplane-failed" Leaf 500
        "WireGuard, ipip, routes or filters could not be brought up on this host."
        "The message says what the kernel refused; `routerctl status` shows which dataplane is used and why.";
    SessionDown "session-down" Leaf 504
        "The BGP session with the hub did not come up, or its routes did not come."
        "Run `routerctl bgp peers` here and on the hub; the last error names the cause.";
    ProbeFailed "probe-failed" Leaf 504
        "A full-size packet through the tunnel to the hub was not answered."
        "Look for a path MTU below 1280 or a firewall on the hub that drops ICMP on the overlay.";
    ClaimWished "claim-wished" Leaf 409
        "The address is a client of this leaf by its configuration file or by an observed event, and would be claimed again."
        "Take it out of `clients:` in the leaf's file, or let the client go: its expired event releases the claim.";
    RequestMalformed "request-malformed" Hub 400
        "The request is not what the API expects; the message says where."
        "Use the same version of the software on leaf and hub.";
    RequestTooLarge "request-too-large" Hub 413
        "The request's body is larger than the API takes."
        "Claim fewer addresses at once; a body holds at most 16 KiB.";
    RequestTimeout "request-timeout" Hub 408
        "The request did not arrive whole within the time limit."
        "Check the path to the hub for loss and MTU trouble, then run the command again.";
    EndpointUnknown "endpoint-unknown" Hub 404
        "The leaf API has no such path or method; it is not an administration API."
        "Use `routerctl` on the hub for administration.";
    RateLimited "rate-limited" Hub 429
        "This source address asks more often than the hub permits."
        "Wait the seconds that the answer names; if nobody asked that often, look for a loop in a script.";
    HubBusy "hub-busy" Hub 503
        "The hub serves as many requests as it permits at once."
        "The leaf tries again by itself; if it lasts, look at the hub's load.";
    RegistryLost "registry-lost" Hub 503
        "The hub cannot use the database that holds its registry; what is enrolled goes on, and nothing new is decided."
        "The leaf tries again by itself; `routerctl status` on the hub says since when and why.";
    SourceForbidden "source-forbidden" Hub 403
        "The request came from an address that may not make it: the foyer only enrolls, and a leaf speaks from its own overlay address."
        "Let the leaf daemon send the request through its own tunnel.";
    WrongHub "wrong-hub" Hub 421
        "The request was signed for another hub."
        "Use an invite of this hub.";
    ChallengeInvalid "challenge-invalid" Hub 401
        "The challenge is unknown, already used, expired, or was given to another address: the request may be a replay."
        "Run the command again; a fresh challenge is asked for by itself.";
    InviteUnknown "invite-unknown" Hub 404
        "The hub knows no invite with this id."
        "Make a new one on the hub: `routerctl invite --site NAME`.";
    InviteExpired "invite-expired" Hub 410
        "The invite's time is over."
        "Make a new one on the hub: `routerctl invite --site NAME --expires 1h`.";
    InviteSpent "invite-spent" Hub 410
        "The invite was used as often as it permits."
        "Make a new one on the hub: `routerctl invite --site NAME`.";
    InviteRevoked "invite-revoked" Hub 410
        "The invite was withdrawn by the operator, or with the leaf that joined by it."
        "Make a new one on the hub: `routerctl invite --site NAME`.";
    SignatureInvalid "signature-invalid" Hub 401
        "The signature does not match: the request was altered, or the signer does not hold the invite's secret or the leaf's key."
        "Use the invite string exactly as the hub printed it; for an enrolled leaf, check that its key files are its own.";
    PossessionInvalid "possession-invalid" Hub 401
        "The request does not prove that its sender holds the private half of the signing key that it registers."
        "Remove the leaf's key files and enroll again; fresh ones are made.";
    CounterStale "counter-stale" Hub 409
        "The request's counter is not above the last one that the hub accepted from this leaf."
        "The leaf corrects itself; if it repeats, two machines run with the same keys: enroll one of them anew.";
    LeafUnknown "leaf-unknown" Hub 404
        "The hub has no leaf of this name."
        "Enroll the leaf with a new invite: `routerctl enroll STRING`.";
    LeaseRevoked "lease-revoked" Hub 403
        "The operator revoked this leaf or this key; it does not come back by itself."
        "If it shall join again: remove its key files and enroll with an invite made after the revocation.";
    LeafLeft "leaf-left" Hub 410
        "This leaf left the fabric by its own request; its keys are not good any more."
        "If it shall join again: enroll it with a new invite.";
    ApprovalPending "approval-pending" Hub 425
        "The machine waits until the operator approves it at the hub."
        "On the hub: `routerctl leaves pending`, then `routerctl leaves approve FINGERPRINT`; the leaf goes on by itself.";
    ApprovalDenied "approval-denied" Hub 403
        "The operator looked at this machine's request and denied it."
        "Ask the operator; another try needs a new invite and fresh keys.";
    ApprovalFull "approval-full" Hub 503
        "As many machines as permitted wait for approval by this invite already."
        "Approve or deny what waits: `routerctl leaves pending` on the hub.";
    UnderlayForbidden "underlay-forbidden" Hub 403
        "The invite holds for other source addresses than the one that this request came from."
        "Use the invite at the place that it was made for, or make one with another `--source PREFIX`.";
    SiteTaken "site-taken" Hub 409
        "Another machine with other keys is enrolled under this site's name."
        "To put this machine in its place: `routerctl invite --replace NAME` on the hub; otherwise choose another site name.";
    NameLost "name-lost" Hub 409
        "While the two hubs could not talk, each admitted a machine under this name; the one that was admitted first keeps it, and this is the other."
        "Make an invite with another site name, remove this leaf's key files, and enroll it again; or revoke the name and invite anew.";
    KeyTaken "key-taken" Hub 409
        "A key in the request belongs to another leaf, to the hub or to an invite."
        "Remove this leaf's key files and enroll again; do not copy key files between machines.";
    ClaimNotPermitted "claim-not-permitted" Hub 403
        "The address is outside the prefixes that the leaf's admission permits, or is no client address at all."
        "Claim an address inside the permitted prefixes, or make an invite with `--permit PREFIX` and enroll again.";
    ClaimConflict "claim-conflict" Hub 409
        "Another leaf owns this address; the answer names it."
        "Release it on its owner first, if the client has moved.";
    ClaimLimit "claim-limit" Hub 403
        "The leaf would own more addresses than its admission permits."
        "Release claims that are no longer needed, or make an invite with a larger `--max-claims` and enroll again.";
    ClaimUnknown "claim-unknown" Hub 404
        "The leaf does not own the address that it wants to release."
        "Look at `routerctl claims` for what it owns.";
    ClaimStale "claim-stale" Hub 409
        "The request speaks of an older generation of the claim than the present one: it was renewed or moved meanwhile."
        "Nothing to do: the newer claim holds; the message names its owner.";
    OverlayFull "overlay-full" Hub 507
        "No overlay address is free."
        "Give the hub a larger overlay prefix, or remove leaves that are gone for good.";
    Internal "internal" Hub 500
        "The hub could not make the change durable; nothing was changed."
        "Look at the hub's log: most often its disk is full or its state directory is not writable.";
    InviteInvalid "invite-invalid" Operator 422
        "The invite cannot be made as asked; the message says which value is wrong."
        "Correct the value and run `routerctl invite` again.";
    InviteForeign "invite-foreign" Operator 404
        "The hub has no invite with the id that shall be revoked."
        "Look at `routerctl invite list`.";
    PendingUnknown "pending-unknown" Operator 404
        "No machine with this fingerprint or site waits for approval."
        "Look at `routerctl leaves pending`.";
    FoyerFull "foyer-full" Operator 507
        "All foyer addresses are taken by open invites."
        "Revoke invites that nobody will use, or make one invite with `--uses`.";
}

impl ReasonCode {
    /// Whether the hub may send this code unsigned, because it refuses before it has the whole request.
    pub const fn is_unsigned(self) -> bool {
        matches!(
            self,
            ReasonCode::RequestTooLarge
                | ReasonCode::RequestTimeout
                | ReasonCode::EndpointUnknown
                | ReasonCode::RateLimited
                | ReasonCode::HubBusy
        )
    }

    /// Whether trying again later by itself can help (the leaf does so; it never needs a person).
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            ReasonCode::HubSilent
                | ReasonCode::NameUnresolved
                | ReasonCode::AnswerInvalid
                | ReasonCode::PinMismatch
                | ReasonCode::RequestTimeout
                | ReasonCode::RateLimited
                | ReasonCode::HubBusy
                | ReasonCode::RegistryLost
                | ReasonCode::ChallengeInvalid
                | ReasonCode::CounterStale
                | ReasonCode::OverlayFull
                | ReasonCode::ApprovalPending
                | ReasonCode::ApprovalFull
                | ReasonCode::Internal
        )
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ReasonCode> for &'static str {
    fn from(code: ReasonCode) -> Self {
        code.as_str()
    }
}

/// A text that is no reason code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no reason code")]
pub struct UnknownReason(String);

impl FromStr for ReasonCode {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|code| code.as_str() == text);
        found.copied().ok_or_else(|| UnknownReason(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for ReasonCode {
    type Error = UnknownReason;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A refusal: the code, what exactly was wrong, and what the other side needs in order to act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The code.
    pub code: ReasonCode,
    /// What exactly was wrong, in a sentence with the values in it; never a secret.
    pub message: String,
    /// Who owns the address (`claim-conflict`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Which address is meant (the claim codes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The last counter that the hub accepted (`counter-stale`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_counter: Option<u64>,
    /// When to ask again, in seconds (`rate-limited`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_secs: Option<u64>,
}

impl Refusal {
    /// A refusal with its message.
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, owner: None, address: None, last_counter: None, retry_after_secs: None }
    }

    /// The refusal that says no more than its code means.
    pub fn of(code: ReasonCode) -> Self {
        Self::new(code, code.meaning())
    }

    /// An address that another leaf owns.
    pub fn conflict(address: Ipv4Addr, owner: &LeafName) -> Self {
        let message = format!("{address} is owned by leaf {owner}");
        let mut refusal = Self::new(ReasonCode::ClaimConflict, message).about(address);
        refusal.owner = Some(owner.to_string());
        refusal
    }

    /// The same refusal, about an address.
    pub fn about(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// What a person does about it.
    pub fn fix(&self) -> &'static str {
        self.code.fix()
    }
}

/// The content of `docs/reference/reason-codes.md`, generated from the list.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Reason codes\n\n<!-- Generated from the list in `enrollment/src/reason.rs`; do not edit. -->\n\n\
         Every refusal carries one of these codes: in the HTTP answer, on the command line, in the log and as the\n\
         label of the metric. A code keeps its meaning for ever.\n\n\
         | code | said by | HTTP status |\n| --- | --- | --- |\n",
    );
    for code in ReasonCode::ALL {
        // Writing into a String cannot fail.
        let _ = writeln!(page, "| [`{code}`](#{code}) | {} | {} |", code.side().as_str(), code.http_status());
    }
    for code in ReasonCode::ALL {
        let _ = write!(page, "\n## {code}\n\n{}\n\n**What to do.** {}\n", code.meaning(), code.fix());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each code is written in its own way, in kebab case, and reads back.
    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = BTreeSet::new();
        for code in ReasonCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert!(code.as_str().bytes().all(|c| c.is_ascii_lowercase() || c == b'-'), "{code}");
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!((400..600).contains(&code.http_status()), "{code}");
        }
        assert!("no-such-code".parse::<ReasonCode>().is_err());
    }

    /// Each code has a heading, a meaning and a fix in the generated page.
    #[test]
    fn the_page_has_every_code() {
        let page = reference_markdown();
        for code in ReasonCode::ALL {
            assert!(page.contains(&format!("\n## {code}\n")), "{code}");
            assert!(page.contains(code.meaning()) && page.contains(code.fix()), "{code}");
        }
    }
}
