//! The body of an upload as it is: cut into pieces it is the image that it is as a whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eirs_web::fuzzing::bare(data));
