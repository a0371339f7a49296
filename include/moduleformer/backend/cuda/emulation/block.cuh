// SPDX-License-Identifier: MIT
#pragma once
// Block: runs the threads of one block as fibers of the calling OS thread. A fiber gives up control only where its
// thread waits, so a kernel that synchronises correctly computes what it would on a GPU; and a fiber runs
// threads one after another as long as none waits. An operation of a warp is executed once, by the lane that
// arrives last, on the arguments of all lanes. What cannot go on as documented is an Error naming the places.

#include <moduleformer/backend/cuda/emulation/copies.cuh>
#include <moduleformer/backend/cuda/emulation/fiber.cuh>
#include <moduleformer/backend/cuda/emulation/options.cuh>
#include <moduleformer/backend/cuda/emulation/places.cuh>
#include <moduleformer/backend/cuda/emulation/warpgroup.cuh>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <source_location>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace moduleformer::emulation {

class Block;

/// A kernel call: body(kernel, block, thread) is what one thread does.
struct Launch {
  void (*body)(void const* kernel, Block& block, int thread) = nullptr;
  void const* kernel = nullptr;
  int threads = 0;
  Index blocks = 0;
  std::size_t shared_bytes = 0;
  std::source_location where{};
};

/// An operation of a warp on the arguments of its 32 lanes, or null for a barrier.
struct WarpOperation {
  char const* name;
  void (*run)(void* const* lanes);
};

class Block {
 public:
  static constexpr int warp_size = 32;

  Block() = default;
  Block(Block const&) = delete;
  Block& operator=(Block const&) = delete;
  ~Block() { release_shared(); }

  /// Makes ready for blocks of this launch.
  void prepare(Launch const& launch, Options const& options) {
    if (launch.shared_bytes != shared_bytes_ || shared_ == nullptr) {
      release_shared();
      // Of the very size, so that the address sanitizer sees an overrun.
      shared_ = static_cast<unsigned char*>(::operator new(launch.shared_bytes, std::align_val_t{shared_alignment}));
      shared_bytes_ = launch.shared_bytes;
    }
    launch_ = launch;
    options_ = options;
    auto const count = static_cast<std::size_t>(launch.threads);
    threads_.resize(count);
    warps_.resize(count / warp_size);
    order_.resize(count);
    ready_.resize(count);
    copies_.resize(count);
    products_.resize(count);
    std::iota(order_.begin(), order_.end(), 0);
    if (options.order == Order::reverse) std::reverse(order_.begin(), order_.end());
  }

  /// Runs one block. Throws what its first failing thread threw; the block is usable afterwards.
  void run(Index index) {
    index_ = index;
    std::memset(shared_, 0xff, shared_bytes_);  // NaN, so that a read before a write shows
    for (Thread& thread : threads_) thread = {};
    for (Warp& warp : warps_) warp = {};
    if (std::exchange(copies_used_, false))
      for (CopyQueue& queue : copies_) queue.clear();
    if (std::exchange(products_used_, false))
      for (ProductQueue& queue : products_) queue.clear();
    if (options_.order == Order::shuffled) {
      random_.seed(options_.seed + static_cast<std::uint64_t>(index));
      std::iota(order_.begin(), order_.end(), 0);  // whatever this worker ran before
      std::shuffle(order_.begin(), order_.end(), random_);
    }
    started_ = ended_ = arrived_ = 0;
    ready_begin_ = ready_count_ = 0;
    any_ = any_result_ = false;
    failure_ = nullptr;
    Fiber caller;
    caller_ = &caller;
    caller.switch_to(*idle_fiber());
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  [[nodiscard]] Index index() const { return index_; }
  [[nodiscard]] Launch const& launch() const { return launch_; }
  [[nodiscard]] unsigned char* shared() const { return shared_; }
  [[nodiscard]] bool in_shared(void const* begin, std::size_t bytes) const {
    auto const* const first = static_cast<unsigned char const*>(begin);
    return first >= shared_ && first + bytes <= shared_ + shared_bytes_;
  }

  /// A barrier of all threads; whether any thread's condition held.
  bool synchronise(int thread, bool condition, std::source_location place) {
    if (ended_ > 0)
      stop("thread ", thread, " waits in a barrier at ", Place{place}, ", but thread ", first_ended(), " has ended");
    if (arrived_ == 0) {
      barrier_thread_ = thread;
    } else if (Thread const& first = at(barrier_thread_); !same_place(first.place, place)) {
      stop("divergent barriers: thread ", barrier_thread_, " at ", Place{first.place}, ", thread ", thread, " at ",
           Place{place});
    }
    at(thread).place = place;
    any_ = any_ || condition;
    if (++arrived_ < launch_.threads) {
      suspend(thread, Wait::barrier);
    } else {
      arrived_ = 0;
      any_result_ = std::exchange(any_, false);
      wake(0, launch_.threads, thread);
    }
    return any_result_;
  }

  /// An operation of the warp that the thread is in.
  void warp_operation(int thread, WarpOperation const& operation, void* arguments, std::source_location place) {
    Warp& warp = warps_[static_cast<std::size_t>(thread / warp_size)];
    int const first = thread / warp_size * warp_size;
    auto const lane = static_cast<std::size_t>(thread % warp_size);
    at(thread).place = place;
    warp.operations[lane] = &operation;
    warp.arguments[lane] = arguments;
    warp.waiting |= 1u << lane;
    if (warp.ended != 0) stop_for_ended(first, warp, thread);
    if (warp.waiting != ~0u) return suspend(thread, Wait::warp);
    for (int other = 0; other < warp_size; ++other)
      if (warp.operations[static_cast<std::size_t>(other)] != &operation || !same_place(at(first + other).place, place))
        stop("lanes of one warp in different operations: thread ", first + other, " in ",
             warp.operations[static_cast<std::size_t>(other)]->name, " at ", Place{at(first + other).place},
             ", thread ", thread, " in ", operation.name, " at ", Place{place});
    warp.waiting = 0;
    if (operation.run != nullptr) operation.run(warp.arguments.data());
    wake(first, first + warp_size, thread);
  }

  /// The thread's asynchronous copies.
  [[nodiscard]] CopyQueue& copies(int thread) {
    copies_used_ = true;
    return copies_[static_cast<std::size_t>(thread)];
  }

  /// The thread's products that its warpgroup has under way.
  [[nodiscard]] ProductQueue& products(int thread) {
    products_used_ = true;
    return products_[static_cast<std::size_t>(thread)];
  }

  /// Throws Error with the kernel, the block, and the joined parts.
  template <class... Parts>
  [[noreturn, gnu::noinline, gnu::cold]] void stop(Parts const&... parts) const {
    fail<Error>("kernel of ", Place{launch_.where}, ", block ", index_, ": ", parts...);
  }

 private:
  static constexpr std::size_t shared_alignment = 1024;

  enum class Wait : unsigned char { none, barrier, warp, ended };
  struct Thread {
    Fiber* fiber = nullptr;  // on which it has begun
    Wait wait = Wait::none;
    std::source_location place{};
  };
  struct Warp {
    std::uint32_t waiting = 0;
    std::uint32_t ended = 0;
    std::array<WarpOperation const*, warp_size> operations;
    std::array<void*, warp_size> arguments;
  };
  /// Ends a thread that waited when another failed.
  struct Abandoned {};

  Thread& at(int thread) { return threads_[static_cast<std::size_t>(thread)]; }

  void release_shared() {
    if (shared_ != nullptr) ::operator delete(std::exchange(shared_, nullptr), std::align_val_t{shared_alignment});
  }

  [[nodiscard]] int first_ended() const {
    auto const place =
        std::find_if(threads_.begin(), threads_.end(), [](Thread const& t) { return t.wait == Wait::ended; });
    return static_cast<int>(place - threads_.begin());
  }

  [[noreturn]] void stop_for_ended(int first, Warp const& warp, int waiting) {
    int const lane = std::countr_zero(warp.ended);
    stop("thread ", waiting, " waits in ", warp.operations[static_cast<std::size_t>(waiting - first)]->name, " at ",
         Place{at(waiting).place}, ", but thread ", first + lane, " of its warp has ended");
  }

  /// A fiber that runs no thread.
  Fiber* idle_fiber() {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>(&Block::work, this, static_cast<int>(fibers_.size())));
      return fibers_.back().get();
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  void push_ready(int thread) {
    std::size_t place = ready_begin_ + ready_count_++;
    if (place >= ready_.size()) place -= ready_.size();
    ready_[place] = thread;
  }
  int pop_ready() {
    if (options_.order == Order::shuffled) {
      std::size_t place = ready_begin_ + static_cast<std::size_t>(random_() % ready_count_);
      if (place >= ready_.size()) place -= ready_.size();
      std::swap(ready_[ready_begin_], ready_[place]);
    }
    int const thread = ready_[ready_begin_];
    if (++ready_begin_ == ready_.size()) ready_begin_ = 0;
    --ready_count_;
    return thread;
  }

  /// Lets the waiting threads of a range go on, but for `running`, which does already.
  void wake(int begin, int end, int running) {
    auto const go_on = [&](int thread) {
      if (thread == running) return;
      at(thread).wait = Wait::none;
      push_ready(thread);
    };
    if (options_.order == Order::reverse) {
      for (int thread = end; thread-- > begin;) go_on(thread);
    } else {
      for (int thread = begin; thread < end; ++thread) go_on(thread);
    }
  }

  /// Lets others run until somebody wakes the thread.
  void suspend(int thread, Wait wait) {
    Thread& mine = at(thread);
    mine.wait = wait;
    bool start = started_ < launch_.threads;
    if (options_.order == Order::shuffled && ready_count_ > 0 && start) start = random_() % 2 == 0;
    if (start) {
      mine.fiber->switch_to(*idle_fiber());
    } else if (ready_count_ > 0) {
      mine.fiber->switch_to(*at(pop_ready()).fiber);
    } else {
      stop("deadlock", waiting_threads());
    }
    if (failure_) throw Abandoned{};
  }

  /// What a fiber does: it runs threads while there are any to begin, then gives control away until it is needed.
  static void work(void* block, Fiber& self) {
    for (;;) static_cast<Block*>(block)->work_once(self);
  }
  void work_once(Fiber& self) {
    while (started_ < launch_.threads) run_thread(order_[static_cast<std::size_t>(started_++)], self);
    idle_.push_back(&self);
    self.switch_to(ready_count_ > 0 ? *at(pop_ready()).fiber : *caller_);
  }

  void run_thread(int thread, Fiber& self) {
    at(thread).fiber = &self;
    try {
      launch_.body(launch_.kernel, *this, thread);
      at(thread).wait = Wait::ended;
      ++ended_;
      if (failure_) return;
      Warp& warp = warps_[static_cast<std::size_t>(thread / warp_size)];
      warp.ended |= 1u << (thread % warp_size);
      if (warp.waiting != 0)
        stop_for_ended(thread / warp_size * warp_size, warp,
                       thread / warp_size * warp_size + std::countr_zero(warp.waiting));
      if (arrived_ > 0)
        stop("thread ", barrier_thread_, " waits in a barrier at ", Place{at(barrier_thread_).place}, ", but thread ",
             thread, " has ended");
    } catch (Abandoned const&) {
      at(thread).wait = Wait::ended;
    } catch (...) {
      at(thread).wait = Wait::ended;
      abandon(std::current_exception());
    }
  }

  /// Keeps the first failure; no further thread begins, and those that wait end where they are.
  void abandon(std::exception_ptr failure) {
    if (failure_) return;
    failure_ = std::move(failure);
    started_ = launch_.threads;
    for (int thread = 0; thread < launch_.threads; ++thread) {
      if (at(thread).wait != Wait::barrier && at(thread).wait != Wait::warp) continue;
      at(thread).wait = Wait::none;
      push_ready(thread);
    }
  }

  /// "; threads 0 to 15 wait in a barrier at file:line" for each run of threads that wait at one place.
  [[nodiscard]] std::string waiting_threads() {
    std::ostringstream text;
    for (int begin = 0, end = 0; begin < launch_.threads; begin = end) {
      Thread const& first = at(begin);
      end = begin + 1;
      while (end < launch_.threads && at(end).wait == first.wait && same_place(at(end).place, first.place)) ++end;
      if (first.wait != Wait::barrier && first.wait != Wait::warp) continue;
      text << "; threads " << begin << " to " << end - 1 << " wait in a "
           << (first.wait == Wait::barrier ? "barrier" : "warp operation") << " at " << Place{first.place};
    }
    return text.str();
  }

  Launch launch_;
  Options options_;
  Index index_ = 0;
  unsigned char* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<CopyQueue> copies_;
  std::vector<ProductQueue> products_;
  bool copies_used_ = false, products_used_ = false;  // by this block
  std::vector<int> order_;    // in which threads begin
  int started_ = 0;
  int ended_ = 0;
  std::vector<int> ready_;  // a ring of threads that may go on
  std::size_t ready_begin_ = 0;
  std::size_t ready_count_ = 0;
  std::mt19937_64 random_;

  int arrived_ = 0;  // at the barrier
  int barrier_thread_ = 0;
  bool any_ = false;
  bool any_result_ = false;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* caller_ = nullptr;
  std::exception_ptr failure_;
};

}  // namespace moduleformer::emulation
