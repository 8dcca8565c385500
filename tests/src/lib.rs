//! Tests of the whole fabric: the shipped programs in a lab, asked as a person asks them.
//!
//! [`harness`] runs named cases against one lab and takes it down at the end; [`aftermath`] is what it tells of a lab in
//! which a case failed; [`points`] are the seven points of the acceptance scenario, each a function that says what is
//! wrong; [`ask`] puts questions to a lab's nodes; [`hubs`] asks a lab with two hubs; [`flow`] are packets under way while
//! keys change; [`space`] is a namespace with routers of other makes; [`switch`] are namespaces for walks of their own; [`stall`] measures how long the machine stood still meanwhile.
//! The programs are those in `FABRIC_BIN_DIR`, or beside the test in cargo's target folder: build them first.

pub mod aftermath;
pub mod ask;
pub mod evidence;
pub mod explain;
pub mod flow;
pub mod harness;
pub mod hubs;
pub mod points;
pub mod space;
pub mod stall;
pub mod switch;

/// What a check found: nothing, or what is wrong.
pub type Check = Result<(), String>;
