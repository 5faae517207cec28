// Runs a kernel of cu/ on the CPU, block after block, as a GPU would: the same geometry, the same indices, the same meetings
// of a block's threads. It is slow, and there to prove the kernels' arithmetic where there is no GPU.
#pragma once

#include "../../cu/portable.h"

#include <cstddef>
#include <functional>

namespace shearling {

// How a kernel is launched: `blocks` x `parts` blocks of `threads` threads (a multiple of 32), each block with
// `shared_bytes` of memory.
struct Geometry {
  int64_t blocks = 1;
  int64_t parts = 1;
  uint32_t threads = 32;
  size_t shared_bytes = 0;
};

class HostBlock;

// One thread of a block.
class HostTeam {
 public:
  HostTeam(HostBlock* block, uint32_t thread) : block_(block), thread_(thread) {}

  uint32_t thread() const { return thread_; }
  uint32_t threads() const;
  int64_t block() const;
  int64_t blocks() const;
  int64_t part() const;
  float* shared();
  void sync();
  void wait_for_earlier() {}
  float sum(float value);
  float max(float value);
  float warp_sum(float value);

 private:
  HostBlock* block_;
  uint32_t thread_;
};

// Runs every thread of every block. Where threads `meet`, they run in turns from one meeting to the next.
//
// Throws where some threads of a block meet while others have ended, which on a GPU is undefined.
void run_on_host(const Geometry& geometry, bool meet, const std::function<void(HostTeam&)>& kernel);

}  // namespace shearling
