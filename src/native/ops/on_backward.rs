//! A place in the graph at which something happens when the backward comes through: weights are fetched before a layer's
//! backward, and its gradients are given away after it.

use super::closure::{Call, Drop, Raw, hand_over};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_on_backward(
        x: CTensor,
        closure: Raw,
        call: Call,
        drop: Drop,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// `x` again, whose backward calls `action` once: after all that was computed from the result has gone back, before
/// whatever `x` was computed from does. Gradients of leaves that were used in between have arrived by then. Without
/// gradients (`tch::no_grad`) it is `x`, and nothing is called.
///
/// # Errors
/// What `action` returns is the error of the backward; a panic in it too.
pub fn on_backward(x: &Tensor, action: impl Fn() -> Result<(), TchError> + Send + 'static) -> Result<Tensor, TchError> {
    let (closure, call, drop) = hand_over(move |gradient| {
        action()?;
        Ok(gradient.shallow_clone())
    });
    // SAFETY: the other side takes the closure over, and drops it once.
    shim::tensor(|out, error| unsafe { shearling_on_backward(shim::pointer(x), closure, call, drop, out, error) })
}

#[cfg(test)]
mod tests {
    use super::super::recompute::recompute;
    use super::super::test_support::{as_leaf, sample};
    use super::*;
    use std::sync::{Arc, Mutex};
    use tch::Kind;

    type Said = Arc<Mutex<Vec<String>>>;

    fn say(said: &Said, word: &str, leaf: &Tensor) -> impl Fn() -> Result<(), TchError> + Send + 'static {
        let (said, word, leaf) = (Arc::clone(said), word.to_string(), leaf.shallow_clone());
        move || {
            let arrived = if leaf.grad().defined() { "arrived" } else { "none" };
            said.lock().unwrap().push(format!("{word} {arrived}"));
            Ok(())
        }
    }

    #[test]
    fn it_is_called_between_what_comes_after_and_what_came_before() {
        for kept in [false, true] {
            let (x, weight) = (as_leaf(&sample(&[3, 4], 0)), as_leaf(&sample(&[4], 1)));
            let said = Said::default();
            let entered = on_backward(&(&x * 2.0), say(&said, "after", &weight)).unwrap();
            let inside = weight.shallow_clone();
            let layer = move |x: &Tensor| x.f_mul(&inside);
            let out = if kept { recompute(&entered, layer) } else { layer(&entered) }.unwrap();
            let left = on_backward(&out, say(&said, "before", &weight)).unwrap();
            assert_eq!(left, &x * 2.0 * &weight);
            (&left * 3.0).sum(Kind::Float).backward();
            assert_eq!(*said.lock().unwrap(), ["before none", "after arrived"]);
            assert_eq!(x.grad(), (weight.detach() * 6.0).expand([3, 4], false));
        }
    }

    #[test]
    fn it_is_called_though_its_input_learns_nothing_and_not_without_gradients() {
        let (x, weight) = (sample(&[3], 0), as_leaf(&sample(&[3], 1)));
        let said = Said::default();
        let out = tch::no_grad(|| on_backward(&x, say(&said, "never", &weight))).unwrap();
        assert!(!out.requires_grad());
        let entered = on_backward(&x, say(&said, "after", &weight)).unwrap();
        (entered * &weight).sum(Kind::Float).backward();
        assert_eq!(*said.lock().unwrap(), ["after arrived"]);
        assert_eq!(weight.grad(), x);
    }

    #[test]
    fn its_error_is_that_of_the_backward() {
        let x = as_leaf(&sample(&[3], 0));
        let out = on_backward(&x, || Err(TchError::Torch("nobody is there".to_string()))).unwrap();
        let problem = out.sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(problem.contains("nobody is there"), "{problem}");
    }
}
