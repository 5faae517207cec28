// Activation checkpointing: the forward runs a block of Rust without a graph and keeps its input; backward runs it
// again with a graph and goes back through that.
#include "closure.h"
#include "kernel.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Checkpoint : Function<Checkpoint> {
  // `anchor` only makes the output require a gradient when x does not: the block's own weights may.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& /*anchor*/, const SharedClosure& block) {
    ctx->saved_data["block"] = c10::IValue::make_capsule(block);
    ctx->save_for_backward({x});
    return block->run(x.detach());
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const auto block = c10::static_intrusive_pointer_cast<Closure>(ctx->saved_data["block"].toCapsule());
    Tensor x = ctx->get_saved_variables()[0].detach();
    const bool needs_x = ctx->needs_input_grad(0);
    if (needs_x) x.requires_grad_(true);
    {
      at::AutoGradMode on(true);
      const Tensor out = block->run(x);
      // libtorch would sum or repeat a gradient to fit.
      TORCH_CHECK(out.sizes() == gradients[0].sizes(), "the recomputed block gave ", gradients[0].sizes(),
                  " in forward and ", out.sizes(), " in backward");
      if (out.requires_grad()) torch::autograd::backward({out}, {gradients[0]});
    }
    return {needs_x ? x.grad() : Tensor(), Tensor(), Tensor()};
  }
};

Tensor run(const Tensor& x, const SharedClosure& block) {
  if (!at::GradMode::is_enabled()) return block->run(x);
  return Checkpoint::apply(x, anchor_beside(x), block);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Takes the closure over, whatever happens.
extern "C" int shearling_recompute(Tensor* x, void* closure, shearling::Call call, shearling::Drop drop, Tensor** out,
                                    char** error) {
  return shearling::guarded(error, [&] {
    shearling::give(out, shearling::run(*x, shearling::take_over(closure, call, drop)));
  });
}
