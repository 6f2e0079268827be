//! Tables as upstream's tools print them: plain columns under a ruled header.

use comfy_table::{CellAlignment, ContentArrangement, Table};

/// Column separator and margins: two spaces between columns, none around.
const PADDING: (u16, u16) = (0, 2);

/// Lays out `rows` under `header`. A header that ends in `>` aligns its column to the right.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    let titles: Vec<&str> = header.iter().map(|h| h.trim_end_matches('>')).collect();
    let widths: Vec<usize> = (0..titles.len())
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .zip(&titles)
        .map(|(cells, title)| cells.max(title.chars().count()))
        .collect();
    table.add_row(titles);
    table.add_row(widths.iter().map(|w| "-".repeat(*w)));
    table.add_rows(rows);
    for (column, title) in table.column_iter_mut().zip(header) {
        column.set_padding(PADDING);
        if title.ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    trim_lines(&table.to_string())
}

/// `name: value` lines with the values in one column.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$} : {value}\n")).collect()
}

/// A count with its noun: `1 file`, `2 files`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// Digits in groups of three: `12,345`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn trim_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_under_a_ruled_header() {
        let rows = vec![vec!["tank".into(), "10.0 GB".into()], vec!["a".into(), "1.00 kB".into()]];
        assert_eq!(table(&["Pool", "Size>"], rows), "Pool     Size\n----  -------\ntank  10.0 GB\na     1.00 kB\n");
    }

    #[test]
    fn counts_read_well() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(12_345, "file"), "12,345 files");
        assert_eq!(pairs(&[("a", "1".into()), ("bcd", "2".into())]), "a   : 1\nbcd : 2\n");
    }
}
