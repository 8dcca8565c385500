//! libFuzzer's way into `bgp/tests/fuzzing/speaker.rs`.

#![no_main]

#[path = "../../bgp/tests/fuzzing/mod.rs"]
mod fuzzing;
#[path = "../../bgp/tests/wire/mod.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzing::speaker::run(input));
