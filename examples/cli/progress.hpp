// SPDX-License-Identifier: MIT
#pragma once
// How a training run goes, on stderr: a bar that is drawn over if stderr is a terminal, else about twenty
// plain lines.

#include <moduleformer/training/trainer.hpp>

#include <chrono>
#include <string>

namespace cli {

class Progress {
 public:
  Progress(moduleformer::Index begin, moduleformer::Index end);
  ~Progress();
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;

  void show(moduleformer::StepReport const& report);

 private:
  using Clock = std::chrono::steady_clock;

  void draw_bar(moduleformer::StepReport const& report, double seconds);
  [[nodiscard]] double tokens_per_second(double seconds) const;

  moduleformer::Index begin_, end_;
  moduleformer::Index tokens_ = 0;
  double loss_ = 0;  // running mean, nats
  bool terminal_;
  Clock::time_point start_ = Clock::now(), drawn_{};
};

/// Seconds as 1:02:03 or 2:03.
std::string clock_text(double seconds);

}  // namespace cli
