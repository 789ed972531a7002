//! Columns that line up.

/// Rows under a heading. Columns of numbers line up at the right.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    right: bool,
}

impl Table {
    /// A title that begins with `>` is one of numbers.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into());
    }

    /// The lines, without the last line's end.
    pub(crate) fn to_text(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let all = || std::iter::once(&titles).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|n| all().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let lines = all().map(|row| {
            let cells = row.iter().zip(&self.columns).zip(&widths);
            let padded = cells.map(
                |((cell, column), width)| {
                    if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                },
            );
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_by_characters() {
        let mut table = Table::new(&["NAME", ">LAG", "SINCE"]);
        table.row(["поиск".to_owned(), "12,345".to_owned(), String::new()]);
        table.row(["a".to_owned(), "7".to_owned(), "now".to_owned()]);
        assert_eq!(table.to_text(), "NAME      LAG  SINCE\nпоиск  12,345\na           7  now");
    }
}
