// Launches for one token that is decoded: its linear maps, its heads and its attention to the cache.
#include "../../cu/cached_attention.h"
#include "../../cu/cached_heads.h"
#include "../../cu/matvec.h"
#include "kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

namespace shearling::device {

namespace {

// Rows of weights that a block takes, a warp for each.
constexpr int64_t ROWS = cu::MATVEC_THREADS / 32;

bool maps_in_packs(const Row& row, const Map* maps, int64_t count) {
  const int64_t columns = row.x.size(-1);
  bool packs = in_packs(columns, row.x.element_size(), {row.x.data_ptr(), numbers<char>(row.norm)});
  for (int64_t m = 0; m < count; ++m) {
    packs = packs && in_packs(columns, row.x.element_size(), {maps[m].weight.data_ptr()});
  }
  return packs;
}

// A bias as the kernels take it; the tensor has to live until the launch.
Tensor in_fp32(const Tensor& bias) { return bias.defined() ? bias.to(at::kFloat).contiguous() : bias; }

template <class T>
cu::MatvecInput<T> input_of(const Row& row) {
  return {numbers<T>(row.x), numbers<T>(row.norm), static_cast<float>(row.eps), row.x.size(-1)};
}

template <class T>
cu::MatvecMap<T> map_of(const Map& map, const Tensor& bias) {
  return {numbers<T>(map.weight), numbers<float>(bias), numbers<T>(map.residual), numbers<T>(map.out),
          map.weight.size(0)};
}

void launch_maps(const Row& row, const Map* maps, int64_t count) {
  Tensor biases[cu::MATVEC_MAPS];
  int64_t rows = 0;
  for (int64_t m = 0; m < count; ++m) {
    biases[m] = in_fp32(maps[m].bias);
    rows += maps[m].weight.size(0);
  }
  by_pack(row.x.scalar_type(), maps_in_packs(row, maps, count), [&](auto number, auto width) {
    using T = decltype(number);
    cu::Matvec<T, width> kernel{input_of<T>(row), {}};
    for (int64_t m = 0; m < count; ++m) kernel.maps[m] = map_of<T>(maps[m], biases[m]);
    launch(row.x, Geometry{divup(rows, ROWS), 1, cu::MATVEC_THREADS, 0}, kernel);
  });
}

}  // namespace

bool takes_matvec(const Tensor& rows) {
  const auto kind = rows.scalar_type();
  return has_device_kernels(rows.device()) && rows.size(0) == 1 && (kind == at::kFloat || kind == at::kBFloat16);
}

void matvec(const Row& row, const std::vector<Map>& maps) {
  for (size_t first = 0; first < maps.size(); first += cu::MATVEC_MAPS) {
    launch_maps(row, maps.data() + first, std::min<int64_t>(cu::MATVEC_MAPS, maps.size() - first));
  }
}

void matvec_swiglu(const Row& row, const Map& gate, const Map& up, const Tensor& out) {
  const Map both[2] = {gate, up};
  const Tensor biases[2] = {in_fp32(gate.bias), in_fp32(up.bias)};
  by_pack(row.x.scalar_type(), maps_in_packs(row, both, 2), [&](auto number, auto width) {
    using T = decltype(number);
    launch(row.x, Geometry{divup(gate.weight.size(0), ROWS), 1, cu::MATVEC_THREADS, 0},
           cu::MatvecSwiglu<T, width>{input_of<T>(row), map_of<T>(gate, biases[0]), map_of<T>(up, biases[1]),
                                      numbers<T>(out)});
  });
}

void cached_heads(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& cos, const Tensor& sin,
                  const Tensor& position, const Tensor& turned, const Tensor& keys, const Tensor& values) {
  const int64_t rows = query.size(0), heads = query.size(1), groups = key.size(1), half = query.size(2) / 2;
  bool packs = in_packs(half, query.element_size(),
                        {query.data_ptr(), key.data_ptr(), value.data_ptr(), cos.data_ptr(), sin.data_ptr(),
                         turned.data_ptr(), keys.data_ptr(), values.data_ptr()});
  for (const Tensor& cached : {keys, values}) {
    for (int64_t dim = 0; dim < 2; ++dim) packs = packs && cached.stride(dim) * cached.element_size() % 16 == 0;
  }
  by_pack(query.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    launch(query, Geometry{rows * (heads + 2 * groups), 1, 32, 0},
           cu::CachedHeads<T, width>{numbers<T>(query), numbers<T>(key), numbers<T>(value), numbers<float>(cos),
                                     numbers<float>(sin), reinterpret_cast<const cu::i64*>(position.data_ptr()),
                                     numbers<T>(turned), numbers<T>(keys), numbers<T>(values), keys.stride(0),
                                     keys.stride(1), values.stride(0), values.stride(1), static_cast<uint32_t>(heads),
                                     static_cast<uint32_t>(groups), static_cast<uint32_t>(half)});
  });
}

bool takes_cached_attention(int64_t each, int64_t dim) {
  const int64_t floats = cu::CachedAttentionPart<cu::Bf16, 8>::shared_floats(each, dim);
  return dim <= cu::ATTENTION_DIM && floats * static_cast<int64_t>(sizeof(float)) <= MOST_SHARED_BYTES;
}

void cached_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& last,
                      const Tensor& out) {
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
  const auto* end = last.defined() ? last.const_data_ptr<int64_t>() : nullptr;
  by_pack(query.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    using Part = cu::CachedAttentionPart<T, width>;
    using Join = cu::CachedAttentionJoin<T, width>;
    launch(query, Geometry{rows * groups, parts, cu::ATTENTION_THREADS, Part::shared_floats(each, dim) * sizeof(float)},
           Part{numbers<T>(query), numbers<T>(key), numbers<T>(value), reinterpret_cast<const cu::i64*>(end),
                numbers<float>(tops), numbers<float>(sums), numbers<float>(mixed), key.stride(0), key.stride(1), value.stride(0), value.stride(1), groups, tokens,
                parts, static_cast<uint32_t>(each), static_cast<uint32_t>(dim), scale});
    launch(query, Geometry{rows * groups * each, 1, cu::ATTENTION_THREADS, Join::SHARED_FLOATS * sizeof(float)},
           Join{numbers<float>(tops), numbers<float>(sums), numbers<float>(mixed), numbers<T>(out),
                reinterpret_cast<const cu::i64*>(end), parts, static_cast<uint32_t>(each), static_cast<uint32_t>(dim)});
  });
}

}  // namespace shearling::device
