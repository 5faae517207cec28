// Blocks of threads on one CPU thread: a fiber for each thread, switched at every meeting.
#if defined(__APPLE__) && !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 700
#endif
#include "host_team.h"

#include <c10/util/Exception.h>

#include <ucontext.h>

#include <memory>
#include <vector>

namespace shearling {

namespace {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr uint32_t WARP = 32;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool ended = false;
};

}  // namespace

class HostBlock {
 public:
  HostBlock(const Geometry& geometry, bool meet, const std::function<void(HostTeam&)>& kernel)
      : geometry_(geometry),
        kernel_(kernel),
        shared_(geometry.shared_bytes / sizeof(float)),
        exchanged_(geometry.threads),
        fibers_(meet ? geometry.threads : 0) {
    for (Fiber& fiber : fibers_) fiber.stack.reset(new char[STACK_BYTES]);
  }

  void run(int64_t block, int64_t part) {
    at_block = block;
    at_part = part;
    // A GPU's memory holds whatever was there: a kernel that reads before it writes must not find zeros.
    for (float& number : shared_) number = NAN;
    if (fibers_.empty()) {
      for (uint32_t thread = 0; thread < geometry_.threads; ++thread) run_thread(thread);
    } else {
      run_fibers();
    }
  }

  void sync() {
    TORCH_CHECK(!fibers_.empty(), "a kernel whose threads do not meet calls sync");
    swapcontext(&fibers_[running_].context, &scheduler_);
  }

  // Combined as a GPU does: within warps of 32, then the warps' results.
  template <class Combine>
  float meet(uint32_t thread, float value, float neutral, const Combine& combine) {
    exchanged_[thread] = value;
    sync();
    const uint32_t warps = geometry_.threads / WARP;
    float of_warps[WARP];
    for (uint32_t warp = 0; warp < WARP; ++warp) {
      of_warps[warp] = warp < warps ? within_warp(&exchanged_[warp * WARP], combine) : neutral;
    }
    const float all = within_warp(of_warps, combine);
    sync();
    return all;
  }

  float warp_sum(uint32_t thread, float value) {
    exchanged_[thread] = value;
    sync();
    const float sum = within_warp(&exchanged_[thread / WARP * WARP], [](float a, float b) { return a + b; });
    sync();
    return sum;
  }

  const Geometry& geometry() const { return geometry_; }
  float* shared() { return shared_.data(); }
  int64_t at_block = 0, at_part = 0;

 private:
  template <class Combine>
  static float within_warp(const float* values, const Combine& combine) {
    float own[WARP];
    for (uint32_t lane = 0; lane < WARP; ++lane) own[lane] = values[lane];
    for (uint32_t distance = WARP / 2; distance > 0; distance /= 2) {
      float next[WARP];
      for (uint32_t lane = 0; lane < WARP; ++lane) next[lane] = combine(own[lane], own[lane ^ distance]);
      for (uint32_t lane = 0; lane < WARP; ++lane) own[lane] = next[lane];
    }
    return own[0];
  }

  void run_thread(uint32_t thread) {
    HostTeam team(this, thread);
    kernel_(team);
  }

  void run_fibers() {
    for (uint32_t thread = 0; thread < geometry_.threads; ++thread) start(thread);
    for (uint32_t ended = 0; ended < geometry_.threads;) {
      ended = 0;
      for (running_ = 0; running_ < geometry_.threads; ++running_) {
        if (!fibers_[running_].ended) swapcontext(&scheduler_, &fibers_[running_].context);
        ended += fibers_[running_].ended;
      }
      TORCH_CHECK(ended == 0 || ended == geometry_.threads, "of ", geometry_.threads, " threads of block ", at_block,
                  " ", ended, " have ended while the others meet");
    }
  }

  void start(uint32_t thread) {
    Fiber& fiber = fibers_[thread];
    fiber.ended = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = &scheduler_;
    // `makecontext` passes ints only.
    current_ = this;
    makecontext(&fiber.context, &HostBlock::enter, 0);
  }

  static void enter() {
    HostBlock* block = current_;
    const uint32_t thread = block->running_;
    block->run_thread(thread);
    block->fibers_[thread].ended = true;
  }

  static thread_local HostBlock* current_;

  const Geometry& geometry_;
  const std::function<void(HostTeam&)>& kernel_;
  std::vector<float> shared_, exchanged_;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
  uint32_t running_ = 0;
};

thread_local HostBlock* HostBlock::current_ = nullptr;

uint32_t HostTeam::threads() const { return block_->geometry().threads; }
int64_t HostTeam::block() const { return block_->at_block; }
int64_t HostTeam::blocks() const { return block_->geometry().blocks; }
int64_t HostTeam::part() const { return block_->at_part; }
float* HostTeam::shared() { return block_->shared(); }
void HostTeam::sync() { block_->sync(); }

float HostTeam::sum(float value) {
  return block_->meet(thread_, value, 0.0f, [](float a, float b) { return a + b; });
}

float HostTeam::max(float value) {
  return block_->meet(thread_, value, cu::lowest(), [](float a, float b) { return cu::larger(a, b); });
}

float HostTeam::warp_sum(float value) { return block_->warp_sum(thread_, value); }

void run_on_host(const Geometry& geometry, bool meet, const std::function<void(HostTeam&)>& kernel) {
  TORCH_CHECK(geometry.threads % WARP == 0 && geometry.threads >= WARP && geometry.threads <= cu::MOST_THREADS,
              "blocks of ", geometry.threads, " threads");
  HostBlock block(geometry, meet, kernel);
  for (int64_t part = 0; part < geometry.parts; ++part) {
    for (int64_t at = 0; at < geometry.blocks; ++at) block.run(at, part);
  }
}

}  // namespace shearling
