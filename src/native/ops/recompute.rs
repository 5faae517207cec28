//! Activation checkpointing: a block runs without a graph in forward and again, with one, in backward. Only its input
//! is kept in between; the price is one more forward of the block.

use super::closure::{Call, Drop, Raw, hand_over};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_recompute(x: CTensor, closure: Raw, call: Call, drop: Drop, out: *mut CTensor, error: CError)
    -> c_int;
}

/// `block(x)`, whose backward runs `block` a second time and goes back into `x` and every leaf that the block uses.
///
/// The block must compute the same both times. On a GPU the second run is on another thread. It is dropped with the
/// graph of the output. Without gradients (`tch::no_grad`) it just runs once.
///
/// # Errors
/// What the block returns; a panic in it is an error too. If that happens in backward, `f_backward` returns it.
pub fn recompute(
    x: &Tensor,
    block: impl Fn(&Tensor) -> Result<Tensor, TchError> + Send + 'static,
) -> Result<Tensor, TchError> {
    let (closure, call, drop) = hand_over(block);
    // SAFETY: the other side takes the closure over, and drops it once.
    shim::tensor(|out, error| unsafe { shearling_recompute(shim::pointer(x), closure, call, drop, out, error) })
}

#[cfg(test)]
mod tests {
    use super::super::cross_entropy::linear_cross_entropy;
    use super::super::gradient::set_gradient_buffer;
    use super::super::projection::{project, project_gated};
    use super::super::test_support::{as_leaf, assert_close, sample};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tch::{Device, Kind};

    fn leaf(sizes: &[i64], kind: Kind, seed: i64) -> Tensor {
        as_leaf(&sample(sizes, seed).to_kind(kind))
    }

    fn mlp(x: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(up, None::<&Tensor>)?.f_silu()?.f_linear(down, None::<&Tensor>)?.f_add(x)
    }

    #[test]
    fn gradients_are_those_of_the_plain_block_to_the_bit() {
        let sizes: [&[i64]; 3] = [&[3, 7, 12], &[33, 12], &[12, 33]];
        let make = || [0, 1, 2].map(|i| leaf(sizes[i], Kind::Float, i as i64));
        let (plain, kept) = (make(), make());
        let out = mlp(&mlp(&plain[0], &plain[1], &plain[2]).unwrap(), &plain[1], &plain[2]).unwrap();
        out.square().sum(Kind::Float).backward();
        let block = |x: &Tensor| {
            let (up, down) = (kept[1].shallow_clone(), kept[2].shallow_clone());
            recompute(x, move |x| mlp(x, &up, &down)).unwrap()
        };
        let again = block(&block(&kept[0]));
        assert_eq!(again, out);
        again.square().sum(Kind::Float).backward();
        for (plain, kept) in plain.iter().zip(&kept) {
            assert_eq!(plain.grad(), kept.grad());
        }
    }

    /// A block that counts its runs and shares `alive`, which it holds until it is dropped.
    fn counted(
        runs: &Arc<AtomicUsize>,
        alive: &Arc<()>,
        outcome: impl Fn(usize, &Tensor) -> Result<Tensor, TchError> + Send + 'static,
    ) -> impl Fn(&Tensor) -> Result<Tensor, TchError> + Send + 'static {
        let (runs, alive) = (Arc::clone(runs), Arc::clone(alive));
        move |x| {
            let _held = &alive;
            outcome(runs.fetch_add(1, Ordering::SeqCst), x)
        }
    }

    fn fail(text: &str) -> Result<Tensor, TchError> {
        Err(TchError::Torch(text.to_string()))
    }

    #[test]
    fn the_block_runs_twice_and_is_dropped_once() {
        let (runs, alive) = (Arc::default(), Arc::new(()));
        let x = leaf(&[3], Kind::Float, 0);
        let out = recompute(&x, counted(&runs, &alive, |_, x| x.f_square())).unwrap();
        assert_eq!((runs.load(Ordering::SeqCst), Arc::strong_count(&alive)), (1, 2));
        let sum = out.sum(Kind::Float);
        drop(out);
        sum.f_backward().unwrap();
        assert_eq!(x.grad(), &x * 2.0);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        drop(sum);
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn without_gradients_it_runs_once_and_is_gone() {
        let (runs, alive) = (Arc::default(), Arc::new(()));
        let x = leaf(&[3], Kind::Float, 0);
        let out = tch::no_grad(|| recompute(&x, counted(&runs, &alive, |_, x| x.f_square()))).unwrap();
        assert!(!out.requires_grad());
        assert_eq!((runs.load(Ordering::SeqCst), Arc::strong_count(&alive)), (1, 1));
    }

    #[test]
    fn an_error_or_a_panic_in_forward_is_the_error_of_the_call() {
        let alive = Arc::new(());
        let x = leaf(&[3], Kind::Float, 0);
        let problem = |outcome: fn(usize, &Tensor) -> Result<Tensor, TchError>| {
            recompute(&x, counted(&Arc::default(), &alive, outcome)).unwrap_err().to_string()
        };
        let plain = fail("the lid is off").unwrap_err().to_string();
        assert_eq!(problem(|_, _| fail("the lid is off")), plain);
        assert!(problem(|_, _| panic!("the {} broke", "handle")).contains("panicked: the handle broke"));
        assert!(tch::no_grad(|| problem(|_, _| fail("the lid is off"))).contains("the lid is off"));
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn an_error_or_a_panic_in_backward_is_the_error_of_backward() {
        let alive = Arc::new(());
        let x = leaf(&[3], Kind::Float, 0);
        let problem = |outcome: fn(usize, &Tensor) -> Result<Tensor, TchError>| {
            let out = recompute(&x, counted(&Arc::default(), &alive, outcome)).unwrap();
            out.sum(Kind::Float).f_backward().unwrap_err().to_string()
        };
        let text = problem(|run, x| if run == 0 { x.f_square() } else { fail("the lid\0is off") });
        assert!(text.contains("the lid is off"), "{text}");
        assert!(problem(|run, x| if run == 0 { x.f_square() } else { panic!("no handle") }).contains("no handle"));
        let text = problem(|run, x| if run == 0 { x.f_square() } else { x.f_sum(Kind::Float) });
        assert!(text.contains("[3] in forward and [] in backward"), "{text}");
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(!x.grad().defined());
    }

    #[test]
    fn weights_learn_though_the_input_does_not_and_odd_blocks_work() {
        let (x, weight) = (sample(&[3], 1), leaf(&[3], Kind::Float, 2));
        let inside = weight.shallow_clone();
        recompute(&x, move |x| x.f_mul(&inside)).unwrap().sum(Kind::Float).backward();
        assert_eq!(weight.grad(), x);
        // Nothing to learn at all, and a block that gives its input back.
        recompute(&x, |x| x.f_square()).unwrap().sum(Kind::Float).f_backward().unwrap();
        let same = leaf(&[3], Kind::Float, 1);
        (recompute(&same, |x| Ok(x.shallow_clone())).unwrap() * 2.0).sum(Kind::Float).backward();
        assert_eq!(same.grad(), Tensor::full([3], 2.0, (Kind::Float, Device::Cpu)));
        // Token ids as the input.
        let table = leaf(&[4, 2], Kind::Float, 1);
        let inside = table.shallow_clone();
        let ids = Tensor::from_slice(&[3i64, 3, 0]);
        let out = recompute(&ids, move |ids| Tensor::f_embedding(&inside, ids, -1, false, false)).unwrap();
        out.sum(Kind::Float).backward();
        assert_eq!(table.grad().sum_dim_intlist(1, false, Kind::Float), Tensor::from_slice(&[2.0f32, 0.0, 0.0, 4.0]));
    }

    #[test]
    fn nested_blocks_go_back_once() {
        let weight = leaf(&[4], Kind::Float, 1);
        let x = leaf(&[4], Kind::Float, 2);
        let inside = weight.shallow_clone();
        let out = recompute(&x, move |x| {
            let inner = inside.shallow_clone();
            recompute(&x.f_mul(&inside)?, move |x| x.f_mul(&inner))
        });
        out.unwrap().sum(Kind::Float).backward();
        assert_eq!(x.grad(), weight.detach() * weight.detach());
        assert_eq!(weight.grad(), x.detach() * weight.detach() * 2.0);
    }

    /// Embedding table, three projections and a gate of a small block with everything in it.
    struct Model {
        leaves: Vec<Tensor>,
    }

    impl Model {
        fn new(kind: Kind) -> Model {
            let sizes: [&[i64]; 4] = [&[19, 12], &[33, 12], &[33, 12], &[12, 33]];
            let small = |i: usize| as_leaf(&(sample(sizes[i], i as i64) * 0.25).to_kind(kind));
            let mut leaves: Vec<_> = (0..4).map(small).collect();
            leaves.push(leaf(&[12], Kind::Float, 4));
            leaves.push(leaf(&[33], Kind::Float, 5));
            Model { leaves }
        }

        /// The objective of the tokens: embedding and output layer are tied.
        fn objective(&self, tokens: &Tensor, kept: bool) -> Tensor {
            let leaves: Vec<_> = self.leaves.iter().map(Tensor::shallow_clone).collect();
            let block = move |x: &Tensor| {
                let both = project(x, &[(&leaves[1], None), (&leaves[2], None)])?;
                let inner = both[0].f_silu()?.f_mul(&both[1])?;
                project_gated(&inner, &leaves[3], Some(&leaves[4]), Some(&leaves[5]), None, x)
            };
            let x = Tensor::embedding(&self.leaves[0], tokens, -1, false, false);
            let hidden = if kept { recompute(&x, block) } else { block(&x) }.unwrap();
            let targets = tokens.roll([1], [0]);
            linear_cross_entropy(&hidden, &self.leaves[0], &targets, 1.0 / 7.0, 3).unwrap().objective
        }
    }

    fn micro_batches() -> [Tensor; 2] {
        [Tensor::from_slice(&[1i64, 5, 18, 0, 7, 7, 2]), Tensor::from_slice(&[4i64, 5, 11, 3, 9, 17, 0])]
    }

    #[test]
    fn everything_composes_and_micro_batches_add_up() {
        let (kept, plain) = (Model::new(Kind::Float), Model::new(Kind::Float));
        for tokens in micro_batches() {
            kept.objective(&tokens, true).backward();
            plain.objective(&tokens, false).backward();
        }
        let parts = micro_batches().map(|tokens| {
            let model = Model::new(Kind::Float);
            model.objective(&tokens, true).backward();
            model
        });
        for (index, leaf) in kept.leaves.iter().enumerate() {
            assert_eq!(leaf.grad(), plain.leaves[index].grad(), "leaf {index}");
            let sum = parts[0].leaves[index].grad() + parts[1].leaves[index].grad();
            assert_close(&format!("leaf {index}"), &leaf.grad(), &sum, 1e-5);
        }
    }

    #[test]
    fn everything_composes_in_bf16_with_fp32_buffers() {
        let (model, exact) = (Model::new(Kind::BFloat16), Model::new(Kind::Float));
        let buffers: Vec<_> = model.leaves.iter().map(|leaf| leaf.detach().to_kind(Kind::Float).zeros_like()).collect();
        for (leaf, buffer) in model.leaves.iter().zip(&buffers) {
            set_gradient_buffer(leaf, buffer).unwrap();
        }
        for tokens in micro_batches() {
            model.objective(&tokens, true).backward();
            exact.objective(&tokens, false).backward();
        }
        for (index, (buffer, exact)) in buffers.iter().zip(&exact.leaves).enumerate() {
            assert_eq!(model.leaves[index].grad().data_ptr(), buffer.data_ptr());
            assert_close(&format!("leaf {index}"), buffer, &exact.grad(), 5e-2);
        }
    }
}
