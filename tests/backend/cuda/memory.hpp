// SPDX-License-Identifier: MIT
#pragma once
// Suite: fill, copy, convert, transfers and invoke on backends of CUDA.

#include "support.hpp"

#include <moduleformer/backend/cuda/memory.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>

namespace moduleformer::test {

constexpr Index memory_sizes[] = {0, 1, 31, 255, 256, 257, 9001};

BOOST_AUTO_TEST_CASE_TEMPLATE(fill_with_every_type, B, Backends) {
  for (Index const size : memory_sizes) {
    auto const check = [&](auto value) {
      using T = decltype(value);
      auto const found = in_all_orders<B>([&](Device<B>& device) {
        auto const x = device.template allocate<T>(size + 1);
        fill(device.backend(), x, T{});
        fill(device.backend(), x.rows(0, size), value);
        return device.download(x);
      });
      std::vector<T> expected(static_cast<std::size_t>(size), value);
      expected.push_back(T{});  // what lies behind is not touched
      BOOST_TEST(same_bits(found, expected));
    };
    check(bfloat16(-1.5f));
    check(2.25f);
    check(-1e300);
    check(std::int32_t{-7});
    check(Index{1} << 40);
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(copies_and_transfers, B, Backends) {
  for (Index const size : memory_sizes) {
    std::vector<double> const host = normal_numbers<double>(size, 3);
    Device<B> device;
    auto const x = device.upload(host);
    auto const y = device.template allocate<double>(size);
    copy(device.backend(), x, y);
    BOOST_TEST(same_bits(device.download(y), host));
  }
  Device<B> device;
  BOOST_CHECK_THROW(copy(device.backend(), device.template allocate<float>(3), device.template allocate<float>(4)),
                    Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(conversion_rounds_to_nearest, B, Backends) {
  using S = typename B::Scalar;
  std::vector<float> host = numbers<float>(normal_numbers<float>(1000, 4));
  // Ties, both ways; the largest number, which rounds to infinity; denormals, infinity, NaN.
  for (float const x : {1.00390625f, 1.01171875f, 3.402e38f, 3.4e38f, 1e-40f, -0.0f, INFINITY, -INFINITY, NAN})
    host.push_back(x);
  auto const found = in_all_orders<B>([&](Device<B>& device) {
    auto const y = device.template allocate<S>(host.size());
    convert(device.backend(), device.upload(host), y);
    return device.download(y);
  });
  BOOST_TEST(same_bits(found, numbers<S>(host)));
  auto const back = in_all_orders<B>([&](Device<B>& device) {
    auto const y = device.template allocate<float>(host.size());
    convert(device.backend(), device.upload(found), y);
    return device.download(y);
  });
  BOOST_TEST(same_bits(back, numbers<float>(found)));
}

/// Adds one to a counter.
struct Count {
  std::int32_t* counter;
  MODULEFORMER_HOST_DEVICE void operator()() const { *counter += 1; }
};

BOOST_AUTO_TEST_CASE_TEMPLATE(invoke_runs_once, B, Backends) {
  Device<B> device;
  auto const counter = device.upload(std::vector<std::int32_t>{41});
  invoke(device.backend(), Count{counter.data()});
  BOOST_TEST(device.download(counter)[0] == 42);
}

/// Adds i to the i-th counter.
struct CountEach {
  std::int32_t* counters;
  MODULEFORMER_HOST_DEVICE void operator()(Index i) const { counters[i] += static_cast<std::int32_t>(i); }
};

BOOST_AUTO_TEST_CASE_TEMPLATE(invoke_each_runs_once_for_each, B, Backends) {
  for (Index const count : {0, 1, 255, 256, 257, 5000}) {
    Device<B> device;
    auto const counters = device.upload(std::vector<std::int32_t>(static_cast<std::size_t>(count) + 1, 7));
    invoke_each(device.backend(), count, CountEach{counters.data()});
    auto const found = device.download(counters);
    for (Index i = 0; i <= count; ++i) BOOST_TEST(found[static_cast<std::size_t>(i)] == 7 + (i < count ? i : 0));
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(recorded_work, B, Backends) {
  Device<B> device;
  B& backend = device.backend();
  auto const counter = device.upload(std::vector<std::int32_t>{41});
  auto const recording = backend.record([&] { invoke(backend, Count{counter.data()}); });
  BOOST_TEST(device.download(counter)[0] == 41);
  backend.replay(recording);
  backend.replay(recording);
  BOOST_TEST(device.download(counter)[0] == 43);

  std::int32_t host = 7;
  auto const expect_refusal = [&](auto const& work) {
    BOOST_CHECK_THROW((void)backend.record(work), CudaError);
    invoke(backend, Count{counter.data()});  // the backend goes on
  };
  expect_refusal([&] { from_host(backend, &host, counter); });
  expect_refusal([&] { to_host(backend, counter, &host); });
  expect_refusal([&] { (void)backend.workspace().template allocate<float>(1000); });
  BOOST_TEST(host == 7);
  BOOST_TEST(device.download(counter)[0] == 46);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(too_much_memory, B, Backends) {
  using Bytes = Buffer<std::byte, typename B::Memory>;
  BOOST_CHECK_EXCEPTION(Bytes(Index{1} << 60), CudaError, [](CudaError const& error) {
    return std::string(error.what()).find("1152921504606846976") != std::string::npos;
  });
}

}  // namespace moduleformer::test
