// A tensor over memory that something on the other side owns: a mapped file.
#include "shim.h"

#include <ATen/ops/from_blob.h>

#include <memory>

using shearling::Tensor;

// `data` is read-only, of the given sizes, fp32 or bf16, contiguous. Whatever comes of the call, `release(owner)` runs
// once: after a failure, or when the last tensor on this memory is gone.
extern "C" int shearling_mapped_tensor(const void* data, const int64_t* sizes, size_t dims, int bf16,
                                       void (*release)(void*), void* owner, Tensor** out, char** error) {
  const std::shared_ptr<void> held(owner, release);
  return shearling::guarded(error, [&] {
    const auto options = at::TensorOptions(bf16 ? at::kBFloat16 : at::kFloat);
    shearling::give(out, at::from_blob(const_cast<void*>(data), at::IntArrayRef(sizes, dims), [held](void*) {}, options));
  });
}
