// SPDX-License-Identifier: MIT
#pragma once
// EmulatedThread: GpuThread's members on the host, same meaning. Each operation that waits also knows where it was
// called, for messages. Kernels are templates on the thread's type, so one text runs on both.

#include <moduleformer/backend/cuda/emulation/block.cuh>
#include <moduleformer/backend/cuda/emulation/tensor_core.cuh>
#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <type_traits>

namespace moduleformer {

class EmulatedThread {
  using Where = std::source_location;

 public:
  EmulatedThread(emulation::Block& block, int index) : block_(&block), index_(index) {}

  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] int block_size() const { return block_->launch().threads; }
  [[nodiscard]] Index block() const { return block_->index(); }
  [[nodiscard]] Index blocks() const { return block_->launch().blocks; }
  [[nodiscard]] int lane() const { return index_ % 32; }
  [[nodiscard]] int warp() const { return index_ / 32; }

  template <class T>
  [[nodiscard]] T* shared() const {
    return reinterpret_cast<T*>(block_->shared());
  }

  void sync(Where where = Where::current()) const { (void)block_->synchronise(index_, false, where); }
  [[nodiscard]] bool sync_or(bool condition, Where where = Where::current()) const {
    return block_->synchronise(index_, condition, where);
  }
  void sync_warp(Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"sync_warp", nullptr};
    block_->warp_operation(index_, operation, nullptr, where);
  }

  template <class T>
  [[nodiscard]] T shuffle(T value, int lane, Where where = Where::current()) const {
    return exchange(value, lane, where);
  }
  template <class T>
  [[nodiscard]] T shuffle_xor(T value, int lanes, Where where = Where::current()) const {
    return exchange(value, lane() ^ lanes, where);
  }
  template <class T>
  [[nodiscard]] T shuffle_up(T value, int lanes, Where where = Where::current()) const {
    return exchange(value, lane() >= lanes ? lane() - lanes : lane(), where);
  }
  template <class T>
  [[nodiscard]] T shuffle_down(T value, int lanes, Where where = Where::current()) const {
    return exchange(value, lane() + lanes < 32 ? lane() + lanes : lane(), where);
  }
  [[nodiscard]] std::uint32_t ballot(bool condition, Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"ballot", &vote};
    Question question{condition ? 1u : 0u, 0};
    block_->warp_operation(index_, operation, &question, where);
    return question.answer;
  }
  [[nodiscard]] std::uint32_t match_any(std::uint32_t value, Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"match_any", &match};
    Question question{value, 0};
    block_->warp_operation(index_, operation, &question, where);
    return question.answer;
  }
  [[nodiscard]] std::uint32_t reduce_max(std::uint32_t value, Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"reduce_max", &largest};
    Question question{value, 0};
    block_->warp_operation(index_, operation, &question, where);
    return question.answer;
  }

  float atomic_add(float* place, float value) const { return std::atomic_ref<float>(*place).fetch_add(value); }
  int atomic_add(int* place, int value) const { return std::atomic_ref<int>(*place).fetch_add(value); }

  static constexpr bool adds_in_memory = true;
  void add_to_memory(float* place, float a, float b, float c, float d) const {
    if (!is_aligned(place)) block_->stop("add_to_memory: expected 16 aligned bytes");
    float const values[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) (void)atomic_add(place + i, values[i]);
  }

  /// The copy lands when the thread waits for it, and the destination is NaN until then.
  void copy_async(void* shared, void const* global, int bytes = 16, Where where = Where::current()) const {
    if (bytes < 0 || bytes > 16)
      block_->stop("copy_async at ", emulation::Place{where}, ": expected 0 to 16 bytes, found ", bytes);
    if (!block_->in_shared(shared, 16) || (bytes > 0 && block_->in_shared(global, 1)))
      block_->stop("copy_async at ", emulation::Place{where},
                   ": expected a copy into the block's shared memory, from outside");
    if (!is_aligned(shared) || (bytes > 0 && !is_aligned(global)))
      block_->stop("copy_async at ", emulation::Place{where}, ": expected addresses aligned to 16 bytes");
    block_->copies(index_).issue(shared, global, bytes);
  }
  void commit_copies() const { block_->copies(index_).commit(); }
  template <int N>
  void wait_copies() const {
    block_->copies(index_).wait(N);
  }

  void load_matrices(std::uint32_t (&words)[4], void const* row, Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"load_matrices", &emulation::load_matrices<false>};
    load(operation, words, row, where);
  }
  void load_matrices_transposed(std::uint32_t (&words)[4], void const* row, Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"load_matrices_transposed", &emulation::load_matrices<true>};
    load(operation, words, row, where);
  }
  void multiply_add(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2],
                    Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"multiply_add", &emulation::multiply_add};
    emulation::Product product{c, a, b};
    block_->warp_operation(index_, operation, &product, where);
  }

  static constexpr bool has_warpgroups = true, always_has_warpgroups = false;
  using SharedMatrix = emulation::SharedMatrix;
  [[nodiscard]] SharedMatrix shared_matrix(void const* place, int panel_bytes, Where where = Where::current()) const {
    if (!is_aligned(place) || !block_->in_shared(place, 16))
      block_->stop("shared_matrix at ", emulation::Place{where},
                   ": expected a place in the block's shared memory, aligned to 16 bytes");
    return {place, panel_bytes};
  }
  void publish_shared() const {}
  void begin_products() const {}
  template <int MajorA, int MajorB, int N>
  void multiply_shared(float (&c)[N], SharedMatrix a, SharedMatrix b, bool add) const {
    block_->products(index_).issue({c, 2 * N, a, b, MajorA, MajorB, add, false, {}});
  }
  template <int MajorB, int N>
  void multiply_rows(float (&c)[N], std::uint32_t const (&a)[4], SharedMatrix b, bool add) const {
    block_->products(index_).issue({c, 2 * N, {}, b, 0, MajorB, add, true, {a[0], a[1], a[2], a[3]}});
  }
  void commit_products() const { block_->products(index_).commit(); }
  template <int N>
  void wait_products(Where where = Where::current()) const {
    static constexpr emulation::WarpOperation operation{"wait_products", &emulation::ProductQueue::run};
    emulation::ProductQueue::Wait wait{&block_->products(index_), warp(), N};
    block_->warp_operation(index_, operation, &wait, where);
  }

  [[nodiscard]] int opaque(int x) const { return x; }
  [[nodiscard]] std::uint32_t round_pair(float low, float high) const {
    return bfloat16(low).bits | static_cast<std::uint32_t>(bfloat16(high).bits) << 16;
  }

  // Rounded as the host's functions do; subnormal arguments and results are 0, as on the device.
  [[nodiscard]] float exp2(float x) const { return flushed(std::exp2(x)); }
  [[nodiscard]] float log2(float x) const { return flushed(std::log2(flushed(x))); }
  [[nodiscard]] float reciprocal(float x) const { return flushed(1 / flushed(x)); }

 private:
  struct Question {
    std::uint32_t value;
    std::uint32_t answer;
  };
  static void vote(void* const* lanes) {
    std::uint32_t answer = 0;
    for (int lane = 0; lane < 32; ++lane) answer |= static_cast<Question const*>(lanes[lane])->value << lane;
    for (int lane = 0; lane < 32; ++lane) static_cast<Question*>(lanes[lane])->answer = answer;
  }
  static void match(void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane)
      for (int other = 0; other < 32; ++other)
        if (static_cast<Question const*>(lanes[other])->value == static_cast<Question const*>(lanes[lane])->value)
          static_cast<Question*>(lanes[lane])->answer |= 1u << other;
  }
  static void largest(void* const* lanes) {
    std::uint32_t answer = 0;
    for (int lane = 0; lane < 32; ++lane) answer = std::max(answer, static_cast<Question const*>(lanes[lane])->value);
    for (int lane = 0; lane < 32; ++lane) static_cast<Question*>(lanes[lane])->answer = answer;
  }

  template <class T>
  struct Exchange {
    T value;
    T result;
    int source;
    static void run(void* const* lanes) {
      for (int lane = 0; lane < 32; ++lane) {
        auto& mine = *static_cast<Exchange*>(lanes[lane]);
        mine.result = static_cast<Exchange const*>(lanes[mine.source])->value;
      }
    }
  };
  template <class T>
  [[nodiscard]] T exchange(T value, int source, Where where) const {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "moduleformer: lanes exchange numbers of 4 or 8 bytes");
    static constexpr emulation::WarpOperation operation{"a shuffle", &Exchange<T>::run};
    if (source < 0 || source >= 32)
      block_->stop("shuffle at ", emulation::Place{where}, ": expected lane 0 to 31, found ", source);
    Exchange<T> arguments{value, T{}, source};
    block_->warp_operation(index_, operation, &arguments, where);
    return arguments.result;
  }

  void load(emulation::WarpOperation const& operation, std::uint32_t (&words)[4], void const* row, Where where) const {
    if (!is_aligned(row))
      block_->stop(operation.name, " at ", emulation::Place{where}, ": expected a row aligned to 16 bytes");
    if (!block_->in_shared(row, 16))
      block_->stop(operation.name, " at ", emulation::Place{where},
                   ": the row lies outside of the block's shared memory");
    emulation::MatrixLoad arguments{words, static_cast<std::uint16_t const*>(row)};
    block_->warp_operation(index_, operation, &arguments, where);
  }

  static bool is_aligned(void const* place) { return reinterpret_cast<std::uintptr_t>(place) % 16 == 0; }

  static float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

  emulation::Block* block_;
  int index_;
};

}  // namespace moduleformer
