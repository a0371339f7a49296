// SPDX-License-Identifier: MIT
#include "other.hpp"

namespace mf = moduleformer;

Chosen choose() {
  constexpr mf::Shape shape{.attention = {.experts = 3, .top_k = 1, .heads = 2, .hidden_size = 8}};
  mf::check_shape<shape>();
  mf::Cpu<double> backend;
  double logits[] = {0, 1, 2}, probabilities[3], lse[1];
  mf::ExpertId ids[1];
  mf::Matrix<double> const row{logits, {1, shape.attention.experts}};
  mf::softmax(backend, row, {probabilities, row.extents()}, {lse, {1}});
  mf::top_k(backend, row, {ids, {1, shape.attention.top_k}});
  return {ids[0], probabilities[ids[0]]};
}
