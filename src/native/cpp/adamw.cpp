// AdamW over a list of tensors in one pass: reads master, gradient and moments, writes master, moments and the bf16
// working copy, and clears the gradient. `src/native/adamw.rs` has the equations and the contract.
//
// Kernels of ours do it all on the CPU and on a GPU that has them (there for dozens of tensors in one launch): the update
// is bound by memory, and each tensor is touched once. Elsewhere libtorch's fused kernel takes all tensors in one launch;
// moments that are in bf16 are brought to fp32 for the time of the update, one tensor after the other, and so are, on any
// GPU, moments on the host.
#include "../cu/adamw.h"
#include "device/launch.h"
#include "parallel.h"
#include "shim.h"
#include "simd.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
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

struct Slot {
  Tensor master, gradient, exp_avg, exp_avg_sq, working;
  double weight_decay;
};

void check_like(const Tensor& tensor, const Tensor& master, const char* what) {
  TORCH_CHECK(tensor.defined(), "adamw: ", what, " is missing");
  TORCH_CHECK(tensor.sizes() == master.sizes(), "adamw: ", what, " has shape ", tensor.sizes(), ", the master ",
              master.sizes());
  TORCH_CHECK(tensor.is_contiguous(), "adamw: ", what, " is not contiguous");
}

void check_on(const Tensor& tensor, c10::Device device, const char* what) {
  TORCH_CHECK(tensor.device() == device, "adamw: ", what, " is on ", tensor.device(), ", expected ", device);
}

void check_slot(const Slot& slot, c10::Device device) {
  const Tensor& master = slot.master;
  check_like(master, master, "the master");
  check_like(slot.gradient, master, "the gradient");
  check_like(slot.exp_avg, master, "exp_avg");
  check_like(slot.exp_avg_sq, master, "exp_avg_sq");
  check_on(master, device, "the master");
  check_on(slot.gradient, device, "the gradient");
  TORCH_CHECK(master.scalar_type() == at::kFloat && slot.gradient.scalar_type() == at::kFloat,
              "adamw: master and gradient must be fp32, they are ", master.scalar_type(), " and ",
              slot.gradient.scalar_type());
  const auto kind = slot.exp_avg.scalar_type();
  TORCH_CHECK((kind == at::kFloat || kind == at::kBFloat16) && slot.exp_avg_sq.scalar_type() == kind,
              "adamw: the moments must be both fp32 or both bf16, they are ", kind, " and ",
              slot.exp_avg_sq.scalar_type());
  TORCH_CHECK(slot.exp_avg.device() == slot.exp_avg_sq.device() &&
                  (slot.exp_avg.device() == device || slot.exp_avg.is_cpu()),
              "adamw: the moments must be both on ", device, " or both on the host");
  if (!slot.working.defined()) return;
  check_like(slot.working, master, "the working copy");
  check_on(slot.working, device, "the working copy");
  TORCH_CHECK(slot.working.scalar_type() == at::kBFloat16, "adamw: the working copy must be bf16, it is ",
              slot.working.scalar_type());
}

void check_scalar(const Tensor& scalar, c10::Device device, const char* what) {
  TORCH_CHECK(scalar.defined() && scalar.numel() == 1, "adamw: ", what, " must be one number");
  check_on(scalar, device, what);
}

// The equations' constants as the loop uses them.
struct Constants {
  float scale, beta1, rest1, beta2, rest2, eps, step_size, root_bias2, kept;
};

Constants constants(const Rule& rule, double scale, double weight_decay) {
  const double steps = static_cast<double>(rule.step);
  const double bias1 = 1.0 - std::pow(rule.beta1, steps), bias2 = 1.0 - std::pow(rule.beta2, steps);
  Constants c;
  c.scale = static_cast<float>(rule.maximize ? -scale : scale);
  c.beta1 = static_cast<float>(rule.beta1);
  c.rest1 = static_cast<float>(1.0 - rule.beta1);
  c.beta2 = static_cast<float>(rule.beta2);
  c.rest2 = static_cast<float>(1.0 - rule.beta2);
  c.eps = static_cast<float>(rule.eps);
  c.step_size = static_cast<float>(rule.learning_rate / bias1);
  c.root_bias2 = static_cast<float>(1.0 / std::sqrt(bias2));
  c.kept = static_cast<float>(1.0 - rule.learning_rate * weight_decay);
  return c;
}

// Moments are rounded when they are stored; the update uses them before that.
template <bool copies, class Moment>
SHEARLING_INLINE void update(float* __restrict master, float* __restrict gradient, Moment* __restrict exp_avg,
                             Moment* __restrict exp_avg_sq, BFloat16* __restrict working, int64_t count, Constants c) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.scale;
    const float m = c.beta1 * load(exp_avg[i]) + c.rest1 * g;
    const float v = c.beta2 * load(exp_avg_sq[i]) + c.rest2 * g * g;
    const float p = c.kept * master[i] - c.step_size * (m / (std::sqrt(v) * c.root_bias2 + c.eps));
    store(exp_avg[i], m);
    store(exp_avg_sq[i], v);
    master[i] = p;
    gradient[i] = 0.0f;
    if (copies) store(working[i], p);
  }
}

#define SHEARLING_UPDATE(name, copies, Moment)                                                                   \
  SHEARLING_CLONES void name(float* master, float* gradient, Moment* exp_avg, Moment* exp_avg_sq, BFloat16* working, \
                             int64_t count, Constants c) {                                                       \
    update<copies, Moment>(master, gradient, exp_avg, exp_avg_sq, working, count, c);                            \
  }
SHEARLING_UPDATE(update_fp32, false, float)
SHEARLING_UPDATE(update_fp32_copying, true, float)
SHEARLING_UPDATE(update_bf16, false, BFloat16)
SHEARLING_UPDATE(update_bf16_copying, true, BFloat16)
#undef SHEARLING_UPDATE

// Elements for one thread to be worth waking.
constexpr int64_t grain = 1 << 15;

template <class Moment, class Kernel>
void update_in_ranges(const Slot& slot, Constants c, Kernel* kernel) {
  auto* master = slot.master.mutable_data_ptr<float>();
  auto* gradient = slot.gradient.mutable_data_ptr<float>();
  auto* exp_avg = slot.exp_avg.mutable_data_ptr<Moment>();
  auto* exp_avg_sq = slot.exp_avg_sq.mutable_data_ptr<Moment>();
  auto* working = slot.working.defined() ? slot.working.mutable_data_ptr<BFloat16>() : nullptr;
  parallel_for(0, slot.master.numel(), grain, [&](int64_t from, int64_t to) {
    kernel(master + from, gradient + from, exp_avg + from, exp_avg_sq + from, working ? working + from : nullptr,
           to - from, c);
  });
}

// The kernel writes past autograd: a graph that still wants the old values must notice.
void mark_changed(const Slot& slot) {
  slot.master.unsafeGetTensorImpl()->bump_version();
  if (slot.working.defined()) slot.working.unsafeGetTensorImpl()->bump_version();
}

void update_by_kernel(const std::vector<Slot>& slots, const Rule& rule, const Tensor& scale, const Tensor& skip) {
  const bool skips = skip.item<double>() != 0.0;
  const double factor = scale.item<double>();
  for (const Slot& slot : slots) {
    if (skips) {
      slot.gradient.zero_();
      continue;
    }
    const Constants c = constants(rule, factor, slot.weight_decay);
    const bool copies = slot.working.defined();
    if (slot.exp_avg.scalar_type() == at::kFloat) {
      update_in_ranges<float>(slot, c, copies ? update_fp32_copying : update_fp32);
    } else {
      update_in_ranges<BFloat16>(slot, c, copies ? update_bf16_copying : update_bf16);
    }
    mark_changed(slot);
  }
}

// Tensors of one launch of the device's kernel: moments of dtype M, W numbers at a time.
template <class M, int W>
class Launch {
 public:
  Launch(const Rule& rule, const Tensor& scale, const Tensor& skip) {
    const Constants c = constants(rule, 1.0, 0.0);
    kernel_.scale = numbers<float>(scale);
    kernel_.skip = numbers<float>(skip);
    kernel_.beta1 = c.beta1;
    kernel_.rest1 = c.rest1;
    kernel_.beta2 = c.beta2;
    kernel_.rest2 = c.rest2;
    kernel_.eps = c.eps;
    kernel_.step_size = c.step_size;
    kernel_.root_bias2 = c.root_bias2;
    kernel_.sign = c.scale;
  }

  // Launches first where there is no room for one more.
  void add(const Slot& slot, float kept) {
    if (count_ == cu::ADAMW_TENSORS) run();
    on_ = slot.master;
    const int64_t count = slot.master.numel();
    kernel_.tensors[count_] = {numbers<float>(slot.master), numbers<float>(slot.gradient), numbers<M>(slot.exp_avg),
                               numbers<M>(slot.exp_avg_sq), numbers<cu::Bf16>(slot.working), count, kept};
    const auto blocks = static_cast<uint32_t>(divup(count, cu::ADAMW_BLOCK));
    kernel_.first_block[count_ + 1] = kernel_.first_block[count_] + blocks;
    ++count_;
  }

  void run() {
    if (count_ == 0) return;
    launch(on_, Geometry{kernel_.first_block[count_], 1, 256, 0}, kernel_);
    count_ = 0;
  }

 private:
  cu::Adamw<M, W> kernel_{};
  Tensor on_;
  int count_ = 0;
};

// Tensors whose moments are of dtype M: those that can be moved 16 bytes at a time, and the others.
template <class M>
class Launches {
 public:
  Launches(const Rule& rule, const Tensor& scale, const Tensor& skip)
      : packed_(rule, scale, skip), single_(rule, scale, skip) {}

  void add(const Slot& slot, float kept) {
    const bool packs = in_packs(slot.master.numel(), sizeof(float),
                                {slot.master.data_ptr(), slot.gradient.data_ptr(), slot.exp_avg.data_ptr(),
                                 slot.exp_avg_sq.data_ptr(), numbers<char>(slot.working)});
    packs ? packed_.add(slot, kept) : single_.add(slot, kept);
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
  Launches<float> fp32(rule, scale, skip);
  Launches<cu::Bf16> bf16(rule, scale, skip);
  for (const Slot& slot : slots) {
    const float kept = constants(rule, 1.0, slot.weight_decay).kept;
    slot.exp_avg.scalar_type() == at::kFloat ? fp32.add(slot, kept) : bf16.add(slot, kept);
    mark_changed(slot);
  }
  fp32.run();
  bf16.run();
}

// The arguments of one call of libtorch's fused kernel, which knows one weight decay.
struct Fused {
  std::vector<Tensor> masters, gradients, exp_avgs, exp_avg_sqs;

  void add(const Slot& slot, Tensor exp_avg, Tensor exp_avg_sq) {
    masters.push_back(slot.master);
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
  const std::vector<Tensor> steps(fused.masters.size(), controls.step);
  at::_fused_adamw_(fused.masters, fused.gradients, fused.exp_avgs, fused.exp_avg_sqs, {}, steps, rule.learning_rate,
                    rule.beta1, rule.beta2, weight_decay, rule.eps, /*amsgrad=*/false, rule.maximize,
                    controls.divisor, controls.skip);
}

// Moments that the fused kernel cannot take as they are. The way back to the host waits: whoever reads the moments
// there finds them whole.
void update_elsewhere(const Slot& slot, const Rule& rule, const Controls& controls) {
  const auto device = slot.master.device();
  const auto kind = slot.exp_avg.scalar_type();
  auto bring = [&](const Tensor& moment) {
    return moment.to(device, kind, /*non_blocking=*/true).to(at::kFloat);
  };
  Tensor exp_avg = bring(slot.exp_avg), exp_avg_sq = bring(slot.exp_avg_sq);
  Fused one;
  one.add(slot, exp_avg, exp_avg_sq);
  call(one, rule, controls, slot.weight_decay);
  slot.exp_avg.copy_(exp_avg.to(kind));
  slot.exp_avg_sq.copy_(exp_avg_sq.to(kind));
}

void update_by_libtorch(const std::vector<Slot>& slots, const Rule& rule, const Tensor& scale, const Tensor& skip) {
  if (slots.empty()) return;
  // The fused kernel divides by its scale and skips at exactly one.
  const Controls controls{at::full({}, rule.step, slots[0].master.options().requires_grad(false)),
                          scale.to(at::kFloat).reciprocal(), skip.ne(0).to(at::kFloat)};
  std::map<double, Fused> resident;
  std::vector<Tensor> gradients, sources, working;
  for (const Slot& slot : slots) {
    const bool stays = slot.exp_avg.scalar_type() == at::kFloat && slot.exp_avg.device() == slot.master.device();
    if (stays) {
      resident[slot.weight_decay].add(slot, slot.exp_avg, slot.exp_avg_sq);
    } else {
      update_elsewhere(slot, rule, controls);
    }
    gradients.push_back(slot.gradient);
    if (!slot.working.defined()) continue;
    sources.push_back(slot.master);
    working.push_back(slot.working);
  }
  for (const auto& [weight_decay, fused] : resident) call(fused, rule, controls, weight_decay);
  if (!working.empty()) at::_foreach_copy_(working, sources);
  at::_foreach_zero_(gradients);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// `working[i]` may be null. `kernel` is 0 to take libtorch's fused kernel on the CPU too.
extern "C" int shearling_adamw(Tensor* const* masters, Tensor* const* gradients, Tensor* const* exp_avgs,
                               Tensor* const* exp_avg_sqs, Tensor* const* working, const double* weight_decays,
                               size_t count, const shearling::Rule* rule, Tensor* scale, Tensor* skip, int kernel,
                               char** error) {
  return shearling::guarded(error, [&] {
    using shearling::optional;
    const c10::NoGradGuard no_grad;
    std::vector<shearling::Slot> slots;
    for (size_t i = 0; i < count; ++i) {
      shearling::Slot slot{*masters[i],     *gradients[i],        *exp_avgs[i],
                           *exp_avg_sqs[i], optional(working[i]), weight_decays[i]};
      check_slot(slot, masters[0]->device());
      // libtorch's fused kernel refuses tensors without elements.
      if (slot.master.numel() > 0) slots.push_back(std::move(slot));
    }
    if (slots.empty()) return;
    const auto device = slots[0].master.device();
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
