//! Routers that know from the start what each expert contributes: a linear map from the normed input of the feed-forward to
//! whether an expert is among those that add most, fitted on calibration rows.
//!
//! ```text
//! c_e = ‖ W_down[:, e] h_e ‖²                    what expert e adds to the residual stream, per token
//! y_e = 1 if c_e is among the largest ρ N of the token, else 0
//! W, β = argmin Σ ‖ W b + β − y ‖² + r ‖W‖²      one pass, closed form; b: the normed input
//! ```
//!
//! Scaled so that the logits of a layer have a spread at which scores are neither flat nor saturated, and shifted so that the
//! share of them that is above 0 is the one that training begins with. The labels are those of Deja Vu's and D2DMoE's
//! predictors; those descend, this solves.

use super::experts::Experts;
use crate::model::probe::Site;
use crate::model::router::Router;
use crate::model::{Decoder, ForwardContext};
use crate::prune::scores::{Calibration, Progress};
use tch::{Kind, TchError, Tensor};

/// Standard deviation of a layer's logits at the start.
const SPREAD: f64 = 1.5;
/// r, in mean variances of the inputs over all tokens.
const RIDGE: f64 = 1e-2;

/// Shares of the experts of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// ρ: those that are labelled 1.
    pub label: f64,
    /// Those that run at first.
    pub start: f64,
}

/// Gives the layers of `chosen` routers with biases, which tell the share `shares.label` of experts that add most from the others,
/// and of which the share `shares.start` is above the threshold. `model` is dense, its units are in the order of `experts`.
///
/// # Errors
/// libtorch's: of a forward, or a system that cannot be solved.
pub fn warm_start(
    experts: &mut Experts,
    model: &Decoder,
    rows: &Calibration,
    shares: Shares,
    chosen: &dyn Fn(i64) -> bool,
    progress: &mut Progress,
) -> Result<(), TchError> {
    let _no_grad = tch::no_grad_guard();
    let layers = model.model().num_hidden_layers;
    let size = (experts.experts(), experts.expert_size);
    let mut fits = Vec::new();
    for layer in (0..layers).filter(|layer| chosen(*layer)) {
        fits.push(Fit::new(layer, model.down_projection(layer as usize)?, size, shares.label)?);
    }
    let (count, tokens) = rows.rows.size2()?;
    let context = ForwardContext::new(model.model(), tokens, rows.rows.device())?;
    let step = rows.micro_batch.max(1);
    for start in (0..count).step_by(step as usize) {
        progress("routers: calibration row", start as usize, count as usize);
        let ids = rows.rows.f_narrow(0, start, step.min(count - start))?;
        model.forward_probed(&ids, &context, &mut |layer, site, seen| match fits
            .iter_mut()
            .find(|fit| fit.layer == layer as i64)
        {
            Some(fit) => fit.see(site, seen),
            None => Ok(()),
        })?;
    }
    for fit in fits {
        let layer = fit.layer as usize;
        let router = fit.solve(shares.start)?;
        if let Some(place) = experts.layers.get_mut(layer) {
            place.router = Some(router);
        }
    }
    Ok(())
}

/// The sums of one layer's system.
struct Fit {
    layer: i64,
    /// Gram matrices of the down projection, by expert `[N, m, m]`.
    gram: Tensor,
    /// Experts of a token that are labelled 1.
    active: i64,
    /// The normed input `[tokens, D]` of the rows under way.
    normed: Option<Tensor>,
    /// Σ bᵀb `[D, D]`, Σ bᵀy `[D, N]`, Σ b `[D]`, Σ y `[N]`, fp64; a sample of b for the spread of the logits.
    sums: Option<Sums>,
    tokens: f64,
}

struct Sums {
    inputs: Tensor,
    cross: Tensor,
    input: Tensor,
    label: Tensor,
}

impl Fit {
    fn new(layer: i64, down: &Tensor, (experts, size): (i64, i64), density: f64) -> Result<Fit, TchError> {
        let columns = down.f_detach()?.f_to_kind(Kind::Float)?.f_tr()?.f_reshape([experts, size, -1])?;
        let gram = columns.f_bmm(&columns.f_transpose(1, 2)?)?;
        let active = ((experts as f64 * density).round() as i64).clamp(1, experts);
        Ok(Fit { layer, gram, active, normed: None, sums: None, tokens: 0.0 })
    }

    fn see(&mut self, site: Site, seen: &Tensor) -> Result<(), TchError> {
        let width = seen.size().last().copied().unwrap_or(1);
        let flat = || seen.f_reshape([-1, width])?.f_to_kind(Kind::Float);
        match site {
            Site::FeedForwardNorm => self.normed = Some(flat()?),
            Site::Intermediate => {
                let labels = self.labels(&flat()?)?;
                if let Some(normed) = self.normed.take() {
                    self.add(&normed, &labels)?;
                }
            }
            _ => (),
        }
        Ok(())
    }

    /// y `[tokens, N]` of intermediate units `[tokens, F]`.
    fn labels(&self, inner: &Tensor) -> Result<Tensor, TchError> {
        let (experts, size, _) = self.gram.size3()?;
        let by_expert = inner.f_reshape([-1, experts, size])?.f_transpose(0, 1)?;
        let contributions =
            by_expert.f_bmm(&self.gram)?.f_mul(&by_expert)?.f_sum_dim_intlist(-1, false, Kind::Float)?;
        let contributions = contributions.f_tr()?;
        let (_, largest) = contributions.f_topk(self.active, -1, true, false)?;
        contributions.f_zeros_like()?.f_scatter_value(-1, &largest, 1.0)
    }

    fn add(&mut self, normed: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let wide = |tensor: Tensor| tensor.f_to_kind(Kind::Double);
        let transposed = normed.f_tr()?;
        let sums = Sums {
            inputs: wide(transposed.f_matmul(normed)?)?,
            cross: wide(transposed.f_matmul(labels)?)?,
            input: normed.f_sum_dim_intlist(0, false, Kind::Double)?,
            label: labels.f_sum_dim_intlist(0, false, Kind::Double)?,
        };
        self.tokens += normed.size()[0] as f64;
        self.sums = Some(match self.sums.take() {
            None => sums,
            Some(before) => Sums {
                inputs: before.inputs.f_add(&sums.inputs)?,
                cross: before.cross.f_add(&sums.cross)?,
                input: before.input.f_add(&sums.input)?,
                label: before.label.f_add(&sums.label)?,
            },
        });
        Ok(())
    }

    /// The router of the least squares.
    fn solve(self, density: f64) -> Result<Router, TchError> {
        let sums = self.sums.ok_or_else(|| TchError::Shape("no calibration row was seen".to_string()))?;
        let n = self.tokens;
        let (mean, label) = (sums.input.f_div_scalar(n)?, sums.label.f_div_scalar(n)?);
        let outer = |a: &Tensor, b: &Tensor| a.f_unsqueeze(1)?.f_mul(&b.f_unsqueeze(0)?);
        let covariance = sums.inputs.f_div_scalar(n)?.f_sub(&outer(&mean, &mean)?)?;
        let cross = sums.cross.f_div_scalar(n)?.f_sub(&outer(&mean, &label)?)?;
        let ridge = covariance.f_diagonal(0, 0, 1)?.f_mean(Kind::Double)?.f_double_value(&[])? * RIDGE + 1e-12;
        let width = covariance.size()[0];
        let identity = Tensor::f_eye(width, (Kind::Double, covariance.device()))?;
        let damped = covariance.f_add(&identity.f_mul_scalar(ridge)?)?;
        let weight = cross.f_cholesky_solve(&damped.f_linalg_cholesky(false)?, false)?; // [D, N]
        // Predicted labels have mean `label` and this variance; their threshold is where the share `density` lies above.
        let variance = weight.f_mul(&covariance.f_matmul(&weight)?)?.f_sum_dim_intlist(0, false, Kind::Double)?;
        let scale = SPREAD / variance.f_mean(Kind::Double)?.f_sqrt()?.f_double_value(&[])?.max(1e-9);
        let bias = label.f_sub(&weight.f_tr()?.f_mv(&mean)?)?;
        let threshold = threshold(&label, &variance, density)?;
        Ok(Router {
            weight: weight.f_tr()?.f_mul_scalar(scale)?.f_to_kind(Kind::Float)?.f_contiguous()?,
            bias: Some(bias.f_sub_scalar(threshold)?.f_mul_scalar(scale)?.f_to_kind(Kind::Float)?),
        })
    }
}

/// Where the share `density` of all predictions lies above, each expert's being normal with its mean and variance.
fn threshold(mean: &Tensor, variance: &Tensor, density: f64) -> Result<f64, TchError> {
    let spread = variance.f_sqrt()?.f_clamp_min(1e-9)?.f_mul_scalar(std::f64::consts::SQRT_2)?;
    let above = |at: f64| -> Result<f64, TchError> {
        let tail = mean.f_rsub_scalar(at)?.f_div(&spread)?.f_erfc()?;
        Ok(0.5 * tail.f_mean(Kind::Double)?.f_double_value(&[])?)
    };
    let (mut low, mut high) = (-10.0, 11.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if above(middle)? > density { low = middle } else { high = middle }
    }
    Ok(0.5 * (low + high))
}
