// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <fmt/core.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace cli {

namespace mf = moduleformer;

Progress::Progress(mf::Index begin, mf::Index end) : begin_(begin), end_(end), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (terminal_ && drawn_ != Clock::time_point{}) std::fputc('\n', stderr);
}

void Progress::show(mf::StepReport const& report) {
  tokens_ += report.tokens;
  // A mean over about the last twenty steps, over all of the first ones.
  double const share = std::max(0.05, 1 / static_cast<double>(report.step - begin_));
  loss_ += share * (report.task - loss_);
  auto const now = Clock::now();
  double const seconds = std::chrono::duration<double>(now - start_).count();
  bool const last = report.step == end_;
  if (terminal_) {
    if (!last && now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    draw_bar(report, seconds);
    return;
  }
  mf::Index const every = std::max(mf::Index{1}, (end_ - begin_ + 19) / 20);
  if (!last && report.step != begin_ + 1 && (report.step - begin_) % every != 0) return;
  fmt::print(stderr, "step {}/{}  loss {:.4f}  bits {:.4f}  auxiliary {:.4f}  norm {:.3f}  rate {:.2e}  {:.0f} tok/s  {}\n",
             report.step, end_, loss_, loss_ / std::numbers::ln2, report.auxiliary, report.gradient_norm, report.learning_rate,
             tokens_per_second(seconds), clock_text(seconds));
}

double Progress::tokens_per_second(double seconds) const { return static_cast<double>(tokens_) / std::max(seconds, 1e-9); }

void Progress::draw_bar(mf::StepReport const& report, double seconds) {
  constexpr std::size_t width = 24;
  double const done = static_cast<double>(report.step) / static_cast<double>(end_);
  auto const filled = std::min(width, static_cast<std::size_t>(done * width));
  double const left = seconds / static_cast<double>(report.step - begin_) * static_cast<double>(end_ - report.step);
  // "\x1b[K" clears the rest of the line.
  fmt::print(stderr, "\r[{}{}] {}/{}  {:.0f} tok/s  loss {:.4f}  {} left\x1b[K", std::string(filled, '#'),
             std::string(width - filled, '.'), report.step, end_, tokens_per_second(seconds), loss_, clock_text(left));
  std::fflush(stderr);
}

std::string clock_text(double seconds) {
  auto const s = static_cast<long long>(std::llround(seconds));
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace cli
