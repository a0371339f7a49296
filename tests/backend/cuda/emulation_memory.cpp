// SPDX-License-Identifier: MIT
// The emulated device shows what a GPU hides: memory that nobody wrote is NaN, an asynchronous copy lands at its wait
// and not before, a missing barrier changes the result in some order of threads, ASan sees accesses beside arrays.

#include "support.hpp"

#include <moduleformer/backend/cuda/emulation/emulated.cuh>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

namespace mf = moduleformer;
using mf::Index;
using mf::emulation::Order;
using mf::test::Device;

namespace {

using Backend = mf::CudaBackend<float, mf::Emulated>;

bool all_nan(std::vector<float> const& values) {
  for (float const x : values)
    if (!std::isnan(x)) return false;
  return !values.empty();
}

}  // namespace

BOOST_AUTO_TEST_CASE(memory_begins_as_nan) {
  Device<Backend> device;
  BOOST_TEST(all_nan(device.download(device.allocate<float>(17))));
}

BOOST_AUTO_TEST_CASE(scratch_begins_as_nan_each_time) {
  Device<Backend> device;
  for (int round = 0; round < 3; ++round) {
    mf::Scope const scope{device.backend().workspace()};
    for (Index const size : {17, 1, 500000}) {
      auto const x = device.backend().workspace().allocate<float>(size);
      BOOST_TEST(all_nan(device.download(x)));
      fill(device.backend(), x, 1.0f);
      BOOST_TEST(device.download(x).back() == 1);
    }
  }
}

namespace {

struct ReadsShared {
  static constexpr int threads = 32;
  mf::Vector<float> out;  // (blocks*threads)
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<float>();
    out[thread.block() * threads + thread.index()] = shared[thread.index()];
    shared[thread.index()] = 1;
  }
};

/// Neighbours exchange values twice. Without the barrier between, a thread may write its second value before
/// another has read the first.
template <bool SecondBarrier>
struct Exchanges {
  static constexpr int threads = 64;
  mf::Vector<float> out;
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<float>();
    int const i = thread.index();
    float sum = 0;
    for (int round = 0; round < 2; ++round) {
      shared[i] = static_cast<float>(i + 100 * round);
      thread.sync();
      sum += shared[(i + 1) % threads];
      if constexpr (SecondBarrier) thread.sync();
    }
    out[i] = sum;
  }
};

/// The same mistake within a warp, where lanes of a GPU mostly run in step.
template <bool Barrier>
struct Reverses {
  static constexpr int threads = 32;
  mf::Vector<float> out;
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<float>();
    shared[thread.lane()] = static_cast<float>(thread.lane());
    if constexpr (Barrier) thread.sync_warp();
    out[thread.lane()] = shared[31 - thread.lane()];
  }
};

enum class Mistake { none, no_wait, no_commit, waits_for_older, no_barrier };

template <Mistake What>
struct CopiesToShared {
  static constexpr int threads = 32;
  mf::Vector<float const> x;  // (4*threads)
  mf::Vector<float> out;      // (4*threads)
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<float>();
    int const i = thread.index();
    for (int k = 0; k < 4; ++k) shared[4 * i + k] = 1;  // what lay there is gone once a copy is issued
    thread.sync();
    thread.copy_async(shared + 4 * i, x.data() + 4 * i);
    if constexpr (What != Mistake::no_commit) thread.commit_copies();
    if constexpr (What == Mistake::waits_for_older) thread.template wait_copies<1>();
    else if constexpr (What != Mistake::no_wait) thread.template wait_copies<0>();
    if constexpr (What != Mistake::no_barrier) thread.sync();
    for (int k = 0; k < 4; ++k) out[4 * i + k] = shared[4 * ((i + 1) % threads) + k];
  }
};

/// The results of a kernel in each order.
template <class Kernel>
std::set<std::vector<float>> results(Index size) {
  mf::test::RestoredOptions const restored;
  std::set<std::vector<float>> all;
  for (Order const order : {Order::forward, Order::reverse, Order::shuffled}) {
    mf::emulation_options().order = order;
    Device<Backend> device;
    auto const out = device.allocate<float>(size);
    device.backend().launch(Kernel{out}, 1, static_cast<std::size_t>(size) * sizeof(float));
    auto values = device.download(out);
    for (float& x : values)
      if (std::isnan(x)) x = -1e9f;  // so that vectors can be ordered
    all.insert(values);
  }
  return all;
}

template <Mistake What>
std::vector<float> copied(Order order) {
  mf::test::RestoredOptions const restored;
  mf::emulation_options().order = order;
  Device<Backend> device;
  auto const out = device.allocate<float>(128);
  device.backend().launch(CopiesToShared<What>{device.upload(std::vector<float>(128, 3.0f)), out}, 1,
                          128 * sizeof(float));
  return device.download(out);
}

}  // namespace

BOOST_AUTO_TEST_CASE(shared_memory_begins_as_nan_in_each_block) {
  Device<Backend> device;
  auto const out = device.upload(std::vector<float>(5 * 32, 1.0f));
  device.backend().launch(ReadsShared{out}, 5, 32 * sizeof(float));
  BOOST_TEST(all_nan(device.download(out)));
}

BOOST_AUTO_TEST_CASE(missing_barriers_change_the_result) {
  BOOST_TEST(results<Exchanges<true>>(64).size() == 1);
  BOOST_TEST(results<Exchanges<false>>(64).size() > 1);
  BOOST_TEST(results<Reverses<true>>(32).size() == 1);
  BOOST_TEST(results<Reverses<false>>(32).size() > 1);
}

BOOST_AUTO_TEST_CASE(copies_land_at_the_wait) {
  for (Order const order : {Order::forward, Order::reverse, Order::shuffled}) {
    BOOST_TEST(copied<Mistake::none>(order) == std::vector<float>(128, 3.0f), boost::test_tools::per_element());
    BOOST_TEST(all_nan(copied<Mistake::no_wait>(order)));
    BOOST_TEST(all_nan(copied<Mistake::no_commit>(order)));
    BOOST_TEST(all_nan(copied<Mistake::waits_for_older>(order)));
    // Another thread's copies are there only behind a barrier, however long that thread waited.
    auto const found = copied<Mistake::no_barrier>(order);
    BOOST_TEST((found != std::vector<float>(128, 3.0f)));
  }
}

BOOST_AUTO_TEST_CASE(what_ran_is_counted) {
  Device<Backend> device;
  auto const x = device.allocate<float>(3);
  device.backend().launch(mf::kernels::Fill<float>{x, 1}, 5);
  device.backend().launch(mf::kernels::Fill<float>{x, 1}, 0);  // no launch
  device.backend().launch(mf::kernels::Fill<float>{x, 1}, 2);
  BOOST_TEST(device.backend().stream().launches() == 2);
  BOOST_TEST(device.backend().stream().blocks() == 7);
}

#if defined(MODULEFORMER_FIBER_ASAN)  // the ends of arrays, as the address sanitizer knows them
namespace {

struct Ends {
  static constexpr int threads = 32;
  mf::Vector<std::int32_t> out;
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<unsigned char>();
    if (thread.index() > 0) return;
    out[0] = __asan_address_is_poisoned(shared + 40);
    out[1] = __asan_address_is_poisoned(shared + 41);
    out[2] = __asan_address_is_poisoned(shared - 1);
  }
};

template <class T>
void check_ends(mf::Vector<T> x) {
  BOOST_TEST(!__asan_address_is_poisoned(x.data() + x.size() - 1));
  BOOST_TEST(__asan_address_is_poisoned(x.data() + x.size()));
}

}  // namespace

BOOST_AUTO_TEST_CASE(ends_of_arrays) {
  Device<Backend> device;
  auto const out = device.allocate<std::int32_t>(3);
  device.backend().launch(Ends{out}, 1, 41);
  BOOST_TEST(device.download(out) == (std::vector<std::int32_t>{0, 1, 1}), boost::test_tools::per_element());
  check_ends(out);
  float* first = nullptr;
  {
    mf::Scope const scope{device.backend().workspace()};
    auto const x = device.backend().workspace().allocate<float>(17),
               y = device.backend().workspace().allocate<float>(1);
    check_ends(x);
    check_ends(y);
    first = x.data();
  }
  BOOST_TEST(__asan_address_is_poisoned(first));
}
#endif
