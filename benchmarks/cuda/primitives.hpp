// SPDX-License-Identifier: MIT
#pragma once
// All benchmarks of primitives, in the order of their tables.

#include "attention.hpp"
#include "products.hpp"
#include "routing.hpp"
#include "tokens.hpp"

namespace bench {

template <class B>
void primitives(Runner<B>& run) {
  expert_products(run);
  dense_products(run);
  decode_products(run);
  attention(run);
  decode_attention(run);
  routing(run);
  norms_and_sums(run);
  tokens(run);
  update(run);
}

}  // namespace bench
