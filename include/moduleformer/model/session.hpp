// SPDX-License-Identifier: MIT
#pragma once
// Session: what one thread (or stream) needs to run a model: a backend with its workspace, the state of
// its random numbers, and buffers for packed tokens. Any number of sessions share one model.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/backend/repeated.hpp>
#include <moduleformer/model/batch.hpp>
#include <moduleformer/routing/routing_totals.hpp>

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace moduleformer {

struct SessionOptions {
  int threads = 0;          // 0: as many as the machine offers
  std::uint64_t seed = 0;   // of dropout and sampled slots
};

template <Backend B>
class Session {
 public:
  using BackendType = B;

  explicit Session(SessionOptions options = {}) : backend_(options.threads) { random.seed = options.seed; }
  /// For a model: Session session{model}.
  template <class Model>
    requires std::same_as<typename Model::BackendType, B>
  explicit Session(Model const&, SessionOptions options = {}) : Session(options) {}

  [[nodiscard]] B& backend() { return backend_; }
  [[nodiscard]] std::uint64_t serial_number() const { return serial_number_; }

  RandomKey random{};                       // seed, and a step that training counts up
  PackedTokens packed;                      // of the current batch
  std::vector<std::int32_t> rows;           // rows that the head reads
  std::span<RouterTotals const> totals{};   // of the training step that runs, if a policy needs them
  std::span<Index const> old_rows{};        // of each router, while a training step guards them on old data
  std::vector<std::byte> kept;              // where the transformer notes, on the host, what it keeps of each block

 private:
  std::uint64_t serial_number_ = new_serial_number();
  B backend_;
};

template <class Model>
Session(Model const&, SessionOptions = {}) -> Session<typename Model::BackendType>;

}  // namespace moduleformer
