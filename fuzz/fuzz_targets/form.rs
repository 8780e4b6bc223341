//! The body of an upload as a form: cut into pieces it holds what it holds as a whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eirs_web::fuzzing::form(data));
