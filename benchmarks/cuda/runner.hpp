// SPDX-License-Identifier: MIT
#pragma once
// Measures what benchmarks name: each line has a shape, what it must do, and a function that lays out its data and
// returns the call. Without a device only floors are printed. What a platform knows of clocks is in Traits.

#include "arguments.hpp"
#include "arrays.hpp"
#include "report.hpp"

#include <moduleformer/core/error.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Median; of none, 0.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  auto const middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Marks in a stream and the seconds between neighbours. Here: a platform that is never behind the host.
class HostMarks {
 public:
  template <class Stream>
  void mark(Stream&) {
    times_.push_back(now());
  }
  [[nodiscard]] std::vector<double> differences() {
    std::vector<double> result;
    for (std::size_t i = 1; i < times_.size(); ++i) result.push_back(times_[i] - times_[i - 1]);
    times_.clear();
    return result;
  }

 private:
  std::vector<double> times_;
};

/// What benchmarks ask of a platform; device.cuh answers for a GPU.
template <class Platform>
struct Traits {
  using Marks = HostMarks;
  static constexpr Index flushed_bytes = 0;
  static std::size_t free_bytes() { return std::size_t{64} << 30; }
  /// Products a second of the vendor's library for (m,k) x (k,n) in bfloat16; 0: there is none.
  template <class B>
  static double dense_flops(B&, Index, Index, Index) {
    return 0;
  }
};

/// How long a call takes on its backend: `warm_up` calls, then marks around each of `repeats`, the device's cache
/// emptied before each.
template <class B>
class Timing {
 public:
  using Platform = typename B::Platform;

  Timing(B& backend, Index warm_up, Index repeats, bool flush)
      : backend_(&backend), warm_up_(warm_up), repeats_(repeats) {
    if (flush && Traits<Platform>::flushed_bytes > 0)
      flushed_ = mf::Buffer<float, typename B::Memory>(Traits<Platform>::flushed_bytes / Index{sizeof(float)});
  }
  template <class Call>
  double median_seconds(Call&& call) {
    for (Index i = 0; i < warm_up_; ++i) call();
    typename Traits<Platform>::Marks marks;
    for (Index i = 0; i < repeats_; ++i) {
      if (flushed_.size() > 0) fill(*backend_, flushed_.view(), static_cast<float>(i));
      marks.mark(backend_->stream());
      call();
      marks.mark(backend_->stream());
    }
    auto const between = marks.differences();
    std::vector<double> taken;
    for (std::size_t i = 0; i < between.size(); i += 2) taken.push_back(between[i]);
    return median(taken);
  }

 private:
  B* backend_;
  Index warm_up_, repeats_;
  mf::Buffer<float, typename B::Memory> flushed_{};
};

struct RunnerOptions {
  bool json = false, floors = false, keep_cache = false, tiny = false;
  Index repeats = 20;
  std::string only{};

  void read(Arguments& arguments) {
    arguments.flag("--json", json, "print one JSON object");
    arguments.flag("--floors", floors, "print floors only; needs no device");
    arguments.flag("--keep-cache", keep_cache, "do not empty the second-level cache before each call");
    arguments.flag("--tiny", tiny, "small sizes, to see that everything runs");
    arguments.option("--repeats", repeats, "calls of which the median is taken", Index{1});
    arguments.option("--only", only, "only tables whose title contains this");
  }
};

/// The product that the vendor's library is asked for beside a line: (m,k) x (k,n).
struct DenseProduct {
  Index m = 0, k = 0, n = 0;
};

template <class B>
class Runner {
 public:
  using S = typename B::Scalar;

  /// Without a backend only floors are printed.
  Runner(B* backend, RunnerOptions options, Report& report)
      : backend_(backend), options_(std::move(options)), report_(&report) {
    if (backend_ != nullptr)
      timing_ = std::make_unique<Timing<B>>(*backend_, options_.tiny ? 1 : 3, options_.repeats, !options_.keep_cache);
  }

  [[nodiscard]] bool measures() const { return backend_ != nullptr; }
  [[nodiscard]] B& backend() { return *backend_; }
  [[nodiscard]] Timing<B>& timing() { return *timing_; }
  [[nodiscard]] RunnerOptions const& options() const { return options_; }
  /// The size to measure: as given, or the small one.
  [[nodiscard]] Index size(Index full, Index tiny) const { return options_.tiny ? tiny : full; }

  /// Begins a table; false if it is not wanted.
  bool table(std::string const& title) {
    if (!options_.only.empty() && title.find(options_.only) == std::string::npos) return false;
    report_->begin(title);
    return true;
  }

  /// prepare(arrays, cost) lays out the data and returns the call to time; it may correct the cost by what it laid out.
  template <class Prepare>
  void line(std::string name, std::string shape, Cost cost, Prepare&& prepare, DenseProduct dense = {}) {
    Line line{std::move(name), std::move(shape), cost};
    if (backend_ != nullptr) {
      try {
        mf::Scope const scope{backend_->workspace()};
        Arrays<B> arrays(*backend_);
        auto const call = prepare(arrays, line.cost);
        line.seconds = timing_->median_seconds(call);
        if (dense.m > 0)
          line.dense_flops = Traits<typename B::Platform>::dense_flops(*backend_, dense.m, dense.k, dense.n);
      } catch (mf::CudaError const& error) {
        if (std::string(error.what()).find("device memory") == std::string::npos) throw;
        line.note = std::string("does not fit: ") + error.what();
      }
    }
    report_->add(line);
  }

 private:
  B* backend_;
  RunnerOptions options_;
  Report* report_;
  std::unique_ptr<Timing<B>> timing_;
};

/// "N 16384, K 2"
inline std::string text(char const* name, Index value) { return std::string(name) + ' ' + std::to_string(value); }

}  // namespace bench
