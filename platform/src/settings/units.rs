//! Values with units, as written in settings: `"90s"`, `"2m 30s"`.

/// A [`std::time::Duration`] written as `"90s"`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `1m 30s`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads `90s`; refuses a bare number, which has no unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map_err(D::Error::custom)
    }

    /// Reads `90s`, `250ms`, `2h`, and `0`.
    pub fn parse(text: &str) -> Result<Duration, String> {
        if text.trim() == "0" {
            return Ok(Duration::ZERO);
        }
        humantime::parse_duration(text.trim()).map_err(|_| {
            format!(
                "`{text}` is not a duration; write a number and a unit, like \"90s\", \"250ms\" or \"2h\""
            )
        })
    }
}

/// An optional [`std::time::Duration`], written as `"24h"` or null.
pub mod optional_duration {
    use std::time::Duration;

    use serde::Serializer;

    /// Writes `24h`, or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }
}
