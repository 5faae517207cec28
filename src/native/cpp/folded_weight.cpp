// Folding gates into a weight and unfolding its gradient: one pass over contiguous fp32 or bf16 on a CPU or a GPU with
// kernels, composed operators elsewhere.
#include "folded_weight.h"

#include "device/kernels.h"
#include "kernel.h"
#include "leaf_gradient.h"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>

namespace shearling {
namespace {

template <class T>
SHEARLING_INLINE void fold_row(const T* __restrict__ weight, float gate, const float* __restrict__ column_gates,
                               T* __restrict__ out, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) store(out[i], load(weight[i]) * gate * column_gates[i]);
}

template <class T>
struct Fold {
  const T* weight;
  const float* row_gates;
  const float* column_gates;
  T* out;
  int64_t columns;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      fold_row(weight + at, row_gates[row], column_gates, out + at, columns);
    }
  }
};
SHEARLING_RUN(Fold<float>)
SHEARLING_RUN(Fold<BFloat16>)

// The gradient of a row's gate.
template <class T>
SHEARLING_INLINE float row_gate_gradient(const T* __restrict__ folded, const T* __restrict__ weight,
                                         const float* __restrict__ column_gates, int64_t columns) {
  float sum = 0.0f;
  for (int64_t i = 0; i < columns; ++i) sum += load(folded[i]) * load(weight[i]) * column_gates[i];
  return sum;
}

template <class T>
SHEARLING_INLINE void add_column_gradients(const T* __restrict__ folded, const T* __restrict__ weight, float gate,
                                           float* __restrict__ sums, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) sums[i] += load(folded[i]) * load(weight[i]) * gate;
}

template <class T, class G>
SHEARLING_INLINE void add_weight_gradient(const T* __restrict__ folded, float gate,
                                          const float* __restrict__ column_gates, G* __restrict__ buffer,
                                          int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) {
    store(buffer[i], load(buffer[i]) + load(folded[i]) * gate * column_gates[i]);
  }
}

template <class T>
SHEARLING_INLINE void scale_row(T* __restrict__ folded, float gate, const float* __restrict__ column_gates,
                                int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) store(folded[i], load(folded[i]) * gate * column_gates[i]);
}

// Over parts of the rows. Null pointers are gradients that nobody asked for; with `in_place` the weight's gradient
// takes the place of `folded`.
template <class T, class G>
struct Unfold {
  T* folded;
  const T* weight;
  const float* row_gates;
  const float* column_gates;
  G* weight_gradient;
  float* row_gradient;
  float* column_gradient;
  bool in_place;
  int64_t columns;
  RowParts parts;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t row = parts.begin(part); row < parts.end(part); ++row) unfold_row(part, row);
    }
  }

  SHEARLING_INLINE void unfold_row(int64_t part, int64_t row) const {
    const int64_t at = row * columns;
    const float gate = row_gates[row];
    if (row_gradient) row_gradient[row] = row_gate_gradient(folded + at, weight + at, column_gates, columns);
    if (column_gradient) {
      add_column_gradients(folded + at, weight + at, gate, column_gradient + part * columns, columns);
    }
    if (weight_gradient) add_weight_gradient(folded + at, gate, column_gates, weight_gradient + at, columns);
    if (in_place) scale_row(folded + at, gate, column_gates, columns);
  }
};
SHEARLING_RUN(Unfold<float, float>)
SHEARLING_RUN(Unfold<float, BFloat16>)
SHEARLING_RUN(Unfold<BFloat16, float>)
SHEARLING_RUN(Unfold<BFloat16, BFloat16>)

struct Wanted {
  bool row, column;

  explicit Wanted(const Gates& gates)
      : row(gates.row.defined() && gates.row.requires_grad()),
        column(gates.column.defined() && gates.column.requires_grad()) {}
};

// Whether a kernel can read or add to it.
bool suits_kernel(const Tensor& tensor) {
  const bool kind = tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16;
  const auto device = tensor.device();
  return (has_cpu_kernels(device) || has_device_kernels(device)) && kind && tensor.is_contiguous();
}

Tensor or_ones(const Tensor& gates, int64_t count) {
  return gates.defined() ? gates.contiguous() : at::ones({count}, at::TensorOptions(at::kFloat));
}

Tensor contiguous_or_none(const Tensor& gates) { return gates.defined() ? gates.contiguous() : gates; }

Tensor kernel_fold(const Tensor& weight, const Gates& gates) {
  if (has_device_kernels(weight.device())) {
    Tensor out = at::empty_like(weight);
    device::fold(weight, contiguous_or_none(gates.row), contiguous_or_none(gates.column), out);
    return out;
  }
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const Tensor row = or_ones(gates.row, rows), column = or_ones(gates.column, columns);
  Tensor out = at::empty_like(weight);
  by_kind(weight.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(rows, rows_at_a_time(columns),
             Fold<T>{weight.const_data_ptr<T>(), row.const_data_ptr<float>(), column.const_data_ptr<float>(),
                     out.mutable_data_ptr<T>(), columns});
  });
  return out;
}

float* data_or_null(const Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr<float>() : nullptr; }

// `buffer` is the weight's, undefined where there is none yet or autograd is to get the gradient.
FactorGradients kernel_unfold(const Tensor& weight, const Gates& gates, const Tensor& folded, const Tensor& buffer,
                              Wanted wanted) {
  const bool in_place = weight.requires_grad() && !buffer.defined();
  if (has_device_kernels(weight.device())) {
    auto made = device::unfold(folded, weight, contiguous_or_none(gates.row), contiguous_or_none(gates.column), buffer,
                               wanted.row, wanted.column, in_place);
    return {in_place ? deliver(weight, folded) : Tensor(), made.first, made.second};
  }
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const RowParts parts(rows);
  const Tensor row = or_ones(gates.row, rows), column = or_ones(gates.column, columns);
  Tensor row_gradient = wanted.row ? at::empty_like(row) : Tensor();
  Tensor partial = wanted.column ? partial_sums(parts, columns) : Tensor();
  by_kind(weight.scalar_type(), [&](auto kind) {
    by_kind(buffer.defined() ? buffer.scalar_type() : at::kFloat, [&](auto buffer_kind) {
      using T = decltype(kind);
      using G = decltype(buffer_kind);
      parallel(parts.count, 1,
               Unfold<T, G>{folded.mutable_data_ptr<T>(), weight.const_data_ptr<T>(), row.const_data_ptr<float>(),
                            column.const_data_ptr<float>(),
                            buffer.defined() ? buffer.mutable_data_ptr<G>() : nullptr, data_or_null(row_gradient),
                            data_or_null(partial), in_place, columns, parts});
    });
  });
  return {in_place ? deliver(weight, folded) : Tensor(), row_gradient, wanted.column ? add_parts(partial) : Tensor()};
}

// The gates as one factor that broadcasts over the weight.
Tensor outer(const Gates& gates) {
  if (!gates.row.defined()) return gates.column.unsqueeze(0);
  const Tensor row = gates.row.unsqueeze(1);
  return gates.column.defined() ? row.mul(gates.column.unsqueeze(0)) : row;
}

Tensor composed_fold(const Tensor& weight, const Gates& gates) {
  Tensor out = at::empty_like(weight);
  // fp32 gates make it fp32 arithmetic; the result is rounded as it is written.
  return at::mul_out(out, weight, outer(gates));
}

FactorGradients composed_unfold(const Tensor& weight, const Gates& gates, Tensor folded, const Tensor& buffer,
                                Wanted wanted) {
  FactorGradients out;
  if (wanted.row || wanted.column) {
    const auto wide = outer(gates).scalar_type();
    const Tensor influence = folded.to(wide).mul(weight.to(wide));
    if (wanted.row) out.row = gates.column.defined() ? influence.mv(gates.column) : influence.sum(1);
    if (wanted.column) out.column = gates.row.defined() ? influence.t().mv(gates.row) : influence.sum(0);
  }
  if (buffer.defined() && buffer.scalar_type() == at::kFloat) {
    buffer.addcmul_(folded, outer(gates));
  } else if (weight.requires_grad()) {
    out.weight = deliver(weight, folded.mul_(outer(gates)));
  }
  return out;
}

}  // namespace

Tensor fold(const Tensor& weight, const Gates& gates) {
  if (!gates.any()) return weight;
  return suits_kernel(weight) ? kernel_fold(weight, gates) : composed_fold(weight, gates);
}

FactorGradients unfold(const Tensor& weight, const Gates& gates, Tensor folded) {
  const Wanted wanted(gates);
  const Tensor buffer = collects_in_leaf(weight) ? weight.grad() : Tensor();
  bool kernel = suits_kernel(weight) && suits_kernel(folded) && (!buffer.defined() || suits_kernel(buffer));
  if (has_device_kernels(weight.device())) kernel = kernel && device::takes_unfolded(buffer, weight);
  return kernel ? kernel_unfold(weight, gates, folded, buffer, wanted)
                : composed_unfold(weight, gates, std::move(folded), buffer, wanted);
}

}  // namespace shearling
