// The single entry point for matrix products of the shim, out = a b or out += a b.
//
// libtorch sends fp32 products on a CPU to MKL, which on some CPUs runs at half the vector width that oneDNN uses; so
// fp32 goes to oneDNN where it is there and gets a small product right. Gradients of bf16 weights are summed in fp32
// buffers, hence the mixed product.
#pragma once

#include "shim.h"

namespace shearling {

// out [M, N] = a [M, K] b [K, N], or += with `accumulate`. `a` and `b` are of one dtype and may be transposed views;
// `out` is of that dtype, or wider: then the product is rounded to the dtype of `a` before it is added, unless the
// device adds it unrounded. For use where gradients are off.
void gemm(const Tensor& a, const Tensor& b, Tensor& out, bool accumulate);

// a b as a new tensor of the dtype of `a`.
Tensor product(const Tensor& a, const Tensor& b);

}  // namespace shearling
