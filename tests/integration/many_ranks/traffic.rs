//! What goes over the wire at every step, as the kernel counts it, is what the formula says that `plan` uses.

use super::{LIMIT, Place, thread_place};
use shearling::config::{Stage, Strategy, parse};
use shearling::dist::{self, pass_bytes};
use shearling::model::count::ParameterCount;
use shearling::native::c10d::Store;
use shearling::train::traffic::{Payload, Ranks, Traffic};
use shearling::train::{Setup, Trainer};
use std::process::Command;

/// Bytes that the TCP connections of this process have received: `tcpi_bytes_received` of Linux's `struct tcp_info`.
fn received_bytes() -> u64 {
    const OFFSET: usize = 128;
    let mut all = 0;
    for descriptor in 3..1024 {
        let mut info = [0u8; 256];
        let mut length = info.len() as libc::socklen_t;
        let pointer = info.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes; of what is no socket it gives an error.
        let failed = unsafe { libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &mut length) };
        if failed == 0 && length as usize >= OFFSET + 8 {
            all += u64::from_le_bytes(info[OFFSET..OFFSET + 8].try_into().unwrap());
        }
    }
    all
}

/// Ranks as threads of one process, so that one process has both ends of every connection. Other tests of this binary have
/// connections too: it is started again for this one alone.
#[test]
fn bytes_on_the_wire_are_those_of_the_formula() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "integration::many_ranks::traffic::counted_alone", "--ignored", "--nocapture"])
        .env("GLOO_SOCKET_IFNAME", "lo")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// What all ranks together receive in a step: what `plan` says that each sends, and what Gloo sends besides, since it reduces
/// in parts by reducing for all.
fn expected_bytes(setup: &Setup, ranks: Ranks) -> f64 {
    let (model, count) = (&setup.model, ParameterCount::of(&setup.model));
    let outside = (count.embedding + count.head + model.hidden_size) as f64;
    let layers = count.total() as f64 - outside;
    let payload = Payload { layers, outside, replicated: 0.0, element: 4.0, trains: true };
    let size = ranks.nodes * ranks.gpus;
    let besides = match ranks.strategy {
        Strategy::Ddp => 0.0,
        _ => pass_bytes(4.0 * (ranks.micro_batches as f64 * layers + outside), size),
    };
    size as f64 * (Traffic::of(ranks, &payload).total() + besides)
}

#[test]
#[ignore = "started by bytes_on_the_wire_are_those_of_the_formula"]
fn counted_alone() {
    for (size, strategy, most) in [(2, Strategy::Ddp, 1.05), (3, Strategy::Ddp, 1.05), (2, Strategy::Fsdp, 1.1)] {
        let place = Place::new();
        let text = std::fs::read_to_string(place.config("run", "")).unwrap();
        let store = Store::serve("127.0.0.1", 0, LIMIT).unwrap();
        let (start, end) = (std::sync::Barrier::new(size + 1), std::sync::Barrier::new(size + 1));
        let expected = std::sync::Mutex::new(0.0);
        std::thread::scope(|scope| {
            for rank in 0..size {
                let (text, start, end, expected, port) = (&text, &start, &end, &expected, store.port());
                scope.spawn(move || {
                    let world = dist::join(&thread_place(rank, size, port), tch::Device::Cpu, LIMIT).unwrap();
                    let sets = ["train.micro_batch_rows=1".to_string(), format!("dist.strategy={}", strategy.name())];
                    let config = parse(text, "test", &sets).unwrap();
                    let micro_batches = config.train.batch_rows / size;
                    let setup = Setup::new(config, Stage::Pretrain, tch::Device::Cpu).unwrap();
                    let setup = setup.among(world.clone()).unwrap();
                    let mut trainer = Trainer::new(&setup).unwrap();
                    trainer.step().unwrap();
                    let ranks = Ranks { strategy, nodes: 1, gpus: size, micro_batches };
                    *expected.lock().unwrap() = expected_bytes(&setup, ranks);
                    world.barrier().unwrap();
                    start.wait();
                    // What came before is counted.
                    start.wait();
                    trainer.step().unwrap();
                    world.barrier().unwrap();
                    end.wait();
                    // Connections stay until they are counted.
                    end.wait();
                });
            }
            start.wait();
            let before = received_bytes();
            start.wait();
            end.wait();
            let counted = (received_bytes() - before) as f64;
            end.wait();
            let expected = *expected.lock().unwrap();
            eprintln!("{size} ranks, {strategy:?}: {counted} bytes counted, {expected} by the formula");
            assert!(counted >= expected && counted < most * expected, "{size} ranks: {counted} {expected}");
        });
    }
}
