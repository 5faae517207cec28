// Launches over activations: RMSNorm, SwiGLU and rotary position embedding.
#include "../../cu/rms_norm.h"
#include "../../cu/rope.h"
#include "../../cu/swiglu.h"
#include "kernels.h"

namespace shearling::device {

void rms_norm(const Tensor& x, const Tensor& weight, const Tensor& mean_weights, double eps, const Tensor& y,
              const Tensor& rstd) {
  const int64_t columns = x.size(-1), rows = rstd.numel();
  const bool packs = in_packs(columns, x.element_size(), {x.data_ptr(), y.data_ptr(), weight.data_ptr(),
                                                          numbers<float>(mean_weights)});
  by_pack_of_two(x.scalar_type(), weight.scalar_type(), packs, [&](auto number, auto other, auto width) {
    using T = decltype(number);
    using G = decltype(other);
    const Geometry geometry{rows, 1, row_threads(columns, width), 0};
    launch(x, geometry,
           cu::RmsNormForward<T, G, width>{numbers<T>(x), numbers<G>(weight), numbers<float>(mean_weights),
                                           numbers<T>(y), numbers<float>(rstd), rows, columns,
                                           static_cast<float>(eps)});
  });
}

Tensor rms_norm_backward(const Tensor& x, const Tensor& gradient, const Tensor& residual, const Tensor& weight,
                         const Tensor& mean_weights, const Tensor& rstd, const Tensor& dx, bool weight_wanted) {
  const int64_t columns = x.size(-1);
  // Short rows, as of heads, have few threads each: more blocks make up for it.
  const cu::Rows rows = row_parts(rstd.numel(), 1, std::clamp<int64_t>((1 << 21) / columns, 512, 8192));
  const Tensor partial = weight_wanted ? part_sums(rows, columns, x) : Tensor();
  const bool packs = in_packs(columns, x.element_size(),
                              {x.data_ptr(), gradient.data_ptr(), numbers<char>(residual), weight.data_ptr(),
                               numbers<float>(mean_weights), numbers<char>(dx)});
  by_pack_of_two(x.scalar_type(), weight.scalar_type(), packs, [&](auto number, auto other, auto width) {
    using T = decltype(number);
    using G = decltype(other);
    const size_t shared = weight_wanted ? columns * sizeof(float) : 0;
    const Geometry geometry{part_count(rows), 1, row_threads(columns, width), shared};
    launch(x, geometry,
           cu::RmsNormBackward<T, G, width>{numbers<T>(x), numbers<T>(gradient), numbers<T>(residual),
                                            numbers<G>(weight), numbers<float>(mean_weights), numbers<float>(rstd),
                                            numbers<T>(dx), numbers<float>(partial), rows, columns});
  });
  return add_part_sums(partial);
}

void swiglu(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& y) {
  const int64_t columns = gate.size(-1);
  const cu::Rows rows = row_parts(gate.numel() / columns, 16, 256);
  const bool packs = in_packs(columns, gate.element_size(),
                              {gate.data_ptr(), up.data_ptr(), numbers<float>(mask), y.data_ptr()});
  by_pack(gate.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    launch(gate, column_geometry(columns, width, rows),
           cu::SwigluForward<T, width>{numbers<T>(gate), numbers<T>(up), numbers<float>(mask), numbers<T>(y), rows,
                                       columns});
  });
}

Tensor swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& mask, const Tensor& gradient,
                       const Tensor& dgate, const Tensor& dup, bool mask_wanted) {
  const int64_t columns = gate.size(-1);
  const cu::Rows rows = row_parts(gate.numel() / columns, 16, 256);
  const Tensor partial = mask_wanted ? part_sums(rows, columns, gate) : Tensor();
  const bool packs = in_packs(columns, gate.element_size(),
                              {gate.data_ptr(), up.data_ptr(), numbers<float>(mask), gradient.data_ptr(),
                               dgate.data_ptr(), dup.data_ptr()});
  by_pack(gate.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    launch(gate, column_geometry(columns, width, rows),
           cu::SwigluBackward<T, width>{numbers<T>(gate), numbers<T>(up), numbers<float>(mask), numbers<T>(gradient),
                                        numbers<T>(dgate), numbers<T>(dup), numbers<float>(partial), rows, columns});
  });
  return add_part_sums(partial);
}

void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, float direction, const Tensor& y) {
  const int64_t tokens = x.size(1), places = x.size(0) * tokens, heads = x.size(2), half = x.size(3) / 2;
  bool packs = in_packs(half, x.element_size(), {x.data_ptr(), y.data_ptr(), cos.data_ptr(), sin.data_ptr()});
  for (int64_t dim = 0; dim < 3; ++dim) packs = packs && x.stride(dim) * x.element_size() % 16 == 0;
  by_pack(x.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    const Geometry geometry{places, 1, row_threads(heads * half, width), 0};
    launch(x, geometry,
           cu::Rotate<T, width>{numbers<T>(x), numbers<float>(cos), numbers<float>(sin), numbers<T>(y), x.stride(0),
                                x.stride(1), x.stride(2), places, tokens, static_cast<uint32_t>(heads),
                                static_cast<uint32_t>(half), direction});
  });
}

}  // namespace shearling::device
