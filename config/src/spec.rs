//! The resources: their keys, defaults and ranges stand here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::bfd::{Bfd, BfdMapping};
use crate::codec::{Codec, Flag, Many, Maybe, Text, Whole, Words};
use crate::kind::Role;
use crate::mrt_dump::{MrtDump, MrtDumpMapping};
use crate::resource::{Fallback, resource};
use crate::value::{AddPathSend, Endpoint, FilePath, GroupName, InterfaceName, RegistryPlace};

const ASN: Whole<u32> = Whole::range(1, u32::MAX as u64);
const HOLD_TIME: Whole<u16> = Whole::secs(3, u16::MAX as u64).or_zero();
const PORT: Whole<u16> = Whole::range(1, u16::MAX as u64);
const IDENTIFIER: Text<Ipv4Addr> =
    Text::checked("an IPv4 address that is not 0.0.0.0", |id: &Ipv4Addr| !id.is_unspecified());
const LISTEN: Text<SocketAddr> = Text::new("an address with its port, such as 192.0.2.1:179");
const PREFIX: Text<IpNet> =
    Text::checked("a prefix without host bits, such as 10.255.0.0/20", |net: &IpNet| *net == net.trunc());
const PREFIX_V4: Text<Ipv4Net> =
    Text::checked("an IPv4 prefix without host bits, such as 10.81.0.0/16", |net: &Ipv4Net| {
        *net == net.trunc()
    });
const UNICAST: Text<IpAddr> = Text::checked("a unicast IP address", |ip: &IpAddr| {
    !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
});
const CLIENT: Text<Ipv4Addr> = Text::checked("the unicast IPv4 address of a client", |ip: &Ipv4Addr| {
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() || ip.is_link_local())
});
const OVERLAY: Text<Ipv4Net> = Text::checked(
    "an IPv4 prefix of /8 to /23 without host bits, outside 127.0.0.0/8, 169.254.0.0/16, 100.64.0.0/10 and 224.0.0.0/3",
    overlay_usable,
);
const ENDPOINT: Text<Endpoint> = Text::new("address:port or host.name:port");
const INTERFACE: Text<InterfaceName> = Text::new("an interface name of 1 to 15 characters");

const REGISTRY: Text<RegistryPlace> =
    Text::new("sqlite, or postgres://user@host/database without a password");
const GROUP: Text<GroupName> = Text::new("the name of a group of this host");
const FILE: Text<FilePath> = Text::new("the absolute path of a file");
const ADD_PATH_SEND: Text<AddPathSend> = Text::new("`none`, `all`, or `best-2` to `best-254`");
const PERCENT: Whole<u8> = Whole::range(1, 100);
const HOPS: Whole<u8> = Whole::range(1, 254);

/// 169.254.0.0/16 and 100.64.0.0/10 are taken by cloud providers; a /23 holds the foyer and one /24 of nodes.
fn overlay_usable(net: &Ipv4Net) -> bool {
    let taken = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "224.0.0.0/3"];
    let overlaps = |other: &Ipv4Net| net.contains(other) || other.contains(net);
    *net == net.trunc()
        && (8..=23).contains(&net.prefix_len())
        && !taken.iter().filter_map(|taken| taken.parse().ok()).any(|taken| overlaps(&taken))
}

/// Who may connect as a dynamic peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAdmission {
    /// Enrolled leaves from their own overlay address, each held to its claims.
    Enrolled,
    /// Anyone inside the source prefixes; every host route is accepted.
    Open,
}

/// How a leaf makes its site's network hand over packets for remote clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Not at all: the site's own routing sends them to the leaf.
    None,
    /// The leaf answers ARP for remote clients on the capture interface.
    ProxyArp,
}

/// Where WireGuard and ipip run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataplaneChoice {
    /// In the kernel if it has both, else in the process.
    Auto,
    /// In the kernel; starting fails where it has not got both.
    Kernel,
    /// In the daemon's process over a TUN device.
    InProcess,
}

const ADMISSIONS: Words<PeerAdmission> =
    Words(&[(PeerAdmission::Enrolled, "enrolled"), (PeerAdmission::Open, "open")]);
const CAPTURES: Words<Capture> = Words(&[(Capture::None, "none"), (Capture::ProxyArp, "proxy-arp")]);
const DATAPLANES: Words<DataplaneChoice> = Words(&[
    (DataplaneChoice::Auto, "auto"),
    (DataplaneChoice::Kernel, "kernel"),
    (DataplaneChoice::InProcess, "in-process"),
]);

resource! {
    /// The BGP speaker of a node. On a hub it reflects (RFC 4456); on a leaf it dials the hub.
    BgpRouter {
        /// Autonomous system number of the fabric. On a hub that joined another, the fabric's unless it stands here.
        asn: u32 = "asn", ASN, Fallback::Fabric(|| 64512, |fabric| fabric.asn);
        /// BGP identifier (RFC 4271 section 4.2).
        router_id: Option<Ipv4Addr> = "routerID", Maybe(IDENTIFIER), Fallback::Derived(
            "the node's overlay address; must be given on a hub without SAMEnrollmentPolicy",
            |c| match (c.overlay, c.role) {
                (None, Role::Hub) => None,
                (overlay, _) => Some(overlay.map(|overlay| c.hub_address(overlay))),
            },
        );
        /// Cluster identifier of the reflector (RFC 4456 section 8).
        cluster_id: Option<Ipv4Addr> = "clusterID", Maybe(IDENTIFIER),
            Fallback::Derived("the `routerID`", |_| Some(None));
        /// Addresses and TCP ports on which a hub accepts BGP connections.
        listen: Vec<SocketAddr> = "listen", Many(1, LISTEN), Fallback::Derived(
            "port 179 on the hub's overlay address; without SAMEnrollmentPolicy on every IPv4 address; a leaf dials only",
            |c| Some(match (c.role, c.overlay) {
                (Role::Leaf, _) => Vec::new(),
                (Role::Hub, overlay) => {
                    let own = overlay.map_or(Ipv4Addr::UNSPECIFIED, |overlay| c.hub_address(overlay));
                    vec![SocketAddr::from((own, 179))]
                }
            }),
        );
        /// Offered hold time in seconds; 0 turns keepalives off (RFC 4271 section 4.2).
        hold_time_secs: u16 = "holdTimeSecs", HOLD_TIME, Fallback::Value(|| 9);
        /// A group of this host whose members may administer the node beside root; it must be there when the daemon starts.
        admin_group: Option<GroupName> = "adminGroup", Maybe(GROUP),
            Fallback::Derived("none: root alone", |_| Some(None));
        /// Address and TCP port at which this node answers Prometheus (`GET /metrics`), and nothing else; it must be there when the daemon starts.
        metrics_listen: Option<SocketAddr> = "metricsListen", Maybe(LISTEN),
            Fallback::Derived("none: no metrics are served", |_| Some(None));
        /// Whether `metricsListen` may be an address that the Internet can reach; the page has no password.
        metrics_public: bool = "metricsPublic", Flag, Fallback::Value(|| false);
        /// Addresses and TCP ports of BMP stations (RFC 7854) that are told of sessions and of all received routes.
        bmp_stations: Vec<SocketAddr> = "bmpStations", Many(0, LISTEN), Fallback::Value(Vec::new);
        /// Seconds between the Statistics Reports to BMP stations; 0 turns them off.
        bmp_statistics_secs: u32 = "bmpStatisticsSecs", Whole::<u32>::secs(1, 86_400).or_zero(), Fallback::Value(|| 60);
        /// How many equal paths of a route a leaf uses at once, each for its share of the flows; only paths from a BGPPeer count, for a claim has one owner.
        maximum_paths: u8 = "maximumPaths", Whole::<u8>::range(1, 8), Fallback::Value(|| 1);
        /// The whole table as MRT (RFC 6396), written to a file every so often; older dumps are numbered from `.1` on.
        mrt_dump: Option<MrtDump> = "mrtDump", Maybe(MrtDumpMapping),
            Fallback::Derived("none: no dumps are written", |_| Some(None));
        /// Restart time in seconds offered with graceful restart (RFC 4724); 0 turns it off.
        graceful_restart_secs: u16 = "gracefulRestartSecs", Whole::<u16>::secs(0, 4095), Fallback::Value(|| 120);
        /// Long-lived graceful restart (RFC 9494), in seconds: how long neighbours are asked to keep our routes after the restart time, and the longest that theirs are kept, marked and as the last choice; 0 turns it off.
        long_lived_stale_secs: u32 = "longLivedStaleSecs", Whole::<u32>::secs(0, 16_777_215), Fallback::Value(|| 0);
        /// How long a restarted hub waits at most, in seconds, for the neighbours that it had before until it says that its table is complete (selection deferral, RFC 4724 section 4.1).
        selection_deferral_secs: u32 = "selectionDeferralSecs", Whole::<u32>::secs(1, 3600), Fallback::Value(|| 30);
    }
}

/// A resource of BGP neighbours: its own keys, then those that every neighbour has. `bfd` and `key` are the words on two
/// of them that depend on how many neighbours there are.
macro_rules! neighbors {
    (
        bfd: $bfd:literal,
        key: $key:literal,
        $(#[doc = $doc:literal])+
        $struct:ident { $($own:tt)+ }
    ) => { resource! {
        $(#[doc = $doc])+
        $struct {
            $($own)+
            #[doc = $bfd]
            bfd: Bfd = "bfd", BfdMapping, Fallback::Value(|| Bfd::OFF);
            #[doc = $key]
            tcp_md5_key_file: Option<FilePath> = "tcpMD5KeyFile", Maybe(FILE),
                Fallback::Derived("none: connections are not signed", |_| Some(None));
            /// How many hops away the neighbour may be: packets from further off are dropped (GTSM, RFC 5082). The neighbour must send with TTL 255.
            max_hops: Option<u8> = "maxHops", Maybe(HOPS),
                Fallback::Derived("none: any distance", |_| Some(None));
            /// How many paths of a prefix are sent, each with its path identifier, to a neighbour that asks for them (ADD-PATH, RFC 7911).
            add_path_send: AddPathSend = "addPathSend", ADD_PATH_SEND, Fallback::Value(|| AddPathSend::None);
            /// Whether several paths of a prefix are taken from a neighbour that offers them (ADD-PATH, RFC 7911).
            add_path_receive: bool = "addPathReceive", Flag, Fallback::Value(|| false);
            /// How many accepted paths of one family a neighbour may hold; one more ends its session (RFC 4486).
            max_prefixes: Option<u32> = "maxPrefixes", Maybe(Whole::<u32>::range(1, 10_000_000)),
                Fallback::Derived("none beyond what an admission says", |_| Some(None));
            /// At which share of its prefix limit, `maxPrefixes` or its admission's, a neighbour is warned of in the log, in percent.
            prefix_warning_percent: u8 = "prefixWarningPercent", PERCENT, Fallback::Value(|| 75);
        }
    } };
}

neighbors! {
    bfd: " BFD with each of these neighbours while its BGP session is Established (RFC 5880).",
    key: " File (mode 0600) with the TCP-MD5 key (RFC 2385), 1 to 80 octets, that all neighbours of this range sign with; a line end after it is not part of the key.",
    /// BGP neighbours that no configuration names: accepted by source prefix, bound to their enrollment.
    BgpDynamicPeer {
        /// Where neighbours may connect from.
        source_prefixes: Vec<IpNet> = "sourcePrefixes", Many(1, PREFIX), Fallback::Derived(
            "the `overlayPrefix` of the SAMEnrollmentPolicy",
            |c| c.overlay.map(|overlay| vec![IpNet::V4(overlay)]),
        );
        /// Autonomous system number of the neighbours; must be that of the BGPRouter, external BGP is not spoken.
        remote_asn: u32 = "remoteASN", ASN, Fallback::Derived("the `asn` of the BGPRouter", |c| Some(c.asn));
        /// Whether the neighbours are clients of this reflector (RFC 4456 section 6).
        route_reflector_client: bool = "routeReflectorClient", Flag, Fallback::Value(|| true);
        /// How many neighbours may be connected at once; one more is refused and counted.
        limit: u32 = "limit", Whole::<u32>::range(1, 100_000), Fallback::Value(|| 1000);
        /// Who is accepted.
        admission: PeerAdmission = "admission", ADMISSIONS, Fallback::Value(|| PeerAdmission::Enrolled);
    }
}

neighbors! {
    bfd: " BFD with this neighbour while its BGP session is Established (RFC 5880).",
    key: " File (mode 0600) with the TCP-MD5 key (RFC 2385), 1 to 80 octets, that both ends sign with; a line end after it is not part of the key.",
    /// A BGP neighbour that this node dials, such as a router of another make.
    BgpPeer {
        /// The neighbour's address.
        address: IpAddr = "address", UNICAST, Fallback::Required;
        /// The neighbour's TCP port.
        port: u16 = "port", PORT, Fallback::Value(|| 179);
        /// The neighbour's autonomous system number; must be that of the BGPRouter, external BGP is not spoken.
        remote_asn: u32 = "remoteASN", ASN, Fallback::Derived("the `asn` of the BGPRouter", |c| Some(c.asn));
        /// Whether the neighbour is a client of this reflector (RFC 4456 section 6).
        route_reflector_client: bool = "routeReflectorClient", Flag, Fallback::Value(|| false);
        /// The address that this node dials from.
        local_address: Option<IpAddr> = "localAddress", Maybe(UNICAST),
            Fallback::Derived("what the kernel chooses", |_| Some(None));
        /// Hold time in seconds offered to this neighbour.
        hold_time_secs: u16 = "holdTimeSecs", HOLD_TIME,
            Fallback::Derived("the `holdTimeSecs` of the BGPRouter", |c| Some(c.hold_time_secs));
    }
}

resource! {
    /// The WireGuard interface of a node.
    WireGuardInterface {
        /// UDP port on which WireGuard is reached.
        listen_port: u16 = "listenPort", PORT, Fallback::Value(|| 51820);
    }
}

resource! {
    /// What a hub admits, and on what terms. A file with this resource alone is a whole hub.
    SamEnrollmentPolicy {
        /// The prefix of the nodes' own addresses. The first host is the hub; the last /24 is the foyer. On a hub that joined another, the fabric's unless it stands here.
        overlay_prefix: Ipv4Net = "overlayPrefix", OVERLAY,
            Fallback::Fabric(|| Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 20), |fabric| fabric.overlay_prefix);
        /// Where leaves reach the hub's WireGuard, by address or by a name that they look up; written into each invite as it stands here, the first one first.
        endpoints: Vec<Endpoint> = "endpoints", Many(1, ENDPOINT), Fallback::Required;
        /// How long an admission holds unless it is renewed, in seconds; at least twice `failStaticSecs`.
        lease_secs: u64 = "leaseSecs", Whole::<u64>::secs(10, 31_536_000), Fallback::Value(|| 86_400);
        /// How long a leaf keeps tunnels and routes while the hub is silent, in seconds.
        fail_static_secs: u64 = "failStaticSecs", Whole::<u64>::secs(5, 15_768_000), Fallback::Value(|| 43_200);
        /// After how many seconds a leaf is forgotten whose lease ran out, that left or was revoked; 0 = never.
        forget_leaves_secs: u64 = "forgetLeavesSecs", Whole::<u64>::secs(0, 315_360_000), Fallback::Value(|| 0);
        /// Where the registry is: `sqlite` in the hub's state directory, or `postgres://user@host/database` with
        /// libpq's `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `port`, `options`; all hubs share that one.
        registry: RegistryPlace = "registry", REGISTRY, Fallback::Value(|| RegistryPlace::Sqlite);
        /// A file of mode 0600 with the password for the registry's database.
        registry_password_file: Option<FilePath> = "registryPasswordFile", Maybe(FILE),
            Fallback::Derived("none; `PGPASSFILE` is used where the environment has it", |_| Some(None));
        /// Address and TCP port at which leaves on a private underlay enroll over TLS, beside the foyer; invites carry it and pin its key. It must be there when the daemon starts.
        http_listen: Option<SocketAddr> = "httpListen", Maybe(LISTEN),
            Fallback::Derived("none: leaves enroll through WireGuard, and no TCP port is open", |_| Some(None));
        /// Whether `httpListen` may be an address that the Internet can reach; WireGuard needs no TCP port there.
        http_public: bool = "httpPublic", Flag, Fallback::Value(|| false);
        /// How many `/32`s a leaf may claim, unless its invite says otherwise.
        max_claims: u32 = "maxClaims", Whole::<u32>::range(1, 65_536), Fallback::Value(|| 64);
        /// Where claims may lie, unless the invite says otherwise; the overlay prefix never counts.
        permitted_prefixes: Vec<Ipv4Net> = "permittedPrefixes", Many(1, PREFIX_V4), Fallback::Value(|| {
            vec![
                Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
                Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
                Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
            ]
        });
    }
}

resource! {
    /// A leaf's membership in the fabric. A file with this resource alone is a whole leaf.
    SamEnrollmentClient {
        /// Addresses of this site's clients that are claimed at start, for as long as they stand here.
        clients: Vec<Ipv4Addr> = "clients", Many(0, CLIENT), Fallback::Value(Vec::new);
        /// The interface toward the site's clients on which `capture` works.
        capture_interface: Option<InterfaceName> = "captureInterface", Maybe(INTERFACE),
            Fallback::Derived("none; must be given with `capture: proxy-arp`", |_| Some(None));
        /// How the site's network is made to hand packets for remote clients to this leaf.
        capture: Capture = "capture", CAPTURES, Fallback::Value(|| Capture::None);
        /// Where WireGuard and ipip run: `auto` takes the kernel if it has both, else the daemon's process.
        dataplane: DataplaneChoice = "dataplane", DATAPLANES, Fallback::Value(|| DataplaneChoice::Auto);
        /// BFD with the hubs through their tunnels while BGP is Established (RFC 5880).
        bfd: Bfd = "bfd", BfdMapping, Fallback::Value(|| Bfd::OFF);
    }
}

resource! {
    /// The nodes that share events, named by `metadata.name`, and how long what they observed holds.
    EventGroup {
        /// Life of an observation that does not say its own, in seconds.
        observation_secs: u64 = "observationSecs", Whole::<u64>::secs(1, 86_400), Fallback::Value(|| 300);
        /// How long a claim outlives its last observation, in seconds.
        grace_secs: u64 = "graceSecs", Whole::<u64>::secs(0, 604_800), Fallback::Value(|| 600);
        /// How long a client must then still be gone before its claim is withdrawn, in seconds.
        debounce_secs: u64 = "debounceSecs", Whole::<u64>::secs(0, 86_400), Fallback::Value(|| 60);
        /// Age at which events are pruned, in seconds.
        retention_secs: u64 = "retentionSecs", Whole::<u64>::secs(60, 31_536_000), Fallback::Value(|| 604_800);
        /// How many events are kept; the oldest are pruned first.
        retention_events: u64 = "retentionEvents", Whole::<u64>::range(100, 10_000_000), Fallback::Value(|| 100_000);
    }
}
