// A linear layer and the cross entropy of its logits, a few rows at a time, so that the logits [N, V] never exist:
//   loss_n = logsumexp(h_n W^T) - (h_n W^T)[target_n],   objective = scale sum_n loss_n.
// Its gradient by the logits is softmax - onehot.
#include "device/kernels.h"
#include "head_loss.h"

#include <ATen/ops/log_softmax.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Loss of one row of logits. With `gradient` the row becomes (softmax - onehot) scale.
template <class T>
SHEARLING_INLINE float row_loss(T* logits, int64_t columns, int64_t target, float scale, bool gradient) {
  const float top = largest(logits, columns);
  float sum = 0.0f;
  for (int64_t i = 0; i < columns; ++i) sum += exponential(load(logits[i]) - top);
  const float aim = load(logits[target]) - top;
  if (gradient) {
    const float factor = scale / sum;
    for (int64_t i = 0; i < columns; ++i) store(logits[i], exponential(load(logits[i]) - top) * factor);
    store(logits[target], (exponential(aim) / sum - 1.0f) * scale);
  }
  return std::log(sum) - aim;
}

// Over rows: writes the losses; with `gradient` the logits become their gradients.
template <class T>
struct RowLosses {
  T* logits;
  const int64_t* targets;
  float* losses;
  int64_t columns;
  float scale;
  bool gradient;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      T* at = logits + row * columns;
      if (targets[row] != IGNORED) {
        losses[row] = row_loss(at, columns, targets[row], scale, gradient);
      } else {
        losses[row] = 0.0f;
        for (int64_t i = 0; gradient && i < columns; ++i) store(at[i], 0.0f);
      }
    }
  }
};
SHEARLING_RUN(RowLosses<float>)
SHEARLING_RUN(RowLosses<BFloat16>)

void composed_chunk_loss(Tensor& logits, const Tensor& targets, Tensor& losses, double scale, bool gradient) {
  const Tensor valid = targets.ne(IGNORED).unsqueeze(1).to(at::kFloat);
  const Tensor target = targets.clamp_min(0).unsqueeze(1);
  Tensor log_probabilities = at::log_softmax(logits, 1, at::kFloat);
  losses.copy_(log_probabilities.gather(1, target).neg_().mul_(valid).squeeze(1));
  if (!gradient) return;
  Tensor probabilities = log_probabilities.exp_();
  probabilities.scatter_add_(1, target, valid.neg());
  at::mul_out(logits, probabilities, valid.mul_(scale));
}

// Losses of a chunk's rows into `losses`; with `gradient` the logits become their gradients.
void chunk_loss(Tensor& logits, const Tensor& targets, Tensor& losses, double scale, bool gradient) {
  const auto kind = logits.scalar_type();
  const bool kernel = kind == at::kFloat || kind == at::kBFloat16;
  if (kernel && has_device_kernels(logits.device())) {
    return device::cross_entropy(logits, targets, losses, IGNORED, scale, gradient);
  }
  if (!kernel || !has_cpu_kernels(logits.device())) {
    return composed_chunk_loss(logits, targets, losses, scale, gradient);
  }
  by_kind(kind, [&](auto of_kind) {
    using T = decltype(of_kind);
    parallel(logits.size(0), rows_at_a_time(logits.size(1)),
             RowLosses<T>{logits.mutable_data_ptr<T>(), targets.const_data_ptr<int64_t>(),
                          losses.mutable_data_ptr<float>(), logits.size(1), static_cast<float>(scale), gradient});
  });
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                               double scale, int64_t chunk_rows, Wanted wanted) {
    const Tensor rows = hidden.contiguous(), aims = targets.contiguous();
    Tensor losses = at::zeros({rows.size(0)}, hidden.options().dtype(at::kFloat));
    const HeadGradients made =
        by_chunks(rows, weight, chunk_rows, wanted, at::kFloat, [&](int64_t start, int64_t count, Tensor& logits) {
          Tensor loss = losses.narrow(0, start, count);
          chunk_loss(logits, aims.narrow(0, start, count), loss, scale, wanted.any());
        });
    ctx->mark_non_differentiable({losses});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({made.hidden, made.weight, weight});
    return {losses.sum().mul_(scale), losses};
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const Tensor& upstream = gradients[0];
    variable_list out(6);
    if (!upstream.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    if (saved[0].defined()) out[0] = saved[0].mul(upstream);
    if (saved[1].defined()) out[1] = weight_gradient(saved[2], saved[1], upstream);
    return out;
  }
};

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Gives two tensors: the objective and the losses by row.
extern "C" int shearling_linear_cross_entropy(Tensor* hidden, Tensor* weight, Tensor* targets, double scale,
                                              int64_t chunk_rows, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    check_head_loss(*hidden, *weight, *targets, chunk_rows);
    check_targets(*targets, weight->size(0));
    const Wanted wanted = Wanted::of(*hidden, *weight);
    const auto result = LinearCrossEntropy::apply(*hidden, *weight, *targets, scale, chunk_rows, wanted);
    give(out, result[0]);
    give(out + 1, result[1]);
  });
}
