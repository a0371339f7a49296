// SPDX-License-Identifier: MIT
#pragma once
// The load of a model's routers at steps of its training: what a trainer with observe_load tells, gathered for a report. It is
// a state, which save() and load_state() keep beside the weights, so a resumed run goes on with it:
//
//   history.add(report.step, trainer.routing_load());
//   mf::save(model, "folder", {}, trainer, history);

#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moduleformer {

class RoutingHistory {
 public:
  static constexpr std::string_view file_stem = "routing_history";
  using Load = std::vector<std::vector<double>>;  // of each router, of each routed expert: tokens

  struct Moment {
    Index step = 0;
    Load load;
    NLOHMANN_DEFINE_TYPE_INTRUSIVE(Moment, step, load)
  };

  /// Throws Error for a step not after the last one, or a load of other routers.
  void add(Index step, Load load) {
    check(moments_.empty() ? nullptr : &moments_.back(), step, load);
    moments_.push_back({step, std::move(load)});
  }
  /// Throws Error unless it is empty or of routers with so many routed experts each.
  void expect_experts(std::vector<Index> const& experts) const {
    if (empty()) return;
    Load const& load = moments_.front().load;
    expects(load.size() == experts.size(), "routing history: expected ", experts.size(), " routers, found ", load.size());
    for (std::size_t r = 0; r < load.size(); ++r)
      expects(static_cast<Index>(load[r].size()) == experts[r], "routing history: router ", r, ": expected ", experts[r],
              " experts, found ", load[r].size());
  }
  [[nodiscard]] std::vector<Moment> const& moments() const { return moments_; }
  [[nodiscard]] bool empty() const { return moments_.empty(); }
  [[nodiscard]] std::size_t routers() const { return empty() ? 0 : moments_.front().load.size(); }

  template <class Self, class Visitor>
  static void visit(Self& self, Visitor&& visit) {
    std::string text = nlohmann::json(self.moments_).dump();
    visit("moments", text);
    if constexpr (!std::is_const_v<Self>) self.parse(text);
  }

 private:
  static void check(Moment const* before, Index step, Load const& load) {
    Index const last = before == nullptr ? 0 : before->step;
    expects(step > last, "routing history: expected a step after ", last, ", found ", step);
    if (before == nullptr) return;
    expects(load.size() == before->load.size(), "routing history: step ", step, ": expected ", before->load.size(),
            " routers, found ", load.size());
    for (std::size_t r = 0; r < load.size(); ++r)
      expects(load[r].size() == before->load[r].size(), "routing history: step ", step, ": router ", r, ": expected ",
              before->load[r].size(), " experts, found ", load[r].size());
  }

  void parse(std::string const& text) {
    std::vector<Moment> moments;
    try {
      moments = nlohmann::json::parse(text).get<std::vector<Moment>>();
    } catch (nlohmann::json::exception const&) {
      fail<FormatError>("routing history: expected a list of steps and loads, found '", text.substr(0, 40), "'");
    }
    for (std::size_t i = 0; i < moments.size(); ++i)
      check(i == 0 ? nullptr : &moments[i - 1], moments[i].step, moments[i].load);
    moments_ = std::move(moments);
  }

  std::vector<Moment> moments_;
};

}  // namespace moduleformer
