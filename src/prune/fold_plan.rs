//! What the fold does to one weight, said by its two sides:
//!
//! ```text
//! out[r][c] = source[rows[r]][columns[c]] · rows.factor[r] · columns.factor[c]
//! ```
//!
//! A vector is a matrix of one row. Plans are small and made on the host; they know nothing of roles or masks.

/// One side of a weight: which of its indices are kept, and what each is multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Side {
    indices: Vec<usize>,
    /// One per kept index, fp64: the product of two fp32 gates is exact. `None` where all are 1.
    factors: Option<Vec<f64>>,
}

impl Side {
    /// Everything of a side of `size`.
    pub(super) fn all(size: i64) -> Side {
        Side { indices: (0..size).filter_map(|index| usize::try_from(index).ok()).collect(), factors: None }
    }

    /// The given indices. Those that the weight does not have (a plan for another model) are refused by the fold.
    pub(super) fn kept(indices: impl IntoIterator<Item = i64>) -> Side {
        let indices = indices.into_iter().map(|index| usize::try_from(index).unwrap_or(usize::MAX));
        Side { indices: indices.collect(), factors: None }
    }

    /// Each kept index multiplied by `factor(index)`, on top of what it has.
    pub(super) fn times(self, factor: impl Fn(usize) -> f32) -> Side {
        let before = self.factors.unwrap_or_else(|| vec![1.0; self.indices.len()]);
        let factors: Vec<f64> =
            self.indices.iter().zip(before).map(|(index, before)| before * f64::from(factor(*index))).collect();
        // Multiplying by one changes nothing, and a weight without factors is a copy.
        let factors = factors.iter().any(|factor| *factor != 1.0).then_some(factors);
        Side { indices: self.indices, factors }
    }

    /// Number of kept indices.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The kept indices.
    pub(super) fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The factors of the kept indices, if any differs from 1.
    pub(super) fn factors(&self) -> Option<&[f64]> {
        self.factors.as_deref()
    }

    /// The same in fp32, each rounded once.
    pub(super) fn factors_in_fp32(&self) -> Option<Vec<f32>> {
        Some(self.factors()?.iter().map(|factor| *factor as f32).collect())
    }

    /// The first kept index that a side of `size` does not have.
    pub(super) fn beyond(&self, size: usize) -> Option<usize> {
        self.indices.iter().copied().find(|index| *index >= size)
    }
}

/// Both sides of a weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoldPlan {
    /// Rows of a matrix; the one row of a vector.
    pub(super) rows: Side,
    /// Columns of a matrix; the elements of a vector.
    pub(super) columns: Side,
    /// Dimensions of the weight: 1 or 2.
    pub(super) dimensions: usize,
}

impl FoldPlan {
    /// The plan of a weight `[rows, columns]`.
    pub(super) fn matrix(rows: Side, columns: Side) -> FoldPlan {
        FoldPlan { rows, columns, dimensions: 2 }
    }

    /// The plan of a weight `[elements]`.
    pub(super) fn vector(elements: Side) -> FoldPlan {
        FoldPlan { rows: Side::all(1), columns: elements, dimensions: 1 }
    }

    /// Shape of the folded weight.
    pub(super) fn shape(&self) -> Vec<i64> {
        let shape = [self.rows.len() as i64, self.columns.len() as i64];
        shape[2 - self.dimensions..].to_vec()
    }

    /// Whether anything is multiplied.
    pub(super) fn has_factors(&self) -> bool {
        self.rows.factors.is_some() || self.columns.factors.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_follow_the_kept_indices_and_multiply_up() {
        let gates = [0.5, 0.0, 2.0, 1.0];
        let side = Side::kept([0, 2, 3]).times(|index| gates[index]).times(|_| 0.5);
        assert_eq!(side.factors(), Some(&[0.25, 1.0, 0.5][..]));
        assert_eq!((side.len(), side.indices()), (3, &[0, 2, 3][..]));
        // The product of two fp32 gates has more bits than fp32; rounded to it, it is the fp32 product.
        let (a, b) = (0.1f32, 0.3f32);
        let product = Side::kept([0]).times(|_| a).times(|_| b);
        assert_eq!(product.factors(), Some(&[f64::from(a) * f64::from(b)][..]));
        assert_eq!(product.factors_in_fp32(), Some(vec![a * b]));
    }

    #[test]
    fn factors_of_one_are_none() {
        let plan = FoldPlan::matrix(Side::kept([1, 4]).times(|_| 1.0), Side::all(3));
        assert!(!plan.has_factors());
        assert_eq!((plan.rows.factors(), plan.rows.factors_in_fp32()), (None, None));
        assert!(FoldPlan::vector(Side::all(2).times(|_| f32::NAN)).has_factors());
    }

    #[test]
    fn shapes_are_those_of_the_weight() {
        assert_eq!(FoldPlan::matrix(Side::kept([1, 4]), Side::all(3)).shape(), [2, 3]);
        assert_eq!(FoldPlan::vector(Side::kept([5])).shape(), [1]);
        assert_eq!(Side::kept([-1, 3]).beyond(4), Some(usize::MAX));
        assert_eq!(Side::kept([1, 3]).beyond(3), Some(3));
        assert_eq!(Side::kept([1, 3]).beyond(4), None);
    }
}
