// The squared L2 norm over a list of gradients. On the CPU one pass over all of them: sums in fp64 over blocks of a
// fixed size, and then over the blocks in order, so that the result does not depend on the number of threads.
#include "device/launch.h"
#include "parallel.h"
#include "shim.h"
#include "simd.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include <numeric>

namespace shearling {
namespace {

constexpr int64_t block_elements = 1 << 16;

struct Block {
  const float* values;
  int64_t count;
};

SHEARLING_INLINE double square(float value) { return static_cast<double>(value) * value; }

// Independent sums, so that the compiler may keep them in vectors without reordering anything.
SHEARLING_CLONES double squares(const float* values, int64_t count) {
  constexpr int64_t lanes = 16;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += square(values[i + lane]);
  }
  double total = 0.0;
  for (; i < count; ++i) total += square(values[i]);
  for (double sum : sums) total += sum;
  return total;
}

std::vector<Block> blocks(const std::vector<Tensor>& tensors) {
  std::vector<Block> all;
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous(),
                "squared_norm: gradients must be contiguous fp32, one is ", tensor.scalar_type(), " of shape ",
                tensor.sizes(), " and strides ", tensor.strides());
    const float* values = tensor.const_data_ptr<float>();
    for (int64_t from = 0; from < tensor.numel(); from += block_elements) {
      all.push_back({values + from, std::min(block_elements, tensor.numel() - from)});
    }
  }
  return all;
}

Tensor norm_by_kernel(const std::vector<Tensor>& tensors) {
  const std::vector<Block> all = blocks(tensors);
  std::vector<double> sums(all.size());
  parallel_for(0, static_cast<int64_t>(all.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) sums[i] = squares(all[i].values, all[i].count);
  });
  return at::scalar_tensor(std::accumulate(sums.begin(), sums.end(), 0.0), at::kDouble);
}

// One launch for all norms; their squares are added in fp64.
Tensor norm_by_libtorch(const std::vector<Tensor>& tensors) {
  return at::stack(at::_foreach_norm(tensors, 2)).to(at::kDouble).square().sum();
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_squared_norm(Tensor* const* gradients, size_t count, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    const auto tensors = shearling::list(gradients, count);
    for (const Tensor& tensor : tensors) {
      TORCH_CHECK(tensor.device() == tensors[0].device(), "squared_norm: gradients on ", tensors[0].device(), " and ",
                  tensor.device());
    }
    const bool on_cpu = tensors.empty() || shearling::has_cpu_kernels(tensors[0].device());
    shearling::give(out, on_cpu ? shearling::norm_by_kernel(tensors) : shearling::norm_by_libtorch(tensors));
  });
}
