// SPDX-License-Identifier: MIT
#pragma once
// Suite: each member of a kernel's thread computes what its comment says. Expected values come from loops on the host
// over whole numbers, which every rounding leaves alone, so device and emulation must agree bit by bit.

#include "support.hpp"

#include <moduleformer/backend/cuda/kernels/product_operand.cuh>
#include <moduleformer/core/platform.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>

namespace moduleformer::test {

using AnyBackend = std::tuple_element_t<0, Backends>;

/// Whole numbers in [-range, range].
inline std::vector<double> whole_numbers(Index count, std::uint64_t seed, int range) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<double>(random_words({seed}, i)[0] % static_cast<unsigned>(2 * range + 1)) - range;
  return values;
}

struct Positions {
  static constexpr int threads = 96;
  Matrix<Index> out;  // (blocks*threads, 6)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const row = thread.block() * threads + thread.index();
    Index const values[] = {thread.index(), thread.lane(),   thread.warp(),
                            thread.block(), thread.blocks(), thread.block_size()};
    for (int i = 0; i < 6; ++i) out(row, i) = values[i];
  }
};

BOOST_AUTO_TEST_CASE(positions) {
  auto const found = in_all_orders<AnyBackend>([](Device<AnyBackend>& device) {
    auto const out = device.allocate<Index>(3 * 96, 6);
    device.backend().launch(Positions{out}, 3);
    return device.download(out);
  });
  std::vector<Index> expected;
  for (Index row = 0; row < 3 * 96; ++row)
    for (Index const value : {row % 96, row % 32, row % 96 / 32, row / 96, Index{3}, Index{96}})
      expected.push_back(value);
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

/// Rounds of: everybody writes, everybody reads another's; and whether any thread raised a hand.
struct Barriers {
  static constexpr int threads = 128;
  static constexpr int rounds = 5;
  Matrix<std::int32_t> out;  // (2*rounds, threads)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<std::int32_t>();
    int const i = thread.index();
    for (int round = 0; round < rounds; ++round) {
      shared[i] = 1000 * round + i;
      bool const raised = thread.sync_or(round % 2 == 1 && i == 37 + round);
      out(2 * round, i) = shared[(i + 31) % threads];
      out(2 * round + 1, i) = raised;
      thread.sync();
    }
    // Within a warp.
    shared[i] = -i;
    thread.sync_warp();
    out(0, i) += shared[i ^ 5];
  }
};

BOOST_AUTO_TEST_CASE(barriers_and_shared_memory) {
  auto const found = in_all_orders<AnyBackend>([](Device<AnyBackend>& device) {
    auto const out = device.allocate<std::int32_t>(2 * Barriers::rounds, Barriers::threads);
    device.backend().launch(Barriers{out}, 1, sizeof(std::int32_t) * Barriers::threads);
    return device.download(out);
  });
  std::vector<std::int32_t> expected;
  for (int round = 0; round < Barriers::rounds; ++round) {
    for (int i = 0; i < 128; ++i) expected.push_back(1000 * round + (i + 31) % 128 - (round == 0 ? (i ^ 5) : 0));
    for (int i = 0; i < 128; ++i) expected.push_back(round % 2);
  }
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

template <class T>
struct Shuffles {
  static constexpr int threads = 64;
  TensorView<T, 3> out;  // (4, 32, threads)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    int const i = thread.index();
    T const value = own(i);
    for (int n = 0; n < 32; ++n) {
      out(0, n, i) = thread.shuffle(value, (thread.lane() * 7 + n) % 32);
      out(1, n, i) = thread.shuffle_xor(value, n);
      out(2, n, i) = thread.shuffle_up(value, n);
      out(3, n, i) = thread.shuffle_down(value, n);
    }
  }
  /// Uses all bytes of T.
  static constexpr T own(int i) {
    return static_cast<T>(i + 1) * static_cast<T>(sizeof(T) == 8 ? 1099511627776 + 3 : 65536 + 3);
  }
};

template <class T>
void check_shuffles() {
  auto const found = in_all_orders<AnyBackend>([](Device<AnyBackend>& device) {
    auto const out = device.allocate<T>(4, 32, 64);
    device.backend().launch(Shuffles<T>{out}, 1);
    return device.download(out);
  });
  std::vector<T> expected;
  for (int kind = 0; kind < 4; ++kind)
    for (int n = 0; n < 32; ++n)
      for (int i = 0; i < 64; ++i) {
        int const lane = i % 32;
        int const source[] = {(lane * 7 + n) % 32, lane ^ n, lane >= n ? lane - n : lane,
                              lane + n < 32 ? lane + n : lane};
        expected.push_back(Shuffles<T>::own(i - lane + source[kind]));
      }
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(shuffles) {
  check_shuffles<std::int32_t>();
  check_shuffles<std::uint32_t>();
  check_shuffles<std::int64_t>();
  check_shuffles<std::uint64_t>();
  check_shuffles<float>();
  check_shuffles<double>();
}

struct Votes {
  static constexpr int threads = 64;
  Vector<std::uint32_t const> x;  // (threads)
  Matrix<std::uint32_t> out;      // (3, threads)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    int const i = thread.index();
    out(0, i) = thread.ballot(x[i] % 3 == 0);
    out(1, i) = thread.match_any(x[i]);
    out(2, i) = thread.reduce_max(x[i]);
  }
};

BOOST_AUTO_TEST_CASE(votes) {
  std::vector<std::uint32_t> x(64);
  for (std::size_t i = 0; i < 64; ++i) x[i] = random_words({5}, i)[0] % 9 * (i % 2 == 0 ? 1u : 400000000u);
  auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
    auto const out = device.allocate<std::uint32_t>(3, 64);
    device.backend().launch(Votes{device.upload(x), out}, 1);
    return device.download(out);
  });
  std::vector<std::uint32_t> expected(3 * 64);
  for (std::size_t i = 0; i < 64; ++i)
    for (std::size_t lane = 0; lane < 32; ++lane) {
      std::uint32_t const other = x[i / 32 * 32 + lane];
      expected[i] |= (other % 3 == 0 ? 1u : 0u) << lane;
      expected[64 + i] |= (other == x[i] ? 1u : 0u) << lane;
      expected[128 + i] = std::max(expected[128 + i], other);
    }
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

struct Atomics {
  static constexpr int threads = 64;
  std::int32_t* count;
  float* sum;
  Vector<std::int32_t> before;  // (blocks*threads)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = thread.block() * threads + thread.index();
    before[i] = thread.atomic_add(count, 1);
    (void)thread.atomic_add(sum, static_cast<float>(i % 5));
  }
};

BOOST_AUTO_TEST_CASE(atomic_additions) {
  auto const found = in_all_orders<AnyBackend>([](Device<AnyBackend>& device) {
    auto const count = device.upload(std::vector<std::int32_t>{0});
    auto const sum = device.upload(std::vector<float>{0});
    auto const before = device.allocate<std::int32_t>(7 * 64);
    device.backend().launch(Atomics{count.data(), sum.data(), before}, 7);
    auto values = device.download(before);
    std::sort(values.begin(), values.end());  // who came when is anybody's guess
    values.push_back(device.download(count)[0]);
    values.push_back(static_cast<std::int32_t>(device.download(sum)[0]));
    return values;
  });
  std::vector<std::int32_t> expected(7 * 64);
  std::iota(expected.begin(), expected.end(), 0);
  std::int32_t sum = 0;
  for (std::int32_t const i : expected) sum += i % 5;
  expected.push_back(7 * 64);
  expected.push_back(sum);
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

/// Two groups of copies in flight; the first lands while the second flies.
struct Copies {
  static constexpr int threads = 32;
  Vector<std::uint8_t const> x;  // (2*16*threads)
  Vector<std::uint8_t> out;      // (2*16*threads)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    auto* const shared = thread.template shared<std::uint8_t>();
    int const i = thread.index();
    for (int group = 0; group < 2; ++group) {
      int const place = 16 * (group * threads + i);
      thread.copy_async(shared + place, x.data() + place, group == 0 ? i % 17 : 16);
      thread.commit_copies();
    }
    for (int group = 0; group < 2; ++group) {
      if (group == 0) thread.template wait_copies<1>();
      else thread.template wait_copies<0>();
      thread.sync();
      int const place = 16 * (group * threads + (i + 1) % threads);
      for (int k = 0; k < 16; ++k) out[place + k] = shared[place + k];
    }
  }
};

BOOST_AUTO_TEST_CASE(asynchronous_copies) {
  std::vector<std::uint8_t> x(2 * 16 * 32);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::uint8_t>(i % 251 + 1);
  auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
    auto const out = device.allocate<std::uint8_t>(x.size());
    device.backend().launch(Copies{device.upload(x), out}, 1, x.size());
    return device.download(out);
  });
  std::vector<std::uint8_t> expected = x;
  for (std::size_t i = 0; i < 32; ++i)
    for (std::size_t k = i % 17; k < 16; ++k) expected[16 * i + k] = 0;
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

struct MatrixLoads {
  static constexpr int threads = 32;
  Vector<std::uint16_t const> x;     // (4*8*8)
  TensorView<std::uint32_t, 3> out;  // (2, 32, 4)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    constexpr int pitch = 24;  // rows need not be neighbours
    auto* const shared = thread.template shared<std::uint16_t>();
    int const i = thread.index();
    for (int k = 0; k < 8; ++k) shared[pitch * i + k] = x[8 * i + k];
    thread.sync_warp();
    std::uint32_t words[4];
    thread.load_matrices(words, shared + pitch * i);
    for (int k = 0; k < 4; ++k) out(0, i, k) = words[k];
    thread.load_matrices_transposed(words, shared + pitch * i);
    for (int k = 0; k < 4; ++k) out(1, i, k) = words[k];
  }
};

BOOST_AUTO_TEST_CASE(loads_of_matrices) {
  std::vector<std::uint16_t> x(4 * 8 * 8);
  std::iota(x.begin(), x.end(), std::uint16_t{300});
  auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
    auto const out = device.allocate<std::uint32_t>(2, 32, 4);
    device.backend().launch(MatrixLoads{device.upload(x), out}, 1, 32 * 24 * 2);
    return device.download(out);
  });
  std::vector<std::uint32_t> expected;
  for (bool const transposed : {false, true})
    for (std::size_t lane = 0; lane < 32; ++lane)
      for (std::size_t matrix = 0; matrix < 4; ++matrix) {
        std::size_t const row = lane / 4, column = lane % 4 * 2;
        auto const element = [&](std::size_t i, std::size_t j) -> std::uint32_t {
          return x[64 * matrix + (transposed ? 8 * j + i : 8 * i + j)];
        };
        expected.push_back(element(row, column) | element(row, column + 1) << 16);
      }
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

/// C += A B with fragments loaded from shared memory as kernels do: A by rows, B by rows transposed.
struct SmallProduct {
  static constexpr int threads = 32;
  Matrix<bfloat16 const> a;  // (16,16)
  Matrix<bfloat16 const> b;  // (16,8)
  Matrix<float> c;           // (16,8)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    auto* const rows_a = thread.template shared<bfloat16>();
    auto* const rows_b = rows_a + 16 * 16;
    int const lane = thread.lane();
    for (int i = lane; i < 16 * 16; i += threads) rows_a[i] = a(i / 16, i % 16);
    for (int i = lane; i < 16 * 16; i += threads) rows_b[i] = i % 16 < 8 ? b(i / 16, i % 16) : bfloat16(0.0f);
    thread.sync_warp();
    std::uint32_t words_a[4], words_b[4];
    thread.load_matrices(words_a, rows_a + lane % 16 * 16 + lane / 16 * 8);
    thread.load_matrices_transposed(words_b, rows_b + lane % 16 * 16 + lane / 16 * 8);
    std::uint32_t const fragment_b[2] = {words_b[0], words_b[1]};
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = c(lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
    thread.multiply_add(sums, words_a, fragment_b);
    for (int i = 0; i < 4; ++i) c(lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2) = sums[i];
  }
};

BOOST_AUTO_TEST_CASE(products_of_matrices) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    auto const a = whole_numbers(16 * 16, 3 * seed, 100), b = whole_numbers(16 * 8, 3 * seed + 1, 100);
    auto const c = whole_numbers(16 * 8, 3 * seed + 2, 1000);
    auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
      auto const sums = device.upload<float>(c, 16, 8);
      device.backend().launch(SmallProduct{device.upload<bfloat16>(a, 16, 16), device.upload<bfloat16>(b, 16, 8), sums},
                              1, 2 * 16 * 16 * sizeof(bfloat16));
      return device.download<double>(sums);
    });
    std::vector<double> expected = c;
    for (std::size_t i = 0; i < 16; ++i)
      for (std::size_t j = 0; j < 8; ++j)
        for (std::size_t k = 0; k < 16; ++k) expected[8 * i + j] += a[16 * i + k] * b[8 * k + j];
    BOOST_TEST(found == expected, boost::test_tools::per_element());
  }
}

/// In place of a's major: each warp has fragments of a in registers.
inline constexpr int in_registers = -1;

/// c (64,N) += or = a (64,128) b (128,N), two stages of 64 terms under way at once.
template <int MajorA, int MajorB, int N>
struct WarpgroupProducts {
  static constexpr int threads = 128;
  using PartA = kernels::SharedPart<bfloat16, 64, 64>;
  using PartB = std::conditional_t<MajorB == 0, kernels::SharedPart<bfloat16, N, 64>, kernels::SharedPart<bfloat16, 64, N>>;
  static constexpr std::size_t shared_bytes = 2 * sizeof(bfloat16) * (PartA::size + PartB::size);
  Matrix<bfloat16 const> a, b;
  Matrix<float> c;
  bool add;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    if constexpr (Thread::has_warpgroups) {
      auto* const shared = thread.template shared<bfloat16>();
      for (int stage = 0; stage < 2; ++stage) {
        bfloat16* const to = shared + stage * (PartA::size + PartB::size);
        for (int i = thread.index(); MajorA != in_registers && i < 64 * 64; i += threads)
          put<PartA>(to, MajorA == 0 ? i / 64 : i % 64, MajorA == 0 ? i % 64 : i / 64, a(i / 64, 64 * stage + i % 64));
        for (int i = thread.index(); i < 64 * N; i += threads)
          put<PartB>(to + PartA::size, MajorB == 0 ? i % N : i / N, MajorB == 0 ? i / N : i % N, b(64 * stage + i / N, i % N));
      }
      float sums[N / 2];
      int const row = 16 * thread.warp() + thread.lane() / 4, column = 2 * (thread.lane() % 4);
      MODULEFORMER_UNROLL
      for (int i = 0; i < N / 2; ++i) sums[i] = c(row + 8 * (i / 2 % 2), i / 4 * 8 + column + i % 2);
      std::uint32_t rows[MajorA == in_registers ? 8 : 1][4];  // 16 terms each
      if constexpr (MajorA == in_registers)
        MODULEFORMER_UNROLL
        for (int i = 0; i < 8 * 4; ++i)
          rows[i / 4][i % 4] = *reinterpret_cast<std::uint32_t const*>(&a(row + 8 * (i % 2), i / 4 * 16 + column + 8 * (i % 4 / 2)));
      thread.publish_shared();
      thread.sync();
      thread.begin_products();
      MODULEFORMER_UNROLL
      for (int stage = 0; stage < 2; ++stage) {
        bfloat16 const* const from = shared + stage * (PartA::size + PartB::size);
        MODULEFORMER_UNROLL
        for (int k = 0; k < 64; k += 16) {
          auto const right = thread.shared_matrix(from + PartA::size + (MajorB == 0 ? k : 64 * k), 64 * 128);
          bool const adds = add || stage > 0 || k > 0;
          if constexpr (MajorA == in_registers)
            thread.template multiply_rows<MajorB>(sums, rows[4 * stage + k / 16], right, adds);
          else
            thread.template multiply_shared<MajorA, MajorB>(
                sums, thread.shared_matrix(from + (MajorA == 0 ? k : 64 * k), 64 * 128), right, adds);
        }
        thread.commit_products();
      }
      thread.template wait_products<0>();
      MODULEFORMER_UNROLL
      for (int i = 0; i < N / 2; ++i) c(row + 8 * (i / 2 % 2), i / 4 * 8 + column + i % 2) = sums[i];
    }
  }
  template <class Part>
  static MODULEFORMER_DEVICE void put(bfloat16* to, int row, int column, bfloat16 value) {
    to[Part::at(row, column / 8) + column % 8] = value;
  }
};

template <int MajorA, int MajorB, int N>
void check_warpgroup_products(bool add) {
  using Kernel = WarpgroupProducts<MajorA, MajorB, N>;
  auto const a = whole_numbers(64 * 128, 1, 50), b = whole_numbers(128 * N, 2, 50), c = whole_numbers(64 * N, 3, 1000);
  auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
    auto const sums = device.upload<float>(c, 64, N);
    device.backend().launch(Kernel{device.upload<bfloat16>(a, 64, 128), device.upload<bfloat16>(b, 128, N), sums, add}, 1,
                            Kernel::shared_bytes);
    return device.download<double>(sums);
  });
  std::vector<double> expected = add ? c : std::vector<double>(c.size());
  for (std::size_t i = 0; i < 64; ++i)
    for (std::size_t j = 0; j < N; ++j)
      for (std::size_t k = 0; k < 128; ++k) expected[N * i + j] += a[128 * i + k] * b[N * k + j];
  BOOST_TEST(found == expected, "majors " << MajorA << MajorB << " columns " << N);
}

BOOST_AUTO_TEST_CASE(products_of_warpgroups) {
  if (!Device<AnyBackend>{}.backend().stream().has_warpgroups()) {
    BOOST_TEST_MESSAGE("not run: the device, or the code for it, has no products of warpgroups");
    return;
  }
  check_warpgroup_products<0, 0, 32>(true);
  check_warpgroup_products<1, 0, 96>(false);
  check_warpgroup_products<0, 1, 64>(true);
  check_warpgroup_products<0, 0, 128>(true);
  check_warpgroup_products<0, 1, 128>(false);
  check_warpgroup_products<1, 0, 128>(false);
  check_warpgroup_products<1, 1, 128>(true);
  check_warpgroup_products<0, 0, 256>(true);
  check_warpgroup_products<1, 1, 256>(true);
}

BOOST_AUTO_TEST_CASE(products_of_warpgroups_with_rows_in_registers) {
  if (!Device<AnyBackend>{}.backend().stream().has_warpgroups()) {
    BOOST_TEST_MESSAGE("not run: the device, or the code for it, has no products of warpgroups");
    return;
  }
  check_warpgroup_products<in_registers, 0, 32>(true);
  check_warpgroup_products<in_registers, 0, 64>(false);
  check_warpgroup_products<in_registers, 1, 64>(true);
  check_warpgroup_products<in_registers, 0, 96>(true);
  check_warpgroup_products<in_registers, 0, 128>(false);
  check_warpgroup_products<in_registers, 1, 128>(true);
}

struct RoundedPairs {
  static constexpr int threads = 32;
  Vector<float const> x;
  Vector<std::uint32_t> out;  // (x/2)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.index(); i < out.size(); i += threads) out[i] = thread.round_pair(x[2 * i], x[2 * i + 1]);
  }
};

BOOST_AUTO_TEST_CASE(rounding_in_pairs) {
  std::vector<float> x = numbers<float>(normal_numbers<float>(500, 8));
  // Ties to even, both ways; what rounds to infinity; subnormal numbers.
  for (float const value : {1.00390625f, 1.01171875f, -1.00390625f, -1.01171875f, 3.4e38f, -3.4e38f, INFINITY,
                            -INFINITY, 1e-40f, -1e-40f, 0.0f, -0.0f})
    x.push_back(value);
  auto const found = in_all_orders<AnyBackend>([&](Device<AnyBackend>& device) {
    auto const out = device.allocate<std::uint32_t>(x.size() / 2);
    device.backend().launch(RoundedPairs{device.upload(x), out}, 1);
    return device.download(out);
  });
  std::vector<std::uint32_t> expected;
  for (std::size_t i = 0; i < x.size(); i += 2)
    expected.push_back(bfloat16(x[i]).bits | static_cast<std::uint32_t>(bfloat16(x[i + 1]).bits) << 16);
  BOOST_TEST(found == expected, boost::test_tools::per_element());
}

struct Approximations {
  static constexpr int threads = 32;
  Vector<float const> x;
  Matrix<float> out;  // (3, x)
  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    for (Index i = thread.index(); i < x.size(); i += threads) {
      out(0, i) = thread.exp2(x[i]);
      out(1, i) = thread.log2(x[i]);
      out(2, i) = thread.reciprocal(x[i]);
    }
  }
};

BOOST_AUTO_TEST_CASE(approximations) {
  std::vector<float> x;
  for (float value = 1e-37f; value < 1e38f; value *= 1.37f) x.insert(x.end(), {value, -value});
  for (int i = 0; i < 400; ++i) x.push_back(static_cast<float>(i - 200) * 0.631f);
  std::size_t const ordinary = x.size();
  for (float const special : {0.0f, -0.0f, 1e-40f, -1e-40f, INFINITY, -INFINITY, -126.5f, -127.5f, -150.0f, 128.0f})
    x.push_back(special);
  Device<AnyBackend> device;
  auto const out = device.allocate<float>(3, x.size());
  device.backend().launch(Approximations{device.upload(x), out}, 1);
  auto const found = device.download<double>(out);
  double const smallest = std::ldexp(1.0, -126), largest = 3.4028234e38;
  for (std::size_t i = 0; i < ordinary; ++i) {
    auto const value = static_cast<double>(x[i]);
    double const expected[] = {std::exp2(value), std::log2(value), 1 / value};
    for (std::size_t k = 0; k < 3; ++k) {
      if (k == 1 && value <= 0) continue;
      double const actual = found[k * x.size() + i];
      double const magnitude = std::abs(expected[k]);
      // log2 near 1 is good to 2^-22 absolutely, not relatively.
      double const allowed =
          k == 1 ? std::max(magnitude * std::ldexp(1, -22), std::ldexp(1, -22)) : magnitude * std::ldexp(1, -22);
      if (magnitude > largest) BOOST_TEST(std::isinf(actual));
      else if (magnitude < smallest) BOOST_TEST(actual == 0, k << " of " << value << " is subnormal, found " << actual);
      else
        BOOST_TEST(std::abs(actual - expected[k]) <= allowed,
                   k << " of " << value << ": expected " << expected[k] << ", found " << actual);
    }
  }
  auto const result = [&](std::size_t k, std::size_t special) { return found[k * x.size() + ordinary + special]; };
  for (std::size_t zero = 0; zero < 4; ++zero) {  // subnormal arguments count as 0
    BOOST_TEST(result(0, zero) == 1);
    BOOST_TEST(result(1, zero) == -INFINITY);
    BOOST_TEST(result(2, zero) == (zero % 2 == 0 ? INFINITY : -INFINITY));
  }
  BOOST_TEST(result(0, 4) == INFINITY);
  BOOST_TEST(result(0, 5) == 0);
  BOOST_TEST(result(1, 4) == INFINITY);
  BOOST_TEST(std::isnan(result(1, 5)));
  BOOST_TEST(result(2, 4) == 0);
  for (std::size_t k = 6; k < 9; ++k) BOOST_TEST(result(0, k) == 0, "2^x of subnormal size");
  BOOST_TEST(result(0, 9) == INFINITY);
}

}  // namespace moduleformer::test
