// Counts what a thread launches: libtorch's operators that call no other, and kernels of cu/. On a GPU each of them is a
// launch or more, so the count says there is too much of them where there is no GPU.
#include "device/launch.h"
#include "shim.h"

#include <ATen/record_function.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace shearling {
namespace {

struct Count {
  std::map<std::string, int64_t> launches;
  // Whether the operators that are running have called none yet.
  std::vector<bool> leaves;
  at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;
};

thread_local std::unique_ptr<Count> counting;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
  if (counting) {
    if (!counting->leaves.empty()) counting->leaves.back() = false;
    counting->leaves.push_back(true);
  }
  return nullptr;
}

void end(const at::RecordFunction& function, at::ObserverContext*) {
  if (!counting || counting->leaves.empty()) return;
  if (counting->leaves.back()) ++counting->launches[function.name()];
  counting->leaves.pop_back();
}

}  // namespace

void note_launch(const char* name) {
  if (!counting) return;
  if (!counting->leaves.empty()) counting->leaves.back() = false;
  ++counting->launches[std::string("kernel::") + name];
}

}  // namespace shearling

// Begins to count on this thread.
extern "C" int shearling_begin_operator_count(char** error) {
  using namespace shearling;
  return guarded(error, [] {
    TORCH_CHECK(!counting, "operators of this thread are being counted already");
    counting = std::make_unique<Count>();
    counting->handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION}));
  });
}

// Ends it. `out` receives a line "name count" per operator, which the caller frees with `free`.
extern "C" int shearling_end_operator_count(char** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    TORCH_CHECK(counting, "operators of this thread are not being counted");
    at::removeCallback(counting->handle);
    std::ostringstream lines;
    for (const auto& [name, count] : counting->launches) lines << name << ' ' << count << '\n';
    counting.reset();
    *out = strdup(lines.str().c_str());
  });
}
