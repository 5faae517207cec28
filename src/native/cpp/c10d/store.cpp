// The key-value store through which processes find each other: libtorch's TCPStore. One process serves it (rank 0, or
// torchrun's agent), the others are its clients. It speaks the protocol of libtorch's own Python side.
#include "c10d.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <cstdlib>

using shearling::guarded;
using shearling::Milliseconds;
using shearling::StoreHandle;

extern "C" {

// Serves (port 0 takes a free one) or connects; `served` is the port.
int shearling_store_open(const char* host, uint16_t port, int serves, int64_t timeout_ms, StoreHandle** out,
                         uint16_t* served, char** error) {
  return guarded(error, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves != 0;
    options.timeout = Milliseconds(timeout_ms);
    options.waitWorkers = false;
    // Several stores of one process may share a port.
    options.multiTenant = port != 0;
    auto store = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
    *served = store->getPort();
    *out = new StoreHandle(std::move(store));
  });
}

int shearling_store_under(StoreHandle* store, const char* prefix, StoreHandle** out, char** error) {
  return guarded(error, [&] { *out = new StoreHandle(shearling::under(*store, prefix)); });
}

int shearling_store_set(StoreHandle* store, const char* key, const uint8_t* bytes, size_t count, char** error) {
  return guarded(error, [&] { (*store)->set(key, std::vector<uint8_t>(bytes, bytes + count)); });
}

// The value of a key that is there, in memory that the caller frees with `free`.
int shearling_store_get(StoreHandle* store, const char* key, uint8_t** bytes, size_t* count, char** error) {
  return guarded(error, [&] {
    const std::vector<uint8_t> value = (*store)->get(key);
    *bytes = static_cast<uint8_t*>(std::malloc(value.size() + 1));
    TORCH_CHECK(*bytes, "no memory for a value of ", value.size(), " bytes");
    std::copy(value.begin(), value.end(), *bytes);
    *count = value.size();
  });
}

int shearling_store_has(StoreHandle* store, const char* key, int* found, char** error) {
  return guarded(error, [&] { *found = (*store)->check({std::string(key)}) ? 1 : 0; });
}

void shearling_store_free(StoreHandle* store) {
  try {
    delete store;
  } catch (...) {
    // A connection that is gone already is closed enough.
  }
}

}  // extern "C"
