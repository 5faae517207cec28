//! Named tensors of any kind in one safetensors file: optimiser state, masks, multipliers.
//!
//! Kinds are kept exactly (64-bit integers and floats, bf16 too), so that a resumed run continues bit for bit.

use super::dtype::{STATE_DTYPES, dtype_of};
use super::mapped::MappedFile;
use super::publish::write_atomic_with;
use super::stream::{SafetensorsStream, Slot};
use super::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The content of such a file.
#[derive(Debug)]
pub struct TensorFile {
    /// Free key-value pairs of the header.
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl TensorFile {
    /// Writes tensors atomically; equal content gives equal bytes.
    ///
    /// # Errors
    /// A name twice, a kind without a place in the format, or the disk refuses.
    pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
        let slots = tensors.iter().map(|(name, tensor)| slot(path, name, tensor)).collect::<Result<Vec<_>>>()?;
        check_names(path, &slots)?;
        write_atomic_with(path, |file| {
            let file = file.try_clone().map_err(Error::io("write", path))?;
            let mut stream = SafetensorsStream::begin(file, path, slots, metadata)?;
            tensors.iter().try_for_each(|(name, tensor)| stream.write(name, tensor))?;
            stream.finish()
        })
    }

    /// The same of tensors that come one after the other: `plan` has their names, shapes and kinds, and `each` is asked for them
    /// in that order.
    ///
    /// # Errors
    /// As [`TensorFile::write`], and what `each` returns.
    pub fn write_each<E: From<Error>>(
        path: &Path,
        plan: Vec<(String, Vec<i64>, Kind)>,
        mut each: impl FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let slots = plan.iter().map(|(name, shape, kind)| planned(path, name, shape.clone(), *kind));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        check_names(path, &slots)?;
        let mut failed = None;
        let written = write_atomic_with(path, |file| {
            let file = file.try_clone().map_err(Error::io("write", path))?;
            let mut stream = SafetensorsStream::begin(file, path, slots, &BTreeMap::new())?;
            for (name, ..) in &plan {
                match each(name) {
                    Ok(tensor) => stream.write(name, &tensor)?,
                    Err(error) => {
                        failed = Some(error);
                        return Err(Error::tensor(path, name, "not given"));
                    }
                }
            }
            stream.finish()
        });
        failed.map_or(written.map_err(E::from), Err)
    }

    /// Reads all tensors to a device, in the kinds they were written in.
    ///
    /// # Errors
    /// Truncated or damaged, or a dtype that libtorch has no kind for.
    pub fn read(path: &Path, device: Device) -> Result<TensorFile> {
        let file = MappedFile::open(path)?;
        let mut tensors = BTreeMap::new();
        for name in file.names() {
            let tensor = file.tensor(&name, None, device)?;
            tensors.insert(name, tensor);
        }
        Ok(TensorFile { metadata: file.header_metadata(), tensors })
    }
}

fn check_names(path: &Path, slots: &[Slot]) -> Result<()> {
    let mut names: Vec<_> = slots.iter().map(|slot| slot.name.as_str()).chain(["__metadata__"]).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Error::tensor(path, twice[0], "given twice, or a name the format reserves")),
        None => Ok(()),
    }
}

/// The tensors of such a file, read one by one as they are asked for.
#[derive(Debug)]
pub struct MappedTensors(MappedFile);

impl MappedTensors {
    /// Reads the header only.
    ///
    /// # Errors
    /// Truncated or damaged.
    pub fn open(path: &Path) -> Result<MappedTensors> {
        MappedFile::open(path).map(MappedTensors)
    }

    /// A tensor in the kind it was written in; `None` if it is not in the file.
    ///
    /// # Errors
    /// A dtype that libtorch has no kind for.
    pub fn tensor(&self, name: &str, device: Device) -> Result<Option<Tensor>> {
        self.0.info(name).is_ok().then(|| self.0.tensor(name, None, device)).transpose()
    }
}

fn slot(path: &Path, name: &str, tensor: &Tensor) -> Result<Slot> {
    planned(path, name, tensor.size(), tensor.f_kind().map_err(Error::torch("look at", name))?)
}

fn planned(path: &Path, name: &str, shape: Vec<i64>, kind: Kind) -> Result<Slot> {
    let dtype = dtype_of(kind).ok_or_else(|| Error::TensorDtype {
        path: path.to_owned(),
        tensor: name.to_owned(),
        found: format!("{kind:?}"),
        supported: STATE_DTYPES,
    })?;
    Ok(Slot { name: name.to_owned(), shape, dtype })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{bytes, entries, ramp};
    use std::fs;

    #[test]
    fn every_kind_comes_back_exactly() {
        let kinds = [
            Kind::Bool,
            Kind::Uint8,
            Kind::Int8,
            Kind::Int16,
            Kind::Int,
            Kind::Int64,
            Kind::Half,
            Kind::BFloat16,
            Kind::Float,
            Kind::Double,
        ];
        let mut tensors: Vec<_> = kinds.iter().map(|kind| (format!("{kind:?}"), ramp(&[3, 5], *kind))).collect();
        tensors.push(("large".into(), Tensor::from_slice(&[i64::MAX, i64::MIN])));
        tensors.push(("special".into(), Tensor::from_slice(&[f64::NAN, f64::INFINITY, -0.0, 5e-324])));
        tensors.push(("step".into(), Tensor::from(7i64)));
        let metadata = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "\"1\"".to_owned())]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        TensorFile::write(&path, &tensors, &metadata).unwrap();
        let read = TensorFile::read(&path, Device::Cpu).unwrap();
        assert_eq!(read.metadata, metadata);
        assert_eq!(read.tensors.len(), tensors.len());
        for (name, tensor) in &tensors {
            let same = &read.tensors[name];
            assert_eq!((same.kind(), same.size()), (tensor.kind(), tensor.size()), "{name}");
            assert_eq!(bytes(same), bytes(tensor), "{name}");
        }
        // The same content, the same bytes.
        let again = dir.path().join("again.safetensors");
        TensorFile::write(&again, &tensors, &metadata).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
    }

    #[test]
    fn tensors_that_come_one_by_one_give_the_same_bytes_and_are_read_one_by_one() {
        let tensors = [("b".to_owned(), ramp(&[3, 5], Kind::Float)), ("a".to_owned(), ramp(&[7], Kind::BFloat16))];
        let dir = tempfile::tempdir().unwrap();
        let [whole, each] = ["whole", "each"].map(|name| dir.path().join(name));
        TensorFile::write(&whole, &tensors, &BTreeMap::new()).unwrap();
        let plan = || tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size(), tensor.kind())).collect();
        let given = |name: &str| tensors.iter().find(|(other, _)| other == name).unwrap().1.shallow_clone();
        TensorFile::write_each::<Error>(&each, plan(), |name| Ok(given(name))).unwrap();
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&each).unwrap());
        let mapped = MappedTensors::open(&each).unwrap();
        assert!(mapped.tensor("b", Device::Cpu).unwrap().unwrap().equal(&tensors[0].1));
        assert!(mapped.tensor("c", Device::Cpu).unwrap().is_none());

        let gone = |name: &str| match name {
            "b" => Ok(given(name)),
            _ => Err(Error::tensor(&each, name, "the other rank is gone")),
        };
        let none = dir.path().join("none");
        let error = TensorFile::write_each(&none, plan(), gone).unwrap_err().to_string();
        assert!(error.contains("the other rank is gone") && !none.exists(), "{error}");
    }

    #[test]
    fn an_empty_file_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.safetensors");
        TensorFile::write(&path, &[], &BTreeMap::new()).unwrap();
        assert!(TensorFile::read(&path, Device::Cpu).unwrap().tensors.is_empty());
    }

    #[test]
    fn what_cannot_be_stored_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let complex = ("z".to_owned(), Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu)));
        let error = TensorFile::write(&path, &[complex], &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("`z`") && error.contains("ComplexFloat"), "{error}");
        let twice = [("a".to_owned(), Tensor::from(1i64)), ("a".to_owned(), Tensor::from(2i64))];
        assert!(TensorFile::write(&path, &twice, &BTreeMap::new()).unwrap_err().to_string().contains("`a`"));
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn a_cut_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        TensorFile::write(&path, &[("a".into(), ramp(&[9], Kind::Double))], &BTreeMap::new()).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = TensorFile::read(&path, Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("state.safetensors"), "{length}");
        }
    }
}
