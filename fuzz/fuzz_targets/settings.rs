//! Settings files and variables: every one is settings or a list of complaints.
#![no_main]

use std::{cell::RefCell, fs, path::PathBuf};

use eirs_platform::settings::Layers;

thread_local! {
    static FILE: RefCell<PathBuf> =
        RefCell::new(std::env::temp_dir().join(format!("eirs-fuzz-{}.toml", std::process::id())));
}

libfuzzer_sys::fuzz_target!(|data: (&str, &str)| {
    let (text, value) = data;
    FILE.with_borrow(|file| {
        fs::write(file, text).expect("the temporary folder takes files");
        let names = [
            "EIRS_WEB__LISTEN",
            "EIRS_WEB__TRUSTED_PROXIES",
            "EIRS_QUEUE__VISIBILITY",
            "EIRS_WEB__MAX_IMAGE",
        ];
        let name = names[text.len() % names.len()];
        for environment in [&[][..], &[(name, value)]] {
            if let Err(complaints) = Layers::of(Some(file), environment).load() {
                assert!(!complaints.to_string().is_empty());
            }
        }
    });
});
