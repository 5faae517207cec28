//! The processes of a run, as one of them sees them: collectives on tensors, checked, with errors that name who is gone.

use super::board::Board;
use super::error::first_line;
use super::notes::{Verdict, patiently};
use super::{Error, Place};
use crate::native::c10d::{Pending, ProcessGroup, Reduction, Store};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tch::{Device, Kind, TchError, Tensor};

/// How long connections that no longer serve are closed for.
const CLOSING: Duration = Duration::from_secs(2);

/// How often a rank that waits looks whether another has found a failure.
const LOOK: Duration = Duration::from_millis(200);

/// All processes of a run; a copy is the same world.
#[derive(Clone, Debug, Default)]
pub struct World(Option<Arc<Peers>>);

#[derive(Debug)]
struct Peers {
    place: Place,
    /// Number of this process among these, and how many these are.
    rank: usize,
    size: usize,
    device: Device,
    /// Gone after a failure.
    group: Mutex<Option<ProcessGroup>>,
    board: Arc<Board>,
    /// Of which these are some; none where these are all.
    all: Option<Arc<Peers>>,
}

/// A collective that goes on beside what this process does. All ranks start the same ones in the same order.
#[derive(Debug)]
pub struct Started {
    what: &'static str,
    /// Nothing in a world of one.
    pending: Option<(Arc<Peers>, Pending)>,
}

impl Started {
    /// Waits for its end, on a GPU too: a rank that is gone is found here (`TORCH_NCCL_BLOCKING_WAIT`, which the group sets).
    /// What was begun before goes on on the device meanwhile.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn wait(self) -> Result<(), Error> {
        let Some((peers, pending)) = self.pending else { return Ok(()) };
        let _no_grad = tch::no_grad_guard();
        peers.wait(&pending).map_err(|problem| peers.fault(self.what, &problem))
    }
}

impl World {
    /// A process by itself.
    pub fn alone() -> World {
        World(None)
    }

    pub(super) fn of(place: Place, device: Device, group: ProcessGroup, board: Board) -> World {
        let group = Mutex::new(Some(group));
        let (rank, size, board) = (place.rank, place.size, Arc::new(board));
        World(Some(Arc::new(Peers { place, rank, size, device, group, board, all: None })))
    }

    /// Some of these ranks, connected by `connect`, of which this is number `rank` of `size`; one by itself needs no
    /// connection.
    pub(super) fn subgroup(
        &self,
        rank: usize,
        size: usize,
        connect: impl FnOnce(&Store, Device) -> Result<ProcessGroup, TchError>,
    ) -> Result<World, Error> {
        let Some(all) = self.0.as_ref().filter(|_| size > 1) else { return Ok(World::alone()) };
        let group = connect(all.board.store(), all.device).map_err(|problem| all.fault("connecting", &problem))?;
        let (place, device, board) = (all.place.clone(), all.device, Arc::clone(&all.board));
        let (group, all) = (Mutex::new(Some(group)), Some(Arc::clone(all)));
        Ok(World(Some(Arc::new(Peers { place, rank, size, device, group, board, all }))))
    }

    /// Where this process is, among others.
    pub fn place(&self) -> Option<&Place> {
        self.0.as_ref().map(|peers| &peers.place)
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// The number of this process.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |peers| peers.rank)
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |peers| peers.size)
    }

    /// Whether this is the process that writes files and speaks.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether piece `index` of work that is dealt out in turn is this process's.
    pub fn takes(&self, index: usize) -> bool {
        index % self.size() == self.rank()
    }

    /// Where tensors of collectives live.
    pub(super) fn device(&self) -> Device {
        self.0.as_ref().map_or(Device::Cpu, |peers| peers.device)
    }

    /// `tensor` becomes the reduction of those of all ranks, the same bits everywhere.
    ///
    /// # Errors
    /// A tensor with gaps or on another device; a rank that is gone or late.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<(), Error> {
        self.start_all_reduce(tensor, reduction)?.wait()
    }

    /// The same, begun; `tensor` is not to be touched until it is waited for.
    ///
    /// # Errors
    /// As [`World::all_reduce`].
    pub fn start_all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Started, Error> {
        self.start("all_reduce", &[tensor], |group| group.all_reduce(tensor, reduction))
    }

    /// `tensor` becomes that of rank 0.
    ///
    /// # Errors
    /// As [`World::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor) -> Result<(), Error> {
        self.start("broadcast", &[tensor], |group| group.broadcast(tensor, 0))?.wait()
    }

    /// The tensors of all ranks, `[size, ..]`.
    ///
    /// # Errors
    /// As [`World::all_reduce`].
    pub fn all_gather(&self, own: &Tensor) -> Result<Tensor, Error> {
        let shape = [vec![self.size() as i64], own.size()].concat();
        let all = Tensor::f_zeros(shape, (own.kind(), own.device()));
        let all = all.map_err(|error| tensor_error("all_gather", &error))?;
        self.start_all_gather(&all, own)?.wait()?;
        Ok(all)
    }

    /// Begins to fill `all [size · n]` with the tensors `own [n]` of all ranks; neither is to be touched until it is waited
    /// for.
    ///
    /// # Errors
    /// As [`World::all_reduce`].
    pub fn start_all_gather(&self, all: &Tensor, own: &Tensor) -> Result<Started, Error> {
        let what = "all_gather";
        if self.is_alone() {
            return copied(all, own, what);
        }
        self.start(what, &[all, own], |group| group.all_gather(all, own))
    }

    /// The block of this rank of the reduction of all `all [size, ..]`.
    ///
    /// # Errors
    /// As [`World::all_reduce`]; a first dimension that is not the number of ranks.
    pub fn reduce_scatter(&self, all: &Tensor, reduction: Reduction) -> Result<Tensor, Error> {
        let (what, shape) = ("reduce_scatter", all.size());
        if shape.first() != Some(&(self.size() as i64)) {
            let problem = format!("a tensor of {shape:?} has not one block for each of {} ranks", self.size());
            return Err(Error::Tensor { what, problem });
        }
        let own = Tensor::f_zeros(&shape[1..], (all.kind(), all.device()));
        let own = own.map_err(|error| tensor_error(what, &error))?;
        self.start_reduce_scatter(&own, all, reduction)?.wait()?;
        Ok(own)
    }

    /// Begins to fill `own [n]` with the block of this rank of the reduction of all `all [size · n]`; neither is to be
    /// touched until it is waited for.
    ///
    /// # Errors
    /// As [`World::all_reduce`].
    pub fn start_reduce_scatter(&self, own: &Tensor, all: &Tensor, reduction: Reduction) -> Result<Started, Error> {
        let what = "reduce_scatter";
        if self.is_alone() {
            return copied(own, all, what);
        }
        self.start(what, &[own, all], |group| group.reduce_scatter(own, all, reduction))
    }

    /// Begins a collective on `tensors`.
    fn start(
        &self,
        what: &'static str,
        tensors: &[&Tensor],
        start: impl FnOnce(&ProcessGroup) -> Result<Pending, TchError>,
    ) -> Result<Started, Error> {
        let Some(peers) = self.0.as_ref() else { return Ok(Started { what, pending: None }) };
        tensors.iter().try_for_each(|tensor| peers.check(tensor, what))?;
        let pending = peers.start(what, start)?;
        Ok(Started { what, pending: Some((Arc::clone(peers), pending)) })
    }

    /// Goes on when all ranks have come here.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn barrier(&self) -> Result<(), Error> {
        // NCCL's own barrier guesses a GPU; a sum is on that of the group.
        let here = Tensor::f_zeros([1], (Kind::Float, self.device()));
        self.all_reduce(&here.map_err(|error| tensor_error("barrier", &error))?, Reduction::Sum)
    }

    /// Says to the others why this rank ends; they are told when they find that it is gone.
    pub fn leave(&self, reason: &str) {
        let Some(peers) = self.0.as_ref() else { return };
        // After a failure of the group the others know.
        if peers.close() {
            peers.board.leave(reason);
        }
    }
}

impl Peers {
    /// Collectives read raw memory on the group's device.
    fn check(&self, tensor: &Tensor, what: &'static str) -> Result<(), Error> {
        let problem = if tensor.device() != self.device {
            format!("a tensor on {:?}, the ranks exchange those on {:?}", tensor.device(), self.device)
        } else if !tensor.is_contiguous() {
            format!("a tensor of {:?} with strides {:?}, which is not contiguous", tensor.size(), tensor.stride())
        } else {
            return Ok(());
        };
        Err(Error::Tensor { what, problem })
    }

    fn start(
        self: &Arc<Self>,
        what: &'static str,
        start: impl FnOnce(&ProcessGroup) -> Result<Pending, TchError>,
    ) -> Result<Pending, Error> {
        let _no_grad = tch::no_grad_guard();
        let started = match &*self.group.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(group) => start(group),
            None => Err(TchError::Torch("the connections are closed".to_string())),
        };
        started.map_err(|problem| self.fault(what, &problem))
    }

    /// Waits for the end of a collective, or for a failure that another rank has found. Between ranks of which none has
    /// failed connections stay open, and one of them may wait for another that has given up.
    fn wait(&self, pending: &Pending) -> Result<(), TchError> {
        while !pending.wait_for(LOOK)? {
            if self.board.is_inquired() {
                return Err(TchError::Torch("another rank has found a failure".to_string()));
            }
        }
        Ok(())
    }

    /// Closes all connections, so that every rank that waits for this one notices; false if they were closed before.
    fn close(&self) -> bool {
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner).take();
        let open = group.is_some();
        // A group may wait for what will never come, were it not told not to.
        let end = move || {
            let _ = group.as_ref().map(ProcessGroup::abort);
            drop(group);
        };
        patiently(end, CLOSING);
        open
    }

    fn fault(&self, what: &'static str, problem: &TchError) -> Error {
        self.close();
        self.all.iter().for_each(|all| _ = all.close());
        let (size, problem) = (self.place.size, first_line(problem));
        match self.board.inquire() {
            Verdict::Ended(rank, reason) => Error::Ended { rank, reason },
            Verdict::Silent(silent) => Error::Silent { silent, size, what, problem },
            Verdict::Busy(busy) => Error::Busy { busy, size, what, problem },
            Verdict::AllNoticed => Error::Collective { size, what, problem },
        }
    }
}

/// What a world of one has when it gathers or reduces: its own.
fn copied(to: &Tensor, from: &Tensor, what: &'static str) -> Result<Started, Error> {
    let _no_grad = tch::no_grad_guard();
    let copy = from.f_view_as(to).and_then(|from| to.shallow_clone().f_copy_(&from));
    copy.map_err(|error| tensor_error(what, &error))?;
    Ok(Started { what, pending: None })
}

pub(super) fn tensor_error(what: &'static str, error: &TchError) -> Error {
    Error::Tensor { what, problem: first_line(error) }
}
