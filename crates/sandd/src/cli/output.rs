//! Writing to stdout: a reader that went away is no error.

use std::io::Write;

use crate::escape::Escaped;

/// Writes text as it is.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes text and a line end.
pub(super) fn print_line(text: &str) {
    print(&format!("{text}\n"));
}

/// Writes a document for programs.
pub(super) fn print_json(document: &impl serde::Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(document) {
        print_line(&text);
    }
}

/// Columns as wide as their widest cell, foreign text escaped.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let escape = |row: &Vec<String>| row.iter().map(|cell| Escaped(cell).to_string()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = std::iter::once(head.iter().map(|&cell| cell.to_owned()).collect())
        .chain(rows.iter().map(escape))
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell: &String| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_foreign_text_is_escaped() {
        let text = table(
            &["ID", "HOST"],
            &[vec!["worker-1".into(), "a\x1b[1m".into()], vec!["w".into(), "b".into()]],
        );
        assert_eq!(text, "ID        HOST\nworker-1  a\\u{1b}[1m\nw         b\n");
    }
}
