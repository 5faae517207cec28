// What every file of the shim shares: the guard around each `extern "C"` body and the way tensors cross the border.
//
// Tensors come in as `at::Tensor*` (what `tch::Tensor::as_ptr` gives) and stay the caller's; tensors go out as
// `new at::Tensor`, which Rust takes over with `Tensor::from_ptr`. A null pointer is an absent tensor.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace shearling {

using at::Tensor;

// Runs `body`; no C++ exception unwinds into Rust. Returns 0, or 1 with a message that Rust frees with `free`.
template <class Body>
int guarded(char** error, Body&& body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& problem) {
    *error = strdup(problem.what_without_backtrace());
  } catch (const std::exception& problem) {
    *error = strdup(problem.what());
  } catch (...) {
    *error = strdup("an unknown C++ exception");
  }
  return 1;
}

// Hands a tensor to Rust.
inline void give(Tensor** out, Tensor tensor) { *out = new Tensor(std::move(tensor)); }

// An optional argument: an undefined tensor when absent.
inline Tensor optional(Tensor* tensor) { return tensor ? *tensor : Tensor(); }

inline std::vector<Tensor> list(Tensor* const* tensors, size_t count) {
  std::vector<Tensor> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) all.push_back(optional(tensors[i]));
  return all;
}

}  // namespace shearling
