// SPDX-License-Identifier: MIT
#pragma once
// What benchmarks share: medians of wall-clock times, the machine's product speed and bandwidth.

#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/cpu.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <string>
#include <vector>

namespace bench {

namespace mf = moduleformer;

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> values) {
  auto const middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Lets a measured function leave out its preparation.
struct Timer {
  double seconds = 0;
  void start() { begin_ = now(); }
  void stop() { seconds = now() - begin_; }

 private:
  double begin_ = now();
};

/// Median over `repeats` calls after one that warms up.
template <class F>
double median_seconds(mf::Index repeats, F&& f) {
  std::vector<double> times;
  for (mf::Index i = 0; i <= repeats; ++i) {
    Timer timer;
    if constexpr (std::invocable<F, Timer&>) {
      f(timer);
    } else {
      timer.start();
      f();
      timer.stop();
    }
    if (i > 0) times.push_back(timer.seconds);
  }
  return median(times);
}

/// GFLOP/s of a 1024^3 product with the backend's own `gemm`, rows split among the threads; the best of several.
inline double gemm_gflops(mf::Cpu<float>& backend) {
  constexpr mf::Index n = 1024;
  using Buffer = mf::Buffer<float, mf::HostMemory>;
  mf::Index const threads = backend.threads(), rows = (n + threads - 1) / threads, scratch_size = mf::gemm_scratch<float>(rows, n, n);
  Buffer x(n * n), w(n * n), y(n * n), scratch(threads * scratch_size);
  for (auto* b : {&x, &w, &y, &scratch}) fill(backend, b->view(), 0.5f);
  double best = 1e30;
  for (int i = 0; i < 12; ++i) {
    Timer timer;
    timer.start();
#pragma omp parallel for num_threads(backend.threads()) schedule(static, 1)
    for (mf::Index t = 0; t < threads; ++t) {
      mf::Index const begin = std::min(n, t * rows), count = std::min(n, begin + rows) - begin;
      gemm(mf::Trans::no, mf::Trans::no, count, n, n, 1, x.data() + begin * n, n, w.data(), n, 0, y.data() + begin * n, n,
           scratch.data() + t * scratch_size);
    }
    timer.stop();
    best = std::min(best, timer.seconds);
  }
  return 2.0 * n * n * n / best * 1e-9;
}

/// Bytes per second of y += x over arrays that fit no cache, all threads; the best of several.
inline double bandwidth(mf::Cpu<float>& backend) {
  constexpr mf::Index n = mf::Index{1} << 25;  // 128 MiB each
  mf::Buffer<float, mf::HostMemory> x(n), y(n);
  fill(backend, x.view(), 1.0f);
  fill(backend, y.view(), 1.0f);
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    Timer timer;
    timer.start();
    add(backend, mf::Matrix<float>{x.data(), {n / 1024, 1024}}, mf::Matrix<float>{y.data(), {n / 1024, 1024}});
    timer.stop();
    best = std::min(best, timer.seconds);
  }
  return 3.0 * n * sizeof(float) / best;
}

}  // namespace bench
