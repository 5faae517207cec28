// The heads of one token that is decoded on a GPU, in one launch: cu/cached_heads.h.
#include "device/kernels.h"
#include "kernel.h"

#include <ATen/ops/empty.h>

namespace shearling {
namespace {

void check_heads(const Tensor& heads, const char* name, const Tensor& query) {
  check_storage(heads, name);
  TORCH_CHECK(heads.dim() == 4 && heads.size(0) == query.size(0) && heads.size(1) == 1 &&
                  heads.size(3) == query.size(3) && heads.size(3) % 2 == 0 && heads.numel() > 0,
              name, " is ", heads.sizes(), " beside a query of ", query.sizes(), ", not [B, 1, heads, even E]");
  TORCH_CHECK(heads.scalar_type() == query.scalar_type() && heads.device() == query.device(), name, " is of kind ",
              heads.scalar_type(), " on ", heads.device(), " beside a query of kind ", query.scalar_type(), " on ",
              query.device());
}

void check_cache(const Tensor& cache, const Tensor& heads) {
  TORCH_CHECK(cache.dim() == 4 && cache.size(0) == heads.size(0) && cache.size(1) == heads.size(2) &&
                  cache.size(3) == heads.size(3) && cache.scalar_type() == heads.scalar_type() &&
                  cache.device() == heads.device(),
              "a cache of ", cache.sizes(), " for heads of ", heads.sizes());
  TORCH_CHECK(cache.stride(3) == 1 && cache.stride(2) == cache.size(3), "rows of a cache must lie together");
}

void check_table(const Tensor& table, const Tensor& query) {
  TORCH_CHECK(table.device() == query.device() && table.scalar_type() == at::kFloat && table.dim() == 2 &&
                  table.size(1) == query.size(3) && table.is_contiguous(),
              "a table of ", table.sizes(), " is not [positions, ", query.size(3), "] in fp32 on ", query.device());
}

Tensor cached_heads(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& cos, const Tensor& sin,
                    const Tensor& position, const Tensor& keys, const Tensor& values) {
  TORCH_CHECK(has_device_kernels(query.device()), "there is no kernel for the heads of a token on ", query.device());
  check_heads(query, "the query", query);
  check_heads(key, "the key", query);
  check_heads(value, "the value", query);
  check_cache(keys, key);
  check_cache(values, value);
  check_table(cos, query);
  check_table(sin, query);
  TORCH_CHECK(position.scalar_type() == at::kLong && position.numel() == 1 && position.device() == query.device(),
              "a position is one int64 on ", query.device());
  Tensor turned = at::empty(query.sizes(), query.options());
  const auto flat = [](const Tensor& heads) { return heads.contiguous().squeeze(1); };
  device::cached_heads(flat(query), flat(key), flat(value), cos, sin, position, turned.squeeze(1), keys, values);
  return turned;
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_cached_heads(Tensor* query, Tensor* key, Tensor* value, Tensor* cos, Tensor* sin,
                                      Tensor* position, Tensor* keys, Tensor* values, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    shearling::give(out,
                    shearling::cached_heads(*query, *key, *value, *cos, *sin, *position, *keys, *values));
  });
}
