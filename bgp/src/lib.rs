//! BGP-4 for reflecting routes: a route reflector, and the leaf that is its client.
//!
//! Everything that decides is pure: it takes octets and the time and returns octets and a deadline. Only [`io`]
//! knows sockets, the clock and the thread that owns it all. A tour, in reading order:
//!
//! 1. [`types`], [`settings`], [`policy`], [`view`], [`routes`]: the words; what the speaker is told and what it
//!    shows.
//! 2. [`message`], [`malformed`], [`attributes`]: the wire (RFC 4271, 4760, 6793, 2918, 7313, 7606, 8654, 9003). The
//!    codec crate `rustbgpd-wire` is behind the first.
//! 3. [`session`]: the machine of one connection; [`peer`]: the neighbour over all of them (RFC 4724, 8538).
//! 4. [`store`], [`rib`], [`best_path`]: attribute sets held once, the Adj-RIBs-In, the decision.
//! 5. [`reflect`], [`egress`]: who gets what (RFC 4456), encoded once into a log that all sessions read.
//! 6. [`speaker`]: all of that together; [`io`]: the same with sockets.
//! 7. [`explain`], [`rejections`]: for people who ask why; [`bmp`], [`mrt`]: for stations and archives.
//!
//! Only internal peers with four-octet AS numbers are served: another AS is refused with 2/2, a peer without
//! RFC 6793 with 2/7. Absent so far: LLGR.

pub mod attributes;
pub mod best_path;
pub mod bmp;
pub mod egress;
pub mod explain;
pub mod io;
pub mod malformed;
pub mod message;
pub mod mrt;
pub mod peer;
pub mod policy;
pub mod reflect;
pub mod rejections;
pub mod rib;
pub mod routes;
pub mod session;
pub mod settings;
pub mod speaker;
pub mod store;
pub mod types;
pub mod view;
