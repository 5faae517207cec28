//! Counts which experts run while a model reads rows: density by layer and domain, scores near the threshold, experts that always
//! or never run (static pruning in disguise), and the union that several rows need together.

use super::experts::Experts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::{Device, Kind, TchError, Tensor};

/// A score this near to ½ is near the threshold.
pub const NEAR: f64 = 0.1;
/// An expert that runs for more than this share of the tokens is always on, one that runs for less than the rest always off.
const ALWAYS: f64 = 0.99;
/// Rows whose union is counted.
const BATCHES: [i64; 3] = [2, 4, 8];

/// Sums over the rows so far.
#[derive(Debug)]
pub struct Meter {
    living: Tensor,
    /// By layer.
    layers: BTreeMap<usize, Layer>,
    /// Σ density times tokens, and tokens times layers, by domain.
    domains: BTreeMap<String, (f64, f64)>,
    /// The same of unions, by rows.
    unions: BTreeMap<i64, (f64, f64)>,
}

#[derive(Debug)]
struct Layer {
    /// Tokens that each expert ran for `[N]`, fp64.
    runs: Tensor,
    near: f64,
    tokens: f64,
}

/// What a meter has summed so far, to be added to what others have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// By layer: tokens that each expert ran for, scores near the threshold, tokens.
    layers: BTreeMap<usize, (Vec<f64>, f64, f64)>,
    domains: BTreeMap<String, (f64, f64)>,
    unions: BTreeMap<i64, (f64, f64)>,
}

/// What a meter has counted; shares of living units, means over layers and tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Densities {
    /// Share that runs.
    pub mean: f64,
    /// Of each layer with a router.
    pub layers: BTreeMap<usize, f64>,
    /// Of each domain.
    pub domains: BTreeMap<String, f64>,
    /// Share of scores within [`NEAR`] of the threshold.
    pub near_threshold: f64,
    /// Share of experts that run for more than 99 % of the tokens.
    pub always_on: f64,
    /// Share of experts that run for less than 1 % of them.
    pub always_off: f64,
    /// Share that 2, 4, 8 rows need together at one position.
    pub unions: BTreeMap<i64, f64>,
}

impl Meter {
    /// For a model of `experts`, on `device`.
    pub fn new(experts: &Experts, device: Device) -> Result<Meter, TchError> {
        let living = Tensor::f_from_slice(&experts.living_shares())?.f_to_kind(Kind::Double)?.f_to_device(device)?;
        Ok(Meter { living, layers: BTreeMap::new(), domains: BTreeMap::new(), unions: BTreeMap::new() })
    }

    /// Counts logits `[B, T, N]` by layer, of rows of `domain`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn add(&mut self, domain: &str, logits: &[(usize, Tensor)]) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for (layer, logits) in logits {
            let open = logits.f_gt(0.0)?;
            let (rows, tokens, experts) = open.size3()?;
            let count = (rows * tokens) as f64;
            let runs = open.f_to_kind(Kind::Double)?.f_sum_dim_intlist([0i64, 1].as_slice(), false, Kind::Double)?;
            let density = runs.f_dot(&self.living)?.f_double_value(&[])? / count;
            let domain = self.domains.entry(domain.to_string()).or_default();
            (domain.0, domain.1) = (domain.0 + density * count, domain.1 + count);
            for batch in BATCHES.into_iter().filter(|batch| *batch <= rows) {
                let groups = rows / batch;
                let grouped = open.f_narrow(0, 0, groups * batch)?.f_view([groups, batch, tokens, experts])?;
                let union = grouped.f_any_dim(1, false)?.f_to_kind(Kind::Double)?.f_matmul(&self.living)?;
                let sums = self.unions.entry(batch).or_default();
                sums.0 += union.f_sum(Kind::Double)?.f_double_value(&[])?;
                sums.1 += (groups * tokens) as f64;
            }
            let near = logits.f_sigmoid()?.f_sub_scalar(0.5)?.f_abs()?.f_lt(NEAR)?.f_to_kind(Kind::Double)?;
            let near = near.f_mean(Kind::Double)?.f_double_value(&[])? * count;
            match self.layers.get_mut(layer) {
                Some(found) => {
                    found.runs = found.runs.f_add(&runs)?;
                    (found.near, found.tokens) = (found.near + near, found.tokens + count);
                }
                None => _ = self.layers.insert(*layer, Layer { runs, near, tokens: count }),
            }
        }
        Ok(())
    }

    /// The sums so far.
    ///
    /// # Errors
    /// libtorch's.
    pub fn sums(&self) -> Result<Sums, TchError> {
        let layer = |(layer, sums): (&usize, &Layer)| -> Result<_, TchError> {
            Ok((*layer, (Vec::try_from(sums.runs.f_to_device(Device::Cpu)?)?, sums.near, sums.tokens)))
        };
        let layers = self.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Sums { layers, domains: self.domains.clone(), unions: self.unions.clone() })
    }

    /// A meter that has counted all that these have, with the experts of this one.
    ///
    /// # Errors
    /// libtorch's.
    pub fn of_all(self, all: &[Sums]) -> Result<Meter, TchError> {
        let device = self.living.device();
        let mut total =
            Meter { living: self.living, layers: BTreeMap::new(), domains: BTreeMap::new(), unions: BTreeMap::new() };
        for sums in all {
            for (layer, (runs, near, tokens)) in &sums.layers {
                let runs = Tensor::f_from_slice(runs)?.f_to_device(device)?;
                match total.layers.get_mut(layer) {
                    Some(found) => {
                        found.runs = found.runs.f_add(&runs)?;
                        (found.near, found.tokens) = (found.near + near, found.tokens + tokens);
                    }
                    None => _ = total.layers.insert(*layer, Layer { runs, near: *near, tokens: *tokens }),
                }
            }
            for (name, (sum, count)) in &sums.domains {
                let found = total.domains.entry(name.clone()).or_default();
                *found = (found.0 + sum, found.1 + count);
            }
            for (rows, (sum, count)) in &sums.unions {
                let found = total.unions.entry(*rows).or_default();
                *found = (found.0 + sum, found.1 + count);
            }
        }
        Ok(total)
    }

    /// What was counted; `None` if nothing was.
    ///
    /// # Errors
    /// libtorch's.
    pub fn densities(&self) -> Result<Option<Densities>, TchError> {
        if self.layers.is_empty() {
            return Ok(None);
        }
        let mut found = Densities::default();
        let count = self.layers.len() as f64;
        for (layer, sums) in &self.layers {
            let shares = sums.runs.f_div_scalar(sums.tokens)?;
            let density = shares.f_dot(&self.living)?.f_double_value(&[])?;
            let share = |chosen: Tensor| chosen.f_to_kind(Kind::Double)?.f_mean(Kind::Double)?.f_double_value(&[]);
            found.layers.insert(*layer, density);
            found.mean += density / count;
            found.near_threshold += sums.near / sums.tokens / count;
            found.always_on += share(shares.f_gt(ALWAYS)?)? / count;
            found.always_off += share(shares.f_lt(1.0 - ALWAYS)?)? / count;
        }
        let mean = |sums: &(f64, f64)| sums.0 / sums.1;
        found.domains = self.domains.iter().map(|(name, sums)| (name.clone(), mean(sums))).collect();
        found.unions = self.unions.iter().map(|(rows, sums)| (*rows, mean(sums))).collect();
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::experts::{Grouping, LayerExperts, Stage};
    use super::*;

    fn experts(units: i64) -> Experts {
        let layer = || LayerExperts { permutation: Vec::new(), inertia: None, router: None, density: None };
        Experts {
            expert_size: 2,
            living_units: units,
            grouping: Grouping::Random,
            seed: 0,
            stage: Stage::Adapted,
            density: None,
            layers: vec![layer(), layer()],
        }
    }

    #[test]
    fn shares_are_of_living_units_by_layer_domain_and_union() {
        // Three experts of 2, 2 and 1 living units; two rows of two tokens.
        let mut meter = Meter::new(&experts(5), Device::Cpu).unwrap();
        let first = Tensor::from_slice(&[1.0f32, -1.0, -1.0, 1.0, -1.0, 5.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0]);
        let all = Tensor::full([2, 2, 3], 9.0, (Kind::Float, Device::Cpu));
        meter.add("a", &[(0, first.view([2, 2, 3]))]).unwrap();
        meter.add("b", &[(1, all)]).unwrap();
        let found = meter.densities().unwrap().unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(found.layers[&0], (0.4 + 0.6 + 0.8 + 0.4) / 4.0);
        near(found.mean, (0.55 + 1.0) / 2.0);
        near(found.domains["a"], 0.55);
        near(found.domains["b"], 1.0);
        // Position 0: experts 0 and 1; position 1: experts 0 and 2.
        near(found.unions[&2], ((0.8 + 0.6) / 2.0 + 1.0) / 2.0);
        // Expert 0 of the first layer, and all of the second.
        near(found.always_on, (1.0 / 3.0 + 1.0) / 2.0);
        near(found.always_off, 0.0);
        assert!(!found.unions.contains_key(&4));

        // Two that have counted a part each are one that has counted all.
        let mut parts = [(); 2].map(|()| Meter::new(&experts(5), Device::Cpu).unwrap());
        parts[0].add("a", &[(0, first.view([2, 2, 3]))]).unwrap();
        parts[1].add("b", &[(1, Tensor::full([2, 2, 3], 9.0, (Kind::Float, Device::Cpu)))]).unwrap();
        let sums: Vec<Sums> = parts.iter().map(|part| part.sums().unwrap()).collect();
        let [part, _] = parts;
        assert_eq!(part.of_all(&sums).unwrap().densities().unwrap().unwrap(), found);
        assert!(Meter::new(&experts(5), Device::Cpu).unwrap().densities().unwrap().is_none());
    }
}
