// Rotary position embedding, "rotate half" layout: the pair (x_i, x_{i+E/2}) of every head turns by the angle of its
// token. The backward turns the gradient back.
//
//   y_i = x_i cos − x_{i+E/2} sin      y_{i+E/2} = x_{i+E/2} cos + x_i sin
#include "device/kernels.h"
#include "kernel.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
SHEARLING_INLINE void rotate_head(const T* __restrict__ x, const float* __restrict__ cos,
                                  const float* __restrict__ sin, float direction, T* __restrict__ upper,
                                  T* __restrict__ lower, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = load(x[i]), second = load(x[i + half]), turn = direction * sin[i];
    store(upper[i], first * cos[i] - second * turn);
    store(lower[i], second * cos[i] + first * turn);
  }
}

// Over tokens of all rows: `x [B, T, H, E]` of any strides but in E, `y` contiguous. `direction` is 1, or −1 to turn
// back.
template <class T>
struct Rotate {
  const T* x;
  const float* cos;
  const float* sin;
  float direction;
  T* y;
  int64_t row_stride, token_stride, head_stride;
  int64_t tokens, heads, half;

  SHEARLING_INLINE void operator()(int64_t begin, int64_t end) const {
    for (int64_t place = begin; place < end; ++place) {
      const int64_t row = place / tokens, token = place % tokens, angle = token * 2 * half;
      const T* from = x + row * row_stride + token * token_stride;
      T* to = y + place * heads * 2 * half;
      for (int64_t head = 0; head < heads; ++head, from += head_stride, to += 2 * half) {
        rotate_head(from, cos + angle, sin + angle, direction, to, to + half, half);
      }
    }
  }
};
SHEARLING_RUN(Rotate<float>)
SHEARLING_RUN(Rotate<BFloat16>)

Tensor rotate(const Tensor& x_, const Tensor& cos, const Tensor& sin, float direction) {
  // The gradient of attention is a transposed view: rows, tokens and heads may lie anywhere.
  const Tensor x = x_.stride(3) == 1 ? x_ : x_.contiguous();
  const int64_t rows = x.size(0), tokens = x.size(1), heads = x.size(2), dim = x.size(3);
  Tensor y = at::empty(x.sizes(), x.options());
  if (has_device_kernels(x.device())) {
    device::rotate(x, cos, sin, direction, y);
    return y;
  }
  by_kind(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    parallel(rows * tokens, rows_at_a_time(std::max<int64_t>(1, heads * dim)),
             Rotate<T>{x.const_data_ptr<T>(), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), direction,
                       y.mutable_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2), tokens, heads, dim / 2});
  });
  return y;
}

struct Rope : torch::autograd::Function<Rope> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotate(x, cos, sin, 1.0f);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    check_first_order();
    const auto saved = context->get_saved_variables();
    return {rotate(gradients[0], saved[0], saved[1], -1.0f), Tensor(), Tensor()};
  }
};

void check_table(const Tensor& table, const char* name, const Tensor& x) {
  TORCH_CHECK(table.device() == x.device() && table.scalar_type() == at::kFloat && !table.requires_grad(), name,
              " is not an fp32 table on ", x.device(), " without gradient");
  TORCH_CHECK(table.dim() == 2 && table.size(0) >= x.size(1) && table.size(1) == x.size(3), name, " is ",
              table.sizes(), ", x is ", x.sizes());
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  check_storage(x, "x");
  TORCH_CHECK(x.dim() == 4 && x.size(3) % 2 == 0 && x.size(3) > 0, "x is ", x.sizes(), ", not [B, T, H, even E]");
  check_table(cos, "cos", x);
  check_table(sin, "sin", x);
  return Rope::apply(x, cos.contiguous(), sin.contiguous());
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

extern "C" int shearling_rope(Tensor* x, Tensor* cos, Tensor* sin, Tensor** out, char** error) {
  return shearling::guarded(error, [&] { shearling::give(out, shearling::rope(*x, *cos, *sin)); });
}
