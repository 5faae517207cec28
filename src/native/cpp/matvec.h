// The product of a few rows with a weight as it lies in a checkpoint, which is what decoding consists of.
//
// Such a product reads every weight once and does little with it: memory is the limit. The libraries' matrix products
// reach about half of what one core can read, and less in bf16, because they pack the weight first or walk it by tiles.
// One row of the weight after the other, against inputs that stay in the cache, runs at the speed of reading.
#pragma once

#include "shim.h"

namespace shearling {

// Whether `matvec` does a b into `out`: at most four rows, b the transposed view of a contiguous weight [O, I], fp32 or
// bf16 throughout, on the CPU.
bool matvec_serves(const Tensor& a, const Tensor& b, const Tensor& out);

// out [N, O] = a [N, I] b [I, O], or += with `accumulate`; sums in fp32, rounded once.
void matvec(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate);

}  // namespace shearling
