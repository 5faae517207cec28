//! What every figure has besides its drawing: where the drawing goes, its title, its numbers as a table.

/// Where a drawing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Into the page, which has title, legend and colours of its own.
    Page,
    /// Into a file that stands alone.
    File,
}

/// The numbers of a figure in words: for those who do not see it, and for copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataTable {
    /// Column names.
    pub header: Vec<String>,
    /// Cells, as many per row as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl DataTable {
    /// The same without columns that tell nothing: whose cells are all empty, or `–`. The first stays.
    pub fn without_empty_columns(self) -> DataTable {
        let told =
            |row: &Vec<String>, column: usize| row.get(column).is_some_and(|cell| !matches!(cell.as_str(), "" | "–"));
        let kept = |column: &usize| *column == 0 || self.rows.iter().any(|row| told(row, *column));
        let columns: Vec<usize> = (0..self.header.len()).filter(kept).collect();
        let cells = |row: &Vec<String>| columns.iter().filter_map(|column| row.get(*column).cloned()).collect();
        DataTable { header: cells(&self.header), rows: self.rows.iter().map(cells).collect() }
    }
}

/// What every figure has.
#[derive(Clone, Debug)]
pub struct Caption {
    /// Name in addresses, file names and the embedded data: lower case and hyphens.
    pub id: String,
    /// Headline.
    pub title: String,
    /// How to read it, in a sentence or two.
    pub about: String,
}

impl Caption {
    /// A caption.
    pub fn new(id: impl Into<String>, title: impl Into<String>, about: impl Into<String>) -> Caption {
        Caption { id: id.into(), title: title.into(), about: about.into() }
    }
}
