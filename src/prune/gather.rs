//! The fold itself, one pass over a weight: bytes of the mapped source in, bytes of the pruned weight out.
//!
//! ```text
//! source row ──gather kept columns──► compact row ──· factors in fp32, rounded to the target──► output row
//! ```
//!
//! Rows of the output are independent, so callers take any block of them from any thread ([`super::blocks`]). What has
//! no factors and keeps its format is copied bit for bit; what keeps whole rows as well is not even copied here, but
//! written from the mapping.

use super::Error;
use super::element::{BF16, Element, F16, F32};
use super::fold_plan::FoldPlan;
use crate::files::{self, DType, StoredTensor};
use std::ops::Range;
#[cfg(test)]
use tch::{Device, Kind, Tensor};

/// A weight, what is to be done to it, and the format of the result.
#[derive(Debug)]
pub(super) struct Fold<'a> {
    plan: FoldPlan,
    columns: Columns,
    /// Factors of the rows and of the columns in fp32; `None` where all are 1.
    row_factors: Option<Vec<f32>>,
    column_factors: Option<Vec<f32>>,
    source: StoredTensor<'a>,
    /// Bytes of a row of the source.
    stride: usize,
    target: DType,
}

/// How the kept columns of a row are fetched.
#[derive(Debug, PartialEq)]
enum Columns {
    /// The row as it is.
    Whole,
    /// Long runs of neighbours.
    Runs(Vec<Range<usize>>),
    /// One by one.
    Each(Vec<u32>),
}

/// From this mean length of a run on, copying runs is faster than fetching elements.
const LONG_RUN: usize = 8;

impl Columns {
    fn new(kept: &[usize], size: usize) -> Columns {
        let runs: Vec<Range<usize>> = runs(kept).collect();
        if runs.len() == 1 && runs[0] == (0..size) {
            return Columns::Whole;
        }
        match kept.iter().map(|index| u32::try_from(*index)).collect::<Result<Vec<u32>, _>>() {
            Ok(each) if runs.len() * LONG_RUN > kept.len() => Columns::Each(each),
            _ => Columns::Runs(runs),
        }
    }

    /// The kept elements of `row`, in `compact` unless that is the row itself.
    fn of<'r, B: Copy>(&self, row: &'r [B], compact: &'r mut [B]) -> &'r [B] {
        match self {
            Columns::Whole => return row,
            Columns::Runs(runs) => gather_runs(row, runs, compact),
            Columns::Each(each) => gather_each(row, each, compact),
        }
        compact
    }
}

/// Ascending indices as runs of neighbours.
fn runs(indices: &[usize]) -> impl Iterator<Item = Range<usize>> {
    indices.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len())
}

fn gather_runs<B: Copy>(row: &[B], runs: &[Range<usize>], mut out: &mut [B]) {
    for run in runs {
        let (head, tail) = out.split_at_mut(run.len());
        head.copy_from_slice(&row[run.clone()]);
        out = tail;
    }
}

fn gather_each<B: Copy>(row: &[B], each: &[u32], out: &mut [B]) {
    for (to, from) in out.iter_mut().zip(each) {
        *to = row[*from as usize];
    }
}

impl<'a> Fold<'a> {
    /// # Errors
    /// The plan keeps rows or columns that the weight does not have.
    pub(super) fn new(plan: FoldPlan, source: StoredTensor<'a>, target: DType) -> Result<Fold<'a>, Error> {
        let (rows, columns) = match source.shape() {
            [elements] if plan.dimensions == 1 => (1, *elements as usize),
            [rows, columns] if plan.dimensions == 2 => (*rows as usize, *columns as usize),
            shape => return Err(misfit(&source, format!("{} dimensions to fold {shape:?}", plan.dimensions))),
        };
        if let Some(row) = plan.rows.beyond(rows) {
            return Err(misfit(&source, format!("row {row} of {rows} is to be kept")));
        }
        if let Some(column) = plan.columns.beyond(columns) {
            return Err(misfit(&source, format!("column {column} of {columns} is to be kept")));
        }
        let stride = columns * source.dtype().bytes() as usize;
        let columns = Columns::new(plan.columns.indices(), columns);
        let (row_factors, column_factors) = (plan.rows.factors_in_fp32(), plan.columns.factors_in_fp32());
        Ok(Fold { plan, columns, row_factors, column_factors, source, stride, target })
    }

    /// Shape of the result.
    pub(super) fn shape(&self) -> Vec<i64> {
        self.plan.shape()
    }

    /// Rows of the result.
    pub(super) fn rows(&self) -> usize {
        self.plan.rows.len()
    }

    /// Bytes of a row of the result.
    pub(super) fn row_bytes(&self) -> usize {
        self.plan.columns.len() * self.target.bytes() as usize
    }

    /// Bytes of the source that are read: its kept rows.
    pub(super) fn source_bytes(&self) -> u64 {
        (self.rows() * self.stride) as u64
    }

    /// Where those rows lie in the source's bytes; small gaps are part of it, as one long read is faster than many.
    pub(super) fn source_pieces(&self) -> Vec<Range<usize>> {
        const SMALL_GAP: usize = 256 << 10;
        let rows = runs(self.plan.rows.indices()).map(|run| run.start * self.stride..run.end * self.stride);
        rows.fold(Vec::new(), |mut pieces: Vec<Range<usize>>, rows| {
            match pieces.last_mut() {
                Some(last) if rows.start - last.end <= SMALL_GAP => last.end = rows.end,
                _ => pieces.push(rows),
            }
            pieces
        })
    }

    /// The weight that is folded.
    pub(super) fn source(&self) -> &StoredTensor<'a> {
        &self.source
    }

    /// The bytes of the source that rows `rows` of the result are, piece by piece, if nothing is to be done to them.
    pub(super) fn verbatim(&self, rows: Range<usize>) -> Option<impl Iterator<Item = &'a [u8]>> {
        let untouched = self.columns == Columns::Whole && !self.converts();
        let bytes = self.source.bytes();
        let pieces = runs(&self.plan.rows.indices()[rows]);
        untouched.then(|| pieces.map(move |run| &bytes[run.start * self.stride..run.end * self.stride]))
    }

    /// Writes rows `rows` of the result to `out`, which has their size.
    pub(super) fn write(&self, rows: Range<usize>, out: &mut [u8]) {
        if out.is_empty() {
            return;
        }
        match (self.source.dtype(), self.target) {
            (DType::F32, DType::F32) if !self.converts() => self.copy::<F32>(rows, out),
            (DType::BF16 | DType::F16, _) if !self.converts() => self.copy::<BF16>(rows, out),
            (DType::F32, DType::F32) => self.scale::<F32, F32>(rows, out),
            (DType::F32, DType::BF16) => self.scale::<F32, BF16>(rows, out),
            (DType::F32, DType::F16) => self.scale::<F32, F16>(rows, out),
            (DType::BF16, DType::F32) => self.scale::<BF16, F32>(rows, out),
            (DType::BF16, DType::BF16) => self.scale::<BF16, BF16>(rows, out),
            (DType::BF16, DType::F16) => self.scale::<BF16, F16>(rows, out),
            (DType::F16, DType::F32) => self.scale::<F16, F32>(rows, out),
            (DType::F16, DType::BF16) => self.scale::<F16, BF16>(rows, out),
            (DType::F16, DType::F16) => self.scale::<F16, F16>(rows, out),
        }
    }

    /// The result as an fp32 tensor on the CPU.
    #[cfg(test)]
    pub(super) fn to_tensor(&self) -> Result<Tensor, Error> {
        debug_assert_eq!(self.target, DType::F32);
        let tensor = Tensor::f_zeros(self.shape(), (Kind::Float, Device::Cpu))?;
        // SAFETY: the tensor is new, contiguous and ours alone, and a float has no invalid bytes.
        let out = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), tensor.numel() * 4) };
        self.write(0..self.rows(), out);
        Ok(tensor)
    }

    /// Whether numbers change, by a factor or by their format.
    fn converts(&self) -> bool {
        self.plan.has_factors() || self.source.dtype() != self.target
    }

    /// Gathers straight into the output; `E` only says how wide an element is.
    fn copy<E: Element>(&self, rows: Range<usize>, out: &mut [u8]) {
        for (row, out) in self.plan.rows.indices()[rows].iter().zip(out.chunks_exact_mut(self.row_bytes())) {
            let (row, out) = (E::split(self.source_row(*row)), E::split_mut(out));
            match &self.columns {
                Columns::Whole => out.copy_from_slice(row),
                Columns::Runs(runs) => gather_runs(row, runs, out),
                Columns::Each(each) => gather_each(row, each, out),
            }
        }
    }

    fn scale<S: Element, T: Element>(&self, rows: Range<usize>, out: &mut [u8]) {
        let mut compact = vec![S::Bytes::default(); self.plan.columns.len()];
        for (position, out) in rows.zip(out.chunks_exact_mut(self.row_bytes())) {
            let row = S::split(self.source_row(self.plan.rows.indices()[position]));
            let kept = self.columns.of(row, &mut compact);
            let factor = self.row_factors.as_ref().map_or(1.0, |factors| factors[position]);
            scale_row::<S, T>(kept, factor, self.column_factors.as_deref(), T::split_mut(out));
        }
    }

    fn source_row(&self, row: usize) -> &'a [u8] {
        &self.source.bytes()[row * self.stride..(row + 1) * self.stride]
    }
}

fn misfit(source: &StoredTensor, problem: String) -> Error {
    let problem = format!("`{}` of shape {:?} does not fit the keep-plan: {problem}", source.name(), source.shape());
    files::Error::Shape { problem }.into()
}

/// `out[c] = row[c] · factor · factors[c]`, on the widest vectors there are.
fn scale_row<S: Element, T: Element>(row: &[S::Bytes], factor: f32, factors: Option<&[f32]>, out: &mut [T::Bytes]) {
    #[cfg(target_arch = "x86_64")]
    {
        /// The same loop for processors with 256-bit vectors.
        #[target_feature(enable = "avx2")]
        fn wide<S: Element, T: Element>(row: &[S::Bytes], factor: f32, factors: Option<&[f32]>, out: &mut [T::Bytes]) {
            scale_row_plainly::<S, T>(row, factor, factors, out);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { wide::<S, T>(row, factor, factors, out) };
        }
    }
    scale_row_plainly::<S, T>(row, factor, factors, out);
}

#[inline(always)]
fn scale_row_plainly<S: Element, T: Element>(
    row: &[S::Bytes],
    factor: f32,
    factors: Option<&[f32]>,
    out: &mut [T::Bytes],
) {
    match factors {
        Some(factors) => {
            for ((out, source), column) in out.iter_mut().zip(row).zip(factors) {
                *out = T::store(S::load(*source) * factor * column);
            }
        }
        None => {
            for (out, source) in out.iter_mut().zip(row) {
                *out = T::store(S::load(*source) * factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::fold_plan::Side;
    use crate::prune::fold_reference::checkpoint_of;

    #[test]
    fn columns_are_fetched_as_their_runs_suggest() {
        assert_eq!(Columns::new(&[0, 1, 2], 3), Columns::Whole);
        let long: Vec<usize> = (0..20).chain(30..50).collect();
        assert_eq!(Columns::new(&long, 50), Columns::Runs(vec![0..20, 30..50]));
        assert_eq!(Columns::new(&[0, 2, 3], 4), Columns::Each(vec![0, 2, 3]));
        assert_eq!(Columns::new(&[], 4), Columns::Runs(vec![]));
    }

    #[test]
    fn far_pieces_are_read_apart_and_near_ones_together() {
        let dir = tempfile::tempdir().unwrap();
        let weight = Tensor::zeros([1000, 1024], (Kind::Float, Device::Cpu));
        let checkpoint = checkpoint_of(dir.path(), &[("w", weight)]);
        let plan = FoldPlan::matrix(Side::kept([1, 2, 4, 300, 301, 365, 430]), Side::all(8));
        let fold = Fold::new(plan, checkpoint.stored("w").unwrap(), DType::F32).unwrap();
        // A row has 4096 bytes: 63 rows between 301 and 365 are a small gap, 64 between 365 and 430 just so.
        let expected = [1 << 12..5 << 12, 300 << 12..431 << 12];
        assert_eq!(fold.source_pieces(), expected);
        assert_eq!(fold.source_bytes(), 7 << 12);
    }

    #[test]
    fn what_keeps_its_format_is_copied_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        // All 16-bit patterns, every NaN among them.
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for kind in [Kind::BFloat16, Kind::Half] {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            let checkpoint = checkpoint_of(dir.path(), &[("w", Tensor::from_data_size(&bytes, &[256, 256], kind))]);
            let stored = checkpoint.stored("w").unwrap();
            for columns in [Side::all(256), Side::kept((0..256).step_by(3)), Side::kept((0..100).chain(110..256))] {
                let rows = Side::kept([0, 1, 7, 127, 128, 255]);
                let plan = FoldPlan::matrix(rows.clone(), columns.clone());
                let fold = Fold::new(plan, stored, stored.dtype()).unwrap();
                let mut out = vec![0; fold.rows() * fold.row_bytes()];
                fold.write(0..fold.rows(), &mut out);
                let pairs = rows.indices().iter().flat_map(|row| columns.indices().iter().map(move |c| (row, c)));
                let expected: Vec<u8> = pairs.flat_map(|(row, c)| ((row * 256 + c) as u16).to_le_bytes()).collect();
                assert!(out == expected, "{kind:?}");
                assert_eq!(fold.verbatim(0..1).is_some(), columns.len() == 256);
            }
        }
    }

    #[test]
    fn vector_code_and_plain_code_agree() {
        // Odd lengths have a tail beside the vectors.
        let row: Vec<[u8; 2]> = (0..1037u32).map(|i| BF16::store(i as f32 * 0.37 - 190.0)).collect();
        let factors: Vec<f32> = (0..1037).map(|i| i as f32 / 1037.0).collect();
        for columns in [None, Some(&factors[..])] {
            let (mut fast, mut plain) = (vec![[0; 2]; 1037], vec![[0; 2]; 1037]);
            scale_row::<BF16, F16>(&row, 0.7, columns, &mut fast);
            scale_row_plainly::<BF16, F16>(&row, 0.7, columns, &mut plain);
            assert_eq!(fast, plain);
        }
    }

    #[test]
    fn a_plan_for_another_weight_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let weight = Tensor::zeros([4, 3], (Kind::Float, Device::Cpu));
        let checkpoint = checkpoint_of(dir.path(), &[("w", weight)]);
        let refused = |plan: FoldPlan| {
            let fold = Fold::new(plan, checkpoint.stored("w").unwrap(), DType::F32);
            let problem = fold.err().unwrap().to_string();
            assert!(problem.contains("`w` of shape [4, 3]"), "{problem}");
            problem
        };
        assert!(refused(FoldPlan::matrix(Side::kept([1, 4]), Side::all(3))).contains("row 4 of 4"));
        assert!(refused(FoldPlan::matrix(Side::all(4), Side::all(5))).contains("column 3 of 3"));
        assert!(refused(FoldPlan::matrix(Side::kept([-1]), Side::all(3))).contains("row"));
        refused(FoldPlan::vector(Side::all(3)));
    }
}
