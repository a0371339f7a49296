// SPDX-License-Identifier: MIT
#pragma once
// Pass: what every layer call is given beside parameters and data. It belongs to one session.

#include <moduleformer/backend/backend.hpp>
#include <moduleformer/core/settings.hpp>

#include <span>

namespace moduleformer {

struct RouterTotals;

/// Places that draw random numbers: stream = layer * 8 + site; the last ones stand above those of all layers.
enum class RandomSite : std::uint32_t {
  embedding = 0,
  attention_router,
  attention_sampling,
  attention_residual,
  feed_forward_router,
  feed_forward_sampling,
  feed_forward_residual,
  attention_jitter = std::uint32_t{1} << 31,
  feed_forward_jitter,
};

/// Numbers that may change from pass to pass. They lie in backend memory, so that the same work can be repeated with
/// others.
struct PassNumbers {
  RandomKey random{};         // seed and step
  double loss_scale = 1;      // of the summed cross-entropy in what is differentiated
  double routing_weight = 0;  // of the sum of the routing losses
};

template <Backend B>
struct Pass {
  B& backend;
  Settings const& settings;
  bool keep = false;      // contexts are filled for backward (or for observation)
  bool training = false;  // dropout and sampled slots are active
  bool losses = true;     // routers sum their statistics and make their losses
  PassNumbers const* numbers = nullptr;  // in backend memory
  Vector<Sequence const> documents{};  // the sequences of a batch whose tokens are all here; none where some are in a cache
  std::span<RouterTotals const> totals{};  // of each router over the step's passes; none: not kept
  bool adds_to_totals = false;             // this pass is a part of them
  std::span<Index const> old_rows{};       // of each router, of a pass whose loss is the guard of new ones; none: no guard
  Index most_keys = 0;  // of a sequence, a bound; 0: none is known
  Index layer = 0;
  RandomSite router_site = RandomSite::attention_router;  // of the router that runs

  /// The number of the router that runs: attention and feed-forward of each layer in turn.
  [[nodiscard]] std::size_t router() const {
    return 2 * static_cast<std::size_t>(layer) + (router_site == RandomSite::feed_forward_router ? 1 : 0);
  }
  /// Its totals, if they are kept.
  [[nodiscard]] RouterTotals const* router_totals() const { return totals.empty() ? nullptr : &totals[router()]; }
  [[nodiscard]] RandomSource random(RandomSite site) const {
    if (numbers == nullptr) return {};
    return {&numbers->random, static_cast<std::uint32_t>(layer) * 8 + static_cast<std::uint32_t>(site)};
  }
  [[nodiscard]] Dropout dropout(RandomSite site, double probability) const {
    return {random(site), training ? static_cast<float>(probability) : 0.0f};
  }
  /// Of the input of the router that runs.
  [[nodiscard]] Jitter router_jitter() const {
    bool const first = router_site == RandomSite::attention_router;
    return {random(first ? RandomSite::attention_jitter : RandomSite::feed_forward_jitter),
            training ? static_cast<float>(settings.router_jitter) : 0.0f};
  }
  template <class T, class... Sizes>
  [[nodiscard]] auto allocate(Sizes... sizes) {
    return backend.workspace().template allocate<T>(sizes...);
  }
  /// x in the other of the backend's scalars: x itself where it has only one.
  [[nodiscard]] Matrix<typename B::Scalar const> as_scalar(Matrix<typename B::Accumulator const> x) {
    return converted<typename B::Scalar>(x);
  }
  [[nodiscard]] Matrix<typename B::Accumulator const> as_accumulator(Matrix<typename B::Scalar const> x) {
    return converted<typename B::Accumulator>(x);
  }
  /// Scratch until the end of the enclosing block.
  [[nodiscard]] auto scope() { return Scope<typename B::Memory>{backend.workspace()}; }

 private:
  template <class To, class From>
  Matrix<To const> converted(Matrix<From const> x) {
    if constexpr (std::same_as<To, From>) {
      return x;
    } else {
      Matrix<To> const result = allocate<To>(x.extent(0), x.extent(1));
      convert(backend, x.reshape(x.size()), result.reshape(x.size()));
      return result;
    }
  }
};

/// x = 0.
template <Backend B, class S = typename B::Scalar>
void fill_zero(B& backend, Matrix<S> x) {
  fill(backend, x.reshape(x.size()), S(0));
}

}  // namespace moduleformer
