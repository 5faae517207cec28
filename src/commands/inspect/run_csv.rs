//! The steps of a run as CSV: a row per step, a column per quantity; of domains and masks one per name, such as
//! `domains.web.loss` and `modules.hidden.violation`. The names are those of `inspect run --json`.

use crate::cli::csv::Csv;
use crate::inspect::Steps;
use serde_json::Value;

/// One row per step.
pub(super) fn run_csv(steps: &Steps) -> Csv {
    let columns = columns(&serde_json::to_value(steps).unwrap_or_default());
    let mut csv = Csv::default();
    csv.row(columns.iter().map(|(name, _)| name));
    for index in 0..steps.len() {
        csv.row(columns.iter().map(|(_, values)| cell(values.get(index))));
    }
    csv
}

/// Every list of numbers in the steps with its name, groups after the plain ones.
fn columns(steps: &Value) -> Vec<(String, Vec<Value>)> {
    let (mut plain, mut grouped) = (Vec::new(), Vec::new());
    for (name, value) in steps.as_object().into_iter().flatten() {
        let items = value.as_array().cloned().unwrap_or_default();
        match name.as_str() {
            "domains" | "modules" => grouped.extend(items.iter().flat_map(|item| of_group(name, item))),
            _ => plain.push((name.clone(), items)),
        }
    }
    plain.extend(grouped);
    plain
}

/// The columns of one domain or mask.
fn of_group(group: &str, item: &Value) -> Vec<(String, Vec<Value>)> {
    let name = item["domain"].as_str().or(item["module"].as_str()).unwrap_or_default();
    let fields = item.as_object().into_iter().flatten();
    fields.filter_map(|(key, value)| Some((format!("{group}.{name}.{key}"), value.as_array()?.clone()))).collect()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // 40960 and not 40960.0: a float prints as its shortest form.
        Some(Value::Number(number)) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        Some(other) => other.to_string(),
    }
}
