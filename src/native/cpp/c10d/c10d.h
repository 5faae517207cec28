// What the files around libtorch's c10d share: how its objects cross the border. c10d hands out `intrusive_ptr`s; Rust
// holds one of them on the heap, behind an opaque pointer, until it frees it.
#pragma once

#include "../shim.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>

namespace shearling {

using Milliseconds = std::chrono::milliseconds;
using StoreHandle = c10::intrusive_ptr<c10d::Store>;
using GroupHandle = c10::intrusive_ptr<c10d::Backend>;
using WorkHandle = c10::intrusive_ptr<c10d::Work>;

// A store whose keys lie under `prefix` in another one.
inline StoreHandle under(const StoreHandle& store, const char* prefix) {
  return c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store);
}

}  // namespace shearling
