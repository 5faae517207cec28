//! Where the weights of a unit lie in one flat buffer, and which part of it is a rank's.
//!
//! ```text
//! buffer   | q_proj ..... | k_proj . | v_proj . | o_proj ..... | gap |
//! ranks    |      0       |      1        |      2      |     3      |
//! ```
//!
//! Each tensor begins at a multiple of 16 elements, and so does each rank's chunk: kernels load whole vectors.

/// Elements that tensors and chunks are aligned to.
const ALIGNMENT: i64 = 16;

/// A flat buffer of weights that is sharded over `ranks`.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) tensors: Vec<Placed>,
    /// Of a rank.
    pub(super) chunk: i64,
    pub(super) ranks: i64,
}

/// A weight in the buffer.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) shape: Vec<i64>,
    pub(super) start: i64,
}

/// A run of elements of one weight that is in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which weight.
    pub(super) tensor: usize,
    /// Its first element there.
    pub(super) in_tensor: i64,
    /// Its first element in the chunk.
    pub(super) in_chunk: i64,
    pub(super) length: i64,
}

impl Placed {
    pub(super) fn elements(&self) -> i64 {
        self.shape.iter().product()
    }
}

impl Layout {
    /// Of tensors by name and shape.
    pub(super) fn new(tensors: impl Iterator<Item = (String, Vec<i64>)>, ranks: usize) -> Layout {
        let (mut placed, mut end) = (Vec::new(), 0);
        for (name, shape) in tensors {
            let tensor = Placed { name, shape, start: end };
            end += aligned(tensor.elements());
            placed.push(tensor);
        }
        let ranks = ranks.max(1) as i64;
        Layout { tensors: placed, chunk: aligned((end + ranks - 1) / ranks), ranks }
    }

    /// Of the whole buffer.
    pub(super) fn elements(&self) -> i64 {
        self.chunk * self.ranks
    }

    /// What a rank has.
    pub(super) fn pieces(&self, rank: usize) -> Vec<Piece> {
        let (begin, end) = (rank as i64 * self.chunk, (rank as i64 + 1) * self.chunk);
        let piece = |(tensor, placed): (usize, &Placed)| {
            let first = begin.max(placed.start);
            let length = end.min(placed.start + placed.elements()) - first;
            let (in_tensor, in_chunk) = (first - placed.start, first - begin);
            (length > 0).then_some(Piece { tensor, in_tensor, in_chunk, length })
        };
        self.tensors.iter().enumerate().filter_map(piece).collect()
    }
}

fn aligned(elements: i64) -> i64 {
    (elements as u64).next_multiple_of(ALIGNMENT as u64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sizes: &[i64], ranks: usize) -> Layout {
        Layout::new(sizes.iter().enumerate().map(|(at, size)| (at.to_string(), vec![*size])), ranks)
    }

    #[test]
    fn every_element_is_of_one_rank() {
        for sizes in [&[5][..], &[100, 1, 33, 16], &[7, 7, 7], &[1000, 3]] {
            for ranks in 1..=7 {
                let layout = layout(sizes, ranks);
                let mut seen: Vec<Vec<u32>> = sizes.iter().map(|size| vec![0; *size as usize]).collect();
                for rank in 0..ranks {
                    for piece in layout.pieces(rank) {
                        let range = piece.in_tensor as usize..(piece.in_tensor + piece.length) as usize;
                        seen[piece.tensor][range].iter_mut().for_each(|count| *count += 1);
                        let at = layout.tensors[piece.tensor].start + piece.in_tensor;
                        assert_eq!(at, rank as i64 * layout.chunk + piece.in_chunk);
                        assert!(piece.in_chunk >= 0 && piece.in_chunk + piece.length <= layout.chunk);
                        assert_eq!(piece.in_chunk % ALIGNMENT, 0);
                    }
                }
                assert!(seen.iter().flatten().all(|count| *count == 1), "{sizes:?} {ranks}: {seen:?}");
            }
        }
    }

    #[test]
    fn chunks_are_alike_and_the_gap_is_small() {
        let layout = layout(&[100, 1], 3);
        // 112 + 16 elements in chunks of 48.
        assert_eq!((layout.chunk, layout.elements()), (48, 144));
        let expected = [
            Piece { tensor: 0, in_tensor: 96, in_chunk: 0, length: 4 },
            Piece { tensor: 1, in_tensor: 0, in_chunk: 16, length: 1 },
        ];
        assert_eq!(layout.pieces(2), expected);
    }
}
