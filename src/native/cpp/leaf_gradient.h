// Adding a gradient straight into a leaf's buffer, so that a large weight's gradient exists once, and in the buffer's
// kind: fp32 for a bf16 weight, when the optimiser has put such a buffer there.
#pragma once

#include "shim.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/graph_task.h>

namespace shearling {

// Whether the backward that is running collects the gradient of `weight` in `weight.grad`. It does not where the
// caller asked for the gradients of given tensors: those have to be returned.
inline bool collects_in_leaf(const Tensor& weight) {
  const auto* asked_for = torch::autograd::get_current_graph_task_exec_info();
  return weight.is_leaf() && weight.requires_grad() && (!asked_for || asked_for->empty());
}

// The buffer of a leaf's gradient; zeros of the leaf's kind where there is none yet.
inline Tensor& leaf_gradient(Tensor& leaf) {
  Tensor& gradient = leaf.mutable_grad();
  if (!gradient.defined()) gradient = at::zeros_like(leaf);
  return gradient;
}

}  // namespace shearling
