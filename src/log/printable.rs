//! Text that a terminal shows and does not obey.

use std::fmt;

/// What comes from clients and children, for a terminal that must not obey it.
pub(crate) struct Printable<'a> {
    pub(crate) text: &'a str,
    /// What stands for a line break.
    pub(crate) line_break: &'a str,
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_special = |c: char| c.is_control() && c != '\t';
        for piece in self.text.split_inclusive(is_special) {
            let last = piece.chars().next_back().filter(|&c| is_special(c));
            f.write_str(&piece[..piece.len() - last.map_or(0, char::len_utf8)])?;
            match last {
                Some('\n') => f.write_str(self.line_break)?,
                Some(control) => write!(f, "{}", control.escape_default())?,
                None => {}
            }
        }
        Ok(())
    }
}
