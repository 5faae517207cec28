// Launches over weights: the embedding's rows, and gates folded into a matrix.
#include "../../cu/embedding.h"
#include "../../cu/folded_weight.h"
#include "kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>

namespace shearling::device {
namespace {

// Whether kernels write gradients of a weight of dtype `weight` into `buffer`.
bool writable(const Tensor& buffer, const Tensor& weight) {
  const auto kind = buffer.scalar_type();
  return buffer.device() == weight.device() && buffer.is_contiguous() && buffer.sizes() == weight.sizes() &&
         (kind == at::kFloat || kind == weight.scalar_type());
}

}  // namespace

void embedding(const Tensor& ids, const Tensor& weight, const Tensor& gate, const Tensor& y) {
  const int64_t columns = weight.size(1), tokens = ids.numel();
  const bool packs = in_packs(columns, weight.element_size(),
                              {weight.data_ptr(), y.data_ptr(), numbers<float>(gate)});
  by_pack(weight.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    const Geometry geometry{tokens, 1, row_threads(columns, width), 0};
    launch(weight, geometry,
           cu::EmbeddingForward<T, width>{numbers<cu::i64>(ids), numbers<T>(weight), numbers<float>(gate),
                                          numbers<T>(y), tokens, columns});
  });
}

bool takes_embedding_gradient(const Tensor& buffer, const Tensor& weight) { return writable(buffer, weight); }

void embedding_backward(const Tensor& ids, const Tensor& gradient, const Tensor& gate, const Tensor& dweight) {
  const int64_t columns = dweight.size(1), tokens = ids.numel();
  const auto sorted = at::sort(ids.reshape({tokens}), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor &sorted_ids = std::get<0>(sorted), &positions = std::get<1>(sorted);
  const bool packs = in_packs(columns, gradient.element_size(),
                              {gradient.data_ptr(), numbers<float>(gate), dweight.data_ptr()});
  by_pack_of_two(gradient.scalar_type(), dweight.scalar_type(), packs, [&](auto number, auto other, auto width) {
    using T = decltype(number);
    using B = decltype(other);
    const uint32_t threads = row_threads(columns, width, 128);
    const Geometry geometry{tokens, divup(columns, threads * width), threads, 0};
    launch(gradient, geometry,
           cu::EmbeddingBackward<T, B, width>{numbers<cu::i64>(sorted_ids), numbers<cu::i64>(positions),
                                              numbers<T>(gradient), numbers<float>(gate), numbers<B>(dweight), tokens,
                                              columns});
  });
}

Tensor embedding_gate_gradient(const Tensor& ids, const Tensor& gradient, const Tensor& weight) {
  const int64_t columns = weight.size(1);
  const cu::Rows rows = row_parts(ids.numel(), 16, 256);
  const Tensor partial = part_sums(rows, columns, weight);
  const bool packs = in_packs(columns, weight.element_size(), {gradient.data_ptr(), weight.data_ptr()});
  by_pack(weight.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    launch(weight, column_geometry(columns, width, rows),
           cu::EmbeddingGate<T, width>{numbers<cu::i64>(ids), numbers<T>(gradient), numbers<T>(weight),
                                       numbers<float>(partial), rows, columns});
  });
  return add_part_sums(partial);
}

void fold(const Tensor& weight, const Tensor& row, const Tensor& column, const Tensor& out) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const bool packs = in_packs(columns, weight.element_size(),
                              {weight.data_ptr(), out.data_ptr(), numbers<float>(column)});
  by_pack(weight.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    const Geometry geometry{rows, 1, row_threads(columns, width), 0};
    launch(weight, geometry,
           cu::Fold<T, width>{numbers<T>(weight), numbers<float>(row), numbers<float>(column), numbers<T>(out), rows,
                              columns});
  });
}

bool takes_unfolded(const Tensor& buffer, const Tensor& weight) {
  const bool has_room = weight.size(1) * static_cast<int64_t>(sizeof(float)) <= MOST_SHARED_BYTES;
  return has_room && (!buffer.defined() || writable(buffer, weight));
}

std::pair<Tensor, Tensor> unfold(const Tensor& folded, const Tensor& weight, const Tensor& row, const Tensor& column,
                                 const Tensor& buffer, bool row_wanted, bool column_wanted, bool in_place) {
  const int64_t columns = weight.size(1);
  const cu::Rows rows = row_parts(weight.size(0), 4, 512);
  const Tensor row_gradient = row_wanted ? at::empty({rows.count}, weight.options().dtype(at::kFloat)) : Tensor();
  const Tensor partial = column_wanted ? part_sums(rows, columns, weight) : Tensor();
  const bool packs = in_packs(columns, weight.element_size(),
                              {folded.data_ptr(), weight.data_ptr(), numbers<float>(column), numbers<char>(buffer)});
  const auto second = buffer.defined() ? buffer.scalar_type() : at::kFloat;
  by_pack_of_two(weight.scalar_type(), second, packs, [&](auto number, auto other, auto width) {
    using T = decltype(number);
    using B = decltype(other);
    const size_t shared = column_wanted ? columns * sizeof(float) : 0;
    const Geometry geometry{part_count(rows), 1, row_threads(columns, width), shared};
    launch(weight, geometry,
           cu::Unfold<T, B, width>{numbers<T>(folded), numbers<T>(weight), numbers<float>(row), numbers<float>(column),
                                   numbers<B>(buffer), numbers<float>(row_gradient), numbers<float>(partial), rows,
                                   columns, in_place});
  });
  return {row_gradient, add_part_sums(partial)};
}

}  // namespace shearling::device
