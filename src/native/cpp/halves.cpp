// fp32 tensors in two halves; `src/native/ops/halves.rs` has the contract.
#include "halves.h"

#include <c10/core/GradMode.h>

#include <limits>

namespace shearling {
namespace {

void check_halves(const Tensor& high, const Tensor& low) {
  TORCH_CHECK(high.scalar_type() == at::kBFloat16 && low.scalar_type() == at::kShort,
              "halves: expected bf16 and int16, found ", high.scalar_type(), " and ", low.scalar_type());
  TORCH_CHECK(high.sizes() == low.sizes(), "halves: of shapes ", high.sizes(), " and ", low.sizes());
}

}  // namespace

Tensor join(const Tensor& high, const Tensor& low) {
  check_halves(high, low);
  Tensor bits = high.detach().view(at::kShort).to(at::kInt);
  return bits.bitwise_left_shift_(16).add_(low).view(at::kFloat);
}

void split_into(const Tensor& whole, const Tensor& high, const Tensor& low) {
  check_halves(high, low);
  TORCH_CHECK(whole.scalar_type() == at::kFloat, "halves: expected fp32 to split, found ", whole.scalar_type());
  const Tensor bits = whole.detach().contiguous().view(at::kInt);
  const Tensor upper = bits.add(0x8000).bitwise_right_shift_(16);
  const Tensor not_numbers = whole.detach().isnan();
  low.copy_(bits.sub(upper.bitwise_left_shift(16)).masked_fill_(not_numbers, 0));
  high.copy_(upper.to(at::kShort).view(at::kBFloat16).masked_fill_(not_numbers, std::numeric_limits<float>::quiet_NaN()));
}

}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_join_halves(Tensor* high, Tensor* low, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    shearling::give(out, shearling::join(*high, *low));
  });
}

extern "C" int shearling_split_halves(Tensor* whole, Tensor* high, Tensor* low, char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    shearling::split_into(*whole, *high, *low);
  });
}
