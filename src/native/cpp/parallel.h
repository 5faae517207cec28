// Loops over libtorch's own threads.
//
// `at::parallel_for` is a template: in a file compiled without OpenMP it is a plain loop, and compiled with OpenMP it
// may bring a second runtime with a second set of threads. `TensorIterator::for_each` is compiled into libtorch, so
// this works with every compiler and shares the threads of all other operators. Same arguments as `at::parallel_for`.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

namespace shearling {

// How many parts of size `part` cover `whole`.
inline int64_t divup(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Calls `body(from, to)` for ranges that together cover [begin, end), each but the last a multiple of `grain` long.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  if (begin >= end) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t tasks = divup(end - begin, grain);
  if (tasks == 1) return body(begin, end);
  // One byte for each task; only its address is used.
  at::Tensor bytes = at::empty({tasks}, at::kByte);
  const char* base = static_cast<const char*>(bytes.const_data_ptr());
  at::TensorIterator iterator = at::TensorIterator::nullary_op(bytes);
  auto run = [&](char** data, const int64_t*, int64_t count) {
    const int64_t first = data[0] - base;
    body(begin + first * grain, std::min(end, begin + (first + count) * grain));
  };
  iterator.for_each(run, /*grain_size=*/1);
}

}  // namespace shearling
