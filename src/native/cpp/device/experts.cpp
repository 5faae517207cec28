// Launches for one token through the experts that run.
#include "../../cu/experts.h"
#include "kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

namespace shearling::device {
namespace {

// Blocks of the experts' work: two for each multiprocessor of the largest GPUs. A constant, so that the order of sums does
// not depend on the GPU.
constexpr int64_t BLOCKS = 264;
// Threads that add up the blocks' sums.
constexpr uint32_t SUM_THREADS = 512;

// Which experts run, 1 or 0 into `runs`.
void route(const Tensor& x, const Tensor& router, const Tensor& bias, const Tensor& runs, bool packs) {
  const int64_t count = router.size(0), dim = router.size(1);
  by_pack_of_two(x.scalar_type(), router.scalar_type(), packs, [&](auto number, auto other, auto width) {
    using T = decltype(number);
    using G = decltype(other);
    launch(x, Geometry{count, 1, row_threads(dim, width), 0},
           cu::ExpertsRoute<T, G, width>{numbers<T>(x), numbers<G>(router), numbers<float>(bias), numbers<int>(runs),
                                         dim});
  });
}

}  // namespace

bool takes_experts(int64_t experts, int64_t dim) {
  return cu::ExpertsForward<float, 1>::shared_floats(experts, dim) * sizeof(float) <= MOST_SHARED_BYTES;
}

void experts(const Tensor& x, const Tensor& residual, const Tensor& packed, const Tensor& router,
             const Tensor& router_bias, const Tensor& gate_bias, const Tensor& up_bias, const Tensor& down_bias,
             const Tensor& out) {
  const int64_t count = packed.size(0), size = packed.size(1) / 3, dim = packed.size(2);
  const auto numbers_of_experts = packed.options().dtype(at::kInt);
  const Tensor runs = router.defined() ? at::empty({count}, numbers_of_experts) : at::ones({count}, numbers_of_experts);
  const int64_t blocks = std::min(BLOCKS, count * divup(size, int64_t{cu::EXPERT_UNITS}));
  const Tensor partial = at::empty({blocks, dim}, packed.options().dtype(at::kFloat));
  const bool packs = in_packs(dim, packed.element_size(),
                              {x.data_ptr(), residual.data_ptr(), packed.data_ptr(), numbers<char>(router),
                               numbers<float>(down_bias), out.data_ptr()});
  if (router.defined()) route(x, router, router_bias, runs, packs);
  by_pack(packed.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    const size_t shared = cu::ExpertsForward<T, width>::shared_floats(count, dim) * sizeof(float);
    launch(packed, Geometry{blocks, 1, cu::ExpertsForward<T, width>::THREADS, shared},
           cu::ExpertsForward<T, width>{numbers<T>(x), numbers<T>(packed), numbers<int>(runs),
                                        numbers<float>(gate_bias), numbers<float>(up_bias), numbers<float>(partial),
                                        count, size, dim});
    using Sum = cu::ExpertsSum<T, width>;
    const size_t shares = Sum::shared_floats(SUM_THREADS) * sizeof(float);
    launch(packed, Geometry{divup(dim, 32 * width), 1, SUM_THREADS, shares},
           Sum{numbers<float>(partial), numbers<float>(down_bias), numbers<T>(residual), numbers<T>(out), blocks, dim});
  });
}

}  // namespace shearling::device
