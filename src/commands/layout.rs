//! How do tables and wrapped text look? Aligned columns without borders, so that `grep` and `cut` work on them.

use anstyle::Style;
use std::fmt::Write;
use std::io::IsTerminal;

pub(crate) const HEAD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();

/// Columns of running text where nobody limits them.
const TEXT_WIDTH: usize = 110;
/// A last column narrower than this is not wrapped.
const NARROWEST: usize = 24;

/// Columns of the terminal; `None` if standard output is not one.
fn terminal_columns() -> Option<usize> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(std::io::stdout())?;
    std::io::stdout().is_terminal().then_some(usize::from(columns))
}

/// Rows of cells under a header.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as the header.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len());
        self.rows.push(cells.into());
    }

    /// The text. On a terminal the last column is wrapped; elsewhere a row is a line.
    pub(crate) fn render(&self, indent: usize) -> String {
        self.render_in(indent, terminal_columns())
    }

    fn render_in(&self, indent: usize, columns: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(visible(cell));
            }
        }
        let mut out = String::new();
        let header: String = self.header.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}  ")).collect();
        let _ = writeln!(out, "{:indent$}{DIM}{}{DIM:#}", "", header.trim_end());
        for row in &self.rows {
            let Some((last, cells)) = row.split_last() else { continue };
            let mut line = " ".repeat(indent);
            for (cell, &width) in cells.iter().zip(&widths) {
                let _ = write!(line, "{cell}{:padding$}  ", "", padding = width.saturating_sub(visible(cell)));
            }
            let room = columns.and_then(|columns| columns.checked_sub(visible(&line) + 1));
            match room {
                Some(room) if room >= NARROWEST => out += &wrap(&line, last, room),
                _ => {
                    let _ = writeln!(out, "{}", (line + last).trim_end());
                }
            }
        }
        out
    }
}

/// How many columns a text with ANSI styles takes.
fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// `label`, indented and padded to `label_width`, and `text` wrapped beside it.
pub(crate) fn labelled(label: &str, label_width: usize, text: &str) -> String {
    beside(&format!("  {label:label_width$}  "), text)
}

/// `text` wrapped beside `head`.
pub(crate) fn beside(head: &str, text: &str) -> String {
    let columns = terminal_columns().unwrap_or(TEXT_WIDTH).min(TEXT_WIDTH);
    wrap(head, text, columns.saturating_sub(head.chars().count()).max(NARROWEST))
}

/// Writes `text` in lines of at most `room` characters (or one word) after `head`; the further lines are indented to its width.
fn wrap(head: &str, text: &str, room: usize) -> String {
    let indent = " ".repeat(visible(head));
    let mut out = String::new();
    let mut line = String::new();
    let mut first = true;
    let mut end = |line: &mut String| {
        let start = if std::mem::take(&mut first) { head } else { &indent };
        let _ = writeln!(out, "{}", format!("{start}{line}").trim_end());
        line.clear();
    };
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            end(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    end(&mut line);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["xyz".into(), "one two three four five six".into()]);
        table.row(["z".into(), String::new()]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_row_is_a_line_where_there_is_no_terminal() {
        assert_eq!(plain(&table().render_in(1, None)), " A    LONG\n xyz  one two three four five six\n z\n");
    }

    #[test]
    fn the_last_column_wraps_on_a_terminal() {
        let text = plain(&table().render_in(0, Some(30)));
        assert_eq!(text, "A    LONG\nxyz  one two three four five\n     six\nz\n");
    }

    #[test]
    fn a_narrow_terminal_wraps_nothing() {
        assert_eq!(plain(&table().render_in(0, Some(20))).lines().count(), 3);
    }

    #[test]
    fn a_word_longer_than_the_room_stands_alone() {
        assert_eq!(wrap("- ", "a bbbbbbbb c", 4), "- a\n  bbbbbbbb\n  c\n");
    }
}
