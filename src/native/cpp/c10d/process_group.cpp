// Collectives among processes: libtorch's ProcessGroupGloo on the CPU, its ProcessGroupNCCL on GPUs.
//
// The wheel has neither the headers of gloo nor those of NCCL. Of gloo's, `stubs/` declares the names that c10d's own
// header mentions; nothing of gloo is called from here. Of NCCL's group the two constructors are looked up in
// libtorch_cuda, which main has loaded, and run on storage larger than the objects need; every call after that is
// virtual.
#include "c10d.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <thread>

namespace shearling {
namespace {

using c10d::ReduceOp;

// Collectives read and write raw memory: a view with gaps would give a wrong result in silence.
void check_layout(const Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.is_contiguous(), what, ": the tensor is not contiguous");
  TORCH_CHECK(!tensor.requires_grad() || !at::GradMode::is_enabled(), what, ": the tensor is part of a graph");
}

ReduceOp reduction(int op) { return op == 0 ? ReduceOp::SUM : ReduceOp::MAX; }

// sizeof is 248 and 1112 in libtorch 2.11.0.
constexpr size_t OPTIONS_BYTES = 4096;
constexpr size_t GROUP_BYTES = 16384;
constexpr const char* OPTIONS_CONSTRUCTOR = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb";
constexpr const char* GROUP_CONSTRUCTOR =
    "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail34intrusive_target_default_null_typeIS3_"
    "EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE";

// libtorch keeps a record of all collectives for its own debugger, in one table of the process that groups of several
// threads fill at once without a lock. It is read when the first collective begins.
void keep_no_flight_record() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/0); });
}

void* zeroed(size_t bytes) {
  void* storage = ::operator new(bytes);
  std::memset(storage, 0, bytes);
  return storage;
}

GroupHandle nccl_group(const StoreHandle& store, int rank, int size, Milliseconds timeout) {
  using Options = c10::intrusive_ptr<c10d::Backend::Options>;
  using MakeOptions = void (*)(void*, bool);
  using MakeGroup = void (*)(void*, StoreHandle, int, int, Options);
  const auto make_options = reinterpret_cast<MakeOptions>(dlsym(RTLD_DEFAULT, OPTIONS_CONSTRUCTOR));
  const auto make_group = reinterpret_cast<MakeGroup>(dlsym(RTLD_DEFAULT, GROUP_CONSTRUCTOR));
  TORCH_CHECK(make_options && make_group, "this libtorch has no NCCL (libtorch_cuda is not loaded, or is another version)");
  // A collective that fails is an error of the call that waits for it, and not the end of the process.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  void* options_storage = zeroed(OPTIONS_BYTES);
  make_options(options_storage, /*is_high_priority_stream=*/false);
  Options options = Options::unsafe_steal_from_new(static_cast<c10d::Backend::Options*>(options_storage));
  options->timeout = timeout;
  void* group = zeroed(GROUP_BYTES);
  try {
    make_group(group, store, rank, size, options);
  } catch (...) {
    ::operator delete(group);
    throw;
  }
  return GroupHandle::unsafe_steal_from_new(static_cast<c10d::Backend*>(group));
}

void finish(c10d::Work& work) { TORCH_CHECK(work.wait(), "the collective was aborted"); }

// Gloo's work wakes who waits for it. That the time is over is an error, which says nothing of the work.
bool gloo_ends(c10d::Work& work, Milliseconds timeout) {
  try {
    TORCH_CHECK(work.wait(timeout), "the collective was aborted");
    return true;
  } catch (...) {
    if (!work.isCompleted()) return false;
  }
  finish(work);
  return true;
}

// NCCL's work, waited for with a time, ends its group when the time is over; so it is asked, as often as libtorch itself
// asks.
bool nccl_ends(c10d::Work& work, Milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (!work.isCompleted()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(Milliseconds(1));
  }
  finish(work);
  return true;
}

}  // namespace
}  // namespace shearling

using shearling::check_layout;
using shearling::GroupHandle;
using shearling::guarded;
using shearling::Milliseconds;
using shearling::StoreHandle;
using shearling::Tensor;
using shearling::WorkHandle;

extern "C" {

int shearling_group_gloo(StoreHandle* store, int rank, int size, int64_t timeout_ms, GroupHandle** out, char** error) {
  return guarded(error, [&] {
    shearling::keep_no_flight_record();
    auto options = c10d::ProcessGroupGloo::Options::create_default(Milliseconds(timeout_ms));
    *out = new GroupHandle(c10::make_intrusive<c10d::ProcessGroupGloo>(*store, rank, size, options));
  });
}

int shearling_group_nccl(StoreHandle* store, int rank, int size, int64_t timeout_ms, GroupHandle** out, char** error) {
  return guarded(error, [&] {
    shearling::keep_no_flight_record();
    *out = new GroupHandle(shearling::nccl_group(*store, rank, size, Milliseconds(timeout_ms)));
  });
}

int shearling_group_all_reduce(GroupHandle* group, Tensor* tensor, int op, WorkHandle** out, char** error) {
  return guarded(error, [&] {
    check_layout(*tensor, "all_reduce");
    std::vector<Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = shearling::reduction(op);
    *out = new WorkHandle((*group)->allreduce(tensors, options));
  });
}

int shearling_group_broadcast(GroupHandle* group, Tensor* tensor, int root, WorkHandle** out, char** error) {
  return guarded(error, [&] {
    check_layout(*tensor, "broadcast");
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = new WorkHandle((*group)->broadcast(tensors, options));
  });
}

int shearling_group_all_gather(GroupHandle* group, Tensor* all, Tensor* own, WorkHandle** out, char** error) {
  return guarded(error, [&] {
    check_layout(*all, "all_gather");
    check_layout(*own, "all_gather");
    *out = new WorkHandle((*group)->_allgather_base(*all, *own));
  });
}

int shearling_group_reduce_scatter(GroupHandle* group, Tensor* own, Tensor* all, int op, WorkHandle** out,
                                   char** error) {
  return guarded(error, [&] {
    check_layout(*all, "reduce_scatter");
    check_layout(*own, "reduce_scatter");
    c10d::ReduceScatterOptions options;
    options.reduceOp = shearling::reduction(op);
    *out = new WorkHandle((*group)->_reduce_scatter_base(*own, *all, options));
  });
}

int shearling_group_barrier(GroupHandle* group, WorkHandle** out, char** error) {
  return guarded(error, [&] { *out = new WorkHandle((*group)->barrier()); });
}

// Ends what has begun, where the backend can (NCCL).
int shearling_group_abort(GroupHandle* group, char** error) {
  return guarded(error, [&] { (*group)->abort(); });
}

void shearling_group_free(GroupHandle* group) {
  try {
    delete group;
  } catch (...) {
    // Connections that are gone already are closed enough.
  }
}

// Waits for a collective; one that takes longer than the group's timeout fails.
int shearling_work_wait(WorkHandle* work, char** error) {
  return guarded(error, [&] { shearling::finish(**work); });
}

// Waits for a collective for at most so long. Over NCCL this knows nothing of the group's timeout: see there.
int shearling_work_wait_for(WorkHandle* work, int on_cpu, int64_t timeout_ms, int* ended, char** error) {
  return guarded(error, [&] {
    *ended = on_cpu ? shearling::gloo_ends(**work, Milliseconds(timeout_ms))
                    : shearling::nccl_ends(**work, Milliseconds(timeout_ms));
  });
}

// A collective that nobody waits for goes on until it ends.
void shearling_work_free(WorkHandle* work) {
  try {
    delete work;
  } catch (...) {
    // What it would say is of no use any more.
  }
}

}  // extern "C"
