// Launches for one token that is decoded: attention to the cache.
#include "../../cu/cached_attention.h"
#include "kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

namespace shearling::device {

bool takes_cached_attention(int64_t each, int64_t dim) {
  const int64_t floats = cu::CachedAttentionPart<cu::Bf16, 8>::shared_floats(each);
  return dim <= cu::ATTENTION_DIM && floats * static_cast<int64_t>(sizeof(float)) <= MOST_SHARED_BYTES;
}

void cached_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& out) {
  const int64_t rows = key.size(0), groups = key.size(1), tokens = key.size(2), dim = key.size(3);
  const int64_t each = query.size(2) / groups, parts = divup(tokens, int64_t{cu::ATTENTION_KEYS});
  const auto fp32 = query.options().dtype(at::kFloat);
  const Tensor tops = at::empty({rows * groups, parts, each}, fp32), sums = at::empty_like(tops);
  const Tensor mixed = at::empty({rows * groups, parts, each, dim}, fp32);
  bool packs = in_packs(dim, query.element_size(), {query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()});
  for (const Tensor& cached : {key, value}) {
    for (int64_t step = 0; step < 2; ++step) packs = packs && cached.stride(step) * cached.element_size() % 16 == 0;
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  by_pack(query.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    using Part = cu::CachedAttentionPart<T, width>;
    launch(query, Geometry{rows * groups, parts, cu::ATTENTION_THREADS, Part::shared_floats(each) * sizeof(float)},
           Part{numbers<T>(query), numbers<T>(key), numbers<T>(value), numbers<float>(tops), numbers<float>(sums),
                numbers<float>(mixed), key.stride(0), key.stride(1), value.stride(0), value.stride(1), groups, tokens,
                parts, static_cast<uint32_t>(each), static_cast<uint32_t>(dim), scale});
    launch(query, Geometry{rows * groups, 1, row_threads(each * dim, width), 0},
           cu::CachedAttentionJoin<T, width>{numbers<float>(tops), numbers<float>(sums), numbers<float>(mixed),
                                             numbers<T>(out), parts, static_cast<uint32_t>(each),
                                             static_cast<uint32_t>(dim)});
  });
}

}  // namespace shearling::device
