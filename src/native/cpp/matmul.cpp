// Matrix products by the fastest path that this machine has.
#include "matmul.h"

#include "device/launch.h"
#include "matvec.h"
#include "simd.h"

#include <ATen/Context.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>

// libtorch_cpu exports it, but no header of the wheel declares it. Weak, so that a libtorch without it still links.
namespace at::native {
#if defined(__GNUC__)
__attribute__((weak))
#endif
void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& out, float beta, float alpha);
}  // namespace at::native

namespace shearling {
namespace {

// Largest temporary of a mixed product.
constexpr int64_t BLOCK_BYTES = 64 << 20;

void by_onednn(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate) {
  at::native::mkldnn_matmul(a, b, out, accumulate ? 1.0f : 0.0f, 1.0f);
}

void by_mixed_addmm(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate) {
  at::addmm_out(out, out, a, b, at::kFloat, accumulate ? 1 : 0, 1);
}

// Whether `path` adds a product of small integers exactly. A path may be refused (an instruction set or a dtype that
// libtorch does not take there) only when it is called, so it is tried.
template <class Path>
bool works(Path path, at::ScalarType kind, at::Device device) {
  try {
    const auto exact = at::TensorOptions().dtype(at::kFloat).device(device);
    const Tensor a = at::arange(32 * 16, exact).remainder(7).view({32, 16}).t();
    const Tensor b = at::arange(32 * 48, exact).remainder(5).view({32, 48});
    Tensor out = at::ones({16, 48}, exact);
    const Tensor expected = out.add(at::mm(a, b));
    path(a.to(kind), b.to(kind), out, true);
    return at::equal(out, expected);
  } catch (const c10::Error&) {
    return false;
  }
}

bool onednn_serves(const Tensor& a, const Tensor& out) {
  if (!a.is_cpu() || a.scalar_type() != at::kFloat || !out.is_contiguous()) return false;
  static const bool there =
      at::native::mkldnn_matmul != nullptr && at::globalContext().hasMKLDNN() && works(by_onednn, at::kFloat, at::kCPU);
  return there && at::globalContext().userEnabledMkldnn();
}

bool mixed_addmm_serves(const Tensor& a, const Tensor& out) {
  if (!a.is_cuda() || out.scalar_type() != at::kFloat || a.scalar_type() != at::kBFloat16) return false;
  static const bool there = works(by_mixed_addmm, at::kBFloat16, a.device());
  return there;
}

struct AddBFloat16 {
  const BFloat16* from;
  float* into;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) into[i] += load(from[i]);
  }
};
SHEARLING_RUN(AddBFloat16)

// `add_` would first make an fp32 copy of a bf16 tensor on a CPU.
void add(const Tensor& from, Tensor& into) {
  const bool kinds = from.scalar_type() == at::kBFloat16 && into.scalar_type() == at::kFloat;
  if (from.is_cpu() && kinds && from.is_contiguous() && into.is_contiguous()) {
    parallel(into.numel(), 1 << 15, AddBFloat16{from.const_data_ptr<BFloat16>(), into.mutable_data_ptr<float>()});
  } else {
    into.add_(from);
  }
}

// The product in the dtype of `a`, a block of rows at a time, added to `out` in its own dtype.
void by_blocks(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate) {
  const int64_t row_bytes = out.size(1) * static_cast<int64_t>(a.element_size());
  const int64_t rows = std::min(out.size(0), std::max<int64_t>(1, BLOCK_BYTES / row_bytes));
  const Tensor block = at::empty({rows, out.size(1)}, a.options());
  for (int64_t start = 0; start < out.size(0); start += rows) {
    const int64_t count = std::min(rows, out.size(0) - start);
    Tensor part = block.narrow(0, 0, count);
    gemm(a.narrow(0, start, count), b, part, false);
    Tensor into = out.narrow(0, start, count);
    if (accumulate) {
      add(part, into);
    } else {
      into.copy_(part);
    }
  }
}

void check(const Tensor& a, const Tensor& b, const Tensor& out) {
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && out.dim() == 2, "a product takes matrices");
  TORCH_CHECK(a.size(1) == b.size(0) && out.size(0) == a.size(0) && out.size(1) == b.size(1), "a product of ",
              a.sizes(), " and ", b.sizes(), " into ", out.sizes());
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), "a product of ", a.scalar_type(), " and ", b.scalar_type());
  TORCH_CHECK(a.device() == b.device() && a.device() == out.device(), "a product across devices: ", a.device(), ", ",
              b.device(), " into ", out.device());
}

}  // namespace

void gemm(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate) {
  check(a, b, out);
  if (out.numel() == 0) return;
  if (a.size(1) == 0) {
    if (!accumulate) out.zero_();
  } else if (out.scalar_type() != a.scalar_type()) {
    mixed_addmm_serves(a, out) ? by_mixed_addmm(a, b, out, accumulate) : by_blocks(a, b, out, accumulate);
  } else if (has_cpu_kernels(a.device()) && matvec_serves(a, b, out)) {
    matvec(a, b, out, accumulate);
  } else if (onednn_serves(a, out)) {
    by_onednn(a, b, out, accumulate);
  } else if (accumulate) {
    out.addmm_(a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  gemm(a, b, out, false);
  return out;
}

}  // namespace shearling
