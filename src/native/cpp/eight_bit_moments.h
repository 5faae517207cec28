// AdamW's moments in 8 bits each (cu/moments.h), by plain operators of libtorch: where there are no kernels, and what the
// kernels are compared with.
#pragma once

#include "shim.h"

#include <utility>

namespace shearling {

// The first moment's bound over the square of the number of its levels; 0 where there is no bound (β1² >= β2).
float eight_bit_unit(double beta1, double beta2);

// Both moments in fp32, of `first` int8 and `second` uint8.
std::pair<Tensor, Tensor> from_eight_bits(const Tensor& first, const Tensor& second, float unit);

// Both in 8 bits, of fp32 `first` and `second`; `place` is that of the first number in the whole tensor.
std::pair<Tensor, Tensor> to_eight_bits(const Tensor& first, const Tensor& second, float unit, uint32_t key,
                                        int64_t place);

}  // namespace shearling
