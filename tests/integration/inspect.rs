//! What `inspect` reads back from runs whose story is planted.

use super::planted_run::Plan;
use super::support::succeed;
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

#[test]
fn planted_facts_are_read_back_from_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("prune");
    Plan::small().write(&run);
    let history = json(&["inspect", "run", &run.display().to_string(), "--json"]);
    println!("{history:#}");
}
