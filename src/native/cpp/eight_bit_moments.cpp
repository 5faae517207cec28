// AdamW's moments in 8 bits each; cu/moments.h says how they lie and why.
#include "eight_bit_moments.h"

#include "../cu/moments.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <cmath>

namespace shearling {
namespace {

// v is at most one level below what it was: a fifth, of its root 11 %.
constexpr double ROUNDED_ROOT = 1.125;

constexpr int64_t WORD = 0xffffffff;

// `cu::chance` of `count` numbers from `place` on, in int64.
Tensor chances(uint32_t key, int64_t place, int64_t count, const Tensor& on) {
  auto times = [](const Tensor& x, int64_t factor) { return x.mul(factor).bitwise_and_(WORD); };
  auto mixed = [](const Tensor& x, int64_t shift) { return x.bitwise_xor(x.bitwise_right_shift(shift)); };
  Tensor x = at::arange(place, place + count, on.options().dtype(at::kLong)).bitwise_and_(WORD);
  x = times(x, 0x9e3779b9).add_(static_cast<int64_t>(key)).bitwise_and_(WORD);
  x = times(mixed(x, 16), 0x85ebca6b);
  x = times(mixed(x, 13), 0xc2b2ae35);
  return mixed(x, 16);
}

Tensor square_of(const Tensor& second) {
  const Tensor bits = second.to(at::kInt).add_(static_cast<int64_t>(cu::MOMENT_BASE));
  const Tensor value = bits.bitwise_left_shift_(static_cast<int64_t>(cu::MOMENT_CUT)).view(at::kFloat);
  return value.masked_fill_(second.eq(0), 0.0);
}

}  // namespace

float eight_bit_unit(double beta1, double beta2) {
  const double apart = 1.0 - beta1 * beta1 / beta2;
  if (!(apart > 0.0)) return 0.0f;
  const double bound = (1.0 - beta1) / std::sqrt((1.0 - beta2) * apart) * ROUNDED_ROOT;
  return static_cast<float>(bound / (cu::MOMENT_LEVELS * cu::MOMENT_LEVELS));
}

std::pair<Tensor, Tensor> from_eight_bits(const Tensor& first, const Tensor& second, float unit) {
  const Tensor square = square_of(second);
  const Tensor level = first.to(at::kFloat);
  return {square.sqrt().mul_(unit).mul_(level.mul(level.abs())), square};
}

std::pair<Tensor, Tensor> to_eight_bits(const Tensor& first, const Tensor& second, float unit, uint32_t key,
                                        int64_t place) {
  const Tensor drawn = chances(key, place, first.numel(), first).view(first.sizes());
  const int64_t spread = int64_t{1} << (cu::MOMENT_CUT - 16);
  const Tensor bits = second.contiguous().view(at::kInt).to(at::kLong);
  const Tensor raised = drawn.bitwise_and(0xffff).mul_(spread).add_(bits);
  const Tensor level = raised.bitwise_right_shift_(static_cast<int64_t>(cu::MOMENT_CUT))
                           .sub_(static_cast<int64_t>(cu::MOMENT_BASE))
                           .clamp_(1, 255)
                           .masked_fill_(second.gt(0).logical_not_(), 0);
  const Tensor second_code = level.to(at::kByte);

  const Tensor root = square_of(second_code).sqrt_();
  const double largest = cu::MOMENT_LEVELS * cu::MOMENT_LEVELS;
  const Tensor share = first.abs().div_(root.mul(unit)).masked_fill_(root.eq(0), 0.0).clamp_max_(largest);
  const Tensor below = share.sqrt().floor_();
  const Tensor threshold = share.sub(below.square()).mul_(65536.0);
  const Tensor rises = drawn.bitwise_right_shift(16).to(at::kFloat).mul_(below.mul(2.0).add_(1.0)).lt(threshold);
  const Tensor size = below.add(rises);
  return {at::where(first.lt(0), size.neg(), size).to(at::kChar), second_code};
}

}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_from_eight_bits(Tensor* first, Tensor* second, double beta1, double beta2, Tensor** out,
                                         char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    auto [exp_avg, exp_avg_sq] =
        shearling::from_eight_bits(*first, *second, shearling::eight_bit_unit(beta1, beta2));
    shearling::give(&out[0], exp_avg);
    shearling::give(&out[1], exp_avg_sq);
  });
}

extern "C" int shearling_to_eight_bits(Tensor* first, Tensor* second, double beta1, double beta2, uint32_t key,
                                       int64_t place, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    const float unit = shearling::eight_bit_unit(beta1, beta2);
    auto [exp_avg, exp_avg_sq] = shearling::to_eight_bits(*first, *second, unit, key, place);
    shearling::give(&out[0], exp_avg);
    shearling::give(&out[1], exp_avg_sq);
  });
}
