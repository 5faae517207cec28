// A place in the graph that tells Rust when the backward comes through: nothing happens to the tensor or its gradient.
#include "closure.h"
#include "kernel.h"

#include <ATen/ops/alias.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct OnBackward : Function<OnBackward> {
  // `anchor` makes the backward come by when x does not require a gradient: the weights behind it may.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& /*anchor*/, const SharedClosure& closure) {
    ctx->saved_data["closure"] = c10::IValue::make_capsule(closure);
    return at::alias(x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const auto closure = c10::static_intrusive_pointer_cast<Closure>(ctx->saved_data["closure"].toCapsule());
    const Tensor gradient = closure->run(gradients[0]);
    return {ctx->needs_input_grad(0) ? gradient : Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Takes the closure over, whatever happens.
extern "C" int shearling_on_backward(Tensor* x, void* closure, shearling::Call call, shearling::Drop drop, Tensor** out,
                                     char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    const auto owned = take_over(closure, call, drop);
    give(out, at::GradMode::is_enabled() ? OnBackward::apply(*x, anchor_beside(*x), owned) : *x);
  });
}
