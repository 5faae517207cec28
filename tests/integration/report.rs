//! The report as its readers get it: what is planted in a run is read back from the data inside the page, gaps are said,
//! names cannot become markup, and a page of a 7B stays small.

use super::planted_run::{Plan, snapshot};
use super::support::{shearling, succeed};
use resvg::usvg::roxmltree::Document;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const HOSTILE: &str = "</script><script>window.planted = 1</script><img src=x onerror=alert(1)>\"'&<!--";

/// Writes a planted run and says which model it started from.
fn write_run(plan: &Plan, run: &Path, source: &str) {
    plan.write(run);
    let config = std::fs::read_to_string(run.join("resolved.toml")).unwrap();
    std::fs::write(run.join("resolved.toml"), format!("{config}\n[model]\nsource = {source:?}\n")).unwrap();
}

/// A pruning run and the one that continued it, with the files of `eval` and `bench latency` beside them.
fn write_story(folder: &Path) {
    write_run(&Plan::small(), &folder.join("prune"), "models/source");
    write_run(&Plan::recovery(), &folder.join("recover"), "somewhere/prune/pruned");
    let domain = |loss: f64| json!([{ "domain": "code", "loss": loss, "standard_error": 0.01, "bits_per_byte": 0.5 }]);
    let model =
        |name: &str, loss: f64| json!({ "model": name, "parameters": 1e6, "mean_loss": loss, "domains": domain(loss) });
    let task = json!({ "task": "quiz", "models": [{ "model": "models/source", "acc": 0.5, "acc_stderr": 0.02 }] });
    let eval = json!({ "models": [model("models/source", 1.0), model("recover/model", 1.25)], "tasks": [task] });
    std::fs::write(folder.join("eval.json"), eval.to_string()).unwrap();
    let speed = |name: &str, rate: f64| {
        json!({ "model": name, "prefill": { "tokens_per_second": 9.0 * rate },
                "decode": { "tokens_per_second": rate, "roofline_tokens_per_second": 2.0 * rate } })
    };
    let latency = json!({ "device": "Cpu", "threads": 2, "models": [speed("models/source", 40.0), speed("recover/model", 100.0)] });
    std::fs::write(folder.join("latency.json"), latency.to_string()).unwrap();
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// Makes a report of `runs` with more arguments; the page.
fn report(runs: &[PathBuf], more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path().join("report.html"));
    let runs: Vec<String> = runs.iter().map(text).collect();
    let mut arguments = vec!["report", "-o", &out];
    arguments.extend(runs.iter().map(String::as_str));
    arguments.extend(more);
    assert_eq!(succeed(&arguments), format!("{out}\n"), "stdout is the list of written files");
    std::fs::read_to_string(out).unwrap()
}

/// The data inside a page.
fn embedded(page: &str) -> Value {
    let start = "<script type=\"application/json\" id=\"report-data\">";
    let after = page.split_once(start).expect("the page has data").1;
    serde_json::from_str(after.split_once("</script>").unwrap().0).unwrap()
}

fn answer<'a>(data: &'a Value, id: &str) -> &'a Value {
    let answers = data["answers"][0]["answers"].as_array().unwrap();
    answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("no answer {id}"))
}

fn series<'a>(data: &'a Value, figure: &str, name: &str, run: &str) -> &'a Value {
    let series = data["figures"][figure]["series"].as_array().unwrap_or_else(|| panic!("no figure {figure}"));
    series
        .iter()
        .find(|s| s["name"] == name && s["run"] == run)
        .unwrap_or_else(|| panic!("no {name} of {run} in {figure}"))
}

fn ends(column: &Value) -> (f64, f64) {
    let column = column.as_array().unwrap();
    (column.first().unwrap().as_f64().unwrap(), column.last().unwrap().as_f64().unwrap())
}

fn story(folder: &Path) -> String {
    let (eval, latency) = (text(folder.join("eval.json")), text(folder.join("latency.json")));
    // In the wrong order: what continues what is in the runs themselves.
    report(
        &[folder.join("recover"), folder.join("prune")],
        &["--eval", &eval, "--latency", &latency, "--title", "Planted"],
    )
}

#[test]
fn planted_facts_are_read_back_from_the_page() {
    let folder = tempfile::tempdir().unwrap();
    write_story(folder.path());
    let page = story(folder.path());
    let data = embedded(&page);
    assert_eq!(data["title"], "Planted");

    let survivors = answer(&data, "survivors");
    assert_eq!(survivors["answer"], "3 of 4 layers are kept: 0, 1, 3.");
    assert!(survivors["points"].to_string().contains("Removed: 2."), "{survivors}");
    let constraint = answer(&data, "constraint");
    assert_eq!(constraint["verdict"], "bad");
    assert_eq!(constraint["answer"], "No: hidden ended 0.05 above its target sparsity.");
    assert!(constraint["points"].to_string().contains("exactly the target shape"), "{constraint}");
    let settled = answer(&data, "settled");
    assert_eq!(settled["answer"], "From step 60 on no mask changes its set of kept units by more than 1 %.");
    for fact in [
        "kv_head: keeps the same units from step 60 on",
        "intermediate: keeps the same units from step 40 on; under 1 % of them undecided from step 80 on",
    ] {
        assert!(settled["points"].to_string().contains(fact), "{settled}");
    }
    let degradation = answer(&data, "degradation");
    assert!(degradation["answer"].as_str().unwrap().starts_with("Degraded: "), "{degradation}");
    assert!(
        degradation["points"][0].as_str().unwrap().starts_with("code: 1.000 → 2.000 by pruning (+1.000"),
        "{degradation}"
    );
    assert!(degradation["points"][0].as_str().unwrap().contains("now 1.250 (75 % recovered)"), "{degradation}");
    assert!(answer(&data, "data")["points"].to_string().contains("books: 560 rows"), "{}", answer(&data, "data"));
    assert_eq!(answer(&data, "speed")["answer"], "Yes: recover/model decodes 2.50× as fast as models/source.");
    assert_eq!(answer(&data, "equivalence")["verdict"], "good");
    for answers in data["answers"][0]["answers"].as_array().unwrap() {
        let sentence = answers["answer"].as_str().unwrap().replace(" %", "\u{a0}%");
        assert!(page.contains(&format!(">{sentence}</p>")), "the page says {sentence}");
    }

    let prune = data["runs"].as_array().unwrap().iter().find(|run| run["name"] == "prune").unwrap();
    assert_eq!(prune["skipped_steps"], json!([37]));
    assert_eq!(prune["survivors"]["removed_layers"], json!([2]));
    let marks = data["figures"]["loss-training"]["marks"].as_array().unwrap();
    assert!(marks.iter().any(|mark| mark["kind"] == "skip" && mark["x"] == 37.0), "{marks:?}");
    assert!(marks.iter().any(|mark| mark["kind"] == "resume" && mark["x"] == 50.0), "{marks:?}");
    let (first, last) = ends(&series(&data, "proportions", "books", "prune")["y"]);
    assert!((first - 1.0 / 3.0).abs() < 1e-4 && last > 0.5, "books drifts: {first} → {last}");
}

#[test]
fn runs_are_chained_over_tokens_and_laid_over_steps() {
    let folder = tempfile::tempdir().unwrap();
    write_story(folder.path());
    let data = embedded(&story(folder.path()));
    let (prune, recover) =
        (series(&data, "loss-tokens", "prune", "prune"), series(&data, "loss-tokens", "recover", "recover"));
    assert_eq!(ends(&prune["x"]), (0.0, 512.0 * 100.0));
    assert_eq!(ends(&recover["x"]), (512.0 * 100.0, 512.0 * 140.0));
    assert_eq!(ends(&series(&data, "loss-heldout", "recover", "recover")["x"]), (0.0, 40.0));
    assert_eq!(ends(&series(&data, "loss-domains", "code", "recover")["y"]), (2.0, 1.25));
}

#[test]
fn the_speed_of_another_line_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["a", "b"] {
        let home = folder.path().join(line);
        write_run(&Plan::small(), &home.join("prune"), "models/source");
        write_run(&Plan::recovery(), &home.join("recover"), &text(home.join("prune/pruned")));
    }
    let small = text(folder.path().join("a/recover/model"));
    std::fs::create_dir_all(&small).unwrap();
    let speed = |name: &str, rate: f64| json!({ "model": name, "prefill": { "tokens_per_second": rate }, "decode": { "tokens_per_second": rate } });
    let file = text(folder.path().join("latency.json"));
    std::fs::write(&file, json!({ "models": [speed("models/base", 1.0), speed(&small, 2.0)] }).to_string()).unwrap();
    let runs = ["a/prune", "a/recover", "b/prune", "b/recover"].map(|run| folder.path().join(run));

    let data = embedded(&report(&runs[2..], &["--latency", &file]));
    let other = answer(&data, "speed");
    assert_eq!(other["verdict"], "open");
    assert!(other["answer"].as_str().unwrap().contains(&small), "{other}");
    assert!(!data["figures"]["decode"].is_null(), "what was measured is still shown under its name");

    std::fs::write(&file, json!({ "models": [speed("models/source", 1.0), speed(&small, 2.0)] }).to_string()).unwrap();
    let data = embedded(&report(&runs, &["--latency", &file]));
    let verdicts: Vec<&Value> = data["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            let answers = group["answers"].as_array().unwrap();
            &answers.iter().find(|answer| answer["id"] == "speed").unwrap()["verdict"]
        })
        .collect();
    assert_eq!(verdicts, ["good", "open"], "the second line was not measured");
}

#[test]
fn runs_of_the_same_names_stay_with_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["a/prune", "a/recover", "b/prune", "b/recover"].map(|run| folder.path().join(run));
    let [_, first, _, second] = &runs;
    for run in &runs {
        let is_prune = run.ends_with("prune");
        let source = text(run.with_file_name("prune").join("pruned"));
        let (plan, source) =
            if is_prune { (Plan::small(), "models/source") } else { (Plan::recovery(), source.as_str()) };
        write_run(&plan, run, source);
    }
    let data = embedded(&report(&runs, &[]));
    let groups = data["answers"].as_array().unwrap();
    assert_eq!(groups.iter().map(|group| group["run"].as_str().unwrap()).collect::<Vec<_>>(), ["a/prune", "b/prune"]);
    for group in groups {
        let degradation =
            group["answers"].as_array().unwrap().iter().find(|answer| answer["id"] == "degradation").unwrap();
        assert!(degradation.to_string().contains("75 % recovered"), "{degradation}");
    }
    let data = embedded(&report(&[first.clone(), second.clone()], &[]));
    let rows = |group: &Value| {
        let answers = group["answers"].as_array().unwrap();
        answers.iter().find(|answer| answer["id"] == "data").unwrap()["answer"].clone()
    };
    let groups = data["answers"].as_array().unwrap();
    assert_eq!(groups.len(), 2, "two starts are two answers");
    assert_eq!(rows(&groups[0]), rows(&groups[1]));
    let twice = embedded(&report(&[first.clone(), first.join("../recover")], &[]));
    assert_eq!(twice["runs"].as_array().unwrap().len(), 1, "one run by two names is one");
    let alone = embedded(&report(std::slice::from_ref(first), &[]));
    assert_eq!(rows(&groups[0]), rows(&alone["answers"][0]), "nothing is added up over seeds");
}

/// Style and script apart, which are not XML, the page is: every element closed, every attribute quoted.
fn parsed(page: &str) -> String {
    let mut rest = page.strip_prefix("<!doctype html>\n").unwrap().to_string();
    for name in ["script", "style"] {
        let mut kept = String::new();
        let start = format!("<{name}");
        let mut parts = rest.split(&start);
        kept.push_str(parts.next().unwrap());
        for part in parts {
            kept.push_str(part.split_once(&format!("</{name}>")).unwrap().1);
        }
        rest = kept;
    }
    rest
}

#[test]
fn the_page_is_whole_closed_to_the_outside_and_labelled() {
    let folder = tempfile::tempdir().unwrap();
    write_story(folder.path());
    let page = story(folder.path());
    let stripped = parsed(&page);
    let tree = Document::parse(&stripped).unwrap_or_else(|error| panic!("{error}"));
    let all = || tree.descendants().filter(|node| node.is_element());
    let mut known = BTreeSet::new();
    for id in all().filter_map(|node| node.attribute("id")) {
        assert!(known.insert(id.to_string()), "id {id} is there twice");
    }
    for node in all() {
        for key in ["aria-labelledby", "for", "data-maps"] {
            for id in node.attribute(key).into_iter().flat_map(str::split_whitespace).filter(|_| key != "data-maps") {
                assert!(known.contains(id), "{key} names {id}, which is not there");
            }
        }
        for key in ["src", "style", "onclick", "onload"] {
            assert_eq!(node.attribute(key), None, "{:?}", node.tag_name());
        }
        if let Some(address) = node.attribute("href") {
            let target = address.strip_prefix('#').unwrap_or_default();
            assert!(known.contains(target) || address == "data:,", "{address}");
        }
    }
    let of = |name: &str| all().filter(|node| node.tag_name().name() == name).count();
    assert_eq!((of("main"), of("header"), of("nav"), of("footer"), of("h1")), (1, 1, 1, 1, 1));
    assert!(of("figure") >= 20 && of("svg") >= of("figure"), "{} figures", of("figure"));
    for figure in all().filter(|node| node.tag_name().name() == "figure") {
        let has = |name: &str| figure.descendants().any(|node| node.tag_name().name() == name);
        assert!(has("title") && has("desc") && has("table") && has("figcaption"), "{:?}", figure.attribute("id"));
    }
    let policy = all().find(|node| node.attribute("http-equiv").is_some()).unwrap().attribute("content").unwrap();
    assert!(policy.starts_with("default-src 'none'; img-src data:; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    for heading in
        ["Warnings", "Answers", "Losses", "Constraint", "Masks", "Domains", "Training", "Speed", "Configuration"]
    {
        assert!(page.contains(&format!(">{heading}</h2>")), "{heading}");
    }
    assert!(
        page.find(">Answers</h2>") < page.find(">Warnings</h2>")
            && page.find(">Warnings</h2>") < page.find(">Losses</h2>")
    );
    assert!(page.contains("source = &quot;models/source&quot;"), "the configuration is shown");
}

#[test]
fn names_cannot_become_markup() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("<b>bold & \"quoted\"");
    let plan = Plan { domains: vec!["web", "code", HOSTILE], ..Plan::small() };
    write_run(&plan, &run, HOSTILE);
    let page = report(&[run], &["--title", HOSTILE]);
    assert_eq!(page.matches("<script").count(), 2, "our data and our script");
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img") && !page.contains("<b>"));
    Document::parse(&parsed(&page)).unwrap();
    let data = embedded(&page);
    assert_eq!(data["title"], HOSTILE);
    assert_eq!(data["runs"][0]["domains"][2], HOSTILE, "the data says it as it is");
}

#[test]
fn a_damaged_run_still_gives_a_report_that_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let fresh = |run: &Path| {
        let _ = std::fs::remove_dir_all(run);
        write_run(&Plan::small(), run, "models/source");
    };
    let metrics = run.join("metrics.jsonl");
    let said = |page: &str, words: &str| {
        let notes = embedded(page)["runs"][0]["notes"].to_string();
        assert!(notes.contains(words), "{words}: {notes}");
        assert!(page.contains("<li class=\"warning\">"), "{words}");
    };

    fresh(&run);
    let whole = std::fs::read(&metrics).unwrap();
    std::fs::write(&metrics, &whole[..whole.len() / 2]).unwrap();
    std::fs::remove_file(run.join(snapshot(40))).unwrap();
    std::fs::write(run.join(snapshot(60)), b"no tensors").unwrap();
    let page = report(std::slice::from_ref(&run), &[]);
    said(&page, "is cut and left out");
    said(&page, "a mask snapshot is left out");
    let frames = embedded(&page)["figures"]["masks-heads"]["steps"].clone();
    assert_eq!(frames, json!([20, 80, 100]), "what can be read is shown");
    assert_eq!(answer(&embedded(&page), "constraint")["verdict"], "open", "the end is not recorded");

    fresh(&run);
    std::fs::remove_file(&metrics).unwrap();
    std::fs::remove_dir_all(run.join("pruned")).unwrap();
    let page = report(std::slice::from_ref(&run), &[]);
    said(&page, "metrics.jsonl");
    let data = embedded(&page);
    assert_eq!(answer(&data, "survivors")["answer"], "3 of 4 layers are kept: 0, 1, 3.", "masks are enough for that");
    for unknown in ["constraint", "equivalence", "degradation", "data", "speed"] {
        assert_eq!(answer(&data, unknown)["verdict"], "open", "{unknown}");
    }

    fresh(&run);
    std::fs::remove_dir_all(run.join("masks")).unwrap();
    std::fs::remove_file(run.join("resolved.toml")).unwrap();
    let page = report(std::slice::from_ref(&run), &[]);
    said(&page, "no readable mask snapshot");
    said(&page, "resolved.toml");
    assert_eq!(answer(&embedded(&page), "settled")["verdict"], "open");

    std::fs::write(&metrics, b"\xff\xfe\n[]\n{\"type\":\"step\",\"step\":1}\n{}\n").unwrap();
    said(&report(&[run], &[]), "damaged");
}

#[test]
fn what_is_no_run_or_no_side_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (run, side, out) =
        (folder.path().join("prune"), folder.path().join("eval.json"), text(folder.path().join("r.html")));
    write_run(&Plan::small(), &run, "models/source");
    std::fs::write(&side, "{\"models\": 3}").unwrap();
    let (run, side, none) = (text(run), text(side), text(folder.path()));
    for (arguments, words) in [
        (vec!["report", &none, "-o", &out], "no run"),
        (vec!["report", &run, "-o", &out, "--eval", &side], "eval.json"),
        (vec!["report", &run, "-o", &out, "--latency", &none], "bench latency"),
        (vec!["report", &run], "--out"),
        (vec!["report", "-o", &out], "RUN"),
    ] {
        let output = shearling(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr.contains(words) || words == "no run" && stderr.contains("run"), "{arguments:?}: {stderr}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_7b_fits_into_two_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("prune");
    write_run(&Plan::seven_b(), &run, "models/source");
    let page = report(&[run], &[]);
    let data = embedded(&page);
    let map = &data["figures"]["masks-heads"];
    assert_eq!((&map["rows"], &map["columns"]), (&json!(32), &json!(32)));
    assert_eq!(map["steps"].as_array().unwrap().len(), 64);
    assert_eq!(data["runs"][0]["domains"].as_array().unwrap().len(), 7);
    assert_eq!(data["runs"][0]["finished_steps"], 3200);
    assert_eq!(
        answer(&data, "survivors")["answer"],
        "24 of 32 layers are kept: 0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22, 24–31."
    );
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn pictures_are_written_to_files() {
    let folder = tempfile::tempdir().unwrap();
    let (run, svg, png) = (folder.path().join("prune"), folder.path().join("svg"), folder.path().join("png"));
    write_run(&Plan::small(), &run, "models/source");
    let files = succeed(&["report", &text(&run), "--svg", &text(&svg), "--png", &text(&png)]);
    assert!(files.lines().count() >= 30, "{files}");
    for file in files.lines().map(PathBuf::from) {
        let bytes = std::fs::read(&file).unwrap();
        if file.extension().is_some_and(|end| end == "svg") {
            Document::parse(std::str::from_utf8(&bytes).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        } else {
            let pixels = resvg::tiny_skia::Pixmap::decode_png(&bytes).unwrap();
            assert!(pixels.pixels().iter().any(|pixel| pixel.red() < 80), "{}", file.display());
        }
    }
    assert!(svg.join("masks-heads.svg").is_file() && png.join("loss-heldout.png").is_file());
}

#[test]
fn the_command_explains_itself() {
    let help = succeed(&["report", "--help"]);
    for option in ["RUN", "--out", "--title", "--eval", "--latency", "--png", "--svg", "--serve", "--json"] {
        assert!(help.contains(option), "{option}:\n{help}");
    }
}

#[test]
fn json_is_what_the_page_holds() {
    let folder = tempfile::tempdir().unwrap();
    write_story(folder.path());
    let run = folder.path().join("prune");
    let printed: Value = serde_json::from_str(&succeed(&["report", &text(&run), "--json"])).unwrap();
    assert_eq!(printed, embedded(&report(&[run], &[])));
}

/// Ends a server that a failed test left behind.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_served_page_follows_its_run_and_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("prune");
    write_run(&Plan::small(), &run, "models/source");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
    let child = command.args(["report", &text(&run), "--serve"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut served = Served(child.unwrap());
    let mut line = String::new();
    BufReader::new(served.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().trim_end_matches('/').to_string();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let get = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let first = get();
    assert!(first.starts_with("HTTP/1.1 200") && first.contains("connect-src &#39;self&#39;"), "{}", &first[..200]);
    let mut metrics = std::fs::OpenOptions::new().append(true).open(run.join("metrics.jsonl")).unwrap();
    writeln!(metrics, "{}", json!({ "type": "not_saved", "step": 100, "reason": "planted later" })).unwrap();
    assert!(!first.contains("planted later") && get().contains("planted later"));
    let stopped = Command::new("kill").args(["-INT", &served.0.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(served.0.wait().unwrap().code(), Some(0), "Ctrl-C is the end, not an error");
}

/// Not a test: writes the runs that `make test-browser` looks at into $SHEARLING_BROWSER_RUNS.
#[test]
#[ignore = "writes files for tests/browser/run.py"]
fn runs_for_the_browser() {
    let folder = PathBuf::from(std::env::var_os("SHEARLING_BROWSER_RUNS").expect("where to write"));
    write_story(&folder);
    let damaged = folder.join("damaged");
    write_run(&Plan::small(), &damaged, "models/source");
    std::fs::remove_file(damaged.join(snapshot(40))).unwrap();
    let metrics = std::fs::read(damaged.join("metrics.jsonl")).unwrap();
    std::fs::write(damaged.join("metrics.jsonl"), &metrics[..metrics.len() / 2]).unwrap();
    let plan = Plan { domains: vec!["web", "<b>code</b>", HOSTILE], ..Plan::small() };
    write_run(&plan, &folder.join("hostile"), HOSTILE);
    write_run(&Plan::seven_b(), &folder.join("seven_b"), "models/Llama-2-7b-hf");
    let domains =
        ["arxiv", "c4", "cc", "dictionary", "docs", "github", "man", "python", "rust", "stackexchange", "wiki"];
    write_run(&Plan { domains: domains.to_vec(), ..Plan::small() }, &folder.join("eleven"), "models/source");
}
