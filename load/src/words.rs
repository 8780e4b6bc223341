//! How reports write numbers and text from outside.

/// `1 image`, `2 images`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Milliseconds with three figures that matter, in seconds where these are many.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// What strangers wrote, such as an image's name, on one line and without orders to a terminal.
pub fn plain(text: &str) -> String {
    let is_harmless =
        |c: &char| !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if is_harmless(&c) { c } else { '\u{fffd}' }).collect()
}

/// Text from outside, harmless in HTML and in its attributes.
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
    fn a_name_cannot_give_orders_to_a_terminal_or_begin_a_line() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d 🐕"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d 🐕");
    }
}
