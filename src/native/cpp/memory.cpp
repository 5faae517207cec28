// Memory of an accelerator as libtorch's caching allocator counts it, and host memory that it can read directly. No
// CUDA headers: the allocator's interface is in c10.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>

namespace {

// Throws where libtorch has no CUDA, or has not used the device yet.
c10::DeviceAllocator& cuda_allocator() {
  TORCH_CHECK(at::hasCUDA(), "this libtorch has no CUDA");
  c10::DeviceAllocator* allocator = c10::getDeviceAllocator(at::kCUDA);
  TORCH_CHECK(allocator->initialized(), "CUDA memory has not been used yet");
  return *allocator;
}

uint64_t peak(const c10::CachingAllocator::StatArray& stats) {
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return static_cast<uint64_t>(stats[all].peak);
}

}  // namespace

using shearling::Tensor;

// What tensors have held at most, and what the allocator has taken from the driver for them.
extern "C" int shearling_cuda_peak(int64_t index, uint64_t* allocated, uint64_t* reserved, char** error) {
  return shearling::guarded(error, [&] {
    const auto stats = cuda_allocator().getDeviceStats(static_cast<c10::DeviceIndex>(index));
    *allocated = peak(stats.allocated_bytes);
    *reserved = peak(stats.reserved_bytes);
  });
}

extern "C" int shearling_reset_cuda_peak(int64_t index, char** error) {
  return shearling::guarded(error,
                            [&] { cuda_allocator().resetPeakStats(static_cast<c10::DeviceIndex>(index)); });
}

// Memory of the device as the driver has it, all processes together.
extern "C" int shearling_cuda_total(int64_t index, uint64_t* total, char** error) {
  return shearling::guarded(error, [&] {
    TORCH_CHECK(at::hasCUDA(), "this libtorch has no CUDA");
    at::globalContext().lazyInitDevice(at::kCUDA);
    *total = static_cast<uint64_t>(cuda_allocator().getMemoryInfo(static_cast<c10::DeviceIndex>(index)).second);
  });
}

// Zeros on the host of `like`'s shape and of `kind_of`'s dtype, page-locked where there is CUDA.
extern "C" int shearling_host_zeros(Tensor* like, int bf16, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    const auto options = at::TensorOptions().dtype(bf16 ? at::kBFloat16 : at::kFloat).pinned_memory(at::hasCUDA());
    shearling::give(out, at::zeros(like->sizes(), options));
  });
}
