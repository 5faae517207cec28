// RMSNorm and its backward, one pass over the activations each way.
//
//   v = Σ_j m_j x_j²      r = (v + ε)^(-1/2)      y_j = w_j x_j r
//   dx_j = g_j w_j r − x_j m_j r³ Σ_k g_k w_k x_k + (gradient of the residual stream)_j
//   dw_j = Σ_rows g_j x_j r
//
// m is 1/D, or the weights of the mean over the dimensions that a mask leaves alive. x is passed through as a second
// output: a pre-norm block reads it twice, and the sum of its two gradients is made where the first one is.
#include "device/kernels.h"
#include "kernel.h"
#include "made_again.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
SHEARLING_INLINE float normalize_row(const T* __restrict__ x, const float* __restrict__ weight,
                                     const float* __restrict__ mean_weights, float eps, T* __restrict__ y,
                                     int64_t columns) {
  float mean = 0.0f;
  for (int64_t j = 0; j < columns; ++j) mean += mean_weights[j] * load(x[j]) * load(x[j]);
  const float rstd = 1.0f / std::sqrt(mean + eps);
  for (int64_t j = 0; j < columns; ++j) store(y[j], weight[j] * load(x[j]) * rstd);
  return rstd;
}

template <class T>
struct Normalize {
  const T* x;
  const float* weight;
  const float* mean_weights;
  float eps;
  T* y;
  float* rstd;
  int64_t columns;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      rstd[row] = normalize_row(x + at, weight, mean_weights, eps, y + at, columns);
    }
  }
};
SHEARLING_RUN(Normalize<float>)
SHEARLING_RUN(Normalize<BFloat16>)

template <class T>
SHEARLING_INLINE float weighted_dot(const T* __restrict__ x, const T* __restrict__ gradient,
                                    const float* __restrict__ weight, int64_t columns) {
  float dot = 0.0f;
  for (int64_t j = 0; j < columns; ++j) dot += load(gradient[j]) * weight[j] * load(x[j]);
  return dot;
}

// The gradient of one row of x; `Residual` adds the one that came through the residual stream.
template <bool Residual, class T>
SHEARLING_INLINE void input_row(const T* __restrict__ x, const T* __restrict__ gradient,
                                const T* __restrict__ residual, const float* __restrict__ weight,
                                const float* __restrict__ mean_weights, float rstd, T* __restrict__ dx,
                                int64_t columns) {
  const float along = rstd * rstd * rstd * weighted_dot(x, gradient, weight, columns);
  for (int64_t j = 0; j < columns; ++j) {
    float value = load(gradient[j]) * weight[j] * rstd - load(x[j]) * mean_weights[j] * along;
    if constexpr (Residual) value += load(residual[j]);
    store(dx[j], value);
  }
}

template <class T>
SHEARLING_INLINE void add_weight_row(const T* __restrict__ x, const T* __restrict__ gradient, float rstd,
                                     float* __restrict__ dweight, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) dweight[j] += load(gradient[j]) * load(x[j]) * rstd;
}

// Over parts of the rows. `residual`, `dx` and `dweight` may be null: absent, or not asked for.
template <class T>
struct NormalizeBackward {
  const T* x;
  const T* gradient;
  const T* residual;
  const float* weight;
  const float* mean_weights;
  const float* rstd;
  T* dx;
  float* dweight;
  int64_t columns;
  RowParts parts;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t row = parts.begin(part); row < parts.end(part); ++row) backward_row(part, row);
    }
  }

  SHEARLING_INLINE void backward_row(int64_t part, int64_t row) const {
    const int64_t at = row * columns;
    if (dx && residual) {
      input_row<true>(x + at, gradient + at, residual + at, weight, mean_weights, rstd[row], dx + at, columns);
    } else if (dx) {
      input_row<false>(x + at, gradient + at, x, weight, mean_weights, rstd[row], dx + at, columns);
    }
    if (dweight) add_weight_row(x + at, gradient + at, rstd[row], dweight + part * columns, columns);
  }
};
SHEARLING_RUN(NormalizeBackward<float>)
SHEARLING_RUN(NormalizeBackward<BFloat16>)

Tensor mean_weights_or_uniform(const Tensor& mean_weights, int64_t columns) {
  if (mean_weights.defined()) return mean_weights;
  return at::full({columns}, 1.0 / static_cast<double>(columns), at::TensorOptions(at::kFloat));
}

// The weight as the kernels read it: fp32, or on a device x's own dtype too.
Tensor readable(const Tensor& weight, const Tensor& x) {
  const bool as_it_is = has_device_kernels(x.device()) && weight.scalar_type() == x.scalar_type();
  return (as_it_is ? weight : weight.to(at::kFloat)).contiguous();
}

void normalize(const Tensor& x, const Tensor& weight, const Tensor& mean_weights, double eps, const Tensor& y,
               const Tensor& rstd) {
  if (has_device_kernels(x.device())) return device::rms_norm(x, weight, mean_weights, eps, y, rstd);
  const int64_t columns = x.size(-1);
  const Tensor means = mean_weights_or_uniform(mean_weights, columns);
  by_kind(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(rstd.numel(), rows_at_a_time(columns),
             Normalize<T>{x.const_data_ptr<T>(), weight.const_data_ptr<float>(), means.const_data_ptr<float>(),
                          static_cast<float>(eps), y.mutable_data_ptr<T>(), rstd.mutable_data_ptr<float>(), columns});
  });
}

// Fills `dx` where defined; gives the gradient of the weight where wanted.
Tensor normalize_backward(const Tensor& x, const Tensor& gradient, const Tensor& residual, const Tensor& weight,
                          const Tensor& mean_weights, const Tensor& rstd, const Tensor& dx, bool weight_wanted) {
  if (has_device_kernels(x.device())) {
    return device::rms_norm_backward(x, gradient, residual, weight, mean_weights, rstd, dx, weight_wanted);
  }
  const int64_t columns = x.size(-1);
  const RowParts parts(rstd.numel());
  const Tensor means = mean_weights_or_uniform(mean_weights, columns);
  const Tensor partial = weight_wanted ? partial_sums(parts, columns) : Tensor();
  by_kind(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(parts.count, 1,
             NormalizeBackward<T>{x.const_data_ptr<T>(), gradient.const_data_ptr<T>(),
                                  residual.defined() ? residual.const_data_ptr<T>() : nullptr,
                                  weight.const_data_ptr<float>(), means.const_data_ptr<float>(),
                                  rstd.const_data_ptr<float>(), dx.defined() ? dx.mutable_data_ptr<T>() : nullptr,
                                  partial.defined() ? partial.mutable_data_ptr<float>() : nullptr, columns, parts});
  });
  return partial.defined() ? add_parts(partial) : Tensor();
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                               const std::optional<Tensor>& mean_weights_, double eps) {
    const Tensor mean_weights = mean_weights_.value_or(Tensor());
    const Tensor x = input.contiguous(), factors = readable(weight, x);
    const Tensor y = at::empty_like(x), rstd = at::empty({x.numel() / x.size(-1)}, x.options().dtype(at::kFloat));
    normalize(x, factors, mean_weights, eps, y, rstd);
    context->save_for_backward({x, factors, rstd, mean_weights});
    context->saved_data["eps"] = eps;
    context->saved_data["weight_kind"] = static_cast<int64_t>(weight.scalar_type());
    context->set_materialize_grads(false);
    // What is passed through is differentiable as far as x is, whatever the weight is.
    if (!input.requires_grad()) context->mark_non_differentiable({input});
    return {y, input};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    check_first_order();
    // Where nothing read the norm, the residual stream's gradient is x's, defined or not.
    if (!gradients[0].defined()) return {gradients[1], Tensor(), Tensor(), Tensor()};
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &rstd = saved[2];
    const Tensor gradient = gradients[0].contiguous();
    const Tensor residual = gradients[1].defined() ? gradients[1].contiguous() : Tensor();
    const Tensor dx = context->needs_input_grad(0) ? at::empty_like(x) : Tensor();
    const Tensor dweight =
        normalize_backward(x, gradient, residual, weight, saved[3], rstd, dx, context->needs_input_grad(1));
    const auto weight_kind = static_cast<at::ScalarType>(context->saved_data["weight_kind"].toInt());
    return {dx, dweight.defined() ? dweight.to(weight_kind) : Tensor(), Tensor(), Tensor()};
  }
};

using NormNode = torch::autograd::CppNode<RmsNorm>;

variable_list rms_norm(const Tensor& x, const Tensor& weight, const Tensor& mean_weights, double eps) {
  check_storage(x, "x");
  const int64_t columns = columns_of(x, "x");
  TORCH_CHECK(weight.device() == x.device() && at::isFloatingType(weight.scalar_type()), "the weight is ",
              weight.scalar_type(), " on ", weight.device(), ", not a float on ", x.device());
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == columns, "the weight is ", weight.sizes(), ", x is ", x.sizes());
  if (!mean_weights.defined()) return RmsNorm::apply(x, weight, std::optional<Tensor>(), eps);
  check_vector(mean_weights, "mean_weights", columns, x.device());
  return RmsNorm::apply(x, weight, std::optional<Tensor>(mean_weights.detach().contiguous()), eps);
}

}  // namespace

bool is_norm(const Node* node) { return dynamic_cast<const NormNode*>(node) != nullptr; }

Tensor normed_again(Node* node) {
  const at::AutoGradMode off(false);
  AutogradContext& context = dynamic_cast<NormNode&>(*node).ctx_;
  const auto saved = context.get_saved_variables();
  const Tensor &x = saved[0], y = at::empty_like(x), rstd = at::empty_like(saved[2]);
  normalize(x, saved[1], saved[3], context.saved_data["eps"].toDouble(), y, rstd);
  return y;
}

}  // namespace shearling

using shearling::Tensor;

// `outputs` receives the normed tensor and x passed through; `mean_weights` may be null.
extern "C" int shearling_rms_norm(Tensor* x, Tensor* weight, Tensor* mean_weights, double eps, Tensor** outputs,
                                  char** error) {
  return shearling::guarded(error, [&] {
    auto results = shearling::rms_norm(*x, *weight, shearling::optional(mean_weights), eps);
    shearling::give(&outputs[0], std::move(results[0]));
    shearling::give(&outputs[1], std::move(results[1]));
  });
}
