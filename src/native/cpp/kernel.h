// What the kernels share around their arithmetic: checks of arguments, the choice of the dtype in memory, and sums over
// rows whose order does not depend on the number of threads.
#pragma once

#include "device/launch.h"
#include "shim.h"
#include "simd.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace shearling {

// Calls `body` with a value of the C++ type that `kind` has in memory.
template <class Body>
void by_kind(at::ScalarType kind, Body&& body) {
  switch (kind) {
    case at::kFloat: return body(float());
    case at::kBFloat16: return body(BFloat16());
    default: TORCH_CHECK(false, "no CPU kernel for ", kind);
  }
}

// An activation or a weight that a kernel reads or writes: fp32 or bf16, on the CPU or a GPU with kernels.
inline void check_storage(const Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.defined(), name, " is undefined");
  TORCH_CHECK(tensor.is_cpu() || has_device_kernels(tensor.device()), name, " is on ", tensor.device(),
              ", for which no kernels are loaded");
  const auto kind = tensor.scalar_type();
  TORCH_CHECK(kind == at::kFloat || kind == at::kBFloat16, name, " is ", kind, ", not fp32 or bf16");
}

// The same, where a kernel runs on the CPU only.
inline void check_cpu_storage(const Tensor& tensor, const char* name) {
  check_storage(tensor, name);
  TORCH_CHECK(tensor.is_cpu(), name, " is on ", tensor.device(), ", the kernel runs on the CPU");
}

// An fp32 vector over `columns`, such as a gate.
inline void check_vector(const Tensor& tensor, const char* name, int64_t columns, c10::Device device) {
  TORCH_CHECK(tensor.device() == device && tensor.scalar_type() == at::kFloat, name, " is ", tensor.scalar_type(),
              " on ", tensor.device(), ", not fp32 on ", device);
  TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == columns, name, " is ", tensor.sizes(), ", not [", columns, "]");
}

// The columns of `tensor [.., columns]`.
inline int64_t columns_of(const Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.dim() >= 1 && tensor.size(-1) > 0, name, " is ", tensor.sizes(), ", not [.., columns]");
  return tensor.size(-1);
}

// The kernels' gradients are constants to autograd: asked for a second derivative they would silently give zero.
inline void check_first_order() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "this kernel has no second derivative");
}

// Rows for one thread at a time: enough elements that handing them out does not count.
inline int64_t rows_at_a_time(int64_t columns) { return std::max<int64_t>(1, 16384 / columns); }

// Rows in at most 64 parts. Each part sums over its own rows and the parts are then added in order, so that a sum has
// the same bits on any number of threads.
struct RowParts {
  int64_t rows;
  int64_t rows_each;
  int64_t count;

  explicit RowParts(int64_t rows_)
      : rows(rows_), rows_each(std::max<int64_t>(16, divup(rows_, 64))), count(divup(rows_, rows_each)) {}

  int64_t begin(int64_t part) const { return part * rows_each; }
  int64_t end(int64_t part) const { return std::min(rows, (part + 1) * rows_each); }
};

// One fp32 sum per part: `[parts, columns]` of zeros.
inline Tensor partial_sums(const RowParts& parts, int64_t columns) {
  return at::zeros({parts.count, columns}, at::TensorOptions(at::kFloat));
}

// `[parts, columns]` to `[columns]`, first part first.
inline Tensor add_parts(const Tensor& partial) {
  const int64_t columns = partial.size(1);
  Tensor total = at::zeros({columns}, partial.options());
  float* sums = total.mutable_data_ptr<float>();
  const float* part = partial.const_data_ptr<float>();
  for (int64_t row = 0; row < partial.size(0); ++row, part += columns) {
    for (int64_t j = 0; j < columns; ++j) sums[j] += part[j];
  }
  return total;
}

}  // namespace shearling
