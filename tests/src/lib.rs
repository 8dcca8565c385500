//! Tests of the whole fabric: the shipped programs in a lab, asked as a person asks them.
//!
//! [`harness`] runs named cases against one lab and takes it down at the end; [`points`] are the seven points of the
//! acceptance scenario, each a function that says what is wrong; [`ask`] puts questions to a lab's nodes;
//! [`space`] is a namespace with routers of other makes. The
//! programs are those in `FABRIC_BIN_DIR`, or beside the test in cargo's target folder: build them first.

pub mod ask;
pub mod evidence;
pub mod explain;
pub mod harness;
pub mod points;
pub mod space;

/// What a check found: nothing, or what is wrong.
pub type Check = Result<(), String>;
