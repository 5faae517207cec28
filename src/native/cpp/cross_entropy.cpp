// A linear layer and the cross entropy of its logits, a few rows at a time, so that the logits [N, V] never exist:
//   loss_n = logsumexp(h_n W^T) - (h_n W^T)[target_n],   objective = scale sum_n loss_n.
// Everything the gradient needs is at hand while a chunk's logits are, d loss_n / d logits = softmax - onehot, so the
// forward makes the gradients of hidden and weight for an upstream of one; backward multiplies.
#include "kernel.h"
#include "leaf_gradient.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t IGNORED = -100;

// An integer in the order of the floats: its maximum is vectorised without leave to forget about NaN, which is above
// (or, negative, below) everything.
SHEARLING_INLINE int32_t rank_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

SHEARLING_INLINE float of_rank(int32_t rank) {
  const int32_t bits = rank ^ ((rank >> 31) & 0x7fffffff);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
SHEARLING_INLINE float largest(const T* logits, int64_t columns) {
  int32_t rank = rank_of(load(logits[0]));
  for (int64_t i = 1; i < columns; ++i) rank = std::max(rank, rank_of(load(logits[i])));
  return of_rank(rank);
}

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
  if (!logits.is_cpu() || (kind != at::kFloat && kind != at::kBFloat16)) {
    return composed_chunk_loss(logits, targets, losses, scale, gradient);
  }
  by_kind(kind, [&](auto of_kind) {
    using T = decltype(of_kind);
    parallel(logits.size(0), rows_at_a_time(logits.size(1)),
             RowLosses<T>{logits.mutable_data_ptr<T>(), targets.const_data_ptr<int64_t>(),
                          losses.mutable_data_ptr<float>(), logits.size(1), static_cast<float>(scale), gradient});
  });
}

struct Wanted {
  bool hidden, weight;
};

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                               double scale, int64_t chunk_rows, Wanted wanted) {
    const Tensor rows = hidden.contiguous(), aims = targets.contiguous();
    const auto full = hidden.options().dtype(at::kFloat);
    Tensor losses = at::zeros({rows.size(0)}, full);
    Tensor d_hidden = wanted.hidden ? at::empty_like(rows, at::MemoryFormat::Contiguous) : Tensor();
    Tensor d_weight = wanted.weight ? at::zeros(weight.sizes(), full) : Tensor();
    const int64_t most = std::min(chunk_rows, rows.size(0));
    const Tensor buffer = at::empty({most, weight.size(0)}, hidden.options());
    for (int64_t start = 0; start < rows.size(0); start += most) {
      const int64_t count = std::min(most, rows.size(0) - start);
      const Tensor chunk = rows.narrow(0, start, count);
      Tensor logits = buffer.narrow(0, 0, count), loss = losses.narrow(0, start, count);
      gemm(chunk, weight.t(), logits, false);
      chunk_loss(logits, aims.narrow(0, start, count), loss, scale, wanted.hidden || wanted.weight);
      if (wanted.hidden) {
        Tensor into = d_hidden.narrow(0, start, count);
        gemm(logits, weight, into, false);
      }
      if (wanted.weight) gemm(logits.t(), chunk, d_weight, start > 0);
    }
    ctx->mark_non_differentiable({losses});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({d_hidden, d_weight, weight});
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

  static Tensor weight_gradient(const Tensor& weight, const Tensor& d_weight, const Tensor& upstream) {
    Tensor buffer = collects_in_leaf(weight) ? weight.grad() : Tensor();
    if (!buffer.defined()) return deliver(weight, d_weight.mul(upstream));
    if (buffer.is_cpu()) {
      buffer.add_(d_weight, upstream.item());
    } else {
      // The upstream stays on the device.
      buffer.addcmul_(d_weight, upstream);
    }
    return Tensor();
  }
};

void check_targets(const Tensor& targets, int64_t vocabulary) {
  if (!targets.is_cpu()) return;  // reading them would wait for the device
  const Tensor plain = targets.contiguous();
  const int64_t* target = plain.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < plain.numel(); ++n) {
    TORCH_CHECK(target[n] == IGNORED || (target[n] >= 0 && target[n] < vocabulary), "target ", target[n], " at row ",
                n, " is outside the vocabulary of ", vocabulary);
  }
}

void check_arguments(const Tensor& hidden, const Tensor& weight, const Tensor& targets, int64_t chunk_rows) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1), "hidden of ",
              hidden.sizes(), " for a weight of ", weight.sizes());
  TORCH_CHECK(weight.size(0) > 0, "a vocabulary of 0");
  TORCH_CHECK(at::isFloatingType(hidden.scalar_type()) && hidden.scalar_type() == weight.scalar_type(),
              "hidden of kind ", hidden.scalar_type(), " for a weight of kind ", weight.scalar_type());
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0), "targets of ", targets.sizes(),
              " for hidden of ", hidden.sizes());
  TORCH_CHECK(targets.scalar_type() == at::kLong, "targets of kind ", targets.scalar_type(), ", not int64");
  TORCH_CHECK(hidden.device() == weight.device() && hidden.device() == targets.device(), "hidden on ",
              hidden.device(), ", weight on ", weight.device(), ", targets on ", targets.device());
  TORCH_CHECK(chunk_rows > 0, "chunks of ", chunk_rows, " rows");
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Gives two tensors: the objective and the losses by row.
extern "C" int shearling_linear_cross_entropy(Tensor* hidden, Tensor* weight, Tensor* targets, double scale,
                                              int64_t chunk_rows, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    check_arguments(*hidden, *weight, *targets, chunk_rows);
    check_targets(*targets, weight->size(0));
    // Gradients are off inside `forward`, so it is asked here.
    const bool on = at::GradMode::is_enabled();
    const Wanted wanted{on && hidden->requires_grad(), on && weight->requires_grad()};
    const auto result = LinearCrossEntropy::apply(*hidden, *weight, *targets, scale, chunk_rows, wanted);
    give(out, result[0]);
    give(out + 1, result[1]);
  });
}
