//! The clock of a step: CPU time where one thread computes, since a neighbour that takes the core away then does not count;
//! with several threads, which wait for each other, and on a GPU, which is waited for, the time that passes.

use crate::native::runtime::device::synchronize;
use std::time::{Duration, Instant};
use tch::Device;

/// Seconds that `step` takes on `device`, and what it gives.
pub(super) fn timed<T>(device: Device, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let alone = tch::get_num_threads() == 1 && device == Device::Cpu;
    synchronize(device);
    let (wall, cpu) = (Instant::now(), cpu_time());
    let made = step()?;
    synchronize(device);
    let spent = cpu.zip(cpu_time()).filter(|_| alone).map(|(before, after)| after.saturating_sub(before));
    Ok((spent.unwrap_or_else(|| wall.elapsed()).as_secs_f64(), made))
}

/// CPU time of this thread.
#[cfg(target_os = "linux")]
fn cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the result.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    (status == 0).then(|| Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}

#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Option<Duration> {
    None
}

/// The middle of some numbers; NaN of none.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let (count, at) = (numbers.len(), |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN));
    if count.is_multiple_of(2) { (at((count / 2).wrapping_sub(1)) + at(count / 2)) / 2.0 } else { at(count / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some_numbers() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
        let (seconds, made) = timed(Device::Cpu, || Ok(7)).unwrap();
        assert!(seconds >= 0.0 && made == 7);
    }
}
