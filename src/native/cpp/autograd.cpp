// Backward from given gradients, where tch can only start from ones; and a loss that is taken along.
#include "shim.h"

#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

// x, with a backward that also sends a gradient of one into `loss`.
struct AttachLoss : torch::autograd::Function<AttachLoss> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& loss) {
    ctx->saved_data["like"] = loss.detach();
    return x.view_as(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    return {gradients[0], at::ones_like(ctx->saved_data["like"].toTensor())};
  }
};

}  // namespace
}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_attach_loss(Tensor* x, Tensor* loss, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    TORCH_CHECK(loss->dim() == 0, "the loss is ", loss->sizes(), ", not a single number");
    shearling::give(out, shearling::AttachLoss::apply(*x, *loss));
  });
}

extern "C" int shearling_backward(Tensor* const* outputs, Tensor* const* gradients, size_t count, char** error) {
  return shearling::guarded(error, [&] {
    torch::autograd::backward(shearling::list(outputs, count), shearling::list(gradients, count));
  });
}
