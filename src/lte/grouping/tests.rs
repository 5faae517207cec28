//! Groups are those that were planted, of exact size, never worse than random ones, and the same for the same seed.

use super::*;
use crate::lte::division;
use shearling_noise::weight_normals;
use std::collections::BTreeSet;

fn options(expert_size: i64, method: Grouping, seed: u64) -> GroupingOptions {
    GroupingOptions { expert_size, method, seed }
}

fn normals(name: &str, rows: i64, width: i64) -> Tensor {
    Tensor::from_slice(&weight_normals(11, name, (rows * width) as usize)).view([rows, width])
}

/// Rows around `centres` directions, `noise` away from them; row i belongs to centre i mod `centres`.
fn planted(units: i64, centres: i64, width: i64, noise: f64) -> Tensor {
    let directions = unit_rows(&normals("centres", centres, width)).unwrap();
    let which: Vec<i64> = (0..units).map(|unit| unit % centres).collect();
    let rows = directions.index_select(0, &Tensor::from_slice(&which));
    unit_rows(&(rows + normals("noise", units, width) * (noise / (width as f64).sqrt()))).unwrap()
}

fn groups(division: &Division) -> BTreeSet<BTreeSet<usize>> {
    let mut groups = vec![BTreeSet::new(); division.sizes().len()];
    for (unit, label) in division.labels().iter().enumerate() {
        groups[*label as usize].insert(unit);
    }
    groups.into_iter().collect()
}

fn check_sizes(division: &Division, units: usize, size: usize) {
    let mut found = vec![0; units.div_ceil(size)];
    division.labels().iter().for_each(|label| found[*label as usize] += 1);
    assert_eq!(found, division::sizes(units, size));
}

#[test]
fn planted_groups_are_found_exactly() {
    // With and without a projection for the seeds; in the second every row is far from its centre (0.8 of a length).
    for (centres, size, width, noise) in [(8, 16, 24, 0.2), (12, 8, 200, 0.8), (1, 16, 8, 0.5)] {
        let units = centres * size;
        let x = planted(units, centres, width, noise);
        for seed in 0..3 {
            let (found, _) = divide(&x, &x, &options(size, Grouping::KMeans, seed), 0).unwrap();
            let planted =
                (0..centres).map(|centre| (centre..units).step_by(centres as usize).map(|u| u as usize).collect());
            assert_eq!(groups(&found), planted.collect(), "{centres} centres, seed {seed}");
        }
    }
}

#[test]
fn groups_have_their_sizes_and_are_never_worse_than_random_ones() {
    let same = Tensor::ones([24, 6], (Kind::Float, Device::Cpu));
    let zeros = Tensor::zeros([24, 6], (Kind::Float, Device::Cpu));
    for (x, size) in [
        (unit_rows(&normals("a", 96, 40)).unwrap(), 8),
        (unit_rows(&normals("b", 100, 300)).unwrap(), 8),
        (unit_rows(&normals("c", 33, 5)).unwrap(), 32),
        (unit_rows(&normals("d", 12, 5)).unwrap(), 1),
        (unit_rows(&same).unwrap(), 5),
        (unit_rows(&zeros).unwrap(), 5),
    ] {
        let units = x.size()[0] as usize;
        for seed in 0..4 {
            let (found, inertia) = divide(&x, &x, &options(size, Grouping::KMeans, seed), 2).unwrap();
            let (random, at_random) = divide(&x, &x, &options(size, Grouping::Random, seed), 2).unwrap();
            check_sizes(&found, units, size as usize);
            check_sizes(&random, units, size as usize);
            assert!(inertia <= at_random, "{inertia} {at_random}");
            assert!(inertia.is_finite() && inertia >= 0.0);
        }
    }
}

/// What leaving a row out of its own centre is for: faint clusters in many dimensions, where plain k-means stays near
/// where it began.
#[test]
fn faint_groups_in_many_dimensions_are_gathered() {
    let x = planted(512, 16, 512, 3.0);
    let (_, found) = divide(&x, &x, &options(32, Grouping::KMeans, 0), 0).unwrap();
    let random = random_inertia(&x, 16).unwrap();
    let labels = (0..512).map(|unit| unit % 16).collect();
    let of_planted = Division::new(labels, 32);
    let best = of_planted.inertia(&x, &of_planted.sums(&x).unwrap()).unwrap();
    assert!(random - found > 0.8 * (random - best), "random {random}, found {found}, planted {best}");
}

#[test]
fn a_seed_always_gives_the_same_groups_and_another_one_others() {
    let x = unit_rows(&normals("x", 128, 150)).unwrap();
    for method in [Grouping::KMeans, Grouping::Random] {
        let of = |seed, layer| divide(&x, &x, &options(16, method, seed), layer).unwrap();
        assert_eq!(of(3, 1), of(3, 1));
        assert_ne!(groups(&of(3, 1).0), groups(&of(4, 1).0), "{method:?}");
        assert_ne!(groups(&of(3, 1).0), groups(&of(3, 2).0), "{method:?}");
    }
}
