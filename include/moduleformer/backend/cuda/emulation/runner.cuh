// SPDX-License-Identifier: MIT
#pragma once
// Runs the blocks of a launch: spreads them over host threads, in the order that the options ask for. Blocks'
// fibers and stacks outlive a launch in a pool, since making them takes longer than most emulated kernels.

#include <moduleformer/backend/cuda/emulation/block.cuh>
#include <moduleformer/backend/cuda/emulation/options.cuh>
#include <moduleformer/core/error.hpp>
#include <moduleformer/core/types.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

namespace moduleformer::emulation {

class BlockPool {
 public:
  /// A block for the time of a launch.
  class Lease {
   public:
    explicit Lease(BlockPool& pool) : pool_(pool), block_(pool.take()) {}
    Lease(Lease const&) = delete;
    Lease& operator=(Lease const&) = delete;
    ~Lease() { pool_.give_back(std::move(block_)); }
    Block* operator->() const { return block_.get(); }

   private:
    BlockPool& pool_;
    std::unique_ptr<Block> block_;
  };

 private:
  std::unique_ptr<Block> take() {
    std::lock_guard const lock(mutex_);
    if (idle_.empty()) {
      idle_.reserve(++made_);  // so that giving back does not allocate
      return std::make_unique<Block>();
    }
    std::unique_ptr<Block> block = std::move(idle_.back());
    idle_.pop_back();
    return block;
  }
  void give_back(std::unique_ptr<Block> block) noexcept {
    std::lock_guard const lock(mutex_);
    idle_.push_back(std::move(block));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> idle_;
  std::size_t made_ = 0;
};

inline BlockPool& block_pool() {
  static BlockPool pool;
  return pool;
}

/// Runs all blocks of the launch and throws what the failing block of the lowest place in order threw.
inline void run(Launch const& launch) {
  Options const options = emulation_options();
  if (launch.shared_bytes > options.shared_limit)
    fail<CudaError>("kernel of ", Place{launch.where}, ": expected at most ", options.shared_limit,
                    " bytes of shared memory, found ", launch.shared_bytes);
  std::vector<Index> shuffled;
  if (options.order == Order::shuffled) {
    for (Index block = 0; block < launch.blocks; ++block) shuffled.push_back(block);
    std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64{options.seed});
  }
  auto const block_at = [&](Index place) {
    if (options.order == Order::shuffled) return shuffled[static_cast<std::size_t>(place)];
    return options.order == Order::reverse ? launch.blocks - 1 - place : place;
  };
  std::atomic<Index> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  Index failed_place = launch.blocks;
  auto const work = [&] {
    Index place = 0;
    try {
      BlockPool::Lease const block{block_pool()};
      block->prepare(launch, options);
      for (place = next.fetch_add(1); place < launch.blocks; place = next.fetch_add(1)) block->run(block_at(place));
    } catch (...) {
      std::lock_guard const lock(mutex);
      if (place < failed_place) {
        failed_place = place;
        failure = std::current_exception();
      }
      next = launch.blocks;
    }
  };
  int const workers = static_cast<int>(std::min<Index>(std::max(options.workers, 1), launch.blocks));
  if (workers == 1) {
    work();
  } else {
#pragma omp parallel num_threads(workers)
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace moduleformer::emulation
