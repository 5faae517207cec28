// Gradients that go straight into a leaf's buffer instead of through autograd, so that a large weight's gradient exists
// once, and in the buffer's dtype: fp32 for a bf16 weight, when the optimiser has put such a buffer there.
//
// Autograd gets an undefined gradient then, and hooks on the leaf see nothing. All of it is for use inside a backward,
// where gradients are off.
#pragma once

#include "matmul.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/graph_task.h>

namespace shearling {

// Whether the backward that is running collects the gradient of `weight` in `weight.grad`. It does not where the
// caller asked for the gradients of given tensors: those have to be returned.
inline bool collects_in_leaf(const Tensor& weight) {
  const auto* asked_for = torch::autograd::get_current_graph_task_exec_info();
  return weight.is_leaf() && weight.requires_grad() && (!asked_for || asked_for->empty());
}

// The buffer of a leaf's gradient; zeros of the leaf's dtype where there is none yet.
inline Tensor& leaf_gradient(const Tensor& leaf) {
  Tensor& gradient = leaf.mutable_grad();
  if (!gradient.defined()) gradient = at::zeros_like(leaf, leaf.options(), at::MemoryFormat::Contiguous);
  return gradient;
}

// Hands over a gradient that nobody else holds: into the leaf's buffer, or (returned) to autograd.
inline Tensor deliver(const Tensor& tensor, const Tensor& gradient) {
  if (!collects_in_leaf(tensor)) return gradient.to(tensor.scalar_type());
  Tensor& buffer = tensor.mutable_grad();
  if (buffer.defined()) {
    buffer.add_(gradient);
  } else {
    buffer = gradient.to(tensor.scalar_type());
  }
  return Tensor();
}

// Hands over the gradient a b in the same way; the product itself adds it to a buffer.
inline Tensor deliver_product(const Tensor& weight, const Tensor& a, const Tensor& b) {
  if (!collects_in_leaf(weight)) return product(a, b);
  Tensor& buffer = weight.mutable_grad();
  if (buffer.defined()) {
    gemm(a, b, buffer, true);
  } else {
    buffer = product(a, b);
  }
  return Tensor();
}

}  // namespace shearling
