//! The address of a collector for traces.

/// Returns what is wrong with the address of a collector, if anything.
pub fn complaint(endpoint: &str) -> Option<String> {
    let uri: Result<ureq::http::Uri, _> = endpoint.parse();
    let should = "must be the address of a collector, like \"http://127.0.0.1:4318\"";
    match uri {
        Ok(uri)
            if matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some()
                && uri.query().is_none() =>
        {
            None
        }
        _ => Some(format!("is \"{endpoint}\"; {should}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_must_be_an_http_or_https_address() {
        let good = [
            "http://127.0.0.1:4318",
            "http://collector:4318/",
            "http://[::1]:4318/otlp",
            "https://collector",
        ];
        for good in good {
            assert_eq!(complaint(good), None);
        }
        for wrong in ["127.0.0.1:4318", "http://", "https://", "ftp://collector", "https://collector?key=1"] {
            let message = complaint(wrong).unwrap();
            assert!(
                message.contains("must be the address of a collector") && message.contains(wrong),
                "{message}"
            );
        }
    }
}
