//! `routerctl invite`: the one string that lets a site join.

use clap::{Args, Subcommand};
use control::Node;
use control::wire::{Done, InviteAnswer, NewInvite};
use enrollment::view::InviteView;
use ipnet::{IpNet, Ipv4Net};

use crate::context::{Context, escape};
use crate::failure::Failure;
use crate::output::{Answer, Format};
use crate::text::{self, Table};

/// Words of `invite`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    routerctl invite --site aws\n  \
    routerctl invite --site aws --permit 10.81.0.0/16 --max-claims 8 --expires 30m\n  \
    routerctl invite --site oci --source 198.51.100.0/24 --approve\n  \
    routerctl invite --replace pve\n  \
    routerctl invite --site azure --cloud-init > user-data.yaml\n\n\
    The string is a secret until it is spent, and it is shown once. It is alone on stdout, for a pipe.")]
pub struct InviteArgs {
    #[command(subcommand)]
    verb: Option<InviteVerb>,
    #[command(flatten)]
    new: NewArgs,
}

#[derive(Debug, Subcommand)]
enum InviteVerb {
    /// Shows the invites and what they are good for; never their secrets
    #[command(after_help = "Example: routerctl invite list")]
    List,
    /// Withdraws an invite; whoever uses it from now on hears `invite-revoked`
    #[command(after_help = "Example: routerctl invite revoke 0011223344556677")]
    Revoke {
        /// The invite's id, see `routerctl invite list`
        id: String,
    },
}

#[derive(Debug, Args)]
struct NewArgs {
    /// The site that it admits; the leaf's name
    #[arg(long, required_unless_present = "replace")]
    site: Option<String>,
    /// The site whose machine is replaced: the new one takes over name, address and claims, the old one's keys end
    #[arg(long, value_name = "SITE", conflicts_with_all = ["site", "uses"])]
    replace: Option<String>,
    /// Prefix of the underlay from which it may be used; may be repeated [default: any]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = text::parse_prefix)]
    source: Vec<IpNet>,
    /// Each machine waits until it is approved: `routerctl leaves pending`
    #[arg(long)]
    approve: bool,
    /// Prints user-data for cloud-init instead of the bare string
    #[arg(long, conflicts_with = "qr")]
    cloud_init: bool,
    /// Prints a QR code, and the string below it
    #[arg(long)]
    qr: bool,
    /// Prefix whose addresses the leaf may claim; may be repeated [default: the policy's]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = text::parse_prefix4)]
    permit: Vec<Ipv4Net>,
    /// How many addresses the leaf may claim [default: the policy's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_claims: Option<u32>,
    /// How long the invite holds, for example 30m, 1h, 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = text::parse_seconds)]
    expires: u64,
    /// How many leaves may join by it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// Runs the verb.
pub async fn run(context: &Context, args: InviteArgs) -> Result<Answer, Failure> {
    let client = context.only(Node::Hub)?;
    match args.verb {
        Some(InviteVerb::List) => {
            let invites: Vec<InviteView> = client.get("/v1/invites").await?;
            return context.answer(&invites, |invites| table(invites));
        }
        Some(InviteVerb::Revoke { id }) => {
            let done: Done = client.post(&format!("/v1/invites/{}/revoke", escape(&id)), &()).await?;
            return context.answer(&done, |done| text::plain(&done.detail));
        }
        None => {}
    }
    let replace = args.new.replace.is_some();
    let site =
        args.new.replace.or(args.new.site).ok_or_else(|| {
            Failure::usage("no site is named").fix("name it: `routerctl invite --site aws`")
        })?;
    let new = NewInvite {
        site,
        permitted: args.new.permit.iter().map(|prefix| prefix.trunc().to_string()).collect(),
        max_claims: args.new.max_claims,
        expires_secs: args.new.expires,
        uses: args.new.uses,
        sources: args.new.source.iter().map(|prefix| prefix.trunc().to_string()).collect(),
        approve: args.new.approve,
        replace,
    };
    let answer: InviteAnswer = client.post("/v1/invites", &new).await?;
    if args.new.qr && context.format == Format::Table {
        let too_long = |e| Failure::bad("invite-invalid", e).fix("leave --qr out, or name fewer prefixes");
        let code = crate::qr::code(&answer.invite).map_err(too_long)?;
        return context.answer(&answer, |answer| format!("{code}\n{}", answer.invite));
    }
    let cloud_init = args.new.cloud_init;
    context.answer(&answer, |answer| if cloud_init { user_data(answer) } else { answer.invite.clone() })
}

/// What cloud-init does at a machine's first boot in order to join. The invite is in a file of root's alone, and on
/// nobody's command line.
fn user_data(answer: &InviteAnswer) -> String {
    let lines = [
        "#cloud-config",
        &format!(
            "# Joins this machine to the fabric as {}. Its image must hold fabric-leaf and routerctl.",
            answer.site
        ),
        "write_files:",
        "  - path: /etc/fabric/invite",
        "    owner: root:root",
        "    permissions: '0600'",
        &format!("    content: {}", answer.invite),
        "runcmd:",
        "  - [sh, -c, 'routerctl enroll - < /etc/fabric/invite && rm -f /etc/fabric/invite']",
    ];
    lines.join("\n")
}

fn table(invites: &[InviteView]) -> String {
    let head = ["ID", "SITE", "STATUS", "USED", "CLAIMS", "EXPIRES IN", "PERMITTED", "SOURCES", "RULES"];
    let mut table = Table::new(head, "No invites; make one: routerctl invite --site NAME");
    for invite in invites {
        table.row([
            invite.id.to_string(),
            invite.site.to_string(),
            format!("{:?}", invite.status),
            format!("{}/{}", invite.used, invite.uses),
            invite.max_claims.to_string(),
            text::seconds(invite.expires_in_secs),
            text::list(&invite.permitted),
            if invite.sources.is_empty() { "any".into() } else { text::list(&invite.sources) },
            match (invite.approve, invite.replace) {
                (true, true) => "approve, replace".into(),
                (true, false) => "approve".into(),
                (false, true) => "replace".into(),
                (false, false) => "-".into(),
            },
        ]);
    }
    table.to_string()
}
