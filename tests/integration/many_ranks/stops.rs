//! One of several ranks is told to stop in an evaluation: all leave it at the same step, and make it when they resume. Ranks of
//! a sharded model finish it, and stop then.

use super::{LIMIT, Place, thread_place};
use serde_json::Value;
use shearling::config::{Stage, Strategy, parse};
use shearling::dist;
use shearling::native::c10d::Store;
use shearling::train::{Observer, Outcome, Setup, run};
use std::process::Command;

/// Asks to stop at the first row that its rank does in the evaluation after `left` others.
#[derive(Default)]
struct StopsIn {
    left: usize,
    done: usize,
    interrupted: bool,
}

impl Observer for StopsIn {
    fn evaluating(&mut self, _: &str, done: usize, _: usize) {
        if done < self.done {
            self.left -= 1;
        }
        self.done = done;
        self.interrupted |= self.left == 0;
    }

    fn interrupted(&mut self) -> bool {
        self.interrupted
    }
}

struct GoesOn;
impl Observer for GoesOn {}

/// Ranks are threads here, in a process without other tests.
#[test]
fn all_ranks_leave_an_evaluation_in_which_one_is_told_to_stop() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "integration::many_ranks::stops::as_threads", "--ignored", "--nocapture"])
        .env("GLOO_SOCKET_IFNAME", "lo")
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[test]
#[ignore = "started by all_ranks_leave_an_evaluation_in_which_one_is_told_to_stop"]
fn as_threads() {
    for (strategy, due) in [(Strategy::Ddp, true), (Strategy::Fsdp, false)] {
        let place = Place::new();
        let text = std::fs::read_to_string(place.config("run", "")).unwrap();
        // After the one before the first step: that after three.
        for part in both(&text, strategy, false, [None, Some(1)]) {
            assert!(part.step == 3 && !part.finished, "{strategy:?}: stopped after {}", part.step);
            let state = std::fs::read_to_string(part.checkpoint.unwrap().join("state.json")).unwrap();
            let state: Value = serde_json::from_str(&state).unwrap();
            assert_eq!(state["counters"]["evaluation_due"] == "model", due, "{strategy:?}");
        }
        assert!(both(&text, strategy, true, [None, None]).into_iter().all(|all| all.finished && all.step == 8));
    }
}

/// Two ranks of the run of `text`, each told to stop in the evaluation after so many, if a number is given.
fn both(text: &str, strategy: Strategy, resume: bool, stops: [Option<usize>; 2]) -> Vec<Outcome> {
    let store = Store::serve("127.0.0.1", 0, LIMIT).unwrap();
    let port = store.port();
    let one = |rank: usize, stops: Option<usize>| {
        let world = dist::join(&thread_place(rank, 2, port), tch::Device::Cpu, LIMIT).unwrap();
        let sets = ["train.micro_batch_rows=1".to_string(), format!("dist.strategy={}", strategy.name())];
        let config = parse(text, "test", &sets).unwrap();
        let setup = Setup::new(config, Stage::Pretrain, tch::Device::Cpu).unwrap().among(world.clone()).unwrap();
        let outcome = match stops {
            Some(left) => run(&setup, resume, None, &mut StopsIn { left, ..StopsIn::default() }).unwrap(),
            None => run(&setup, resume, None, &mut GoesOn).unwrap(),
        };
        world.barrier().unwrap();
        outcome
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            stops.into_iter().enumerate().map(|(rank, stops)| scope.spawn(move || one(rank, stops))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
