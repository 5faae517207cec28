//! Which process of a run this one is, from the variables that its launcher sets.
//!
//! | launcher | rank, size | on this machine | store |
//! |---|---|---|---|
//! | torchrun, plain | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, `LOCAL_WORLD_SIZE` | `MASTER_ADDR`, `MASTER_PORT` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `…_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK`, `…_LOCAL_SIZE` | the same; on one machine this one |
//! | Slurm (srun) | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS` | `SLURM_LOCALID`, `SLURM_STEP_TASKS_PER_NODE` | the same, else the step's first host and a port from the job's number |
//!
//! torchrun may serve the store itself (`TORCHELASTIC_USE_AGENT_STORE`); every rank is a client of it then, under a prefix
//! that differs at every restart.

use super::Error;
use super::host_list::{first_host, tasks_here};

/// PyTorch's own default.
const PORT: u16 = 29500;
const LOOPBACK: &str = "127.0.0.1";

/// Who started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// torchrun, or its like.
    Torchrun,
    /// Somebody who set `RANK` and `WORLD_SIZE`.
    Plain,
    /// Open MPI's mpirun.
    OpenMpi,
    /// Slurm's srun.
    Slurm,
}

impl Launcher {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::Torchrun => "torchrun",
            Launcher::Plain => "RANK and WORLD_SIZE",
            Launcher::OpenMpi => "Open MPI",
            Launcher::Slurm => "Slurm",
        }
    }
}

/// A process among those of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are; at least 2.
    pub size: usize,
    /// Its number on this machine.
    pub local_rank: usize,
    /// How many there are on this machine.
    pub local_size: usize,
    /// Host of the store.
    pub address: String,
    /// Port of the store.
    pub port: u16,
    /// Where in a store that the launcher serves this run's keys lie; `None` where rank 0 serves it.
    pub agent_prefix: Option<String>,
    /// Who started it.
    pub launcher: Launcher,
    /// How often the launcher has started the run again.
    pub restarts: usize,
}

impl Place {
    /// From the environment of this process; `None` for a process alone.
    ///
    /// # Errors
    /// Variables that are missing, no numbers, or do not fit together.
    pub fn from_environment() -> Result<Option<Place>, Error> {
        Place::from_variables(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>, Error> {
        let has = |name: &str| variable(name).is_some();
        let launcher = if has("RANK") || has("WORLD_SIZE") {
            if has("TORCHELASTIC_RUN_ID") { Launcher::Torchrun } else { Launcher::Plain }
        } else if has("OMPI_COMM_WORLD_SIZE") {
            Launcher::OpenMpi
        } else if has("SLURM_STEP_NUM_TASKS") || (has("SLURM_STEP_ID") && has("SLURM_PROCID")) {
            // A batch script that starts a program without srun has the other variables of Slurm too.
            Launcher::Slurm
        } else {
            return Ok(None);
        };
        let place = Variables { launcher, variable }.place()?;
        Ok(Some(place).filter(|place| place.size > 1))
    }

    /// A rank that is a thread of a test, at a store that the test serves.
    #[cfg(test)]
    pub(crate) fn of_thread(rank: usize, size: usize, port: u16) -> Place {
        Place {
            rank,
            size,
            local_rank: rank,
            local_size: size,
            address: LOOPBACK.to_string(),
            port,
            agent_prefix: Some("/worker/attempt_0".to_string()),
            launcher: Launcher::Torchrun,
            restarts: 0,
        }
    }

    /// Whether this process serves the store.
    pub fn serves(&self) -> bool {
        self.rank == 0 && self.agent_prefix.is_none()
    }
}

/// The variables of one launcher.
struct Variables<'a> {
    launcher: Launcher,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn place(&self) -> Result<Place, Error> {
        let (rank, size, local_rank, local_size) = match self.launcher {
            Launcher::Torchrun | Launcher::Plain => (
                self.number("RANK")?,
                self.number("WORLD_SIZE")?,
                self.number_or("LOCAL_RANK", 0)?,
                self.number_or("LOCAL_WORLD_SIZE", 1)?,
            ),
            Launcher::OpenMpi => (
                self.number("OMPI_COMM_WORLD_RANK")?,
                self.number("OMPI_COMM_WORLD_SIZE")?,
                self.number_or("OMPI_COMM_WORLD_LOCAL_RANK", 0)?,
                self.number_or("OMPI_COMM_WORLD_LOCAL_SIZE", 1)?,
            ),
            Launcher::Slurm => (
                self.number("SLURM_PROCID")?,
                self.number_of(&["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])?,
                self.number_or("SLURM_LOCALID", 0)?,
                self.slurm_local_size()?,
            ),
        };
        // Whoever gives the local rank alone means that there are at least as many.
        let local_size = local_size.max(local_rank + 1);
        if size == 0 || rank >= size {
            return Err(self.wrong(format!("rank {rank} of {size} is no rank; ranks go from 0 to {}", size.max(1) - 1)));
        }
        if local_size > size {
            return Err(
                self.wrong(format!("{local_size} processes on this machine are more than the {size} of the run"))
            );
        }
        let (address, port) = if size > 1 { self.store(size, local_size)? } else { (LOOPBACK.to_string(), PORT) };
        let restarts = self.number_or("TORCHELASTIC_RESTART_COUNT", 0)?;
        let agent_prefix = self.agent_serves().then(|| format!("/worker/attempt_{restarts}"));
        let launcher = self.launcher;
        Ok(Place { rank, size, local_rank, local_size, address, port, agent_prefix, launcher, restarts })
    }

    /// Whether torchrun serves the store.
    fn agent_serves(&self) -> bool {
        self.get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Host and port of the store.
    fn store(&self, size: usize, local_size: usize) -> Result<(String, u16), Error> {
        let slurm = self.launcher == Launcher::Slurm;
        let hosts = || self.get("SLURM_STEP_NODELIST").or_else(|| self.get("SLURM_JOB_NODELIST"));
        let found = match self.get("MASTER_ADDR") {
            Some(address) => Some(address),
            None if slurm => hosts().and_then(|hosts| first_host(&hosts)),
            None => (local_size == size && self.launcher == Launcher::OpenMpi).then(|| LOOPBACK.to_string()),
        };
        let address = found.ok_or_else(|| {
            let how = if self.launcher == Launcher::OpenMpi { " (mpirun -x MASTER_ADDR=HOST)" } else { "" };
            self.wrong(format!("MASTER_ADDR is missing: the host of rank 0, where the ranks find each other{how}"))
        })?;
        let port = match (self.get("MASTER_PORT"), self.get("SLURM_JOB_ID").filter(|_| slurm)) {
            (Some(port), _) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| self.wrong(format!("MASTER_PORT = {port:?} is no port (1 to 65535)")))?,
            // Two jobs that share a machine must not meet.
            (None, Some(job)) => 20_000 + (job.parse::<u64>().unwrap_or(0) % 10_000) as u16,
            (None, None) => PORT,
        };
        Ok((address, port))
    }

    fn slurm_local_size(&self) -> Result<usize, Error> {
        let counts = self.get("SLURM_STEP_TASKS_PER_NODE").or_else(|| self.get("SLURM_TASKS_PER_NODE"));
        let node = self.number_or("SLURM_NODEID", 0)?;
        Ok(counts.and_then(|counts| tasks_here(&counts, node)).unwrap_or(1))
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    fn number(&self, name: &str) -> Result<usize, Error> {
        self.number_of(&[name])
    }

    /// The first of these that is set.
    fn number_of(&self, names: &[&str]) -> Result<usize, Error> {
        let Some((name, value)) = names.iter().find_map(|name| Some((name, self.get(name)?))) else {
            return Err(self.wrong(format!("{} is missing", names.join(" or "))));
        };
        value.parse().map_err(|_| self.wrong(format!("{name} = {value:?} is no number")))
    }

    fn number_or(&self, name: &str, default: usize) -> Result<usize, Error> {
        if self.get(name).is_none() { Ok(default) } else { self.number(name) }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::Environment { launcher: self.launcher.name(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn place(variables: &str) -> Result<Option<Place>, String> {
        let known: BTreeMap<&str, &str> =
            variables.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        Place::from_variables(&|name| known.get(name).map(|value| value.to_string())).map_err(|error| error.to_string())
    }

    fn found(variables: &str) -> Place {
        place(variables).unwrap().unwrap()
    }

    #[test]
    fn a_process_alone_has_no_place() {
        for alone in ["", "RANK=0 WORLD_SIZE=1", "OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0", "SLURM_JOB_ID=3"] {
            assert_eq!(place(alone), Ok(None), "{alone}");
        }
        // A batch script of Slurm, without srun.
        assert_eq!(place("SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_JOB_NODELIST=a"), Ok(None));
    }

    #[test]
    fn torchrun_with_and_without_its_own_store() {
        let base = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=host MASTER_PORT=4321 \
                    TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=2";
        let found = found(&format!("{base} TORCHELASTIC_USE_AGENT_STORE=True"));
        assert_eq!((found.rank, found.size, found.local_rank, found.local_size), (3, 4, 1, 2));
        assert_eq!((found.address.as_str(), found.port, found.launcher), ("host", 4321, Launcher::Torchrun));
        assert_eq!((found.agent_prefix.as_deref(), found.restarts), (Some("/worker/attempt_2"), 2));
        let own = place(&format!("{} TORCHELASTIC_USE_AGENT_STORE=False", base.replace("RANK=3", "RANK=0")));
        let own = own.unwrap().unwrap();
        assert!(own.agent_prefix.is_none() && own.serves());
        assert!(!found.serves());
    }

    #[test]
    fn plain_variables_need_an_address_and_take_the_usual_port() {
        let found = found("RANK=1 WORLD_SIZE=2 MASTER_ADDR=::1 LOCAL_RANK=1");
        assert_eq!((found.port, found.launcher, found.local_size), (29500, Launcher::Plain, 2));
        for (variables, expected) in [
            ("RANK=1 WORLD_SIZE=2", "MASTER_ADDR is missing"),
            ("RANK=1", "WORLD_SIZE is missing"),
            ("WORLD_SIZE=2", "RANK is missing"),
            ("RANK=2 WORLD_SIZE=2", "rank 2 of 2 is no rank"),
            ("RANK=0 WORLD_SIZE=0", "rank 0 of 0 is no rank"),
            ("RANK=-1 WORLD_SIZE=2", "RANK = \"-1\" is no number"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0", "MASTER_PORT = \"0\""),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT = \"70000\""),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a LOCAL_WORLD_SIZE=4", "4 processes on this machine are more"),
        ] {
            let message = place(variables).unwrap_err();
            assert!(message.contains(expected), "{variables}: {message}");
        }
    }

    #[test]
    fn open_mpi_on_one_machine_needs_nothing_more_and_on_several_an_address() {
        let base = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1";
        let one = found(&format!("{base} OMPI_COMM_WORLD_LOCAL_SIZE=2"));
        assert_eq!((one.address.as_str(), one.port, one.local_rank), ("127.0.0.1", 29500, 1));
        let base = base.replace("LOCAL_RANK=1", "LOCAL_RANK=0");
        let message = place(&format!("{base} OMPI_COMM_WORLD_LOCAL_SIZE=1")).unwrap_err();
        assert!(message.contains("mpirun -x MASTER_ADDR"), "{message}");
    }

    #[test]
    fn slurm_tells_hosts_tasks_and_a_job() {
        let step = "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=6 SLURM_NTASKS=12 SLURM_LOCALID=1 SLURM_NODEID=1 \
                    SLURM_STEP_NODELIST=gpu[07-08] SLURM_STEP_TASKS_PER_NODE=4,2 SLURM_JOB_ID=1234567";
        let found = found(step);
        assert_eq!((found.rank, found.size, found.local_rank, found.local_size), (5, 6, 1, 2));
        assert_eq!((found.address.as_str(), found.port), ("gpu07", 24_567));
        let given = place(&format!("{step} MASTER_ADDR=other MASTER_PORT=1")).unwrap().unwrap();
        assert_eq!((given.address.as_str(), given.port), ("other", 1));
        assert!(place("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2").unwrap_err().contains("MASTER_ADDR"));
    }
}
