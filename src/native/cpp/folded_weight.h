// A weight with gates folded in, W' = diag(row) W diag(column), and the way back from its gradient D to its factors:
//   dW = diag(row) D diag(column),   drow_j = sum_i D_ji W_ji column_i,   dcolumn_i = sum_j D_ji W_ji row_j.
// Gates are fp32, an absent one is undefined; arithmetic is fp32 whatever the dtype of W.
#pragma once

#include "shim.h"

namespace shearling {

struct Gates {
  Tensor row;     // [O]
  Tensor column;  // [I]

  bool any() const { return row.defined() || column.defined(); }
};

struct FactorGradients {
  Tensor weight, row, column;
};

// W' [O, I] in the dtype of W; W itself without gates.
Tensor fold(const Tensor& weight, const Gates& gates);

// Gradients of the factors that require one, from `folded` = D, which is consumed. The weight's is delivered as
// leaf_gradient.h says, so it is undefined here for a leaf.
FactorGradients unfold(const Tensor& weight, const Gates& gates, Tensor folded);

}  // namespace shearling
