// See matvec.h.
#include "matvec.h"

#include "kernel.h"

namespace shearling {
namespace {

constexpr int64_t MOST_ROWS = 4;
// Bytes of a weight that a thread takes at a time.
constexpr int64_t TASK_BYTES = 64 << 10;

// Over the rows of the weight.
template <class T>
struct Matvec {
  const float* x;
  const T* weight;
  T* out;
  int64_t rows;
  int64_t inner;
  int64_t outer;
  bool accumulate;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t row = 0; row < rows; ++row) {
        const float sum = dot(weight + o * inner, x + row * inner);
        T& place = out[row * outer + o];
        store(place, accumulate ? load(place) + sum : sum);
      }
    }
  }

  SHEARLING_INLINE float dot(const T* w, const float* input) const {
    float sum = 0.0f;
    for (int64_t i = 0; i < inner; ++i) sum += load(w[i]) * input[i];
    return sum;
  }
};

using MatvecFloat = Matvec<float>;
using MatvecBFloat16 = Matvec<BFloat16>;
SHEARLING_RUN(MatvecFloat)
SHEARLING_RUN(MatvecBFloat16)

}  // namespace

bool matvec_serves(const Tensor& a, const Tensor& b, const Tensor& out) {
  const auto kind = a.scalar_type();
  const bool weight_as_stored = b.stride(0) == 1 && b.stride(1) == b.size(0);
  return a.size(0) <= MOST_ROWS && a.is_cpu() && (kind == at::kFloat || kind == at::kBFloat16) &&
         out.scalar_type() == kind && weight_as_stored && out.is_contiguous();
}

void matvec(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate) {
  const Tensor x = a.to(at::kFloat).contiguous();
  by_kind(a.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const int64_t inner = b.size(0), outer = b.size(1);
    const int64_t rows_each = std::max<int64_t>(1, TASK_BYTES / (inner * static_cast<int64_t>(sizeof(T))));
    parallel(outer, rows_each,
             Matvec<T>{x.const_data_ptr<float>(), b.const_data_ptr<T>(), out.mutable_data_ptr<T>(), a.size(0), inner,
                       outer, accumulate});
  });
}

}  // namespace shearling
