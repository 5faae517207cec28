// Inputs of maps that are made again in the backward instead of kept: what a norm or SwiGLU gave. Both keep what they were made
// of anyway, one pass over which is cheaper than the memory of what they gave (Korthikanti et al., arXiv 2205.05198: selective
// recomputation). The same kernel runs on the same numbers, so not a bit differs.
#pragma once

#include "shim.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <utility>

namespace shearling {

using torch::autograd::Node;

// Whether a node of autograd is that of a norm, and the norm's output once more. In rms_norm.cpp.
bool is_norm(const Node* node);
Tensor normed_again(Node* node);

// The same of SwiGLU. In swiglu.cpp.
bool is_swiglu(const Node* node);
Tensor activated_again(Node* node);

// Where the input of a map comes from, as its node keeps it for the backward: a tensor, or the node that made it.
struct Source : torch::CustomClassHolder {
  std::shared_ptr<Node> node;
  explicit Source(std::shared_ptr<Node> node) : node(std::move(node)) {}
};

// What to save of `x`: nothing where that is asked for and its source, which `ctx` then holds, can make it again.
inline Tensor keep_input(torch::autograd::AutogradContext* ctx, const Tensor& x, bool make_again) {
  const std::shared_ptr<Node> node = make_again && x.output_nr() == 0 ? x.grad_fn() : nullptr;
  if (!node || !(is_norm(node.get()) || is_swiglu(node.get()))) return x.contiguous();
  ctx->saved_data["source"] = c10::IValue::make_capsule(c10::make_intrusive<Source>(node));
  return Tensor();
}

// The input of which `keep_input` gave `saved`.
inline Tensor kept_input(torch::autograd::AutogradContext* ctx, const Tensor& saved) {
  if (saved.defined()) return saved;
  const auto source = c10::static_intrusive_pointer_cast<Source>(ctx->saved_data["source"].toCapsule());
  Node* node = source->node.get();
  return is_norm(node) ? normed_again(node) : activated_again(node);
}

}  // namespace shearling
