// Whether the current CUDA device multiplies bf16 in hardware. No CUDA headers: the hooks of libtorch's CUDA half answer
// for its convolutions, and that answer is "compute capability 8.0 or newer".
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

extern "C" int shearling_cuda_has_bf16(int* answer, char** error) {
  return shearling::guarded(error, [&] {
    TORCH_CHECK(at::hasCUDA(), "this libtorch has no CUDA");
    at::globalContext().lazyInitDevice(at::kCUDA);
    *answer = at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8() ? 1 : 0;
  });
}
