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

// The first output of `node` once more, where it is a norm's; undefined otherwise. In rms_norm.cpp.
Tensor normed_again(Node* node);

// The same of SwiGLU. In swiglu.cpp.
Tensor activated_again(Node* node);

bool is_norm(const Node* node);
bool is_swiglu(const Node* node);

// Where the input of a map comes from, as its node keeps it for the backward: a tensor, or the node that made it.
struct Source : torch::CustomClassHolder {
  std::shared_ptr<Node> node;
  explicit Source(std::shared_ptr<Node> node) : node(std::move(node)) {}
};

// Keeps `x` in `ctx` under `name`, by its source where that is asked for and can make it again; what to save of it.
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
  const Tensor made = is_norm(node) ? normed_again(node) : activated_again(node);
  TORCH_CHECK(made.defined(), "an input that was to be made again has lost its source");
  return made;
}

}  // namespace shearling
