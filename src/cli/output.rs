//! The only place that writes to the standard streams.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

/// Writes a line of data to standard output. Names out of models and labels are shown, not obeyed by a terminal.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", shown(text))
}

/// Writes lines of data, each with its end, to standard output.
pub fn text(lines: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(shown(&String::from_utf8_lossy(lines)).as_bytes())
}

/// Writes one JSON document to standard output.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    // Within its strings serde_json leaves the rarer ones as they are.
    let spelled = |c: char| if order(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    let text = if text.contains(order) { text.chars().map(spelled).collect() } else { text };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Writes an error to standard error; there is nowhere to report a failure of that.
pub fn error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", shown(text));
}

/// What a terminal takes for an order.
fn order(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// The text with its control characters spelled out: a terminal would take them for orders.
fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(order) {
        return Cow::Borrowed(text);
    }
    let spelled = text.chars().map(|c| if order(c) { c.escape_default().to_string() } else { c.to_string() });
    Cow::Owned(spelled.collect())
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_name_gives_a_terminal_no_orders() {
        assert_eq!(shown("a duck\t5 µm\n"), "a duck\t5 µm\n");
        assert_eq!(shown("\u{1b}]0;title\u{7}\r\u{9b}2J"), "\\u{1b}]0;title\\u{7}\\r\\u{9b}2J");
    }
}
