// Launches over rows of logits.
#include "../../cu/cross_entropy.h"
#include "../../cu/distillation.h"
#include "kernels.h"

namespace shearling::device {
namespace {

// A vocabulary is long: more threads than for other rows.
constexpr int64_t MOST = cu::MOST_THREADS;

}  // namespace

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& losses, int64_t ignored, double scale,
                   bool gradient) {
  const int64_t rows = logits.size(0), columns = logits.size(1);
  by_pack(logits.scalar_type(), in_packs(columns, logits.element_size(), {logits.data_ptr()}),
          [&](auto number, auto width) {
            using T = decltype(number);
            const Geometry geometry{rows, 1, row_threads(columns, width, MOST), 0};
            launch(logits, geometry,
                   cu::CrossEntropy<T, width>{numbers<T>(logits), numbers<cu::i64>(targets), numbers<float>(losses),
                                              rows, columns, ignored, static_cast<float>(scale), gradient});
          });
}

void distillation(const Tensor& student, const Tensor& teacher, const Tensor& targets, const Tensor& cross_entropies,
                  const Tensor& divergences, int64_t ignored, double share, double temperature, double scale,
                  bool gradient) {
  const int64_t rows = student.size(0), columns = student.size(1);
  const bool packs = in_packs(columns, student.element_size(), {student.data_ptr(), teacher.data_ptr()});
  by_pack(student.scalar_type(), packs, [&](auto number, auto width) {
    using T = decltype(number);
    const Geometry geometry{rows, 1, row_threads(columns, width, MOST), 0};
    launch(student, geometry,
           cu::Distillation<T, width>{numbers<T>(student), numbers<T>(teacher), numbers<cu::i64>(targets),
                                      numbers<float>(cross_entropies), numbers<float>(divergences), rows, columns,
                                      ignored, static_cast<float>(share), static_cast<float>(temperature),
                                      static_cast<float>(scale), gradient});
  });
}

}  // namespace shearling::device
