// SwiGLU with the intermediate gate, and its backward, which recomputes the sigmoid instead of keeping it.
//
//   y = silu(a) · u · z              silu(a) = a σ(a)
//   du = dy · silu(a) · z            da = dy · u · z · σ(a) (1 + a (1 − σ(a)))
//   dz = Σ_rows dy · silu(a) · u
#include "device/kernels.h"
#include "kernel.h"
#include "made_again.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
SHEARLING_INLINE void forward_row(const T* __restrict__ gate, const T* __restrict__ up,
                                  const float* __restrict__ mask, T* __restrict__ y, int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) {
    const float a = load(gate[j]);
    store(y[j], a * sigmoid(a) * load(up[j]) * mask[j]);
  }
}

template <class T>
struct SwigluForward {
  const T* gate;
  const T* up;
  const float* mask;
  T* y;
  int64_t columns;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      forward_row(gate + at, up + at, mask, y + at, columns);
    }
  }
};
SHEARLING_RUN(SwigluForward<float>)
SHEARLING_RUN(SwigluForward<BFloat16>)

template <bool Masked, class T>
SHEARLING_INLINE void backward_row(const T* __restrict__ gate, const T* __restrict__ up,
                                   const float* __restrict__ mask, const T* __restrict__ gradient,
                                   T* __restrict__ dgate, T* __restrict__ dup, float* __restrict__ dmask,
                                   int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) {
    const float a = load(gate[j]), u = load(up[j]), dy = load(gradient[j]);
    const float s = sigmoid(a), silu = a * s, through = dy * mask[j];
    store(dup[j], through * silu);
    store(dgate[j], through * u * s * (1.0f + a * (1.0f - s)));
    if constexpr (Masked) dmask[j] += dy * silu * u;
  }
}

// Over parts of the rows. `dmask` may be null: not asked for.
template <class T>
struct SwigluBackward {
  const T* gate;
  const T* up;
  const float* mask;
  const T* gradient;
  T* dgate;
  T* dup;
  float* dmask;
  int64_t columns;
  RowParts parts;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t part = begin; part < end; ++part) {
      for (int64_t row = parts.begin(part); row < parts.end(part); ++row) row_of(part, row * columns);
    }
  }

  SHEARLING_INLINE void row_of(int64_t part, int64_t at) const {
    if (dmask) {
      float* sums = dmask + part * columns;
      backward_row<true>(gate + at, up + at, mask, gradient + at, dgate + at, dup + at, sums, columns);
    } else {
      backward_row<false>(gate + at, up + at, mask, gradient + at, dgate + at, dup + at, dmask, columns);
    }
  }
};
SHEARLING_RUN(SwigluBackward<float>)
SHEARLING_RUN(SwigluBackward<BFloat16>)

Tensor mask_or_ones(const Tensor& mask, int64_t columns) {
  return mask.defined() ? mask.contiguous() : at::ones({columns}, at::TensorOptions(at::kFloat));
}

void activate(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& y) {
  if (has_device_kernels(gate.device())) return device::swiglu(gate, up, mask, y);
  const int64_t columns = gate.size(-1);
  const Tensor factors = mask_or_ones(mask, columns);
  by_kind(gate.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(gate.numel() / columns, rows_at_a_time(columns),
             SwigluForward<T>{gate.const_data_ptr<T>(), up.const_data_ptr<T>(), factors.const_data_ptr<float>(),
                              y.mutable_data_ptr<T>(), columns});
  });
}

// Fills dgate and dup; gives the mask's gradient where wanted.
Tensor activate_backward(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& gradient,
                         const Tensor& dgate, const Tensor& dup, bool mask_wanted) {
  if (has_device_kernels(gate.device())) {
    return device::swiglu_backward(gate, up, mask, gradient, dgate, dup, mask_wanted);
  }
  const int64_t columns = gate.size(-1);
  const RowParts parts(gate.numel() / columns);
  const Tensor factors = mask_or_ones(mask, columns);
  const Tensor partial = mask_wanted ? partial_sums(parts, columns) : Tensor();
  by_kind(gate.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(parts.count, 1,
             SwigluBackward<T>{gate.const_data_ptr<T>(), up.const_data_ptr<T>(), factors.const_data_ptr<float>(),
                               gradient.const_data_ptr<T>(), dgate.mutable_data_ptr<T>(), dup.mutable_data_ptr<T>(),
                               mask_wanted ? partial.mutable_data_ptr<float>() : nullptr, columns, parts});
  });
  return mask_wanted ? add_parts(partial) : Tensor();
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_, const Tensor& up_,
                        const std::optional<Tensor>& mask_) {
    const Tensor gate = gate_.contiguous(), up = up_.contiguous();
    const Tensor mask = mask_ ? mask_->contiguous() : Tensor();
    const Tensor y = at::empty_like(gate);
    activate(gate, up, mask, y);
    context->save_for_backward({gate, up, mask});
    return y;
  }

  // dgate and dup are made together: all they need is read once, and no model asks for one without the other.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    check_first_order();
    const auto saved = context->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1], &mask = saved[2];
    const bool mask_wanted = mask.defined() && context->needs_input_grad(2);
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    const Tensor dmask = activate_backward(gate, up, mask, gradients[0].contiguous(), dgate, dup, mask_wanted);
    if (!context->needs_input_grad(0)) dgate = Tensor();
    if (!context->needs_input_grad(1)) dup = Tensor();
    return {dgate, dup, dmask};
  }
};

using SwigluNode = torch::autograd::CppNode<Swiglu>;

Tensor swiglu(const Tensor& gate, const Tensor& up, const Tensor& mask) {
  check_storage(gate, "the gate branch");
  check_storage(up, "the up branch");
  const int64_t columns = columns_of(gate, "the gate branch");
  TORCH_CHECK(gate.sizes() == up.sizes(), "the gate branch is ", gate.sizes(), ", the up branch ", up.sizes());
  TORCH_CHECK(gate.scalar_type() == up.scalar_type() && gate.device() == up.device(), "the gate branch is ",
              gate.scalar_type(), " on ", gate.device(), ", the up branch ", up.scalar_type(), " on ", up.device());
  if (!mask.defined()) return Swiglu::apply(gate, up, std::optional<Tensor>());
  check_vector(mask, "the mask", columns, gate.device());
  return Swiglu::apply(gate, up, std::optional<Tensor>(mask));
}

}  // namespace

bool is_swiglu(const Node* node) { return dynamic_cast<const SwigluNode*>(node) != nullptr; }

Tensor activated_again(Node* node) {
  const at::AutoGradMode off(false);
  const auto saved = dynamic_cast<SwigluNode&>(*node).ctx_.get_saved_variables();
  const Tensor y = at::empty_like(saved[0]);
  activate(saved[0], saved[1], saved[2], y);
  return y;
}

}  // namespace shearling

using shearling::Tensor;

// `mask` may be null.
extern "C" int shearling_swiglu(Tensor* gate, Tensor* up, Tensor* mask, Tensor** out, char** error) {
  return shearling::guarded(
      error, [&] { shearling::give(out, shearling::swiglu(*gate, *up, shearling::optional(mask))); });
}
