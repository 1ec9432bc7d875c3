//! Text from outside on its way into a log line or onto a terminal (S-60, S-62).

use std::fmt;

/// Shows foreign text on one line: controls and direction marks escaped, cut at 256 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

/// Bytes of foreign text that are shown before it is cut.
const LIMIT: usize = 256;

/// True for characters that print nothing but change how a line is read: direction marks, joiners, line separators.
#[must_use]
pub fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::fmt::Write;

        let mut written = 0;
        for c in self.0.chars() {
            if written >= LIMIT {
                return f.write_char('…');
            }
            written += c.len_utf8();
            if c.is_control() || is_format_control(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_do_not_reach_the_terminal() {
        assert_eq!(Escaped("a\x1b[31m\nb\u{202e}").to_string(), "a\\u{1b}[31m\\nb\\u{202e}");
        assert_eq!(Escaped("Büro").to_string(), "Büro");
        assert!(Escaped(&"x".repeat(1000)).to_string().len() < 270);
    }
}
