//! Columns of text, as Kafka's tools align them.

use std::io::{self, Write};

/// The width of a column: at least `min`, else that of its longest value.
pub(crate) fn width_of<'a>(min: usize, values: impl Iterator<Item = &'a str>) -> usize {
    values.map(|value| value.chars().count()).max().unwrap_or(0).max(min)
}

/// Prints columns padded on the right and one blank apart; cells beyond the widths are printed as they are.
pub(crate) fn print_rows(rows: &[Vec<String>], widths: &[usize], out: &mut dyn Write) -> io::Result<()> {
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let gap = if index > 0 { " " } else { "" };
            match widths.get(index) {
                Some(width) => write!(out, "{gap}{cell:width$}")?,
                None => write!(out, "{gap}{cell}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
