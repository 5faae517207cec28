// A closure of Rust that a node of the graph holds: tensor in, tensor out, behind three C functions.
#pragma once

#include "shim.h"

#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>

#include <cstdlib>
#include <memory>

namespace shearling {

// Runs the closure: 0 and a tensor, or 1 and a message made with `malloc`.
using Call = int (*)(void* closure, const Tensor* x, Tensor** out, char** message);
using Drop = void (*)(void* closure);

// Whoever holds it last drops it.
struct Closure : torch::CustomClassHolder {
  std::shared_ptr<void> closure;
  Call call;

  Closure(std::shared_ptr<void> closure, Call call) : closure(std::move(closure)), call(call) {}

  Tensor run(const Tensor& x) const {
    Tensor* out = nullptr;
    char* message = nullptr;
    const int failed = call(closure.get(), &x, &out, &message);
    const std::unique_ptr<Tensor> result(out);
    const std::unique_ptr<char, void (*)(void*)> text(message, std::free);
    TORCH_CHECK(!failed, message ? message : "a block of the graph failed without a message");
    TORCH_CHECK(result && result->defined(), "a block of the graph gave no tensor");
    return *result;
  }
};

using SharedClosure = c10::intrusive_ptr<Closure>;

inline SharedClosure take_over(void* closure, Call call, Drop drop) {
  // A shared pointer drops what it was given even when it cannot be made.
  std::shared_ptr<void> owned(closure, drop);
  return c10::make_intrusive<Closure>(std::move(owned), call);
}

// An input that only makes the output of a node require a gradient when x does not.
inline Tensor anchor_beside(const Tensor& x) {
  return at::empty({0}, x.options().dtype(at::kFloat)).requires_grad_(true);
}

}  // namespace shearling
