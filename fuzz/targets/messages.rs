//! libFuzzer's way into `bgp/tests/fuzzing/messages.rs`.

#![no_main]

#[path = "../../bgp/tests/fuzzing/mod.rs"]
mod fuzzing;
#[path = "../../bgp/tests/wire/mod.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::messages::run(input));
