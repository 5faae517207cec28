// fp32 tensors in two halves (cu/halves.h), by plain operators of libtorch: for what is done once, and where there are no
// kernels.
#pragma once

#include "shim.h"

namespace shearling {

// `high` bf16 and `low` int16 of one shape: fp32 of that shape, in memory of its own.
Tensor join(const Tensor& high, const Tensor& low);

// Writes the halves of fp32 `whole` into `high` and `low`.
void split_into(const Tensor& whole, const Tensor& high, const Tensor& low);

}  // namespace shearling
