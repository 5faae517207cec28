// Activation checkpointing: the forward runs a block of Rust without a graph and keeps its input; backward runs it
// again with a graph and goes back through that. The block is a closure behind three C functions.
#include "kernel.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <memory>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Runs the closure: 0 and a tensor, or 1 and a message made with `malloc`.
using Call = int (*)(void* closure, const Tensor* x, Tensor** out, char** message);
using Drop = void (*)(void* closure);

// The closure. Whoever holds it last drops it.
struct Block : torch::CustomClassHolder {
  std::shared_ptr<void> closure;
  Call call;

  Block(std::shared_ptr<void> closure, Call call) : closure(std::move(closure)), call(call) {}

  Tensor run(const Tensor& x) const {
    Tensor* out = nullptr;
    char* message = nullptr;
    const int failed = call(closure.get(), &x, &out, &message);
    const std::unique_ptr<Tensor> result(out);
    const std::unique_ptr<char, void (*)(void*)> text(message, std::free);
    TORCH_CHECK(!failed, message ? message : "the recomputed block failed without a message");
    TORCH_CHECK(result && result->defined(), "the recomputed block gave no tensor");
    return *result;
  }
};

using SharedBlock = c10::intrusive_ptr<Block>;

struct Checkpoint : Function<Checkpoint> {
  // `anchor` only makes the output require a gradient when x does not: the block's own weights may.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& /*anchor*/, const SharedBlock& block) {
    ctx->saved_data["block"] = c10::IValue::make_capsule(block);
    ctx->save_for_backward({x});
    return block->run(x.detach());
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const auto block = c10::static_intrusive_pointer_cast<Block>(ctx->saved_data["block"].toCapsule());
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

Tensor run(const Tensor& x, const SharedBlock& block) {
  if (!at::GradMode::is_enabled()) return block->run(x);
  const Tensor anchor = at::empty({0}, x.options().dtype(at::kFloat)).requires_grad_(true);
  return Checkpoint::apply(x, anchor, block);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Takes the closure over, whatever happens.
extern "C" int shearling_recompute(Tensor* x, void* closure, shearling::Call call, shearling::Drop drop, Tensor** out,
                                    char** error) {
  return shearling::guarded(error, [&] {
    // A shared pointer drops what it was given even when it cannot be made.
    std::shared_ptr<void> owned(closure, drop);
    const auto block = c10::make_intrusive<shearling::Block>(std::move(owned), call);
    shearling::give(out, shearling::run(*x, block));
  });
}
