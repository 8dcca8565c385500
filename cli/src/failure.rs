//! What went wrong, how to mend it, and the exit code that says so to a script.

use control::ClientError;
use control::wire::ApiError;
use enrollment::reason::ReasonCode;
use federation::reason::ReasonCode as EventCode;
use serde::Serialize;

/// Which exit code a failure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// 1: there is an answer, and it is not good.
    Bad,
    /// 2: the command was not understood.
    Usage,
    /// 3: the daemon cannot be reached.
    Unreachable,
}

impl Class {
    /// The process' exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Bad => 1,
            Class::Usage => 2,
            Class::Unreachable => 3,
        }
    }
}

/// A failure as a person and a script see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Decides the exit code.
    #[serde(skip)]
    pub class: Class,
    /// A word in kebab case, the daemon's where it refused.
    pub code: String,
    /// What happened.
    pub message: String,
    /// A command or a sentence that mends it.
    pub fix: String,
}

impl Failure {
    fn new(class: Class, code: &str, message: impl Into<String>) -> Failure {
        let fix = "run `routerctl status` to see what the node lacks".into();
        Failure { class, code: code.into(), message: message.into(), fix }
    }

    /// The answer is bad.
    pub fn bad(code: &str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Bad, code, message)
    }

    /// The command makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Class::Usage, "usage", message).fix("see `routerctl help`")
    }

    /// Nobody answers.
    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure::new(Class::Unreachable, "daemon-unreachable", message)
    }

    /// Names what mends it.
    pub fn fix(mut self, fix: impl Into<String>) -> Failure {
        self.fix = fix.into();
        self
    }

    /// A file could not be read or written.
    pub fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
        let fix = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "run it as root, or choose other directories with --root DIR"
            }
            std::io::ErrorKind::NotFound => "check the name of the file and of its directory",
            _ => "check free space and permissions there",
        };
        Failure::bad("file-failed", format!("cannot {doing} {}: {error}", path.display())).fix(fix)
    }
}

impl From<ApiError> for Failure {
    fn from(refused: ApiError) -> Failure {
        let enrollment = refused.code.parse::<ReasonCode>().ok().map(ReasonCode::fix);
        let event = EventCode::ALL.iter().find(|code| code.as_str() == refused.code).map(|code| code.fix());
        let known = enrollment.or(event).map(String::from);
        let failure = Failure::bad(&refused.code, refused.message);
        match refused.fix.or(known) {
            Some(fix) => failure.fix(fix),
            None => failure,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(refused) => refused.into(),
            ClientError::Unreachable { socket, daemon, error } => {
                if error.kind() == std::io::ErrorKind::PermissionDenied {
                    let message = format!(
                        "this user may not administer this node: {} is not open to it",
                        socket.display()
                    );
                    let fix = "run it as root, or as a member of the group that `adminGroup` of the BGPRouter names";
                    return Failure::bad(control::admin::NOT_ADMINISTRATOR, message).fix(fix);
                }
                let fix = format!(
                    "start it: `systemctl start {daemon}`, or run `{daemon}`; other directories: --root DIR"
                );
                Failure::unreachable(format!("no daemon answers at {}: {error}", socket.display())).fix(fix)
            }
            ClientError::Garbled { path, what } => {
                let failure =
                    Failure::unreachable(format!("the daemon's answer to {path} is unusable: {what}"));
                failure.fix("run it again; if that lasts, look at the daemon's log, and use routerctl and daemon of one version")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal without a fix of its own gets the one of its reason code.
    #[test]
    fn reason_codes_bring_their_fix() {
        let refused = ApiError { code: "invite-spent".into(), message: "used once".into(), fix: None };
        let failure = Failure::from(refused);
        assert_eq!(failure.class.exit_code(), 1);
        assert_eq!(failure.fix, ReasonCode::InviteSpent.fix());
    }

    /// A missing daemon and an unusable answer are code 3, and say what to start.
    #[test]
    fn silence_is_three() {
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::from(ClientError::Unreachable {
            socket: "/x/hub.sock".into(),
            daemon: "fabric-rr",
            error,
        });
        assert_eq!(failure.class.exit_code(), 3);
        assert!(failure.fix.contains("systemctl start fabric-rr"));
        let failure = Failure::from(ClientError::Garbled { path: "/v1/status".into(), what: "{".into() });
        assert_eq!(failure.class.exit_code(), 3);
    }
}
