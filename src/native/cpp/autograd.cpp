// Backward from given gradients: tch can only start from ones.
#include "shim.h"

#include <torch/csrc/autograd/autograd.h>

using shearling::Tensor;

extern "C" int shearling_backward(Tensor* const* outputs, Tensor* const* gradients, size_t count, char** error) {
  return shearling::guarded(error, [&] {
    torch::autograd::backward(shearling::list(outputs, count), shearling::list(gradients, count));
  });
}
