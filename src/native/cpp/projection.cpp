// Linear maps as single autograd nodes whose products add up in place: several maps of one input, and a gated map
// onto a residual. Both keep their input and parameters for backward, nothing else; the input may be made again instead.
#include "device/kernels.h"
#include "folded_weight.h"
#include "kernel.h"
#include "leaf_gradient.h"
#include "made_again.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace shearling {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// [.., I] as [N, I], contiguous.
Tensor as_rows(const Tensor& x) {
  const int64_t columns = x.size(-1);
  return x.reshape({columns == 0 ? 0 : x.numel() / columns, columns}).contiguous();
}

std::vector<int64_t> mapped_sizes(const Tensor& x, const Tensor& weight) {
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  return sizes;
}

void check_gate(const char* name, const Tensor& gate, int64_t count, const Tensor& weight) {
  if (!gate.defined()) return;
  TORCH_CHECK(gate.dim() == 1 && gate.size(0) == count, "a ", name, " of ", gate.sizes(), " for a weight of ",
              weight.sizes());
  TORCH_CHECK(at::isFloatingType(gate.scalar_type()), "a ", name, " of kind ", gate.scalar_type());
  TORCH_CHECK(gate.device() == weight.device(), "a ", name, " on ", gate.device(), " for a weight on ",
              weight.device());
}

void check_map(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  TORCH_CHECK(x.defined() && weight.defined(), "a map needs an input and a weight");
  TORCH_CHECK(weight.dim() == 2 && x.dim() >= 1 && x.size(-1) == weight.size(1) && x.size(-1) > 0, "an input of ",
              x.sizes(), " for a weight of ", weight.sizes());
  TORCH_CHECK(at::isFloatingType(x.scalar_type()) && x.scalar_type() == weight.scalar_type(), "an input of kind ",
              x.scalar_type(), " for a weight of kind ", weight.scalar_type());
  TORCH_CHECK(x.device() == weight.device(), "an input on ", x.device(), " for a weight on ", weight.device());
  check_gate("bias", bias, weight.size(0), weight);
}

// rows W^T + bias into `out` [N, O].
void map_into(const Tensor& rows, const Tensor& weight, const Tensor& bias, Tensor out) {
  if (!bias.defined()) {
    gemm(rows, weight.t(), out, false);
  } else if (out.is_cpu()) {
    out.copy_(bias.expand_as(out));
    gemm(rows, weight.t(), out, true);
  } else {
    at::addmm_out(out, bias.to(out.scalar_type()), rows, weight.t());
  }
}

using device::Map;

// Every map of `rows`; where a GPU decodes, all of them in one launch.
void map_all(const Tensor& rows, std::vector<Map> maps) {
  if (device::takes_matvec(rows)) {
    for (Map& map : maps) map.weight = map.weight.contiguous();
    device::matvec({rows}, maps);
    return;
  }
  for (const Map& map : maps) map_into(rows, map.weight, map.bias, map.out.view({rows.size(0), map.weight.size(0)}));
}

Tensor bias_gradient(const Tensor& bias, const Tensor& gradient) {
  return deliver(bias, gradient.sum({0}, false, at::kFloat));
}

// y_k = x W_k^T + b_k. The parameters are W_0, b_0, W_1, b_1, .. with the absent biases left out.
struct Projection : Function<Projection> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, at::TensorList parameters,
                               const std::vector<bool>& biased, bool make_again) {
    const Tensor kept = keep_input(ctx, x, make_again), rows = as_rows(kept.defined() ? kept : x);
    variable_list saved{kept}, outputs;
    std::vector<Map> maps;
    size_t next = 0;
    for (const bool has_bias : biased) {
      const Tensor weight = parameters[next++], bias = has_bias ? parameters[next++] : Tensor();
      outputs.push_back(at::empty(mapped_sizes(x, weight), x.options()));
      maps.push_back({weight, bias, Tensor(), outputs.back()});
      saved.insert(saved.end(), {weight, bias});
    }
    map_all(rows, std::move(maps));
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const auto saved = ctx->get_saved_variables();
    const Tensor x = kept_input(ctx, saved[0]), rows = as_rows(x);
    Tensor dx;
    variable_list parameters;
    for (size_t map = 0; map < gradients.size(); ++map) {
      const Tensor &weight = saved[1 + 2 * map], &bias = saved[2 + 2 * map];
      Tensor dw, db;
      if (gradients[map].defined()) {
        const Tensor g = as_rows(gradients[map]);
        gradients[map].reset();
        if (ctx->needs_input_grad(0)) add_input_gradient(dx, x, g, weight);
        if (weight.requires_grad()) dw = deliver_product(weight, g.t(), rows);
        if (bias.defined() && bias.requires_grad()) db = bias_gradient(bias, g);
      }
      parameters.push_back(dw);
      if (bias.defined()) parameters.push_back(db);
    }
    variable_list all{dx};
    all.insert(all.end(), parameters.begin(), parameters.end());
    all.insert(all.end(), 2, Tensor());
    return all;
  }

  static void add_input_gradient(Tensor& dx, const Tensor& x, const Tensor& g, const Tensor& weight) {
    const bool accumulate = dx.defined();
    if (!accumulate) dx = at::empty(x.sizes(), x.options());
    Tensor into = dx.view({g.size(0), weight.size(1)});
    gemm(g, weight, into, accumulate);
  }
};

Tensor or_undefined(const std::optional<Tensor>& tensor) { return tensor.value_or(Tensor()); }

std::optional<Tensor> or_none(Tensor* tensor) { return tensor ? std::optional<Tensor>(*tensor) : std::nullopt; }

// y = residual + x (diag(row) W diag(column))^T + b
struct GatedProjection : Function<GatedProjection> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& row_gate, const std::optional<Tensor>& column_gate,
                        const std::optional<Tensor>& bias_or_none, const Tensor& residual, bool make_again) {
    const Gates gates{or_undefined(row_gate), or_undefined(column_gate)};
    const Tensor bias = or_undefined(bias_or_none), kept = keep_input(ctx, x, make_again);
    const Tensor rows = as_rows(kept.defined() ? kept : x), folded = fold(weight, gates);
    Tensor out = at::empty(residual.sizes(), residual.options());
    if (device::takes_matvec(rows)) {
      device::matvec({rows}, {{folded.contiguous(), bias, residual.contiguous(), out}});
    } else {
      bias.defined() ? out.copy_(residual).add_(bias) : out.copy_(residual);
      Tensor into = out.view({rows.size(0), weight.size(0)});
      gemm(rows, folded.t(), into, true);
    }
    ctx->save_for_backward({kept, weight, gates.row, gates.column, bias});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    check_first_order();
    const auto saved = ctx->get_saved_variables();
    const Tensor x = kept_input(ctx, saved[0]), &weight = saved[1], &bias = saved[4];
    const Gates gates{saved[2], saved[3]};
    const Tensor g = as_rows(gradients[0]), rows = as_rows(x);
    Tensor dx, db;
    if (ctx->needs_input_grad(0)) {
      dx = at::empty(x.sizes(), x.options());
      Tensor into = dx.view(rows.sizes());
      gemm(g, fold(weight, gates), into, false);
    }
    const FactorGradients factors = factor_gradients(weight, gates, g, rows);
    if (bias.defined() && bias.requires_grad()) db = bias_gradient(bias, g);
    return {dx, factors.weight, factors.row, factors.column, db, gradients[0], Tensor()};
  }

  static FactorGradients factor_gradients(const Tensor& weight, const Gates& gates, const Tensor& g,
                                          const Tensor& rows) {
    const bool trains_gates = (gates.row.defined() && gates.row.requires_grad()) ||
                              (gates.column.defined() && gates.column.requires_grad());
    if (gates.any() && (trains_gates || weight.requires_grad())) return unfold(weight, gates, product(g.t(), rows));
    return {weight.requires_grad() ? deliver_product(weight, g.t(), rows) : Tensor(), Tensor(), Tensor()};
  }
};

void check_gated(const Tensor& x, const Tensor& weight, const Gates& gates, const Tensor& residual) {
  check_gate("row gate", gates.row, weight.size(0), weight);
  check_gate("column gate", gates.column, weight.size(1), weight);
  for (const Tensor& gate : {gates.row, gates.column}) {
    const bool exact = gate.defined() && gate.scalar_type() == at::kDouble && weight.scalar_type() == at::kDouble;
    TORCH_CHECK(!gate.defined() || exact || gate.scalar_type() == at::kFloat,
                "gates are fp32 (or fp64 beside an fp64 weight), not ", gate.scalar_type());
  }
  TORCH_CHECK(residual.sizes() == at::IntArrayRef(mapped_sizes(x, weight)), "a residual of ", residual.sizes(),
              " for an input of ", x.sizes(), " and a weight of ", weight.sizes());
  TORCH_CHECK(residual.scalar_type() == x.scalar_type() && residual.device() == x.device(), "a residual of kind ",
              residual.scalar_type(), " on ", residual.device(), " for an input of kind ", x.scalar_type(), " on ",
              x.device());
}

}  // namespace
}  // namespace shearling

using shearling::Tensor;

// `biases` has a null pointer where a map has none; `make_again` is 0 to keep x for the backward.
extern "C" int shearling_project(Tensor* x, Tensor* const* weights, Tensor* const* biases, size_t count,
                                 int make_again, Tensor** out, char** error) {
  return shearling::guarded(error, [&] {
    std::vector<Tensor> parameters;
    std::vector<bool> biased;
    for (size_t map = 0; map < count; ++map) {
      const Tensor bias = shearling::optional(biases[map]);
      shearling::check_map(*x, *weights[map], bias);
      parameters.push_back(*weights[map]);
      if (bias.defined()) parameters.push_back(bias);
      biased.push_back(bias.defined());
    }
    const auto outputs = shearling::Projection::apply(*x, at::TensorList(parameters), biased, make_again != 0);
    for (size_t map = 0; map < count; ++map) shearling::give(out + map, outputs[map]);
  });
}

// One row `x [.., I]` on a device with kernels through its norm and maps, without a gradient; with `swiglu` the two maps are the
// gate and the up projection, and one tensor comes out. `biases` as above.
extern "C" int shearling_project_token(Tensor* x, Tensor* norm, double eps, Tensor* const* weights,
                                       Tensor* const* biases, size_t count, int swiglu, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    const device::Row row{as_rows(*x), norm->contiguous(), eps};
    TORCH_CHECK(device::takes_matvec(row.x), "no kernel takes an input of ", x->sizes(), " of kind ",
                x->scalar_type(), " on ", x->device(), " as one row");
    TORCH_CHECK(norm->dim() == 1 && norm->size(0) == x->size(-1) && norm->scalar_type() == x->scalar_type() &&
                    norm->device() == x->device(),
                "a norm of ", norm->sizes(), " and kind ", norm->scalar_type(), " for an input of ", x->sizes());
    TORCH_CHECK(!swiglu || (count == 2 && weights[0]->sizes() == weights[1]->sizes()),
                "gate and up are two maps of one size");
    std::vector<device::Map> maps;
    for (size_t map = 0; map < count; ++map) {
      const Tensor bias = shearling::optional(biases[map]), weight = *weights[map];
      check_map(*x, weight, bias);
      const bool own = !swiglu || map == 0;
      maps.push_back({weight.contiguous(), bias, Tensor(),
                      own ? at::empty(mapped_sizes(*x, weight), x->options()) : Tensor()});
    }
    swiglu ? device::matvec_swiglu(row, maps[0], maps[1], maps[0].out) : device::matvec(row, maps);
    for (size_t map = 0; map < (swiglu ? 1 : count); ++map) give(out + map, maps[map].out);
  });
}

extern "C" int shearling_project_gated(Tensor* x, Tensor* weight, Tensor* row_gate, Tensor* column_gate, Tensor* bias,
                                       Tensor* residual, int make_again, Tensor** out, char** error) {
  using namespace shearling;
  return guarded(error, [&] {
    const Gates gates{shearling::optional(row_gate), shearling::optional(column_gate)};
    check_map(*x, *weight, shearling::optional(bias));
    check_gated(*x, *weight, gates, *residual);
    give(out, GatedProjection::apply(*x, *weight, or_none(row_gate), or_none(column_gate), or_none(bias), *residual,
                                     make_again != 0));
  });
}
