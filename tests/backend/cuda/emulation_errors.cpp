// SPDX-License-Identifier: MIT
// The emulated device refuses what a GPU leaves undefined: an Error names the kernel's launch, the block, and every
// place that plays a part; what waited is unwound, and afterwards the backend works as before.

#include "support.hpp"

#include <moduleformer/backend/cuda/emulation/emulated.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace mf = moduleformer;
using mf::Index;
using mf::emulation::Order;
using mf::test::Device;

namespace {

using Backend = mf::CudaBackend<float, mf::Emulated>;

/// A place in this file, as messages print it.
std::string at(unsigned line) { return "emulation_errors.cpp:" + std::to_string(line); }

/// A kernel of one callable on the thread.
template <class F>
struct Kernel {
  static constexpr int threads = 64;
  F const* f;
  template <class Thread>
  void operator()(Thread const& thread) const {
    (*f)(thread);
  }
};

/// A sound kernel with every kind of waiting.
struct Sound {
  static constexpr int threads = 64;
  mf::Vector<float> x;
  template <class Thread>
  void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<float>();
    shared[thread.index()] = 2 * x[thread.index()];
    thread.sync();
    x[thread.index()] = thread.shuffle(shared[63 - thread.index()], 31 - thread.lane());
  }
};

/// The kernel's message in each order of threads holds all parts, and the backend works afterwards.
template <class F>
void expect_message(F const& f, std::vector<std::string> parts, Index blocks = 1, std::size_t shared_bytes = 0) {
  mf::test::RestoredOptions const restored;
  for (Order const order : {Order::forward, Order::reverse, Order::shuffled})
    for (int const workers : {1, 3}) {
      mf::emulation_options() = {.order = order, .workers = workers};
      Device<Backend> device;
      std::string message = "no error";
      unsigned const launched = __LINE__ + 2;
      try {
        device.backend().launch(Kernel<F>{&f}, blocks, shared_bytes);
      } catch (mf::Error const& error) {
        message = error.what();
      }
      parts.push_back("kernel of " + at(launched));
      for (std::string const& part : parts)
        BOOST_TEST(message.find(part) != std::string::npos, "expected \"" << part << "\", found: " << message);

      auto const x = device.upload(std::vector<float>(64, 4.0f));
      device.backend().launch(Sound{x}, 1, 64 * sizeof(float));
      BOOST_TEST(device.download(x) == std::vector<float>(64, 8.0f), boost::test_tools::per_element());
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(barriers_at_different_places) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) {
    if (thread.index() < 40) thread.sync();
    else (void)thread.sync_or(true);
  };
  expect_message(kernel, {"block 0: divergent barriers: thread ", at(here + 1), at(here + 2)});
}

// Threads that end before, amid and after those that wait.
BOOST_AUTO_TEST_CASE(a_barrier_that_a_thread_never_reaches) {
  for (int const missing : {0, 13, 63}) {
    constexpr unsigned here = __LINE__ + 1;
    auto const kernel = [&](auto const& thread) {
      if (thread.index() == missing) return;
      thread.sync();
    };
    expect_message(kernel,
                   {"waits in a barrier at " + at(here + 2), "but thread " + std::to_string(missing) + " has ended"});
  }
}

BOOST_AUTO_TEST_CASE(a_warp_without_one_lane) {
  for (int const missing : {32, 40, 63}) {
    constexpr unsigned here = __LINE__ + 1;
    auto const kernel = [&](auto const& thread) {
      if (thread.index() == missing) return;
      (void)thread.shuffle_xor(1.0f, 16);
    };
    expect_message(kernel, {"waits in a shuffle at " + at(here + 2),
                            "but thread " + std::to_string(missing) + " of its warp has ended"});
  }
}

BOOST_AUTO_TEST_CASE(lanes_in_different_operations) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) {
    if (thread.lane() % 2 == 0) (void)thread.ballot(true);
    else (void)thread.match_any(3);
  };
  expect_message(kernel, {"lanes of one warp in different operations: thread ", "ballot at " + at(here + 1),
                          "match_any at " + at(here + 2)});
}

BOOST_AUTO_TEST_CASE(lanes_in_one_operation_at_different_places) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) {
    int value = thread.lane();
    if (value < 8) value = thread.shuffle(value, 0);
    else value = thread.shuffle(value, 8);
    (void)value;
  };
  expect_message(kernel, {"a shuffle at " + at(here + 2), "a shuffle at " + at(here + 3)});
}

BOOST_AUTO_TEST_CASE(lanes_that_exchange_different_types) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) {
    auto const give = [&](auto value) { (void)thread.shuffle(value, 0); };
    if (thread.lane() < 8) give(1);
    else give(1.0);
  };
  expect_message(kernel, {"lanes of one warp in different operations", "a shuffle at " + at(here + 1)});
}

BOOST_AUTO_TEST_CASE(barrier_of_the_block_against_operation_of_the_warp) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) {
    if (thread.index() < 50) thread.sync();
    else thread.sync_warp();
  };
  expect_message(kernel, {"deadlock", "threads 0 to 49 wait in a barrier at " + at(here + 1),
                          "threads 50 to 63 wait in a warp operation at " + at(here + 2)});
}

BOOST_AUTO_TEST_CASE(shuffles_from_no_lane) {
  constexpr unsigned here = __LINE__ + 1;
  auto const kernel = [](auto const& thread) { (void)thread.shuffle(1, 32); };
  expect_message(kernel, {at(here), "expected lane 0 to 31, found 32"});
}

BOOST_AUTO_TEST_CASE(addresses) {
  alignas(16) static float global[8] = {};
  unsigned here = __LINE__ + 2;
  auto const odd_destination = [](auto const& thread) {
    thread.copy_async(thread.template shared<float>() + 1, global);
  };
  expect_message(odd_destination, {at(here), "aligned to 16"}, 1, 64);
  here = __LINE__ + 1;
  auto const odd_source = [](auto const& thread) { thread.copy_async(thread.template shared<float>(), global + 1); };
  expect_message(odd_source, {at(here), "aligned to 16"}, 1, 64);
  here = __LINE__ + 1;
  auto const beyond = [](auto const& thread) { thread.copy_async(thread.template shared<float>() + 16, global); };
  expect_message(beyond, {at(here), "into the block's shared memory"}, 1, 64);
  here = __LINE__ + 2;
  auto const within = [](auto const& thread) {
    thread.copy_async(thread.template shared<float>(), thread.template shared<float>() + 4);
  };
  expect_message(within, {at(here), "from outside"}, 1, 64);
  here = __LINE__ + 1;
  auto const too_many = [](auto const& thread) { thread.copy_async(thread.template shared<float>(), global, 17); };
  expect_message(too_many, {at(here), "0 to 16 bytes, found 17"}, 1, 64);
  here = __LINE__ + 3;
  auto const odd_row = [](auto const& thread) {
    std::uint32_t words[4];
    thread.load_matrices(words, thread.template shared<float>() + 2);
  };
  expect_message(odd_row, {"load_matrices at " + at(here), "aligned to 16"}, 1, 64);
  here = __LINE__ + 3;
  auto const far_row = [](auto const& thread) {
    std::uint32_t words[4];
    thread.load_matrices_transposed(words, global);
  };
  expect_message(far_row, {"load_matrices_transposed at " + at(here), "outside of the block's shared memory"}, 1, 64);
}

BOOST_AUTO_TEST_CASE(launches_that_no_device_takes) {
  Device<Backend> device;
  auto const nothing = [](auto const&) {};
  auto const expect = [&](Index blocks, std::size_t shared_bytes, std::string const& part) {
    BOOST_CHECK_EXCEPTION(
        device.backend().launch(Kernel<decltype(nothing)>{&nothing}, blocks, shared_bytes), mf::Error,
        [&](mf::Error const& error) { return std::string(error.what()).find(part) != std::string::npos; });
  };
  expect(1, (227 << 10) + 1, "at most 232448 bytes of shared memory, found 232449");
  expect(Index{1} << 31, 0, "at most 2147483647 blocks, found 2147483648");
  device.backend().launch(Kernel<decltype(nothing)>{&nothing}, 1, 227 << 10);
  BOOST_TEST(device.backend().stream().launches() == 1);
}

BOOST_AUTO_TEST_CASE(too_little_memory) {
  mf::test::RestoredOptions const restored;
  Device<Backend> device;
  mf::emulation_options().memory_bytes = 1000;
  auto const held = device.allocate<float>(100);
  BOOST_CHECK_EXCEPTION(device.allocate<float>(151), mf::CudaError, [](mf::CudaError const& error) {
    return error.what() == std::string("device memory: 604 bytes were asked for, 600 of 1000 are free");
  });
  fill(device.backend(), held, 1.0f);
  { Device<Backend>{}.allocate<float>(150); }
  { Device<Backend>{}.allocate<float>(150); }  // what was freed is free
}

// The failing block that comes first in order is the one that is reported, if one worker runs them.
BOOST_AUTO_TEST_CASE(the_block_is_named) {
  mf::test::RestoredOptions const restored;
  auto const kernel = [](auto const& thread) {
    if (thread.block() % 10 == 7 && thread.index() == 0) return;
    thread.sync();
  };
  for (Order const order : {Order::forward, Order::reverse}) {
    std::string const block = order == Order::forward ? "block 7:" : "block 27:";
    mf::emulation_options().order = order;
    Device<Backend> device;
    BOOST_CHECK_EXCEPTION(
        device.backend().launch(Kernel<decltype(kernel)>{&kernel}, 30), mf::Error,
        [&](mf::Error const& error) { return std::string(error.what()).find(block) != std::string::npos; });
  }
}

// An exception of a thread's own ends the launch as it is, and the locals of threads that wait are destroyed.
BOOST_AUTO_TEST_CASE(unwinding) {
  mf::test::RestoredOptions const restored;
  static std::atomic<int> alive, most;
  struct Local {
    Local() { most = std::max<int>(most, ++alive); }
    ~Local() { --alive; }
  };
  auto const kernel = [](auto const& thread) {
    Local const local;
    std::vector<int> const held(100, thread.index());
    if (thread.block() == 1 && thread.index() == 20) throw std::out_of_range("twenty");
    thread.sync();
  };
  for (Order const order : {Order::forward, Order::reverse, Order::shuffled}) {
    mf::emulation_options().order = order;
    alive = most = 0;
    Device<Backend> device;
    BOOST_CHECK_EXCEPTION(device.backend().launch(Kernel<decltype(kernel)>{&kernel}, 2), std::out_of_range,
                          [](std::out_of_range const& error) { return error.what() == std::string("twenty"); });
    BOOST_TEST(alive == 0);
    BOOST_TEST(most > 1);
  }
}
