// Token embedding with the gates of the residual stream, and its backward, which adds only the rows that occur.
//
//   y_t = w[id_t] ⊙ h      dw[i] += h ⊙ Σ_{t: id_t = i} dy_t      dh = Σ_i w[i] ⊙ Σ_{t: id_t = i} dy_t
//
// A vocabulary is large and a batch touches little of it: a gradient `[V, D]` of its own would be zeros, written,
// added and thrown away. The gradient of a leaf goes straight into the leaf's buffer.
#include "device/kernels.h"
#include "kernel.h"
#include "leaf_gradient.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
SHEARLING_INLINE void scale_row(const T* __restrict__ row, const float* __restrict__ gate, T* __restrict__ y,
                                int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) store(y[j], load(row[j]) * gate[j]);
}

// Over tokens.
template <class T>
struct Gather {
  const int64_t* ids;
  const T* weight;
  const float* gate;
  T* y;
  int64_t columns;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t token = begin; token < end; ++token) {
      scale_row(weight + ids[token] * columns, gate, y + token * columns, columns);
    }
  }
};
SHEARLING_RUN(Gather<float>)
SHEARLING_RUN(Gather<BFloat16>)

// Positions of the batch grouped by token id, inside a group in the order of the batch.
struct Occurrences {
  std::vector<int64_t> positions;
  std::vector<int64_t> starts;

  Occurrences(const int64_t* ids, int64_t tokens) : positions(tokens) {
    std::iota(positions.begin(), positions.end(), int64_t{0});
    std::stable_sort(positions.begin(), positions.end(), [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
    for (int64_t i = 0; i < tokens; ++i) {
      if (i == 0 || ids[positions[i]] != ids[positions[i - 1]]) starts.push_back(i);
    }
    starts.push_back(tokens);
  }

  int64_t groups() const { return static_cast<int64_t>(starts.size()) - 1; }
};

template <class T>
SHEARLING_INLINE void add_row(const T* __restrict__ row, float* __restrict__ sum, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) sum[j] += load(row[j]);
}

template <class Buffer>
SHEARLING_INLINE void add_gated(const float* __restrict__ sum, const float* __restrict__ gate,
                                Buffer* __restrict__ place, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) store(place[j], load(place[j]) + sum[j] * gate[j]);
}

template <class T>
SHEARLING_INLINE void add_product(const T* __restrict__ row, const float* __restrict__ sum, float* __restrict__ place,
                                  int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) place[j] += load(row[j]) * sum[j];
}

// Over columns: no two threads write one element, and every sum is in one order. `dweight` and `dgate` may be null:
// not asked for. `sums [D]` is room for the sum of one group.
template <class T, class Buffer>
struct Scatter {
  const Occurrences* occurrences;
  const int64_t* ids;
  const T* gradient;
  const T* weight;
  const float* gate;
  Buffer* dweight;
  float* dgate;
  float* sums;
  int64_t columns;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t group = 0; group < occurrences->groups(); ++group) scatter_group(group, begin, end - begin);
  }

  SHEARLING_INLINE void scatter_group(int64_t group, int64_t first, int64_t width) const {
    const int64_t start = occurrences->starts[group], stop = occurrences->starts[group + 1];
    const int64_t row = ids[occurrences->positions[start]] * columns + first;
    float* sum = sums + first;
    std::memset(sum, 0, width * sizeof(float));
    for (int64_t i = start; i < stop; ++i) {
      add_row(gradient + occurrences->positions[i] * columns + first, sum, width);
    }
    if (dweight) add_gated(sum, gate + first, dweight + row, width);
    if (dgate) add_product(weight + row, sum, dgate + first, width);
  }
};
SHEARLING_RUN(Scatter<float, float>)
SHEARLING_RUN(Scatter<float, BFloat16>)
SHEARLING_RUN(Scatter<BFloat16, float>)
SHEARLING_RUN(Scatter<BFloat16, BFloat16>)

Tensor gate_or_ones(const Tensor& gate, int64_t columns) {
  return gate.defined() ? gate.contiguous() : at::ones({columns}, at::TensorOptions(at::kFloat));
}

// Adds to `dweight [V, D]` and `dgate [D]`, where defined.
void scatter(const Tensor& ids, const Tensor& gradient_, const Tensor& weight_, const Tensor& gate,
             const Tensor& dweight, const Tensor& dgate) {
  const Tensor gradient = gradient_.contiguous(), weight = weight_.contiguous();
  if (has_device_kernels(weight.device())) {
    if (dgate.defined()) dgate.copy_(device::embedding_gate_gradient(ids, gradient, weight));
    if (dweight.defined()) device::embedding_backward(ids, gradient, gate, dweight);
    return;
  }
  const int64_t columns = weight.size(1);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const Occurrences occurrences(id, ids.numel());
  const Tensor factors = gate_or_ones(gate, columns), sums = at::empty({columns}, factors.options());
  by_kind(weight.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    by_kind(dweight.defined() ? dweight.scalar_type() : at::kFloat, [&](auto buffer) {
      using Buffer = decltype(buffer);
      parallel(columns, 64,
               Scatter<T, Buffer>{&occurrences, id, gradient.const_data_ptr<T>(), weight.const_data_ptr<T>(),
                                  factors.const_data_ptr<float>(),
                                  dweight.defined() ? dweight.mutable_data_ptr<Buffer>() : nullptr,
                                  dgate.defined() ? dgate.mutable_data_ptr<float>() : nullptr,
                                  sums.mutable_data_ptr<float>(), columns});
    });
  });
}

// Whether the kernel can add to a leaf's buffer as it is.
bool writable(const Tensor& buffer, const Tensor& leaf) {
  if (has_device_kernels(leaf.device())) return device::takes_embedding_gradient(buffer, leaf);
  const auto kind = buffer.scalar_type();
  return buffer.is_cpu() && buffer.is_contiguous() && buffer.sizes() == leaf.sizes() &&
         (kind == at::kFloat || kind == at::kBFloat16);
}

void gather(const Tensor& ids, const Tensor& weight, const Tensor& gate, const Tensor& y) {
  if (has_device_kernels(weight.device())) return device::embedding(ids, weight, gate, y);
  const int64_t columns = weight.size(1);
  const Tensor factors = gate_or_ones(gate, columns);
  by_kind(weight.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(ids.numel(), rows_at_a_time(columns),
             Gather<T>{ids.const_data_ptr<int64_t>(), weight.const_data_ptr<T>(), factors.const_data_ptr<float>(),
                       y.mutable_data_ptr<T>(), columns});
  });
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* context, const Tensor& ids_, const Tensor& weight_,
                        const std::optional<Tensor>& gate_) {
    const Tensor ids = ids_.contiguous(), weight = weight_.contiguous();
    const Tensor gate = gate_ ? gate_->contiguous() : Tensor();
    std::vector<int64_t> sizes = ids.sizes().vec();
    sizes.push_back(weight.size(1));
    const Tensor y = at::empty(sizes, weight.options());
    gather(ids, weight, gate, y);
    // The weight as it was given: its gradient buffer is found through it.
    context->save_for_backward({ids, weight_, gate});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    check_first_order();
    const auto saved = context->get_saved_variables();
    const Tensor &ids = saved[0], &gate = saved[2];
    Tensor weight = saved[1];
    const bool gated = gate.defined() && context->needs_input_grad(2);
    Tensor dgate = gated ? at::zeros({weight.size(1)}, gate.options()) : Tensor();
    if (!context->needs_input_grad(1)) {
      scatter(ids, gradients[0], weight, gate, Tensor(), dgate);
      return {Tensor(), Tensor(), dgate};
    }
    if (collects_in_leaf(weight) && writable(leaf_gradient(weight), weight)) {
      Tensor& buffer = leaf_gradient(weight);
      scatter(ids, gradients[0], weight, gate, buffer, dgate);
      buffer.unsafeGetTensorImpl()->bump_version();
      return {Tensor(), Tensor(), dgate};
    }
    Tensor dweight = at::zeros_like(weight, at::MemoryFormat::Contiguous);
    scatter(ids, gradients[0], weight, gate, dweight, dgate);
    return {Tensor(), dweight, dgate};
  }
};

void check_ids(const Tensor& ids, int64_t vocabulary) {
  if (!ids.is_cpu()) return;  // reading them would wait for the device
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK(0 <= id[i] && id[i] < vocabulary, "token id ", id[i], " at position ", i,
                " is not in the vocabulary of ", vocabulary);
  }
}

Tensor embedding(const Tensor& ids_, const Tensor& weight, const Tensor& gate) {
  check_storage(weight, "the embedding");
  TORCH_CHECK(weight.dim() == 2 && weight.size(1) > 0, "the embedding is ", weight.sizes(), ", not [V, D]");
  TORCH_CHECK(ids_.device() == weight.device() && ids_.scalar_type() == at::kLong, "token ids are ",
              ids_.scalar_type(), " on ", ids_.device(), ", not int64 on ", weight.device());
  const Tensor ids = ids_.contiguous();
  check_ids(ids, weight.size(0));
  if (!gate.defined()) return Embedding::apply(ids, weight, std::optional<Tensor>());
  check_vector(gate, "the gate", weight.size(1), weight.device());
  return Embedding::apply(ids, weight, std::optional<Tensor>(gate));
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// `gate` may be null.
extern "C" int shearling_embedding(Tensor* ids, Tensor* weight, Tensor* gate, Tensor** out, char** error) {
  return shearling::guarded(
      error, [&] { shearling::give(out, shearling::embedding(*ids, *weight, shearling::optional(gate))); });
}
