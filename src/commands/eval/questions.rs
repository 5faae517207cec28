//! What every model of `shearling eval` is asked: rows of the data, tasks, and how.

use crate::cli::arguments::{Eval, TaskArgument};
use crate::eval::EvalRows;
use crate::eval::multiple_choice::Task;
use crate::native::runtime::device;
use crate::train::setup::kind;
use shearling_domains::Dataset;
use tch::Device;

/// What every model is asked.
pub(super) struct Questions {
    pub(super) dataset: Option<Dataset>,
    pub(super) rows: Vec<EvalRows>,
    pub(super) tasks: Vec<Task>,
    pub(super) micro_batch: usize,
    pub(super) compute: tch::Kind,
    pub(super) device: Device,
}

impl Questions {
    pub(super) fn read(arguments: &Eval) -> anyhow::Result<Questions> {
        let device = device::parse(&arguments.device)?;
        let dataset = arguments.data.as_deref().map(Dataset::open).transpose()?;
        let rows = dataset.as_ref().map(|dataset| EvalRows::load(dataset, arguments.rows.get(), device)).transpose()?;
        let limit = arguments.limit.map(|limit| limit.get());
        let read = |task: &TaskArgument| Task::read(&task.name, &task.path, task.kind, limit);
        Ok(Questions {
            tasks: arguments.tasks.iter().map(read).collect::<Result<_, _>>()?,
            rows: rows.unwrap_or_default(),
            dataset,
            micro_batch: arguments.micro_batch.get(),
            compute: kind(arguments.dtype.into()),
            device,
        })
    }
}
