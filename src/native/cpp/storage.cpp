// Memory of a tensor that comes and goes while the tensor stays: views and leaves of it stay valid, and have memory again
// when it has.
#include "shim.h"

#include <c10/core/DeviceGuard.h>

using shearling::guarded;
using shearling::Tensor;

namespace {

c10::StorageImpl* storage_of(const Tensor& tensor) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage->allocator(), "a tensor of ", tensor.sizes(), " whose memory is not libtorch's");
  return storage;
}

}  // namespace

extern "C" {

// The memory of a tensor that begins at the start of its storage, uninitialised; it must have none.
int shearling_storage_allocate(Tensor* tensor, char** error) {
  return guarded(error, [&] {
    c10::StorageImpl* storage = storage_of(*tensor);
    TORCH_CHECK(storage->nbytes() == 0, "the tensor has memory already");
    const c10::DeviceGuard on(tensor->device());
    const size_t bytes = tensor->numel() * tensor->element_size();
    storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
    storage->set_nbytes(bytes);
  });
}

// Gives the memory of a tensor, and of all that shares it, back.
int shearling_storage_release(Tensor* tensor, char** error) {
  return guarded(error, [&] {
    c10::StorageImpl* storage = storage_of(*tensor);
    const c10::DeviceGuard on(tensor->device());
    storage->set_data_ptr_noswap(storage->allocator()->allocate(0));
    storage->set_nbytes(0);
  });
}

// A leaf over a part of `flat`, of the given sizes. Its version is its own: what is written into `flat` later is no change
// of it that autograd would object to.
int shearling_storage_leaf(Tensor* flat, int64_t start, const int64_t* sizes, size_t dimensions, int requires_grad,
                           Tensor** out, char** error) {
  return guarded(error, [&] {
    const at::IntArrayRef shape(sizes, dimensions);
    c10::StorageImpl* storage = storage_of(*flat);
    // No view is made of memory that is too small: for a moment it is said to be there.
    const size_t bytes = storage->nbytes();
    storage->set_nbytes(flat->numel() * flat->element_size());
    Tensor leaf;
    try {
      leaf = flat->narrow(0, start, c10::multiply_integers(shape)).view(shape).variable_data();
    } catch (...) {
      storage->set_nbytes(bytes);
      throw;
    }
    storage->set_nbytes(bytes);
    if (requires_grad) leaf.requires_grad_(true);
    shearling::give(out, leaf);
  });
}

}  // extern "C"
