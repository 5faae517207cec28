//! Units of one layer divided into groups: which unit is in which group, what is measured of that, and the order of units
//! that follows.

use tch::{Kind, TchError, Tensor};

/// Units divided into groups of `group_size`; where that does not divide them, the last group is smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Division {
    /// Group of each unit.
    labels: Vec<u32>,
    group_size: usize,
}

impl Division {
    /// From the group of each unit; every group has to have its size.
    pub(super) fn new(labels: Vec<u32>, group_size: usize) -> Division {
        Division { labels, group_size }
    }

    /// Of units in the order in which they come: the first `group_size` are the first group.
    pub(super) fn in_order(units: &[u32], group_size: usize) -> Division {
        let mut labels = vec![0; units.len()];
        for (place, unit) in units.iter().enumerate() {
            labels[*unit as usize] = (place / group_size) as u32;
        }
        Division { labels, group_size }
    }

    /// Group of each unit.
    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Units of each group.
    pub(super) fn sizes(&self) -> Vec<usize> {
        sizes(self.labels.len(), self.group_size)
    }

    /// Units group by group, ascending within a group.
    fn members(&self) -> Vec<u32> {
        let mut members: Vec<u32> = (0..self.labels.len() as u32).collect();
        members.sort_by_key(|unit| self.labels[*unit as usize]);
        members
    }

    /// Sums `[N, D]` over the rows of each group of `x [F, D]`.
    pub(super) fn sums(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let members: Vec<i64> = self.members().into_iter().map(i64::from).collect();
        let index = Tensor::f_from_slice(&members)?.f_to_device(x.device())?;
        let (units, size) = (members.len() as i64, self.group_size as i64);
        let ordered = x.f_index_select(0, &index)?;
        let sum = |start: i64, length: i64, size: i64| {
            let groups = ordered.f_narrow(0, start, length)?.f_view([length / size, size, -1])?;
            groups.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)
        };
        let full = units / size * size;
        let all = match (full, units - full) {
            (0, rest) => return sum(0, rest, rest),
            (full, 0) => return sum(0, full, size),
            (full, rest) => [sum(0, full, size)?, sum(full, rest, rest)?],
        };
        Tensor::f_cat(&all, 0)
    }

    /// Σ ‖x − c‖² over the rows of `x [F, D]` with their groups' means c, from the groups' `sums [N, D]`: Σ‖x‖² − Σ ‖sum‖²/n.
    pub(super) fn inertia(&self, x: &Tensor, sums: &Tensor) -> Result<f64, TchError> {
        let squares = sums.f_to_kind(Kind::Double)?.f_square()?.f_sum_dim_intlist(&[1i64][..], false, Kind::Double)?;
        let sizes: Vec<f64> = self.sizes().into_iter().map(|size| size as f64).collect();
        let sizes = Tensor::f_from_slice(&sizes)?.f_to_device(x.device())?;
        let explained = squares.f_div(&sizes)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok((total(x)? - explained).max(0.0))
    }

    /// The order of units in which groups lie side by side: units ascending within a group, groups by their first unit, a
    /// smaller group last; then units of zeros that fill it up.
    pub(super) fn permutation(&self) -> Vec<u32> {
        let members = self.members();
        let mut groups: Vec<&[u32]> = members.chunks(self.group_size).collect();
        groups.sort_by_key(|group| (group.len() < self.group_size, group.first().copied()));
        let living = self.labels.len();
        let all = living.div_ceil(self.group_size) * self.group_size;
        groups.concat().into_iter().chain((living..all).map(|unit| unit as u32)).collect()
    }
}

/// Units of each group: all of `group_size` but the last, which may be smaller.
pub(super) fn sizes(units: usize, group_size: usize) -> Vec<usize> {
    let rest = units % group_size;
    let full = std::iter::repeat_n(group_size, units / group_size);
    full.chain((rest > 0).then_some(rest)).collect()
}

/// Σ‖x‖² over the rows of `x`.
fn total(x: &Tensor) -> Result<f64, TchError> {
    let rows = x.f_square()?.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
    rows.f_sum(Kind::Double)?.f_double_value(&[])
}

/// The inertia that a random division of the rows of `x [F, D]` into `groups` has on average: T (F − N)/(F − 1), with T the
/// squared distances to the mean of all rows. It follows from the mean product of two different rows.
pub(super) fn random_inertia(x: &Tensor, groups: usize) -> Result<f64, TchError> {
    let units = x.size()[0];
    if units < 2 {
        return Ok(0.0);
    }
    let sum = x.f_sum_dim_intlist(&[0i64][..], false, Kind::Float)?.f_to_kind(Kind::Double)?;
    let around_mean = total(x)? - sum.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])? / units as f64;
    Ok((around_mean * (units as f64 - groups as f64) / (units - 1) as f64).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shearling_noise::weight_normals;
    use tch::Device;

    fn rows(units: i64, width: i64) -> Tensor {
        Tensor::from_slice(&weight_normals(3, "rows", (units * width) as usize)).view([units, width])
    }

    /// The inertia by its definition.
    fn by_definition(x: &Tensor, division: &Division) -> f64 {
        let mut inertia = 0.0;
        for group in 0..division.sizes().len() as u32 {
            let members = division.labels().iter().enumerate().filter(|(_, label)| **label == group);
            let members: Vec<i64> = members.map(|(unit, _)| unit as i64).collect();
            let members = x.index_select(0, &Tensor::from_slice(&members)).to_kind(Kind::Double);
            let centre = members.mean_dim(&[0i64][..], true, Kind::Double);
            inertia += (members - centre).square().sum(Kind::Double).double_value(&[]);
        }
        inertia
    }

    #[test]
    fn inertia_is_that_of_its_definition() {
        let x = rows(11, 5);
        for size in [1, 2, 3, 4, 11] {
            let division = Division::in_order(&[5, 3, 1, 0, 2, 4, 10, 9, 8, 7, 6], size);
            let sums = division.sums(&x).unwrap();
            assert_eq!(sums.size(), [division.sizes().len() as i64, 5]);
            let inertia = division.inertia(&x, &sums).unwrap();
            assert!((inertia - by_definition(&x, &division)).abs() < 1e-4, "{size}: {inertia}");
        }
    }

    #[test]
    fn the_average_of_random_divisions_is_the_formulas() {
        let x = rows(12, 3);
        let mut mean = 0.0;
        for draw in 0..400u64 {
            let keys = weight_normals(draw, "order", 12);
            let mut units: Vec<u32> = (0..12).collect();
            units.sort_by(|a, b| keys[*a as usize].total_cmp(&keys[*b as usize]));
            let division = Division::in_order(&units, 4);
            mean += division.inertia(&x, &division.sums(&x).unwrap()).unwrap() / 400.0;
        }
        let expected = random_inertia(&x, 3).unwrap();
        assert!((mean / expected - 1.0).abs() < 0.02, "{mean} {expected}");
        assert_eq!(random_inertia(&Tensor::ones([1, 3], (Kind::Float, Device::Cpu)), 1).unwrap(), 0.0);
    }

    #[test]
    fn groups_lie_by_their_first_unit_and_the_padded_one_last() {
        let division = Division::new(vec![2, 0, 1, 1, 0, 2, 3], 2);
        assert_eq!(division.permutation(), [0, 5, 1, 4, 2, 3, 6, 7]);
        let smaller_first = Division::in_order(&[6, 1, 2, 5, 3, 4, 0], 3);
        assert_eq!(smaller_first.sizes(), [3, 3, 1]);
        assert_eq!(smaller_first.permutation(), [1, 2, 6, 3, 4, 5, 0, 7, 8]);
    }
}
