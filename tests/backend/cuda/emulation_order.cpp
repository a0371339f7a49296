// SPDX-License-Identifier: MIT
// In which order the emulated device begins threads and blocks, and that several host threads compute the same.

#include "support.hpp"

#include <moduleformer/backend/cuda/emulation/emulated.cuh>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

namespace mf = moduleformer;
using mf::Index;
using mf::emulation::Order;
using mf::test::Device;

namespace {

using Backend = mf::CudaBackend<float, mf::Emulated>;

/// Who came when: before and after a barrier.
struct Arrivals {
  static constexpr int threads = 64;
  std::int32_t* count;
  mf::Vector<Index> out;  // (2*blocks*threads)
  template <class Thread>
  void operator()(Thread const& thread) const {
    for (int round = 0; round < 2; ++round) {
      out[thread.atomic_add(count, 1)] = 1000 * thread.block() + thread.index();
      thread.sync();
    }
  }
};

std::vector<Index> arrivals(mf::emulation::Options const& options, Index blocks) {
  mf::test::RestoredOptions const restored;
  mf::emulation_options() = options;
  Device<Backend> device;
  auto const count = device.upload(std::vector<std::int32_t>{0});
  auto const out = device.allocate<Index>(2 * blocks * 64);
  device.backend().launch(Arrivals{count.data(), out}, blocks);
  return device.download(out);
}

}  // namespace

BOOST_AUTO_TEST_CASE(orders) {
  auto const forward = arrivals({.order = Order::forward}, 3), reverse = arrivals({.order = Order::reverse}, 3);
  std::vector<Index> expected;
  for (Index block = 0; block < 3; ++block) {
    for (Index i = 0; i < 64; ++i) expected.push_back(1000 * block + i);
    expected.push_back(1000 * block + 63);  // who came last to the barrier just goes on
    for (Index i = 0; i < 63; ++i) expected.push_back(1000 * block + i);
  }
  BOOST_TEST(forward == expected, boost::test_tools::per_element());
  std::transform(expected.begin(), expected.end(), expected.begin(),
                 [](Index x) { return 1000 * (2 - x / 1000) + 63 - x % 1000; });
  BOOST_TEST(reverse == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(shuffled) {
  auto const one = arrivals({.order = Order::shuffled, .seed = 1}, 3),
             two = arrivals({.order = Order::shuffled, .seed = 2}, 3);
  BOOST_TEST((one != two));
  BOOST_TEST((one == arrivals({.order = Order::shuffled, .seed = 1}, 3)), "a seed's order is no accident");
  for (auto values : {one, two}) {
    BOOST_TEST(!std::is_sorted(values.begin(), values.end()));
    std::sort(values.begin(), values.end());
    for (std::size_t i = 0; i < values.size(); ++i)
      BOOST_TEST_REQUIRE(values[i] == static_cast<Index>(i / 128 * 1000 + i / 2 % 64));
  }
}

// More blocks than workers, more workers than blocks, launches after each other.
BOOST_AUTO_TEST_CASE(workers) {
  for (int const workers : {2, 3, 5})
    for (Index const blocks : {1, 2, 40})
      for (Order const order : {Order::forward, Order::reverse, Order::shuffled}) {
        auto values = arrivals({.order = order, .workers = workers}, blocks);
        std::sort(values.begin(), values.end());
        for (std::size_t i = 0; i < values.size(); ++i)
          BOOST_TEST_REQUIRE(values[i] == static_cast<Index>(i / 128 * 1000 + i / 2 % 64));
      }
}

namespace {

/// Blocks of all sizes, one after another on the same fibers.
template <int Threads>
struct Sums {
  static constexpr int threads = Threads;
  mf::Vector<std::int32_t> out;  // (blocks)
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<std::int32_t>();
    shared[thread.index()] = thread.index() + 1;
    for (int step = Threads / 2; step > 0; step /= 2) {
      thread.sync();
      if (thread.index() < step) shared[thread.index()] += shared[thread.index() + step];
    }
    if (thread.index() == 0) out[thread.block()] = shared[0];
  }
};

template <int Threads>
void check_sums() {
  Device<Backend> device;
  auto const out = device.allocate<std::int32_t>(4);
  device.backend().launch(Sums<Threads>{out}, 4, Threads * sizeof(std::int32_t));
  BOOST_TEST(device.download(out) == std::vector<std::int32_t>(4, Threads * (Threads + 1) / 2),
             boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_CASE(sizes_of_blocks) {
  mf::test::RestoredOptions const restored;
  for (Order const order : {Order::forward, Order::reverse, Order::shuffled}) {
    mf::emulation_options().order = order;
    check_sums<32>();
    check_sums<1024>();
    check_sums<64>();
    check_sums<512>();
  }
}
