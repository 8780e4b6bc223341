//! Jobs, replies and reports: what is read is written as it can be read again.
#![no_main]

use eirs_platform::{
    job::{Event, Job, Reply, decode, encode},
    tokens::Tokens,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(job) = decode::<Job>(data) {
        assert_eq!(decode::<Job>(&encode(&job)).expect("it can be read again"), job);
    }
    if let Ok(reply) = decode::<Reply>(data) {
        let again = decode::<Reply>(&encode(&reply)).expect("it can be read again");
        assert_eq!((again.id, again.outcome, again.at), (reply.id, reply.outcome, reply.at));
    }
    if let Ok(event) = decode::<Event>(data) {
        let written = encode(&event);
        assert_eq!(encode(&decode::<Event>(&written).expect("it can be read again")), written);
    }
    let _tokens = Tokens::parse(data);
});
