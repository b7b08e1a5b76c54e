//! The only place that writes to the standard streams.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a line of data to standard output.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes one JSON document to standard output.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Writes an error to standard error; there is nowhere to report a failure of that.
pub fn error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
