// Gives a leaf the buffer that its gradients are added to, which need not be of the leaf's dtype.
#include "shim.h"

using shearling::Tensor;

extern "C" int shearling_set_gradient_buffer(Tensor* leaf, Tensor* buffer, char** error) {
  return shearling::guarded(error, [&] {
    TORCH_CHECK(leaf->requires_grad() && leaf->is_leaf(), "a gradient buffer needs a leaf that requires a gradient");
    TORCH_CHECK(buffer->sizes() == leaf->sizes() && buffer->device() == leaf->device(), "the leaf has shape ",
                leaf->sizes(), " on ", leaf->device(), ", its gradient buffer ", buffer->sizes(), " on ",
                buffer->device());
    TORCH_CHECK(buffer->is_floating_point() && !buffer->requires_grad(),
                "a gradient buffer must be of a floating-point kind and require no gradient itself");
    leaf->mutable_grad() = *buffer;
  });
}
