//! Policy files: every one is a policy or a list of complaints, each with its line.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match eirs_controller::policy::parse(Path::new("default.toml"), text) {
        Ok(policy) => assert!(!format!("{policy:?}").is_empty()),
        Err(complaints) => {
            assert!(!complaints.is_empty());
            for complaint in complaints {
                assert!(complaint.to_string().starts_with("default.toml"), "{complaint}");
            }
        }
    }
});
