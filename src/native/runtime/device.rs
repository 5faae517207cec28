//! `--device auto|cpu|cuda|cuda:N`.

use tch::{Cuda, Device};

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device name.
    #[error("device {0:?} is not known; use auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// CUDA was asked for and is not there.
    #[error(
        "device {0:?} was asked for, but this libtorch sees no CUDA device; run `shearling doctor`, or use --device cpu"
    )]
    NoCuda(String),
    /// Fewer CUDA devices than asked for.
    #[error("device {asked:?} was asked for, but there are {found} CUDA devices (cuda:0 to cuda:{})", .found - 1)]
    NoSuchDevice {
        /// What was asked for.
        asked: String,
        /// How many there are.
        found: i64,
    },
    /// More ranks than CUDA devices.
    #[error(
        "{ranks} ranks are on this machine, which has {found} CUDA devices: start as many ranks as there are devices"
    )]
    TooFew {
        /// CUDA devices.
        found: usize,
        /// Ranks.
        ranks: usize,
    },
    /// Several ranks cannot share a GPU.
    #[error(
        "device {0:?} is one GPU for all ranks of this machine: with device \"cuda\" or \"auto\" each takes its own"
    )]
    OneForAll(String),
}

/// The device of that name; `auto` is the first CUDA device if there is one.
pub fn parse(name: &str) -> Result<Device, DeviceError> {
    let cuda = || if Cuda::is_available() { Cuda::device_count() } else { 0 };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if cuda() > 0 { Device::Cuda(0) } else { Device::Cpu }),
        _ => {
            let index = cuda_index(name).ok_or_else(|| DeviceError::Unknown(name.to_string()))?;
            match cuda() {
                0 => Err(DeviceError::NoCuda(name.to_string())),
                found if index as i64 >= found => Err(DeviceError::NoSuchDevice { asked: name.to_string(), found }),
                _ => Ok(Device::Cuda(index)),
            }
        }
    }
}

/// The device of one of `local_size` ranks on this machine: of GPUs each has its own, by its number.
///
/// # Errors
/// As [`parse`]; fewer GPUs than ranks; one GPU named for several.
pub fn of_rank(name: &str, local_rank: usize, local_size: usize) -> Result<Device, DeviceError> {
    match (parse(name)?, name) {
        (Device::Cuda(_), "auto" | "cuda") => {
            let found = Cuda::device_count().max(0) as usize;
            match found {
                // The launcher shows each rank its own.
                1 => Ok(Device::Cuda(0)),
                _ if local_rank < found => Ok(Device::Cuda(local_rank)),
                _ => Err(DeviceError::TooFew { found, ranks: local_size }),
            }
        }
        (Device::Cuda(_), _) if local_size > 1 => Err(DeviceError::OneForAll(name.to_string())),
        (device, _) => Ok(device),
    }
}

/// Waits until a device has done everything that it was given; the CPU has.
pub fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// A device as people write it: `CPU`, `cuda:0`.
pub fn name(device: Device) -> String {
    match device {
        Device::Cpu => "CPU".to_string(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn cuda_index(name: &str) -> Option<usize> {
    match name {
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:")?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_wrong_ones_named() {
        assert_eq!(parse("cpu").unwrap(), Device::Cpu);
        assert_eq!(cuda_index("cuda"), Some(0));
        assert_eq!(cuda_index("cuda:3"), Some(3));
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(matches!(parse(wrong), Err(DeviceError::Unknown(_))), "{wrong}");
        }
    }

    #[test]
    fn auto_falls_back_to_the_cpu() {
        let device = parse("auto").unwrap();
        assert_eq!(device == Device::Cpu, !Cuda::is_available());
    }
}
