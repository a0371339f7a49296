// SPDX-License-Identifier: MIT
// The stack of scratch memory: alignment, chunks that do not move, release in reverse order, no
// allocation in steady state, and nothing leaked. Memory is counted and its last bytes are checked.

#include <moduleformer/backend/workspace.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <new>
#include <utility>
#include <vector>

namespace mf = moduleformer;

namespace {

struct CountedMemory {
  static inline std::map<void*, std::size_t> blocks;
  static inline int calls = 0;
  static inline int allowed = -1;  // calls before bad_alloc; negative: no limit
  static inline std::size_t largest = std::numeric_limits<std::size_t>::max();  // that is not refused
  static void* allocate(std::size_t bytes) {
    if (allowed == 0 || bytes > largest) throw std::bad_alloc();
    if (allowed > 0) --allowed;
    ++calls;
    void* const data = ::operator new(bytes, std::align_val_t{mf::memory_alignment});
    blocks[data] = bytes;
    return data;
  }
  static void deallocate(void* data, std::size_t bytes) noexcept {
    auto const block = blocks.find(data);
    BOOST_TEST((block != blocks.end() && block->second == bytes));
    blocks.erase(data);
    ::operator delete(data, std::align_val_t{mf::memory_alignment});
  }
  static bool holds(void const* begin, std::size_t bytes) {
    auto const first = reinterpret_cast<std::uintptr_t>(begin);
    return std::any_of(blocks.begin(), blocks.end(), [&](auto const& block) {
      auto const start = reinterpret_cast<std::uintptr_t>(block.first);
      return first >= start && first + bytes <= start + block.second;
    });
  }
};

using Workspace = mf::Workspace<CountedMemory>;
using Scope = mf::Scope<CountedMemory>;

struct Fresh {
  Fresh() {
    CountedMemory::calls = 0;
    CountedMemory::allowed = -1;
    CountedMemory::largest = std::numeric_limits<std::size_t>::max();
  }
  ~Fresh() { BOOST_TEST(CountedMemory::blocks.empty()); }
};

constexpr mf::Index mebibyte = mf::Index{1} << 20;

}  // namespace

BOOST_FIXTURE_TEST_SUITE(backend_workspace, Fresh)

BOOST_AUTO_TEST_CASE(pieces_are_aligned_disjoint_and_inside) {
  Workspace workspace;
  std::vector<mf::Vector<char>> pieces;
  for (mf::Index const size : {1, 63, 64, 65, 0, 1009, 1 << 20, (1 << 20) + 1, 5, 3 << 20})
    pieces.push_back(workspace.allocate<char>(size));
  char fill = 0;
  for (auto const& piece : pieces) {
    BOOST_TEST(reinterpret_cast<std::uintptr_t>(piece.data()) % mf::memory_alignment == 0);
    BOOST_TEST(CountedMemory::holds(piece.data(), static_cast<std::size_t>(piece.size())));
    std::fill(piece.begin(), piece.end(), ++fill);
  }
  fill = 0;
  for (auto const& piece : pieces) {
    ++fill;
    BOOST_TEST(std::all_of(piece.begin(), piece.end(), [&](char c) { return c == fill; }));
  }
}

BOOST_AUTO_TEST_CASE(extents_and_types) {
  Workspace workspace;
  auto const cube = workspace.allocate<double>(2, 3, mf::Index{5});
  static_assert(std::is_same_v<decltype(cube), mf::TensorView<double, 3> const>);
  BOOST_TEST((cube.extents() == mf::TensorView<double, 3>::Extents{2, 3, 5}));
  BOOST_TEST(workspace.allocate<float>(0, 7).size() == 0);
  BOOST_CHECK_THROW(static_cast<void>(workspace.allocate<float>(-1)), mf::Error);
}

BOOST_AUTO_TEST_CASE(a_scope_gives_back_what_it_took) {
  Workspace workspace;
  auto const kept = workspace.allocate<int>(3);
  kept[2] = 42;
  int* first = nullptr;
  {
    Scope const scope{workspace};
    first = workspace.allocate<int>(1000).data();
    {
      Scope const inner{workspace};
      BOOST_TEST(workspace.allocate<int>(4 * mebibyte).size() == 4 * mebibyte);  // a chunk of its own
    }
    BOOST_TEST(workspace.allocate<int>(16).data() == first + 1008);  // rounded up to 64 bytes
  }
  BOOST_TEST(workspace.allocate<int>(1).data() == first);
  BOOST_TEST(kept[2] == 42);
}

BOOST_AUTO_TEST_CASE(steady_state_allocates_nothing) {
  Workspace workspace;
  auto const step = [&] {
    std::vector<void*> places;
    auto const mark = workspace.mark();
    for (mf::Index size = 1; size < 3 * mebibyte; size = size * 3 + 1) {
      places.push_back(workspace.allocate<char>(size).data());
      Scope const scope{workspace};
      places.push_back(workspace.allocate<double>(size / 2).data());
    }
    workspace.release(mark);
    return places;
  };
  auto const places = step();
  int const calls = CountedMemory::calls;
  auto const reserved = workspace.reserved();
  BOOST_TEST(calls > 1);
  for (int repeat = 0; repeat < 3; ++repeat) BOOST_TEST((step() == places));
  BOOST_TEST(CountedMemory::calls == calls);
  BOOST_TEST(workspace.reserved() == reserved);
}

BOOST_AUTO_TEST_CASE(growth_moves_nothing_and_takes_few_chunks) {
  Workspace workspace;
  std::vector<mf::Vector<std::int32_t>> pieces;
  constexpr mf::Index count = mebibyte / 8;  // half a mebibyte each, 64 in all
  for (std::int32_t i = 0; i < 128; ++i) {
    pieces.push_back(workspace.allocate<std::int32_t>(count));
    pieces.back()[0] = pieces.back()[count - 1] = i;
  }
  for (std::int32_t i = 0; i < 128; ++i) {
    auto const& piece = pieces[static_cast<std::size_t>(i)];
    BOOST_TEST((piece[0] == i && piece[count - 1] == i));
  }
  BOOST_TEST(CountedMemory::calls < 16);
  std::size_t total = 0;
  for (auto const& block : CountedMemory::blocks) total += block.second;
  BOOST_TEST(workspace.reserved() == total);
}

BOOST_AUTO_TEST_CASE(moving_hands_over_all_chunks) {
  Workspace workspace;
  auto const piece = workspace.allocate<int>(1);
  piece[0] = 7;
  Workspace moved{std::move(workspace)};
  BOOST_TEST(piece[0] == 7);
  BOOST_TEST(moved.allocate<int>(1).data() == piece.data() + 16);
  Workspace other;
  static_cast<void>(other.allocate<int>(1));
  other = std::move(moved);
  BOOST_TEST(other.allocate<int>(1).data() == piece.data() + 32);
}

BOOST_AUTO_TEST_CASE(running_out_of_memory_loses_nothing) {
  Workspace workspace;
  auto const piece = workspace.allocate<char>(100);
  std::fill(piece.begin(), piece.end(), 'x');
  CountedMemory::allowed = 0;
  BOOST_CHECK_THROW(static_cast<void>(workspace.allocate<char>(2 * mebibyte)), std::bad_alloc);
  CountedMemory::allowed = -1;
  auto const next = workspace.allocate<char>(2 * mebibyte);
  std::fill(next.begin(), next.end(), 'y');
  BOOST_TEST(std::all_of(piece.begin(), piece.end(), [](char c) { return c == 'x'; }));
}

BOOST_AUTO_TEST_CASE(where_memory_is_short_chunks_are_smaller) {
  Workspace workspace;
  (void)workspace.allocate<char>(8 * mebibyte);
  // The next chunk would be half of that.
  CountedMemory::largest = 2 * static_cast<std::size_t>(mebibyte);
  auto const part = workspace.allocate<char>(2 * mebibyte);
  BOOST_TEST(CountedMemory::holds(part.data(), 2 * static_cast<std::size_t>(mebibyte)));
  BOOST_TEST(workspace.reserved() == 10 * static_cast<std::size_t>(mebibyte));
  BOOST_CHECK_THROW((void)workspace.allocate<char>(2 * mebibyte + 1), std::bad_alloc);
  (void)workspace.allocate<char>(1000);
  BOOST_TEST(workspace.reserved() == 45 * static_cast<std::size_t>(mebibyte) / 4);  // half of 10, halved twice
}

BOOST_AUTO_TEST_SUITE_END()
