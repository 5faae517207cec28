// Reads memory and does nothing else with it: what decoding is held against.
#include "kernel.h"

#include <ATen/ops/empty.h>

namespace shearling {
namespace {

// Words of 8 bytes that a thread takes at a time: 1 MiB.
constexpr int64_t TASK_WORDS = 1 << 17;

struct SumWords {
  const uint64_t* words;
  int64_t count;
  uint64_t* sums;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t start = task * TASK_WORDS;
      const int64_t stop = start + TASK_WORDS < count ? start + TASK_WORDS : count;
      uint64_t sum = 0;
      for (int64_t i = start; i < stop; ++i) sum += words[i];
      sums[task] = sum;
    }
  }
};
SHEARLING_RUN(SumWords)

}  // namespace
}  // namespace shearling

// The sum of all 64-bit words of a contiguous tensor on the CPU, so that nobody can leave the reading out.
extern "C" int shearling_sum_words(shearling::Tensor* tensor, uint64_t* sum, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    TORCH_CHECK(tensor->is_cpu() && tensor->is_contiguous(), "a contiguous tensor on the CPU is read");
    const int64_t count = static_cast<int64_t>(tensor->nbytes()) / 8;
    std::vector<uint64_t> sums(static_cast<size_t>(divup(count, TASK_WORDS)));
    const auto* words = static_cast<const uint64_t*>(tensor->const_data_ptr());
    parallel(static_cast<int64_t>(sums.size()), 1, SumWords{words, count, sums.data()});
    *sum = 0;
    for (const uint64_t part : sums) *sum += part;
  });
}
