// AdamW over a list of tensors in one pass: reads values, gradient and moments, writes values and moments, and clears the
// gradient. `src/native/ops/adamw.rs` has the equations and the contract.
//
// Kernels of ours do it all on the CPU and on a GPU that has them (there for dozens of tensors in one launch): the update
// is bound by memory, and each tensor is touched once. Elsewhere libtorch's fused kernel takes all tensors in one launch;
// values in halves and moments that are not in fp32 are brought to fp32 for the time of the update, one tensor after the
// other, and so are, on any GPU, moments on the host.
#include "../cu/adamw.h"
#include "device/launch.h"
#include "eight_bit_moments.h"
#include "halves.h"
#include "parallel.h"
#include "shim.h"
#include "simd.h"

#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace shearling {
namespace {

// Laid out as `AdamwRule` in adamw.rs.
struct Rule {
  double learning_rate, beta1, beta2, eps;
  int64_t step;
  bool maximize;
};

// What a tensor has of its own besides tensors; laid out as `Own` in adamw.rs.
struct Own {
  double weight_decay;
  int64_t first;
  uint32_t key;
};

// `low` is undefined where the values are fp32.
struct Slot {
  Tensor values, low, gradient, exp_avg, exp_avg_sq;
  Own own;
};

void check_like(const Tensor& tensor, const Tensor& values, const char* what) {
  TORCH_CHECK(tensor.defined(), "adamw: ", what, " missing");
  TORCH_CHECK(tensor.sizes() == values.sizes(), "adamw: ", what, " of shape ", tensor.sizes(), ", the values ",
              values.sizes());
  TORCH_CHECK(tensor.is_contiguous(), "adamw: ", what, " not contiguous");
}

void check_on(const Tensor& tensor, c10::Device device, const char* what) {
  TORCH_CHECK(tensor.device() == device, "adamw: ", what, " on ", tensor.device(), ", expected ", device);
}

void check_dtypes(const Slot& slot) {
  const auto values = slot.values.scalar_type();
  if (slot.low.defined()) {
    TORCH_CHECK(values == at::kBFloat16 && slot.low.scalar_type() == at::kShort,
                "adamw: values in halves must be bf16 and int16, they are ", values, " and ", slot.low.scalar_type());
  } else {
    TORCH_CHECK(values == at::kFloat, "adamw: the values must be fp32, they are ", values);
  }
  TORCH_CHECK(slot.gradient.scalar_type() == at::kFloat, "adamw: the gradient must be fp32, it is ",
              slot.gradient.scalar_type());
  const auto first = slot.exp_avg.scalar_type(), second = slot.exp_avg_sq.scalar_type();
  const bool floats = (first == at::kFloat || first == at::kBFloat16) && second == first;
  TORCH_CHECK(floats || (first == at::kChar && second == at::kByte),
              "adamw: the moments must be both fp32, both bf16, or int8 and uint8, they are ", first, " and ", second);
}

void check_slot(const Slot& slot, c10::Device device) {
  const Tensor& values = slot.values;
  check_like(values, values, "values");
  check_like(slot.gradient, values, "a gradient");
  check_like(slot.exp_avg, values, "exp_avg");
  check_like(slot.exp_avg_sq, values, "exp_avg_sq");
  check_on(values, device, "values");
  check_on(slot.gradient, device, "a gradient");
  if (slot.low.defined()) {
    check_like(slot.low, values, "lower halves");
    check_on(slot.low, device, "lower halves");
  }
  check_dtypes(slot);
  TORCH_CHECK(slot.exp_avg.device() == slot.exp_avg_sq.device() &&
                  (slot.exp_avg.device() == device || slot.exp_avg.is_cpu()),
              "adamw: the moments must be both on ", device, " or both on the host");
}

void check_scalar(const Tensor& scalar, c10::Device device, const char* what) {
  TORCH_CHECK(scalar.defined() && scalar.numel() == 1, "adamw: ", what, " must be one number");
  check_on(scalar, device, what);
}

bool in_eight_bits(const Slot& slot) { return slot.exp_avg.scalar_type() == at::kChar; }

// The equations' constants as a loop uses them.
cu::AdamwConstants constants(const Rule& rule) {
  const double steps = static_cast<double>(rule.step);
  const double bias1 = 1.0 - std::pow(rule.beta1, steps), bias2 = 1.0 - std::pow(rule.beta2, steps);
  cu::AdamwConstants c;
  c.beta1 = static_cast<float>(rule.beta1);
  c.rest1 = static_cast<float>(1.0 - rule.beta1);
  c.beta2 = static_cast<float>(rule.beta2);
  c.rest2 = static_cast<float>(1.0 - rule.beta2);
  c.eps = static_cast<float>(rule.eps);
  c.step_size = static_cast<float>(rule.learning_rate / bias1);
  c.root_bias2 = static_cast<float>(1.0 / std::sqrt(bias2));
  c.sign = rule.maximize ? -1.0f : 1.0f;
  c.unit = eight_bit_unit(rule.beta1, rule.beta2);
  return c;
}

float kept(const Rule& rule, const Slot& slot) {
  return static_cast<float>(1.0 - rule.learning_rate * slot.own.weight_decay);
}

// A tensor as kernels take it; M is how its moments lie in memory.
template <class M>
cu::AdamwTensor<M> tensor_of(const Slot& slot, const Rule& rule) {
  const bool halves = slot.low.defined();
  return {halves ? nullptr : numbers<float>(slot.values),
          halves ? numbers<cu::Bf16>(slot.values) : nullptr,
          numbers<cu::i16>(slot.low),
          numbers<float>(slot.gradient),
          numbers<typename M::First>(slot.exp_avg),
          numbers<typename M::Second>(slot.exp_avg_sq),
          slot.values.numel(),
          slot.own.first,
          kept(rule, slot),
          slot.own.key};
}

template <bool halves, class M>
SHEARLING_INLINE void update(const cu::AdamwTensor<M>& tensor, const cu::AdamwConstants& constants, float scale,
                             int64_t begin, int64_t end) {
  // Copies, so that the compiler knows that what is written does not change them.
  const cu::AdamwConstants c = constants;
  float* __restrict values = tensor.values;
  cu::Bf16* __restrict high = tensor.high;
  cu::i16* __restrict low = tensor.low;
  float* __restrict gradient = tensor.gradient;
  typename M::First* __restrict first = tensor.exp_avg;
  typename M::Second* __restrict second = tensor.exp_avg_sq;
  const float kept = tensor.kept;
  const uint32_t key = tensor.key;
  const int64_t place = tensor.first;
  for (int64_t i = begin; i < end; ++i) {
    cu::Moments moments = cu::unpack(first[i], second[i], c.unit);
    const float before = halves ? cu::join(high[i], low[i]) : values[i];
    const float after = cu::stepped(before, gradient[i] * scale, moments, c, kept);
    cu::pack(moments, first[i], second[i], c.unit, key, place + i);
    if (halves) {
      cu::split(after, high[i], low[i]);
    } else {
      values[i] = after;
    }
    gradient[i] = 0.0f;
  }
}

#define SHEARLING_UPDATE(name, halves, M)                                                                     \
  SHEARLING_CLONES void name(const cu::AdamwTensor<cu::M>& tensor, const cu::AdamwConstants& c, float scale, \
                             int64_t begin, int64_t end) {                                                    \
    update<halves, cu::M>(tensor, c, scale, begin, end);                                                      \
  }
SHEARLING_UPDATE(update_whole, false, Fp32Moments)
SHEARLING_UPDATE(update_whole, false, Bf16Moments)
SHEARLING_UPDATE(update_whole, false, EightBitMoments)
SHEARLING_UPDATE(update_halves, true, Fp32Moments)
SHEARLING_UPDATE(update_halves, true, Bf16Moments)
SHEARLING_UPDATE(update_halves, true, EightBitMoments)
#undef SHEARLING_UPDATE

// Elements for one thread to be worth waking.
constexpr int64_t grain = 1 << 15;

template <class M>
void update_in_ranges(const Slot& slot, const Rule& rule, float scale) {
  const cu::AdamwTensor<M> tensor = tensor_of<M>(slot, rule);
  const cu::AdamwConstants c = constants(rule);
  const float factor = scale * c.sign;
  parallel_for(0, tensor.count, grain, [&](int64_t begin, int64_t end) {
    tensor.values ? update_whole(tensor, c, factor, begin, end) : update_halves(tensor, c, factor, begin, end);
  });
}

// The kernel writes past autograd: a graph that still wants the old values must notice.
void mark_changed(const Slot& slot) { slot.values.unsafeGetTensorImpl()->bump_version(); }

void update_by_kernel(const std::vector<Slot>& slots, const Rule& rule, const Tensor& scale, const Tensor& skip) {
  const bool skips = skip.item<double>() != 0.0;
  const float factor = static_cast<float>(scale.item<double>());
  for (const Slot& slot : slots) {
    if (skips) {
      slot.gradient.zero_();
      continue;
    }
    if (in_eight_bits(slot)) {
      update_in_ranges<cu::EightBitMoments>(slot, rule, factor);
    } else if (slot.exp_avg.scalar_type() == at::kFloat) {
      update_in_ranges<cu::Fp32Moments>(slot, rule, factor);
    } else {
      update_in_ranges<cu::Bf16Moments>(slot, rule, factor);
    }
    mark_changed(slot);
  }
}

// Tensors of one launch of the device's kernel, W numbers at a time.
template <class M, int W>
class Launch {
 public:
  Launch(const Rule& rule, const Tensor& scale, const Tensor& skip) : rule_(rule) {
    kernel_.scale = numbers<float>(scale);
    kernel_.skip = numbers<float>(skip);
    kernel_.constants = constants(rule);
  }

  // Launches first where there is no room for one more.
  void add(const Slot& slot) {
    if (count_ == cu::ADAMW_TENSORS) run();
    on_ = slot.values;
    kernel_.tensors[count_] = tensor_of<M>(slot, rule_);
    const auto blocks = static_cast<uint32_t>(divup(slot.values.numel(), cu::ADAMW_BLOCK));
    kernel_.first_block[count_ + 1] = kernel_.first_block[count_] + blocks;
    ++count_;
  }

  void run() {
    if (count_ == 0) return;
    launch(on_, Geometry{kernel_.first_block[count_], 1, 256, 0}, kernel_);
    count_ = 0;
  }

 private:
  const Rule& rule_;
  cu::Adamw<M, W> kernel_{};
  Tensor on_;
  int count_ = 0;
};

// Tensors whose moments lie alike: those that can be moved 16 bytes at a time, and the others.
template <class M>
class Launches {
 public:
  Launches(const Rule& rule, const Tensor& scale, const Tensor& skip)
      : packed_(rule, scale, skip), single_(rule, scale, skip) {}

  void add(const Slot& slot) {
    const bool packs = in_packs(slot.values.numel(), sizeof(float),
                                {slot.values.data_ptr(), numbers<char>(slot.low), slot.gradient.data_ptr(),
                                 slot.exp_avg.data_ptr(), slot.exp_avg_sq.data_ptr()});
    packs ? packed_.add(slot) : single_.add(slot);
    mark_changed(slot);
  }

  void run() {
    packed_.run();
    single_.run();
  }

 private:
  Launch<M, 4> packed_;
  Launch<M, 1> single_;
};

void update_by_device_kernel(const std::vector<Slot>& slots, const Rule& rule, const Tensor& scale_,
                             const Tensor& skip_) {
  const Tensor scale = scale_.to(at::kFloat), skip = skip_.to(at::kFloat);
  Launches<cu::Fp32Moments> fp32(rule, scale, skip);
  Launches<cu::Bf16Moments> bf16(rule, scale, skip);
  Launches<cu::EightBitMoments> eight_bit(rule, scale, skip);
  for (const Slot& slot : slots) {
    if (in_eight_bits(slot)) {
      eight_bit.add(slot);
    } else if (slot.exp_avg.scalar_type() == at::kFloat) {
      fp32.add(slot);
    } else {
      bf16.add(slot);
    }
  }
  fp32.run();
  bf16.run();
  eight_bit.run();
}

// The arguments of one call of libtorch's fused kernel, which knows one weight decay.
struct Fused {
  std::vector<Tensor> values, gradients, exp_avgs, exp_avg_sqs;

  void add(const Tensor& value, const Slot& slot, Tensor exp_avg, Tensor exp_avg_sq) {
    values.push_back(value);
    gradients.push_back(slot.gradient);
    exp_avgs.push_back(std::move(exp_avg));
    exp_avg_sqs.push_back(std::move(exp_avg_sq));
  }
};

// What the fused kernel takes as tensors; they stay on the device.
struct Controls {
  Tensor step, divisor, skip;
};

void call(const Fused& fused, const Rule& rule, const Controls& controls, double weight_decay) {
  // The kernel reads the step count and does not move it on: all tensors may share one.
  const std::vector<Tensor> steps(fused.values.size(), controls.step);
  at::_fused_adamw_(fused.values, fused.gradients, fused.exp_avgs, fused.exp_avg_sqs, {}, steps, rule.learning_rate,
                    rule.beta1, rule.beta2, weight_decay, rule.eps, /*amsgrad=*/false, rule.maximize,
                    controls.divisor, controls.skip);
}

// A tensor that the fused kernel cannot take as it is. The way back to the host waits: whoever reads the moments there
// finds them whole.
void update_elsewhere(const Slot& slot, const Rule& rule, const Controls& controls) {
  const auto device = slot.values.device();
  const Tensor old_first = slot.exp_avg.to(device, /*non_blocking=*/true);
  const Tensor old_second = slot.exp_avg_sq.to(device, /*non_blocking=*/true);
  const float unit = eight_bit_unit(rule.beta1, rule.beta2);
  const bool eight_bit = in_eight_bits(slot);
  auto [exp_avg, exp_avg_sq] = eight_bit ? from_eight_bits(old_first, old_second, unit)
                                         : std::pair(old_first.to(at::kFloat), old_second.to(at::kFloat));
  const Tensor values = slot.low.defined() ? join(slot.values, slot.low) : slot.values;
  Fused one;
  one.add(values, slot, exp_avg, exp_avg_sq);
  call(one, rule, controls, slot.own.weight_decay);
  if (slot.low.defined()) split_into(values, slot.values, slot.low);
  if (eight_bit) {
    auto [first, second] = to_eight_bits(exp_avg, exp_avg_sq, unit, slot.own.key, slot.own.first);
    // Rounded again, what was not updated might not stay what it was.
    const Tensor skipped = controls.skip.ne(0);
    exp_avg = at::where(skipped, old_first, first);
    exp_avg_sq = at::where(skipped, old_second, second);
  }
  const auto dtype = slot.exp_avg.scalar_type();
  slot.exp_avg.copy_(exp_avg.to(dtype));
  slot.exp_avg_sq.copy_(exp_avg_sq.to(slot.exp_avg_sq.scalar_type()));
}

void update_by_libtorch(const std::vector<Slot>& slots, const Rule& rule, const Tensor& scale, const Tensor& skip) {
  if (slots.empty()) return;
  // The fused kernel divides by its scale and skips at exactly one.
  const auto options = slots[0].gradient.options().requires_grad(false);
  const Controls controls{at::full({}, rule.step, options), scale.to(at::kFloat).reciprocal(),
                          skip.ne(0).to(at::kFloat)};
  std::map<double, Fused> resident;
  std::vector<Tensor> gradients;
  for (const Slot& slot : slots) {
    const bool stays = slot.exp_avg.scalar_type() == at::kFloat && slot.exp_avg.device() == slot.values.device();
    if (stays && !slot.low.defined()) {
      resident[slot.own.weight_decay].add(slot.values, slot, slot.exp_avg, slot.exp_avg_sq);
    } else {
      update_elsewhere(slot, rule, controls);
    }
    gradients.push_back(slot.gradient);
  }
  for (const auto& [weight_decay, fused] : resident) call(fused, rule, controls, weight_decay);
  at::_foreach_zero_(gradients);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// `lows[i]` may be null. `kernel` is 0 to take libtorch's fused kernel on the CPU too.
extern "C" int shearling_adamw(Tensor* const* values, Tensor* const* lows, Tensor* const* gradients,
                               Tensor* const* exp_avgs, Tensor* const* exp_avg_sqs, const shearling::Own* own,
                               size_t count, const shearling::Rule* rule, Tensor* scale, Tensor* skip, int kernel,
                               char** error) {
  return shearling::guarded(error, [&] {
    const c10::NoGradGuard no_grad;
    std::vector<shearling::Slot> slots;
    for (size_t i = 0; i < count; ++i) {
      shearling::Slot slot{*values[i],   shearling::optional(lows[i]), *gradients[i], *exp_avgs[i],
                           *exp_avg_sqs[i], own[i]};
      check_slot(slot, values[0]->device());
      // libtorch's fused kernel refuses tensors without elements.
      if (slot.values.numel() > 0) slots.push_back(std::move(slot));
    }
    if (slots.empty()) return;
    const auto device = slots[0].values.device();
    shearling::check_scalar(*scale, device, "the scale");
    shearling::check_scalar(*skip, device, "the skip flag");
    if (kernel && shearling::has_device_kernels(device)) {
      const auto resident = std::stable_partition(slots.begin(), slots.end(), [&](const shearling::Slot& slot) {
        return slot.exp_avg.device() == device;
      });
      const std::vector<shearling::Slot> elsewhere(resident, slots.end());
      slots.erase(resident, slots.end());
      shearling::update_by_device_kernel(slots, *rule, *scale, *skip);
      shearling::update_by_libtorch(elsewhere, *rule, *scale, *skip);
    } else if (kernel && shearling::has_cpu_kernels(device)) {
      shearling::update_by_kernel(slots, *rule, *scale, *skip);
    } else {
      shearling::update_by_libtorch(slots, *rule, *scale, *skip);
    }
  });
}
