// SPDX-License-Identifier: MIT
#pragma once
// How far two records of the same text agree, router by router: of two checkpoints, two devices, a model before and
// after a change. With A_t and B_t the sets of experts that token t of N has in each, empty slots left out:
//   same_set         share of tokens with A_t = B_t
//   shared_slots     sum_t |A_t and B_t| / sum_t max(|A_t|, |B_t|): where no slot is empty, the share chosen by both
//   same_first       share of tokens whose first slot has the same expert
//   gate_difference  mean of |a_te - b_te| over the experts e in A_t or B_t; one that was not chosen has gate 0

#include <moduleformer/core/error.hpp>
#include <moduleformer/model/route_record.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace moduleformer {

struct RouteAgreement {
  std::string router;  // as in checkpoints
  double same_set = 0;
  double shared_slots = 0;
  double same_first = 0;
  double gate_difference = 0;

  /// For a mean: += weight times what another says of the same router, or of another one.
  void add(RouteAgreement const& other, double weight) {
    if (router.empty()) router = other.router;
    same_set += weight * other.same_set;
    shared_slots += weight * other.shared_slots;
    same_first += weight * other.same_first;
    gate_difference += weight * other.gate_difference;
  }
};

/// For two routers of as many slots that saw the same tokens, at least one.
inline RouteAgreement compare_routes(RecordedRouter const& a, RecordedRouter const& b) {
  auto const k = static_cast<std::size_t>(a.size.slots), slots = a.experts.size();
  std::size_t same_set = 0, same_first = 0, shared = 0, fuller = 0, either = 0;
  double difference = 0;
  for (std::size_t first = 0; first < slots; first += k) {
    auto const *const in_a = &a.experts[first], *const in_b = &b.experts[first];
    std::size_t of_a = 0, of_b = 0, of_both = 0;
    for (std::size_t s = 0; s < k; ++s) {
      if (in_b[s] != empty_slot) {
        ++of_b;
        if (std::find(in_a, in_a + k, in_b[s]) == in_a + k)
          difference += std::abs(static_cast<double>(b.gates[first + s]));
      }
      if (in_a[s] == empty_slot) continue;
      ++of_a;
      auto const at = static_cast<std::size_t>(std::find(in_b, in_b + k, in_a[s]) - in_b);
      double const other = at < k ? static_cast<double>(b.gates[first + at]) : 0;
      difference += std::abs(static_cast<double>(a.gates[first + s]) - other);
      of_both += at < k;
    }
    same_set += of_both == of_a && of_both == of_b;
    same_first += in_a[0] == in_b[0];
    shared += of_both;
    fuller += std::max(of_a, of_b);
    either += of_a + of_b - of_both;
  }
  auto const share = [](auto part, std::size_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  return {.router = a.size.name,
          .same_set = share(same_set, slots / k),
          .shared_slots = fuller == 0 ? 1 : share(shared, fuller),
          .same_first = share(same_first, slots / k),
          .gate_difference = either == 0 ? 0 : share(difference, either)};
}

/// Of what model the second of two records may be.
enum class SecondModel {
  same_routers,
  grown,  // the first one with new experts behind its own, so that numbers of experts mean the same in both
};

/// For each router. Throws Error for records of models of other sizes, naming the first router that differs, or of other texts,
/// naming the batch.
inline std::vector<RouteAgreement> compare_routes(RouteRecord const& a, RouteRecord const& b,
                                                  SecondModel second = SecondModel::same_routers) {
  std::vector<RouterSize> sizes;
  for (RecordedRouter const& router : b.routers) {
    sizes.push_back(router.size);
    if (second != SecondModel::grown || sizes.size() > a.routers.size()) continue;
    Index const before = a.routers[sizes.size() - 1].size.experts;
    if (before < router.size.experts) sizes.back().experts = before;
  }
  a.expect_routers(sizes);
  expects(a.size() == b.size() && a.size() > 0,
          "records of routes: expected the same text in the same batches, at least one, found ", a.size(), " and ",
          b.size(), " batches");
  for (std::size_t i = 0; i < a.batches.size(); ++i)
    expects(a.batches[i].text == b.batches[i].text, "records of routes: batch ", i,
            " is of one text in the one, another or the same cut differently in the other");
  std::vector<RouteAgreement> result;
  for (std::size_t r = 0; r < a.routers.size(); ++r) result.push_back(compare_routes(a.routers[r], b.routers[r]));
  return result;
}

/// Over the routers, at least one. Its shared_slots is what drift is measured by: 1 - shared_slots of the choices changed.
inline RouteAgreement mean_agreement(std::vector<RouteAgreement> const& routers) {
  RouteAgreement mean;
  for (RouteAgreement const& router : routers) mean.add(router, 1);
  // Divided once: equal records agree by exactly 1, however many routers there are.
  for (double* const x : {&mean.same_set, &mean.shared_slots, &mean.same_first, &mean.gate_difference})
    *x /= static_cast<double>(routers.size());
  mean.router = "mean";
  return mean;
}

}  // namespace moduleformer
