// What the losses of the output layer share: the walk over chunks of rows, in which logits exist a few rows at a time and
// become their own gradients, and the way of the head's gradient into its buffer.
//
//   logits_n = h_n W^T,   d hidden = (d loss / d logits) W,   d W = (d loss / d logits)^T hidden
//
// Everything the gradient needs is at hand while a chunk's logits are, so a forward makes the gradients of hidden and
// weight for an upstream of one; backward multiplies.
#pragma once

#include "kernel.h"
#include "leaf_gradient.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace shearling {

// A target that has no loss.
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

// Which gradients a forward has to make.
struct Wanted {
  bool hidden, weight;

  // Gradients are off inside the forward of a function, so it is asked before.
  static Wanted of(const Tensor& hidden, const Tensor& weight) {
    const bool on = at::GradMode::is_enabled();
    return {on && hidden.requires_grad(), on && weight.requires_grad()};
  }

  bool any() const { return hidden || weight; }
};

// Gradients for an upstream of one; undefined where not wanted.
struct HeadGradients {
  Tensor hidden, weight;
};

// Logits of `chunk_rows` rows at a time: `loss(start, count, logits)` reads them and, where a gradient is wanted, leaves
// in their place the loss's gradient by them. The head's gradient is summed in `sums`, fp32 or wider.
template <class Loss>
HeadGradients by_chunks(const Tensor& rows, const Tensor& weight, int64_t chunk_rows, Wanted wanted,
                        at::ScalarType sums, const Loss& loss) {
  HeadGradients made;
  if (wanted.hidden) made.hidden = at::empty_like(rows, at::MemoryFormat::Contiguous);
  if (wanted.weight) made.weight = at::zeros(weight.sizes(), rows.options().dtype(sums));
  const int64_t most = std::min(chunk_rows, rows.size(0));
  const Tensor buffer = at::empty({most, weight.size(0)}, rows.options());
  for (int64_t start = 0; start < rows.size(0); start += most) {
    const int64_t count = std::min(most, rows.size(0) - start);
    const Tensor chunk = rows.narrow(0, start, count);
    Tensor logits = buffer.narrow(0, 0, count);
    gemm(chunk, weight.t(), logits, false);
    loss(start, count, logits);
    if (wanted.hidden) {
      Tensor into = made.hidden.narrow(0, start, count);
      gemm(logits, weight, into, false);
    }
    if (wanted.weight) gemm(logits.t(), chunk, made.weight, start > 0);
  }
  return made;
}

// The head's gradient, times what comes from above: into the leaf's buffer, or (returned) to autograd.
inline Tensor weight_gradient(const Tensor& weight, const Tensor& d_weight, const Tensor& upstream) {
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

inline void check_targets(const Tensor& targets, int64_t vocabulary) {
  if (!targets.is_cpu()) return;  // reading them would wait for the device
  const Tensor plain = targets.contiguous();
  const int64_t* target = plain.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < plain.numel(); ++n) {
    TORCH_CHECK(target[n] == IGNORED || (target[n] >= 0 && target[n] < vocabulary), "target ", target[n], " at row ",
                n, " is outside the vocabulary of ", vocabulary);
  }
}

inline void check_head(const Tensor& hidden, const Tensor& weight, const char* name) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1), name, " of ", hidden.sizes(),
              " for a weight of ", weight.sizes());
  TORCH_CHECK(weight.size(0) > 0, "a vocabulary of 0");
  TORCH_CHECK(at::isFloatingType(hidden.scalar_type()) && hidden.scalar_type() == weight.scalar_type(), name,
              " of kind ", hidden.scalar_type(), " for a weight of kind ", weight.scalar_type());
}

inline void check_head_loss(const Tensor& hidden, const Tensor& weight, const Tensor& targets, int64_t chunk_rows) {
  check_head(hidden, weight, "hidden");
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0), "targets of ", targets.sizes(),
              " for hidden of ", hidden.sizes());
  TORCH_CHECK(targets.scalar_type() == at::kLong, "targets of kind ", targets.scalar_type(), ", not int64");
  TORCH_CHECK(hidden.device() == weight.device() && hidden.device() == targets.device(), "hidden on ",
              hidden.device(), ", weight on ", weight.device(), ", targets on ", targets.device());
  TORCH_CHECK(chunk_rows > 0, "chunks of ", chunk_rows, " rows");
}

}  // namespace shearling
