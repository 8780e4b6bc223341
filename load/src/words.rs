//! Formats numbers and foreign text for reports.

/// Formats a count, as in `1 image`, `2 images`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Formats milliseconds with three significant digits, or long times in seconds.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Puts foreign text, such as the name of an image, on one line without control characters.
pub fn plain(text: &str) -> String {
    let is_harmless =
        |c: &char| !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if is_harmless(&c) { c } else { '\u{fffd}' }).collect()
}

/// Escapes text for HTML and its attributes.
pub fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_figures() {
        let shown = [0.5, 12.34, 123.4, 1234.0, 61_000.0].map(milliseconds);
        assert_eq!(shown, ["0.50 ms", "12.3 ms", "123 ms", "1234 ms", "61.0 s"]);
    }

    #[test]
    fn foreign_text_has_no_control_characters_or_line_breaks() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d 🐕"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d 🐕");
    }
}
