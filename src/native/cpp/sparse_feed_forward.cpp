// The feed-forward of the experts that a router chooses, for decoding:
//
//   z_e = b · r_e + β_e                     over D, fp32                 (LTE, arXiv 2402.06126, eq. 1 and 2)
//   out = x + Σ_{e: z_e > 0} Σ_{j < m} silu(b · gate_ej) (b · up_ej) down_ej
//
// One token is bound by reading. A thread takes whole experts; each expert's sum over its units lies alone and the sums
// are then added in the order of the experts, so that the result has the same bits on any number of threads. Several
// tokens: sparse_rows.cpp.
#include "device/kernels.h"
#include "packed_experts.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace shearling {
namespace {

// Tokens that are done at once: what bounds the scratch memory.
constexpr int64_t CHUNK_TOKENS = 512;
// Bytes of a router that a thread takes at a time.
constexpr int64_t TASK_BYTES = 64 << 10;
// Columns of the output that a thread takes at a time.
constexpr int64_t TASK_COLUMNS = 512;
// Lines of the next expert's first rows that are asked for before it begins: the processor's own prefetch needs a few
// misses to see where a run goes.
constexpr int64_t PREFETCH_LINES = 32;
constexpr int64_t LINE_BYTES = 64;

// Logits [tokens, N] of x [tokens, D], over the experts by eights. A token's logits do not depend on those beside it.
template <class T>
struct RouterLogits {
  const float* x;
  const T* weight;
  const float* bias;  // or null
  float* logits;
  int64_t tokens, experts, dim;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t eight = begin; eight < end; ++eight) {
      for (int64_t t = 0; t < tokens; ++t) of_eight(8 * eight, t);
    }
  }

  SHEARLING_INLINE void of_eight(int64_t first, int64_t t) const {
    const T* w = weight + first * dim;
    const float* own = x + t * dim;
    float z[8];
    if (first + 8 <= experts) {
      dot8(w, w + 4 * dim, dim, own, dim, z);
      for (int64_t r = 0; r < 4; ++r) {
        put(t, first + r, z[2 * r]);
        put(t, first + 4 + r, z[2 * r + 1]);
      }
    } else {
      for (int64_t e = first; e < experts; ++e) put(t, e, dot(weight + e * dim, own, dim));
    }
  }

  SHEARLING_INLINE void put(int64_t t, int64_t e, float z) const { logits[t * experts + e] = z + at_or_zero(bias, e); }
};
SHEARLING_RUN(RouterLogits<float>)
SHEARLING_RUN(RouterLogits<BFloat16>)

// One token, over the experts that run.
template <class T>
struct ExpertsOfOne {
  PackedExperts<T> weights;
  const float* x;
  const int64_t* list;
  float* h;     // [K, m] of the K experts that run
  float* sums;  // [K, D]; of a thread that is alone [2, D]: the sum of all, and of the expert at work
  bool alone;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    const int64_t size = weights.size, dim = weights.dim;
    for (int64_t i = begin; i < end; ++i) {
      float *own = h + i * size, *y = sums + (alone ? 1 : i) * dim;
      weights.activate(list[i], x, own);
      if (i + 1 < end) prefetch(list[i + 1]);
      for (int64_t d = 0; d < dim; ++d) y[d] = 0.0f;
      axpy_rows(weights.down(list[i]), dim, own, size, y, dim);
      if (alone) add(y, sums, dim);
    }
  }

  static SHEARLING_INLINE void add(const float* __restrict__ y, float* __restrict__ total, int64_t dim) {
    for (int64_t d = 0; d < dim; ++d) total[d] += y[d];
  }

  // The first gate rows and the first up rows, which are read side by side.
  SHEARLING_INLINE void prefetch(int64_t e) const {
    const char *gate = reinterpret_cast<const char*>(weights.gate(e)), *up = reinterpret_cast<const char*>(weights.up(e));
    for (int64_t line = 0; line < PREFETCH_LINES && line * LINE_BYTES < up - gate; ++line) {
      __builtin_prefetch(gate + line * LINE_BYTES);
      __builtin_prefetch(up + line * LINE_BYTES);
    }
  }
};
SHEARLING_RUN(ExpertsOfOne<float>)
SHEARLING_RUN(ExpertsOfOne<BFloat16>)

// Adds the experts' sums to the residual stream of one token, over columns.
template <class T>
struct AddSums {
  const float* sums;  // [K, D]
  int64_t count, dim;
  const float* bias;  // [D], or null
  const T* residual;
  T* out;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    float total[TASK_COLUMNS];
    for (int64_t start = begin; start < end; start += TASK_COLUMNS) {
      const int64_t width = end - start < TASK_COLUMNS ? end - start : TASK_COLUMNS;
      for (int64_t d = 0; d < width; ++d) total[d] = 0.0f;
      for (int64_t i = 0; i < count; ++i) {
        const float* y = sums + i * dim + start;
        for (int64_t d = 0; d < width; ++d) total[d] += y[d];
      }
      for (int64_t d = 0; d < width; ++d) {
        store(out[start + d], load(residual[start + d]) + (total[d] + at_or_zero(bias, start + d)));
      }
    }
  }
};
SHEARLING_RUN(AddSums<float>)
SHEARLING_RUN(AddSums<BFloat16>)

// Which experts run for x [tokens, D] (fp32): 1 or 0 [tokens, N]. A logit that is NaN lets its expert run, whose output
// then is NaN: a broken number stays visible.
std::vector<char> running(const PackedLayer& layer, const Tensor& x) {
  const int64_t tokens = x.size(0), experts = layer.count(), dim = layer.dim();
  std::vector<char> runs(static_cast<size_t>(tokens * experts), 1);
  if (!layer.router.defined()) return runs;
  std::vector<float> logits(runs.size());
  by_kind(layer.router.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const int64_t eights_each = std::max<int64_t>(1, TASK_BYTES / (8 * dim * static_cast<int64_t>(sizeof(T))));
    parallel(divup(experts, 8), eights_each,
             RouterLogits<T>{x.const_data_ptr<float>(), layer.router.const_data_ptr<T>(),
                             PackedLayer::floats(layer.router_bias), logits.data(), tokens, experts, dim});
  });
  for (size_t i = 0; i < runs.size(); ++i) runs[i] = !(logits[i] <= 0.0f);
  return runs;
}

void one_token(const PackedLayer& layer, const Tensor& wide, const std::vector<char>& runs, const Tensor& residual,
               Tensor& out) {
  std::vector<int64_t> list;
  for (size_t e = 0; e < runs.size(); ++e) {
    if (runs[e]) list.push_back(static_cast<int64_t>(e));
  }
  const auto count = static_cast<int64_t>(list.size());
  const int64_t dim = layer.dim();
  const auto options = at::TensorOptions(at::kFloat);
  // A thread that is alone adds each expert's sum at once, in the same order, while it is in the nearest cache.
  const bool alone = at::get_num_threads() == 1;
  Tensor h = at::empty({count, layer.size()}, options);
  Tensor sums = alone ? at::zeros({2, dim}, options) : at::empty({count, dim}, options);
  by_kind(layer.experts.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(count, 1,
             ExpertsOfOne<T>{PackedExperts<T>(layer), wide.const_data_ptr<float>(), list.data(),
                             h.mutable_data_ptr<float>(), sums.mutable_data_ptr<float>(), alone});
    parallel(dim, TASK_COLUMNS,
             AddSums<T>{sums.const_data_ptr<float>(), alone ? 1 : count, dim, PackedLayer::floats(layer.down_bias),
                        residual.const_data_ptr<T>(), out.mutable_data_ptr<T>()});
  });
}

void check_bias(const Tensor& bias, const char* name, int64_t length, c10::Device device) {
  if (!bias.defined()) return;
  check_vector(bias, name, length, device);
  TORCH_CHECK(bias.is_contiguous(), name, " is not contiguous");
}

void check_layer(const PackedLayer& layer, int64_t dim) {
  const Tensor &experts = layer.experts, &router = layer.router;
  check_storage(experts, "the tensor of packed experts");
  TORCH_CHECK(experts.dim() == 3 && experts.numel() > 0 && experts.size(1) % 3 == 0 && experts.size(2) == dim &&
                  experts.is_contiguous(),
              "the tensor of packed experts is ", experts.sizes(), ", not contiguous [N, 3 m, ", dim, "]");
  if (router.defined()) {
    check_storage(router, "the router");
    TORCH_CHECK(router.dim() == 2 && router.size(0) == layer.count() && router.size(1) == dim && router.is_contiguous(),
                "the router is ", router.sizes(), ", not contiguous [", layer.count(), ", ", dim, "]");
  }
  const auto device = experts.device();
  check_bias(layer.router_bias, "the bias of the router", layer.count(), device);
  check_bias(layer.gate_bias, "the gate bias", layer.count() * layer.size(), device);
  check_bias(layer.up_bias, "the up bias", layer.count() * layer.size(), device);
  check_bias(layer.down_bias, "the down bias", dim, device);
}

Tensor sparse_feed_forward(const Tensor& normed, const Tensor& residual, const PackedLayer& layer) {
  check_storage(normed, "the normed input");
  check_storage(residual, "the residual stream");
  const int64_t dim = columns_of(normed, "the normed input");
  check_layer(layer, dim);
  const auto kind = normed.scalar_type();
  TORCH_CHECK(residual.sizes() == normed.sizes(), "the residual stream is ", residual.sizes(), ", the normed input ",
              normed.sizes());
  TORCH_CHECK(residual.device() == normed.device() && layer.experts.device() == normed.device(),
              "the normed input is on ", normed.device(), ", the residual stream on ", residual.device(),
              ", the packed experts on ", layer.experts.device());
  TORCH_CHECK(residual.scalar_type() == kind && layer.experts.scalar_type() == kind, "the normed input is ", kind,
              ", the residual stream ", residual.scalar_type(), ", the packed experts ", layer.experts.scalar_type());
  TORCH_CHECK(!at::GradMode::is_enabled() || !(normed.requires_grad() || residual.requires_grad()),
              "a feed-forward of packed experts has no gradient");
  const Tensor x = normed.reshape({-1, dim}).contiguous(), stream = residual.reshape({-1, dim}).contiguous();
  Tensor out = at::empty({x.size(0), dim}, residual.options());
  if (has_device_kernels(x.device())) {
    TORCH_CHECK(x.size(0) == 1, "a device's kernel takes one token, not ", x.size(0));
    device::experts(x, stream, layer.experts, layer.router, layer.router_bias, layer.gate_bias, layer.up_bias,
                    layer.down_bias, out);
    return out.view(normed.sizes());
  }
  for (int64_t start = 0; start < x.size(0); start += CHUNK_TOKENS) {
    const int64_t count = std::min(CHUNK_TOKENS, x.size(0) - start);
    const Tensor rows = x.narrow(0, start, count), wide = rows.to(at::kFloat), from = stream.narrow(0, start, count);
    Tensor to = out.narrow(0, start, count);
    const std::vector<char> runs = running(layer, wide);
    if (count == 1) {
      one_token(layer, wide, runs, from, to);
    } else {
      sparse_rows(layer, rows, wide, runs, from, to);
    }
  }
  return out.view(normed.sizes());
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Whether a device's kernel takes layers of so many experts.
extern "C" int shearling_takes_experts(int64_t experts, int64_t dim) {
  return shearling::device::takes_experts(experts, dim);
}

// `router` and all biases may be null; without a router every expert runs.
extern "C" int shearling_sparse_feed_forward(Tensor* normed, Tensor* residual, Tensor* experts, Tensor* router,
                                             Tensor* router_bias, Tensor* gate_bias, Tensor* up_bias,
                                             Tensor* down_bias, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    const PackedLayer layer{*experts,            optional(router),  optional(router_bias),
                            optional(gate_bias), optional(up_bias), optional(down_bias)};
    give(out, sparse_feed_forward(*normed, *residual, layer));
  });
}
