//! What programs tell each other beside tensors: texts, numbers, decisions. Every rank calls the same of these in the same
//! order.

use super::world::{World, tensor_error};
use super::{Error, Reduction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use tch::{Device, Kind, TchError, Tensor};

const WHAT: &str = "telling the other ranks";

impl World {
    /// Does something in rank 0 alone and tells all what came of it; an error of rank 0 is one of all.
    ///
    /// # Errors
    /// Those of `first` in rank 0; in the others its words, or that rank 0 is gone.
    pub fn told<T, E>(&self, first: impl FnOnce() -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error> + Display,
    {
        if self.is_alone() {
            return first();
        }
        if self.is_first() {
            let made = first();
            let said: Result<&T, String> = made.as_ref().map_err(E::to_string);
            let said = serde_json::to_string(&said).map_err(|error| Error::Garbled(error.to_string()))?;
            self.tell(&said)?;
            return made;
        }
        let said: Result<T, String> =
            serde_json::from_str(&self.hear()?).map_err(|error| Error::Garbled(error.to_string()))?;
        said.map_err(|reason| Error::Ended { rank: 0, reason }.into())
    }

    /// For each flag the last rank that has raised it, if one has.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn raised<const N: usize>(&self, flags: [bool; N]) -> Result<[Option<usize>; N], Error> {
        if self.is_alone() {
            return Ok(flags.map(|flag| flag.then_some(0)));
        }
        let own = flags.map(|flag| if flag { self.rank() as i64 + 1 } else { 0 });
        let all = self.here(Tensor::f_from_slice(&own))?;
        self.all_reduce(&all, Reduction::Max)?;
        let all: Vec<i64> = self.there(all)?;
        let mut raised = [None; N];
        for (place, rank) in raised.iter_mut().zip(all) {
            *place = usize::try_from(rank - 1).ok();
        }
        Ok(raised)
    }

    /// The numbers of all ranks, by rank; as many of each.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn numbers(&self, own: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        if self.is_alone() || own.is_empty() {
            return Ok(vec![own.to_vec(); self.size()]);
        }
        let all = self.all_gather(&self.here(Tensor::f_from_slice(own))?)?;
        let all: Vec<f64> = self.there(all)?;
        Ok(all.chunks(own.len()).map(<[f64]>::to_vec).collect())
    }

    /// The sums over all ranks of as many numbers.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn sums(&self, own: &[f64]) -> Result<Vec<f64>, Error> {
        if self.is_alone() || own.is_empty() {
            return Ok(own.to_vec());
        }
        let sums = self.here(Tensor::f_from_slice(own))?;
        self.all_reduce(&sums, Reduction::Sum)?;
        self.there(sums)
    }

    /// The texts of all ranks, by rank.
    ///
    /// # Errors
    /// A rank that is gone or late.
    pub fn texts(&self, own: &str) -> Result<Vec<String>, Error> {
        if self.is_alone() {
            return Ok(vec![own.to_string()]);
        }
        let lengths = self.numbers(&[own.len() as f64])?;
        let longest = lengths.iter().map(|length| length[0] as usize).max().unwrap_or(0).max(1);
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(longest, 0);
        let all: Vec<u8> = self.there(self.all_gather(&self.here(Tensor::f_from_slice(&bytes))?)?)?;
        let text =
            |(bytes, length): (&[u8], &Vec<f64>)| String::from_utf8_lossy(&bytes[..length[0] as usize]).into_owned();
        Ok(all.chunks(longest).zip(&lengths).map(text).collect())
    }

    /// Checks that every rank has the same of each of these named texts; the first that differs is named, line by line.
    ///
    /// # Errors
    /// A rank that has another; one that is gone or late.
    pub fn same(&self, fields: &[(&str, String)], remedy: &'static str) -> Result<(), Error> {
        if self.is_alone() {
            return Ok(());
        }
        let own: Vec<&String> = fields.iter().map(|(_, text)| text).collect();
        let own = serde_json::to_string(&own).map_err(|error| Error::Garbled(error.to_string()))?;
        let all = self.texts(&own)?;
        let parsed = all.iter().map(|text| serde_json::from_str::<Vec<String>>(text));
        let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| Error::Garbled(error.to_string()))?;
        let Some((first, others)) = parsed.split_first() else { return Ok(()) };
        if let Some((rank, other)) = others.iter().enumerate().find(|(_, other)| *other != first) {
            let names = fields.iter().map(|(name, _)| *name);
            let differs = names.zip(first.iter().zip(other)).find(|(_, (here, there))| here != there);
            let (what, (here, there)) = differs.unwrap_or(("number of checks", (&all[0], &all[rank + 1])));
            let (here, there) = first_difference(here, there);
            return Err(Error::Differs { what: what.to_string(), rank: rank + 1, here, there, remedy });
        }
        Ok(())
    }

    fn tell(&self, text: &str) -> Result<(), Error> {
        let bytes = text.as_bytes();
        self.broadcast(&self.here(Tensor::f_from_slice(&[bytes.len() as i64]))?)?;
        self.broadcast(&self.here(Tensor::f_from_slice(bytes))?)
    }

    fn hear(&self) -> Result<String, Error> {
        let length = self.here(Tensor::f_zeros([1], (Kind::Int64, Device::Cpu)))?;
        self.broadcast(&length)?;
        let length: Vec<i64> = self.there(length)?;
        let bytes = self.here(Tensor::f_zeros([length[0].max(0)], (Kind::Uint8, Device::Cpu)))?;
        self.broadcast(&bytes)?;
        let bytes: Vec<u8> = self.there(bytes)?;
        String::from_utf8(bytes).map_err(|error| Error::Garbled(error.to_string()))
    }

    /// A tensor on the device of the collectives.
    fn here(&self, tensor: Result<Tensor, TchError>) -> Result<Tensor, Error> {
        tensor.and_then(|tensor| tensor.f_to_device(self.device())).map_err(|error| tensor_error(WHAT, &error))
    }

    /// Its values.
    fn there<T: tch::kind::Element + Copy>(&self, tensor: Tensor) -> Result<Vec<T>, Error> {
        let flat = tensor.f_to_device(Device::Cpu).and_then(|tensor| tensor.f_view([-1]));
        flat.and_then(Vec::try_from).map_err(|error| tensor_error(WHAT, &error))
    }
}

/// The first line that differs in two texts.
fn first_difference(here: &str, there: &str) -> (String, String) {
    let mut lines = [here.lines(), there.lines()];
    loop {
        match (lines[0].next(), lines[1].next()) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return (here.to_string(), there.to_string()),
            (a, b) => return (a.unwrap_or_default().to_string(), b.unwrap_or_default().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_of_one_says_what_it_hears() {
        let world = World::alone();
        assert_eq!(world.told(|| Ok::<_, Error>(3)).unwrap(), 3);
        assert_eq!(world.raised([true, false]).unwrap(), [Some(0), None]);
        assert_eq!(world.numbers(&[1.0, 2.0]).unwrap(), [[1.0, 2.0]]);
        assert_eq!(world.sums(&[1.5]).unwrap(), [1.5]);
        assert_eq!(world.texts("a").unwrap(), ["a"]);
        world.same(&[("x", "y".into())], "").unwrap();
        assert_eq!((world.rank(), world.size(), world.takes(7), world.is_first()), (0, 1, true, true));
    }

    #[test]
    fn the_line_that_differs_is_found() {
        assert_eq!(first_difference("a\nb\nc", "a\nd\nc"), ("b".into(), "d".into()));
        assert_eq!(first_difference("a", "a\nb"), (String::new(), "b".into()));
    }
}
