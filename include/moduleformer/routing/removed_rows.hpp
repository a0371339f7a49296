// SPDX-License-Identifier: MIT
#pragma once
// Rows of a router whose experts were removed and that stay (pruning with kept rows, modular/prune.hpp): the softmax runs over
// all rows, a token chooses among those that have an expert, and gates are not rescaled. A mask tells which have one; experts
// are numbered without the others, so row r has expert_of_row[r] = the number of masked rows before r, or -1.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/core/platform.hpp>
#include <moduleformer/core/tensor_view.hpp>

#include <cstdint>
#include <limits>

namespace moduleformer {

/// In backend memory; null where every row has its expert.
template <class S>
struct RemovedRows {
  Vector<S const> mask;                     // (R) 1 for a row with an expert, else 0
  Vector<std::int32_t> expert_of_row{};     // (R)
  Vector<std::int32_t> row_of_expert{};     // (E)
  explicit operator bool() const { return static_cast<bool>(mask); }
};

namespace detail {

template <class S>
struct NumberRows {
  RemovedRows<S> rows;
  MODULEFORMER_HOST_DEVICE void operator()() const {
    std::int32_t expert = 0;
    for (Index r = 0; r < rows.mask.size(); ++r) {
      bool const has_expert = static_cast<float>(rows.mask[r]) != 0 && expert < rows.row_of_expert.size();
      rows.expert_of_row[r] = has_expert ? expert : -1;
      if (has_expert) rows.row_of_expert[expert++] = static_cast<std::int32_t>(r);
    }
  }
};

/// Element i of logits (N,R) for a choice: -infinity where no expert is.
template <class A>
struct MaskLogits {
  Index rows;
  std::int32_t const* expert_of_row;
  A const* logits;
  A* masked;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const {
    masked[i] = expert_of_row[i % rows] < 0 ? -std::numeric_limits<A>::infinity() : logits[i];
  }
};

/// to[i] = number[from[i]], -1 for none.
struct Renumber {
  std::int32_t const* number;
  ExpertId const* from;
  ExpertId* to;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const { to[i] = from[i] < 0 ? from[i] : number[from[i]]; }
};

}  // namespace detail

}  // namespace moduleformer
