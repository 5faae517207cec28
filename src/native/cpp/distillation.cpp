// The output layers of a student and of a frozen teacher, and what is lost between their predictions, a few rows at a time,
// so that the logits [N, V] of neither exist as a whole. With p = softmax(z), s = softmax(z / T) of the student's logits
// z_n = h_n W^T and t = softmax(z' / T) of the teacher's z'_n = h'_n W'^T:
//   CE_n = -log p[target_n],   KL_n = sum_v t_v (log t_v - log s_v),
//   objective = scale sum_n ((1 - share) CE_n + share T^2 KL_n).
// Its gradient by z_n is (1 - share) (p - onehot) + share T (s - t): T^2 makes up for the 1/T that comes with each of the
// two softmaxes (Hinton et al., arXiv 1503.02531, section 2.1). The teacher has no gradient.
#include "device/kernels.h"
#include "head_loss.h"

#include <ATen/ops/log_softmax.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Blend {
  double share, temperature, scale;
};

// What one row gives. With `gradient` the student's row becomes the objective's gradient by it.
struct RowResult {
  float cross_entropy, divergence;
};

template <class S, class T>
SHEARLING_INLINE RowResult row_distillation(S* student, const T* teacher, int64_t columns, int64_t target, float share,
                                            float temperature, float scale, bool gradient) {
  const float top = largest(student, columns), teacher_top = largest(teacher, columns);
  const float cold = 1.0f / temperature;
  const bool warm = temperature != 1.0f;
  float plain = 0.0f, sum = 0.0f, teacher_sum = 0.0f, apart = 0.0f;
  for (int64_t i = 0; i < columns; ++i) {
    const float own = (load(student[i]) - top) * cold, its = (load(teacher[i]) - teacher_top) * cold;
    const float weight = exponential(its);
    sum += exponential(own);
    teacher_sum += weight;
    apart += weight * (its - own);
  }
  for (int64_t i = 0; warm && i < columns; ++i) plain += exponential(load(student[i]) - top);
  if (!warm) plain = sum;
  const float aim = load(student[target]) - top;
  if (gradient) {
    const float of_target = (1.0f - share) * scale, of_teacher = share * temperature * scale;
    const float by_plain = of_target / plain, by_sum = of_teacher / sum, by_teacher = of_teacher / teacher_sum;
    const float hit = of_target * (exponential(aim) / plain - 1.0f) +
                      of_teacher * (exponential(aim * cold) / sum -
                                    exponential((load(teacher[target]) - teacher_top) * cold) / teacher_sum);
    if (warm) {
      for (int64_t i = 0; i < columns; ++i) {
        const float own = load(student[i]) - top, its = (load(teacher[i]) - teacher_top) * cold;
        store(student[i], exponential(own) * by_plain + exponential(own * cold) * by_sum -
                              exponential(its) * by_teacher);
      }
    } else {
      const float by_both = by_plain + by_sum;
      for (int64_t i = 0; i < columns; ++i) {
        store(student[i], exponential(load(student[i]) - top) * by_both -
                              exponential(load(teacher[i]) - teacher_top) * by_teacher);
      }
    }
    store(student[target], hit);
  }
  return {std::log(plain) - aim, apart / teacher_sum + std::log(sum / teacher_sum)};
}

// Over rows: writes both losses; with `gradient` the student's logits become the objective's gradients.
template <class S, class T>
struct RowDistillations {
  S* student;
  const T* teacher;
  const int64_t* targets;
  float* cross_entropies;
  float* divergences;
  int64_t columns;
  float share, temperature, scale;
  bool gradient;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      S* at = student + row * columns;
      RowResult result{0.0f, 0.0f};
      if (targets[row] != IGNORED) {
        result = row_distillation(at, teacher + row * columns, columns, targets[row], share, temperature, scale, gradient);
      } else {
        for (int64_t i = 0; gradient && i < columns; ++i) store(at[i], 0.0f);
      }
      cross_entropies[row] = result.cross_entropy;
      divergences[row] = result.divergence;
    }
  }
};
using FloatFloat = RowDistillations<float, float>;
using FloatBFloat16 = RowDistillations<float, BFloat16>;
using BFloat16Float = RowDistillations<BFloat16, float>;
using BFloat16BFloat16 = RowDistillations<BFloat16, BFloat16>;
SHEARLING_RUN(FloatFloat)
SHEARLING_RUN(FloatBFloat16)
SHEARLING_RUN(BFloat16Float)
SHEARLING_RUN(BFloat16BFloat16)

// fp32, or fp64 for a student in fp64.
at::ScalarType wide(const Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Tensor log_probabilities(const Tensor& logits, double temperature, at::ScalarType kind) {
  if (temperature == 1.0) return at::log_softmax(logits, 1, kind);
  return at::log_softmax(logits.to(kind).div(temperature), 1);
}

void composed_chunk(Tensor& student, const Tensor& teacher, const Tensor& targets, Tensor& cross_entropies,
                    Tensor& divergences, const Blend& blend, bool gradient) {
  const auto kind = wide(student);
  const Tensor valid = targets.ne(IGNORED).unsqueeze(1).to(kind), target = targets.clamp_min(0).unsqueeze(1);
  Tensor plain = log_probabilities(student, 1.0, kind);
  Tensor own = blend.temperature == 1.0 ? plain : log_probabilities(student, blend.temperature, kind);
  Tensor its = log_probabilities(teacher, blend.temperature, kind);
  const Tensor weights = its.exp();
  cross_entropies.copy_(plain.gather(1, target).neg_().mul_(valid).squeeze(1));
  divergences.copy_(its.sub_(own).mul_(weights).sum(1, true).mul_(valid).squeeze(1));
  if (!gradient) return;
  const double of_target = 1.0 - blend.share, of_teacher = blend.share * blend.temperature;
  // In place: `own` is `plain` where both are softmaxes at one temperature.
  if (blend.temperature == 1.0) {
    own.exp_().sub_(weights, of_teacher);
  } else {
    own.exp_().sub_(weights).mul_(of_teacher).add_(plain.exp_(), of_target);
  }
  own.scatter_add_(1, target, valid.mul(-of_target));
  at::mul_out(student, own, valid.mul(blend.scale));
}

bool has_kernel(const Tensor& logits) {
  const auto kind = logits.scalar_type();
  return has_cpu_kernels(logits.device()) && (kind == at::kFloat || kind == at::kBFloat16);
}

// The device's kernel takes both models' logits in one dtype.
bool has_device_kernel(const Tensor& student, const Tensor& teacher) {
  const auto kind = student.scalar_type();
  return has_device_kernels(student.device()) && (kind == at::kFloat || kind == at::kBFloat16) &&
         teacher.scalar_type() == kind;
}

// Both losses of a chunk's rows; with `gradient` the student's logits become the objective's gradients.
void chunk_distillation(Tensor& student, const Tensor& teacher, const Tensor& targets, Tensor& cross_entropies,
                        Tensor& divergences, const Blend& blend, bool gradient) {
  if (has_device_kernel(student, teacher)) {
    return device::distillation(student, teacher, targets, cross_entropies, divergences, IGNORED, blend.share,
                                blend.temperature, blend.scale, gradient);
  }
  if (!has_kernel(student) || !has_kernel(teacher)) {
    return composed_chunk(student, teacher, targets, cross_entropies, divergences, blend, gradient);
  }
  by_kind(student.scalar_type(), [&](auto of_student) {
    by_kind(teacher.scalar_type(), [&](auto of_teacher) {
      using S = decltype(of_student);
      using T = decltype(of_teacher);
      const int64_t columns = student.size(1);
      parallel(student.size(0), rows_at_a_time(columns),
               RowDistillations<S, T>{student.mutable_data_ptr<S>(), teacher.const_data_ptr<T>(),
                                      targets.const_data_ptr<int64_t>(), cross_entropies.mutable_data_ptr<float>(),
                                      divergences.mutable_data_ptr<float>(), columns, static_cast<float>(blend.share),
                                      static_cast<float>(blend.temperature), static_cast<float>(blend.scale), gradient});
    });
  });
}

struct LinearDistillation : Function<LinearDistillation> {
  static variable_list forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                               const Tensor& teacher_hidden, const Tensor& teacher_weight, const Tensor& targets,
                               Blend blend, int64_t chunk_rows, Wanted wanted) {
    const Tensor rows = hidden.contiguous(), its_rows = teacher_hidden.contiguous(), aims = targets.contiguous();
    const auto kind = wide(hidden);
    Tensor cross_entropies = at::zeros({rows.size(0)}, hidden.options().dtype(kind));
    Tensor divergences = at::zeros_like(cross_entropies);
    const Tensor buffer = at::empty({std::min(chunk_rows, rows.size(0)), weight.size(0)}, its_rows.options());
    const HeadGradients made =
        by_chunks(rows, weight, chunk_rows, wanted, kind, [&](int64_t start, int64_t count, Tensor& logits) {
          Tensor its = buffer.narrow(0, 0, count);
          gemm(its_rows.narrow(0, start, count), teacher_weight.t(), its, false);
          Tensor cross_entropy = cross_entropies.narrow(0, start, count), divergence = divergences.narrow(0, start, count);
          chunk_distillation(logits, its, aims.narrow(0, start, count), cross_entropy, divergence, blend, wanted.any());
        });
    ctx->mark_non_differentiable({cross_entropies, divergences});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({made.hidden, made.weight, weight});
    const double of_teacher = blend.share * blend.temperature * blend.temperature;
    Tensor objective = cross_entropies.sum().mul_((1.0 - blend.share) * blend.scale);
    objective.add_(divergences.sum(), of_teacher * blend.scale);
    return {objective, cross_entropies, divergences};
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const Tensor& upstream = gradients[0];
    variable_list out(8);
    if (!upstream.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    if (saved[0].defined()) out[0] = saved[0].mul(upstream);
    if (saved[1].defined()) out[1] = weight_gradient(saved[2], saved[1], upstream);
    return out;
  }
};

void check_teacher(const Tensor& hidden, const Tensor& weight, const Tensor& teacher_hidden,
                   const Tensor& teacher_weight, const Blend& blend) {
  check_head(teacher_hidden, teacher_weight, "the teacher's hidden");
  TORCH_CHECK(teacher_hidden.size(0) == hidden.size(0), "the teacher's hidden of ", teacher_hidden.sizes(),
              " for hidden of ", hidden.sizes());
  TORCH_CHECK(teacher_weight.size(0) == weight.size(0), "a teacher with a vocabulary of ", teacher_weight.size(0),
              " for a student with one of ", weight.size(0));
  TORCH_CHECK(teacher_hidden.device() == hidden.device() && teacher_weight.device() == hidden.device(),
              "the teacher's hidden on ", teacher_hidden.device(), ", its weight on ", teacher_weight.device(),
              ", the student on ", hidden.device());
  TORCH_CHECK(blend.share >= 0.0 && blend.share <= 1.0, "a share of ", blend.share, ", not between 0 and 1");
  TORCH_CHECK(blend.temperature > 0.0 && std::isfinite(blend.temperature), "a temperature of ", blend.temperature);
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// Gives three tensors: the objective, and cross entropy and divergence by row.
extern "C" int shearling_linear_distillation(Tensor* hidden, Tensor* weight, Tensor* teacher_hidden,
                                             Tensor* teacher_weight, Tensor* targets, double share, double temperature,
                                             double scale, int64_t chunk_rows, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    const Blend blend{share, temperature, scale};
    check_head_loss(*hidden, *weight, *targets, chunk_rows);
    check_teacher(*hidden, *weight, *teacher_hidden, *teacher_weight, blend);
    check_targets(*targets, weight->size(0));
    const Wanted wanted = Wanted::of(*hidden, *weight);
    const auto result = LinearDistillation::apply(*hidden, *weight, teacher_hidden->detach(), teacher_weight->detach(),
                                                  *targets, blend, chunk_rows, wanted);
    for (size_t i = 0; i < result.size(); ++i) give(out + i, result[i]);
  });
}
