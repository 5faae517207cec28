//! libtorch's collectives among the processes of a run: ProcessGroupGloo on the CPU, ProcessGroupNCCL on GPUs.
//!
//! Every process calls the same collectives in the same order. Each begins at once and goes on beside what the process does,
//! until it is waited for. Tensors are contiguous, and on the device of the group; what
//! another process gives is not checked against what this one gives.

use super::arguments::milliseconds;
use super::store::{Store, StoreHandle};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use std::time::{Duration, Instant};
use tch::{Device, TchError, Tensor};

/// `c10::intrusive_ptr<c10d::Backend>*`.
#[repr(C)]
struct GroupHandle {
    _opaque: [u8; 0],
}

/// `c10::intrusive_ptr<c10d::Work>*`.
#[repr(C)]
struct WorkHandle {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn shearling_group_gloo(
        store: *mut StoreHandle,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut GroupHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_nccl(
        store: *mut StoreHandle,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut GroupHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_all_reduce(
        group: *mut GroupHandle,
        tensor: CTensor,
        op: c_int,
        out: *mut *mut WorkHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_broadcast(
        group: *mut GroupHandle,
        tensor: CTensor,
        root: c_int,
        out: *mut *mut WorkHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_all_gather(
        group: *mut GroupHandle,
        all: CTensor,
        own: CTensor,
        out: *mut *mut WorkHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_reduce_scatter(
        group: *mut GroupHandle,
        own: CTensor,
        all: CTensor,
        op: c_int,
        out: *mut *mut WorkHandle,
        error: CError,
    ) -> c_int;
    fn shearling_group_barrier(group: *mut GroupHandle, out: *mut *mut WorkHandle, error: CError) -> c_int;
    fn shearling_group_abort(group: *mut GroupHandle, error: CError) -> c_int;
    fn shearling_group_free(group: *mut GroupHandle);
    fn shearling_work_wait(work: *mut WorkHandle, error: CError) -> c_int;
    fn shearling_work_wait_for(
        work: *mut WorkHandle,
        on_cpu: c_int,
        timeout_ms: i64,
        ended: *mut c_int,
        error: CError,
    ) -> c_int;
    fn shearling_work_free(work: *mut WorkHandle);
}

/// How numbers of all processes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
}

impl Reduction {
    fn code(self) -> c_int {
        match self {
            Reduction::Sum => 0,
            Reduction::Max => 1,
        }
    }
}

/// A collective that goes on beside what this process does.
#[derive(Debug)]
pub struct Pending {
    work: *mut WorkHandle,
    /// Gloo's work, not NCCL's.
    on_cpu: bool,
    /// From when on it is late. Gloo's own threads notice that; NCCL's group only while it is waited for without a limit.
    late: Option<Instant>,
    /// What it reads and writes.
    _tensors: Vec<Tensor>,
}

// SAFETY: c10d's works may be waited for from any thread; the handle is freed once, by `drop`.
unsafe impl Send for Pending {}

impl Pending {
    /// Waits for its end for at most `timeout`, and says whether it has ended.
    ///
    /// # Errors
    /// Another process is gone or late.
    pub fn wait_for(&self, timeout: Duration) -> Result<bool, TchError> {
        if !self.on_cpu && self.late.is_some_and(|late| Instant::now() >= late) {
            return self.finish().map(|()| true);
        }
        let (on_cpu, timeout, mut ended) = (c_int::from(self.on_cpu), milliseconds(timeout), 0);
        // SAFETY: a successful start has put a handle there, which `drop` frees; the call fills the out-pointer.
        shim::check(|error| unsafe { shearling_work_wait_for(self.work, on_cpu, timeout, &mut ended, error) })?;
        Ok(ended != 0)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Another process is gone or late.
    pub fn wait(self) -> Result<(), TchError> {
        self.finish()
    }

    fn finish(&self) -> Result<(), TchError> {
        // SAFETY: a successful start has put a handle there, which `drop` frees.
        shim::check(|error| unsafe { shearling_work_wait(self.work, error) })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // SAFETY: made by a successful start, freed once. What goes on holds what it needs by itself.
        unsafe { shearling_work_free(self.work) }
    }
}

/// The processes of a run, connected.
#[derive(Debug)]
pub struct ProcessGroup {
    handle: *mut GroupHandle,
    on_cpu: bool,
    timeout: Duration,
}

// SAFETY: c10d's groups may be used from any thread, and lock inside; the handle is freed once, by `drop`.
unsafe impl Send for ProcessGroup {}
// SAFETY: as above.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Connects this process as `rank` of `size`, over Gloo for tensors on the CPU, else over NCCL. Collectives that take
    /// longer than `timeout` fail.
    ///
    /// # Errors
    /// Another process does not come in time; there is no NCCL.
    pub fn connect(
        store: &Store,
        rank: usize,
        size: usize,
        device: Device,
        timeout: Duration,
    ) -> Result<ProcessGroup, TchError> {
        let on_cpu = device == Device::Cpu;
        let connect = if on_cpu { shearling_group_gloo } else { shearling_group_nccl };
        let (rank, size, limit) = (number(rank)?, number(size)?, milliseconds(timeout));
        let mut handle = std::ptr::null_mut();
        // SAFETY: the store's handle is alive; the call fills the out-pointer.
        shim::check(|error| unsafe { connect(store.handle, rank, size, limit, &mut handle, error) })?;
        Ok(ProcessGroup { handle, on_cpu, timeout })
    }

    /// Every process has the reduction of all tensors in its own; of one shape and dtype everywhere.
    ///
    /// # Errors
    /// A tensor with gaps; another process is gone or late.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Pending, TchError> {
        let (pointer, op) = (shim::pointer(tensor), reduction.code());
        // SAFETY: group and tensor are alive through the call.
        self.start(vec![tensor.shallow_clone()], |out, error| unsafe {
            shearling_group_all_reduce(self.handle, pointer, op, out, error)
        })
    }

    /// Every process has the tensor of `root` in its own.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Pending, TchError> {
        let (pointer, root) = (shim::pointer(tensor), number(root)?);
        // SAFETY: group and tensor are alive through the call.
        self.start(vec![tensor.shallow_clone()], |out, error| unsafe {
            shearling_group_broadcast(self.handle, pointer, root, out, error)
        })
    }

    /// Every process has all tensors, one after the other, in `all [size, ..]`.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn all_gather(&self, all: &Tensor, own: &Tensor) -> Result<Pending, TchError> {
        // c10d wants them side by side in the first dimension.
        let tensors = vec![all.f_view([-1])?, own.f_view([-1])?];
        let (all, own) = (shim::pointer(&tensors[0]), shim::pointer(&tensors[1]));
        // SAFETY: group and tensors are alive through the call.
        self.start(tensors, |out, error| unsafe { shearling_group_all_gather(self.handle, all, own, out, error) })
    }

    /// Process r has block r of the reduction of all `all [size, ..]` in `own`.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn reduce_scatter(&self, own: &Tensor, all: &Tensor, reduction: Reduction) -> Result<Pending, TchError> {
        let tensors = vec![all.f_view([-1])?, own.f_view([-1])?];
        let (all, own, op) = (shim::pointer(&tensors[0]), shim::pointer(&tensors[1]), reduction.code());
        // SAFETY: group and tensors are alive through the call.
        self.start(tensors, |out, error| unsafe {
            shearling_group_reduce_scatter(self.handle, own, all, op, out, error)
        })
    }

    /// Is over when every process has come here.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn barrier(&self) -> Result<Pending, TchError> {
        // SAFETY: the group is alive through the call.
        self.start(Vec::new(), |out, error| unsafe { shearling_group_barrier(self.handle, out, error) })
    }
}

impl ProcessGroup {
    fn start(
        &self,
        tensors: Vec<Tensor>,
        start: impl FnOnce(*mut *mut WorkHandle, CError) -> c_int,
    ) -> Result<Pending, TchError> {
        let mut work = std::ptr::null_mut();
        shim::check(|error| start(&mut work, error))?;
        Ok(Pending { work, on_cpu: self.on_cpu, late: Instant::now().checked_add(self.timeout), _tensors: tensors })
    }

    /// Ends what has begun over NCCL. Gloo has nothing of the kind: its connections close when the group and all that it
    /// has begun are dropped.
    ///
    /// # Errors
    /// libtorch's; the connections may be closed all the same.
    pub fn abort(&self) -> Result<(), TchError> {
        // SAFETY: the group is alive through the call.
        shim::check(|error| unsafe { shearling_group_abort(self.handle, error) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by the shim, freed once.
        unsafe { shearling_group_free(self.handle) }
    }
}

fn number(value: usize) -> Result<c_int, TchError> {
    c_int::try_from(value).map_err(|_| TchError::Torch(format!("{value} is no number of a process")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Runs `body(rank, group)` as `size` processes would, each on a thread.
    fn together(size: usize, body: impl Fn(usize, &ProcessGroup) + Sync) {
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        std::thread::scope(|scope| {
            for rank in 0..size {
                let (body, port) = (&body, served.port());
                scope.spawn(move || {
                    let store = Store::connect("127.0.0.1", port, PATIENCE).unwrap();
                    let group = ProcessGroup::connect(&store, rank, size, Device::Cpu, PATIENCE).unwrap();
                    body(rank, &group);
                    group.barrier().unwrap().wait().unwrap();
                });
            }
        });
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).view([-1])).unwrap()
    }

    #[test]
    fn collectives_do_what_they_say_in_every_dtype_of_a_run() {
        for size in [2, 3] {
            together(size, |rank, group| {
                let (all, rank_value) = (size as f64, rank as f64);
                for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Int64] {
                    let own = || Tensor::full([3], rank_value + 1.0, (kind, Device::Cpu));
                    let sum = own();
                    group.all_reduce(&sum, Reduction::Sum).unwrap().wait().unwrap();
                    assert_eq!(values(&sum), [all * (all + 1.0) / 2.0; 3]);
                    let largest = own();
                    group.all_reduce(&largest, Reduction::Max).unwrap().wait().unwrap();
                    assert_eq!(values(&largest), [all; 3]);
                    let told = own();
                    group.broadcast(&told, 1).unwrap().wait().unwrap();
                    assert_eq!(values(&told), [2.0; 3]);
                    let gathered = Tensor::zeros([size as i64, 3], (kind, Device::Cpu));
                    group.all_gather(&gathered, &own()).unwrap().wait().unwrap();
                    let expected: Vec<f64> = (0..size).flat_map(|rank| [rank as f64 + 1.0; 3]).collect();
                    assert_eq!(values(&gathered), expected);
                    let blocks = Tensor::arange(2 * size as i64, (kind, Device::Cpu));
                    let block = Tensor::zeros([2], (kind, Device::Cpu));
                    group.reduce_scatter(&block, &blocks, Reduction::Sum).unwrap().wait().unwrap();
                    assert_eq!(values(&block), [2.0 * rank_value * all, (2.0 * rank_value + 1.0) * all]);
                }
            });
        }
    }

    /// Replicas stay the same only if a sum has the same bits everywhere.
    #[test]
    fn a_sum_has_the_same_bits_in_every_process() {
        let sums = std::sync::Mutex::new(Vec::new());
        together(3, |rank, group| {
            let own = (Tensor::arange(10_007, (Kind::Float, Device::Cpu)) * (rank as f64 + 0.37)).sin();
            group.all_reduce(&own, Reduction::Sum).unwrap().wait().unwrap();
            sums.lock().unwrap().push(own);
        });
        let sums = sums.into_inner().unwrap();
        assert!(sums[0].equal(&sums[1]) && sums[0].equal(&sums[2]));
    }

    /// Rank 0 waits for a sum that rank 1 has begun on another tensor only; what ends the one ends the other.
    #[test]
    fn a_process_that_goes_ends_what_waits_in_all() {
        let begun = Instant::now();
        let served = Store::serve("127.0.0.1", 0, PATIENCE).unwrap();
        std::thread::scope(|scope| {
            for rank in 0..3 {
                let port = served.port();
                scope.spawn(move || {
                    let store = Store::connect("127.0.0.1", port, PATIENCE).unwrap();
                    let group = ProcessGroup::connect(&store, rank, 3, Device::Cpu, PATIENCE).unwrap();
                    group.barrier().unwrap().wait().unwrap();
                    let sums: Vec<Tensor> = (0..4).map(|_| Tensor::ones([1000], (Kind::Float, Device::Cpu))).collect();
                    if rank == 1 {
                        std::thread::sleep(Duration::from_millis(300));
                        return;
                    }
                    let started = sums.iter().map(|sum| group.all_reduce(sum, Reduction::Sum).unwrap());
                    let started: Vec<Pending> = started.collect();
                    assert!(started.into_iter().any(|pending| pending.wait().is_err()), "rank {rank}");
                });
            }
        });
        assert!(begun.elapsed() < PATIENCE / 2, "nobody waited for the timeout");
    }

    #[test]
    fn what_has_not_ended_yet_is_no_error() {
        together(2, |rank, group| {
            if rank == 1 {
                std::thread::sleep(Duration::from_millis(400));
            }
            let sum = Tensor::ones([3], (Kind::Float, Device::Cpu));
            let pending = group.all_reduce(&sum, Reduction::Sum).unwrap();
            if rank == 0 {
                assert!(!pending.wait_for(Duration::from_millis(20)).unwrap(), "rank 1 has not come");
            }
            while !pending.wait_for(Duration::from_millis(20)).unwrap() {}
            assert_eq!(values(&sum), [2.0; 3]);
        });
    }

    #[test]
    fn a_view_with_gaps_is_refused_before_anything_is_sent() {
        together(2, |_, group| {
            let gaps = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).slice(1, 0, 4, 2);
            let problem = group.all_reduce(&gaps, Reduction::Sum).unwrap_err().to_string();
            assert!(problem.contains("not contiguous"), "{problem}");
        });
    }
}
