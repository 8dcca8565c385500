//! The fabric's one door to packets: WireGuard, ipip, routes, captures and filters.
//!
//! A daemon says what it wishes ([`state::Wished`]); this crate sees what is there, plans the difference
//! ([`plan::plan`], pure) and applies it, again and again, so that a repair needs no edge. The wish is the same
//! whether the kernel has WireGuard and ipip or this process has to carry the packets itself over a TUN device.
//!
//! Reading order: [`state`] (what can be wished), [`plan`] (how a difference becomes changes), [`mtu`] and
//! [`route`] (the two rules that keep large packets and the underlay alive), [`tunnel`] (ipip on the wire), [`reach`] (which peer carries what),
//! [`relay`] (how hubs pass packets on to each other), [`nft`] (our own table), [`preflight`] and [`firewall`] (what the host must be asked), [`view`] (what is reported), [`walk`] (what differs between two maps); then
//! [`io`], which alone touches sockets, netlink and the clock.

pub mod capture;
pub mod firewall;
pub mod io;
pub mod mtu;
pub mod nft;
pub mod plan;
pub mod preflight;
pub mod reach;
pub mod relay;
pub mod route;
pub mod state;
pub mod tunnel;
pub mod view;
pub mod walk;
pub mod wireguard;
