//! Text that others have made, as the log shows it: cut to a length, on one line.

use std::fmt::{self, Write};

/// What names are for: longer ones are cut.
const CHARS_MAX: usize = 256;

/// See [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    text: &'a str,
    is_quoted: bool,
}

/// The text, cut after 256 characters, and with nothing in it that could pass for a line or a colour of the log.
pub fn shown(text: &str) -> Shown<'_> {
    Shown { text, is_quoted: false }
}

/// The same, between quotes.
pub fn quoted(text: &str) -> Shown<'_> {
    Shown { text, is_quoted: true }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_quoted {
            f.write_char('"')?;
        }
        let mut chars = self.text.chars();
        for char in chars.by_ref().take(CHARS_MAX) {
            if char.is_control() {
                write!(f, "{}", char.escape_default())?;
            } else {
                f.write_char(char)?;
            }
        }
        if self.is_quoted {
            f.write_char('"')?;
        }
        match chars.as_str().len() {
            0 => Ok(()),
            more => write!(f, "... ({more} bytes more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(shown("orders").to_string(), "orders");
        assert_eq!(quoted("a\nb\u{1b}[31m").to_string(), "\"a\\nb\\u{1b}[31m\"");
        let long = shown(&"é".repeat(300)).to_string();
        assert_eq!(long, format!("{}... (88 bytes more)", "é".repeat(256)));
    }
}
