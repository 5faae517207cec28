//! Where the time of a step goes. Off in training, where waiting for the device after every phase would cost what it
//! measures; `bench step` turns it on.

use crate::native::runtime::device::synchronize;
use std::time::Instant;
use tch::Device;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the batch.
    Data,
    /// Sampling gates, their backward, the Lagrangian.
    Masks,
    /// The teacher's forward; none without one.
    Teacher,
    /// Embedding and blocks.
    Forward,
    /// Output head and cross entropy, with their gradients.
    Loss,
    /// Backward of the rest.
    Backward,
    /// Norms of the gradients.
    Clip,
    /// AdamW, and the numbers for the log.
    Optimizer,
}

impl Phase {
    /// All phases in the order of a step.
    pub const ALL: [Phase; 8] = [
        Phase::Data,
        Phase::Masks,
        Phase::Teacher,
        Phase::Forward,
        Phase::Loss,
        Phase::Backward,
        Phase::Clip,
        Phase::Optimizer,
    ];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Data => "data",
            Phase::Masks => "masks",
            Phase::Teacher => "teacher",
            Phase::Forward => "forward",
            Phase::Loss => "loss",
            Phase::Backward => "backward",
            Phase::Clip => "clip",
            Phase::Optimizer => "optimizer",
        }
    }
}

/// Seconds by phase of the present step.
#[derive(Debug)]
pub(super) struct PhaseClock {
    device: Device,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    last: Instant,
    seconds: [f64; Phase::ALL.len()],
}

impl PhaseClock {
    /// A clock that is off.
    pub(super) fn off(device: Device) -> PhaseClock {
        PhaseClock { device, running: None }
    }

    /// Turns it on.
    pub(super) fn turn_on(&mut self) {
        self.running = Some(Running { last: Instant::now(), seconds: [0.0; Phase::ALL.len()] });
    }

    /// A step begins.
    pub(super) fn start(&mut self) {
        if self.running.is_some() {
            self.turn_on();
        }
    }

    /// Everything since the last call was `phase`.
    pub(super) fn mark(&mut self, phase: Phase) {
        let Some(running) = &mut self.running else { return };
        synchronize(self.device);
        let now = Instant::now();
        running.seconds[phase as usize] += (now - running.last).as_secs_f64();
        running.last = now;
    }

    /// Seconds of the last step by phase; empty while off.
    pub(super) fn seconds(&self) -> Vec<(Phase, f64)> {
        let running = self.running.iter();
        running.flat_map(|running| Phase::ALL.into_iter().zip(running.seconds)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_only_while_the_clock_is_on() {
        let mut clock = PhaseClock::off(Device::Cpu);
        clock.mark(Phase::Data);
        assert!(clock.seconds().is_empty());
        clock.turn_on();
        for _ in 0..2 {
            clock.start();
            std::thread::sleep(std::time::Duration::from_millis(3));
            clock.mark(Phase::Loss);
            clock.mark(Phase::Clip);
        }
        let seconds = clock.seconds();
        assert_eq!(seconds.len(), Phase::ALL.len());
        let of = |wanted: Phase| seconds.iter().find(|(phase, _)| *phase == wanted).unwrap().1;
        assert!(of(Phase::Loss) >= 0.003 && of(Phase::Data) == 0.0, "{seconds:?}");
    }
}
