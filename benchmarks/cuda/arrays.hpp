// SPDX-License-Identifier: MIT
#pragma once
// Data of benchmarks, made on the device: random numbers, routing plans of even or skewed load, sequences of equal
// length. Everything lies in an Arrays and goes with it.

#include <moduleformer/backend/arguments.hpp>
#include <moduleformer/backend/buffer.hpp>
#include <moduleformer/backend/cuda/primitives.cuh>
#include <moduleformer/core/math.hpp>
#include <moduleformer/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

namespace mf = moduleformer;
using mf::Index;

/// x[i] = mean + deviation * a number of mean 0 and deviation 1 (a sum of four even ones).
template <class T>
struct FillRandom {
  static constexpr int threads = 256;
  T* x;
  Index size;
  std::uint64_t seed;
  float deviation;
  float mean;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = Index{thread.block()} * threads + thread.index();
    if (i >= size) return;
    auto const words = mf::random_words({seed, 0, 0}, static_cast<std::uint64_t>(i));
    float const sum = mf::to_unit(words[0]) + mf::to_unit(words[1]) + mf::to_unit(words[2]) + mf::to_unit(words[3]);
    x[i] = static_cast<T>(mean + deviation * 1.7320508f * (sum - 2));
  }
};

/// Columns 0, period, 2 period, ... of a matrix become `value`.
template <class T>
struct FillColumns {
  static constexpr int threads = 256;
  T* x;
  Index rows, columns, period;
  float value;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const each = columns / period, i = Index{thread.block()} * threads + thread.index();
    if (i < rows * each) x[i / each * columns + i % each * period] = static_cast<T>(value);
  }
};

/// Logits whose largest K are a draw of K experts without replacement, their probabilities falling by `ratio` from
/// one to the next: log probability + Gumbel noise. The likely experts stand apart from each other.
struct FillLogits {
  static constexpr int threads = 256;
  float* logits;
  Index rows;
  Index experts;
  float log_ratio;
  std::uint64_t seed;

  template <class Thread>
  MODULEFORMER_DEVICE void operator()(Thread const& thread) const {
    Index const i = Index{thread.block()} * threads + thread.index();
    if (i >= rows * experts) return;
    float const unit = mf::to_unit(mf::random_words({seed, 0, 0}, static_cast<std::uint64_t>(i))[0]);
    float const rank = static_cast<float>((i % experts * 7 + 3) % experts);
    logits[i] = rank * log_ratio - mf::math::log(-mf::math::log(unit));
  }
};

/// Even load, or that of a trained model: at a ratio of 3/4 the busiest of 32 experts has some seven times its share,
/// and about ten are effective, as measured of MoLM.
enum class Load { even, skewed };
inline float log_ratio(Load load) { return load == Load::even ? 0.0f : -0.28768207f; }
inline char const* load_name(Load load) { return load == Load::even ? "even" : "skewed"; }

template <class B>
class Arrays {
 public:
  using S = typename B::Scalar;

  explicit Arrays(B& backend) : backend_(&backend) {}
  [[nodiscard]] B& backend() { return *backend_; }

  template <class T, class... Sizes>
  auto allocate(Sizes... sizes) {
    mf::TensorView<T, static_cast<int>(sizeof...(Sizes))> view{nullptr, {static_cast<Index>(sizes)...}};
    buffers_.emplace_back(view.size() * static_cast<Index>(sizeof(T)));
    return mf::TensorView<T, static_cast<int>(sizeof...(Sizes))>{reinterpret_cast<T*>(buffers_.back().data()),
                                                                 view.extents()};
  }
  /// Random numbers of deviation 1 (or given); S, unless another type is named.
  template <class T = S, class... Sizes>
  auto random(Sizes... sizes) {
    auto const view = allocate<T>(sizes...);
    randomise(mf::Vector<T>{view.data(), {view.size()}});
    return view;
  }
  template <class T>
  void randomise(mf::Vector<T> x, float deviation = 1, float mean = 0) {
    backend_->launch(FillRandom<T>{x.data(), x.size(), ++seed_, deviation, mean}, blocks(x.size()));
  }
  template <class T, class... Sizes>
  auto zeros(Sizes... sizes) {
    auto const view = allocate<T>(sizes...);
    fill(*backend_, mf::Vector<T>{view.data(), {view.size()}}, T(0));
    return view;
  }
  template <class T>
  mf::Vector<T> upload(std::vector<T> const& host) {
    auto const view = allocate<T>(host.size());
    from_host(*backend_, host.data(), view);
    return view;
  }
  template <class T>
  std::vector<T> download(mf::Vector<T> view) {
    std::vector<T> host(static_cast<std::size_t>(view.size()));
    to_host(*backend_, view, host.data());
    return host;
  }

  void set_columns(mf::Matrix<S> x, Index period, float value) {
    backend_->launch(FillColumns<S>{x.data(), x.extent(0), x.extent(1), period, value},
                     blocks(x.extent(0) * (x.extent(1) / period)));
  }
  mf::Matrix<float> logits(Index tokens, Index experts, Load load) {
    auto const view = allocate<float>(tokens, experts);
    backend_->launch(FillLogits{view.data(), tokens, experts, log_ratio(load), ++seed_}, blocks(view.size()));
    return view;
  }

  /// Sequences of equal length; each has `keys` keys, its tokens' own if 0.
  mf::Vector<mf::Sequence> sequences(Index tokens, Index length, Index keys = 0) {
    std::vector<mf::Sequence> host;
    Index const count = keys == 0 ? length : keys;
    for (Index begin = 0; begin < tokens; begin += length)
      host.push_back({begin, std::min(length, tokens - begin), begin / length * count,
                      keys == 0 ? std::min(length, tokens - begin) : keys});
    return upload(host);
  }

  static constexpr Index blocks(Index size) { return (size + 255) / 256; }

 private:
  B* backend_;
  std::uint64_t seed_ = 0;
  std::vector<mf::Buffer<std::byte, typename B::Memory>> buffers_;
};

/// What a router leaves, made by the library's own routing of random logits.
template <class B>
struct Routed {
  mf::Matrix<float> logits, probabilities;
  mf::Vector<float> logsumexp;
  mf::Matrix<mf::ExpertId> experts;
  mf::Matrix<float> gates;
  mf::RoutingPlan plan;

  Routed(Arrays<B>& a, Index tokens, Index top_k, Index count, Load load)
      : logits(a.logits(tokens, count, load)),
        probabilities(a.template allocate<float>(tokens, count)),
        logsumexp(a.template allocate<float>(tokens)),
        experts(a.template allocate<mf::ExpertId>(tokens, top_k)),
        gates(a.template allocate<float>(tokens, top_k)) {
    B& b = a.backend();
    softmax(b, logits, probabilities, logsumexp);
    mf::top_k(b, logits, experts);
    gather_columns(b, probabilities, experts, gates);
    auto const slots = experts.reshape(experts.size());
    auto const order = a.template allocate<std::int32_t>(slots.size());
    auto const offsets = a.template allocate<Index>(count + 1);
    sort_by_expert(b, slots, count, order, offsets);
    plan = {tokens, top_k, count, slots, order, offsets};
  }

  [[nodiscard]] mf::Vector<float const> slot_gates() const { return gates.reshape(gates.size()); }
  /// Experts that have slots.
  [[nodiscard]] double touched(Arrays<B>& a) const {
    auto const begins = a.download(mf::Vector<Index>{const_cast<Index*>(plan.offsets.data()), plan.offsets.extents()});
    double count = 0;
    for (std::size_t e = 1; e < begins.size(); ++e) count += begins[e] > begins[e - 1] ? 1 : 0;
    return count;
  }
};

/// Token ids: even over the vocabulary, or as often as words of a language (Zipf).
inline std::vector<mf::TokenId> random_ids(Index count, Index vocabulary, bool zipf) {
  std::vector<mf::TokenId> ids;
  for (Index i = 0; i < count; ++i) {
    double const unit = mf::to_unit(mf::random_words({99, 0, 0}, static_cast<std::uint64_t>(i))[0]);
    double const v = static_cast<double>(vocabulary);
    ids.push_back(static_cast<mf::TokenId>(std::min(v - 1, zipf ? std::pow(v, unit) - 1 : unit * v)));
  }
  return ids;
}

inline double distinct(std::vector<mf::TokenId> ids) {
  std::sort(ids.begin(), ids.end());
  return static_cast<double>(std::unique(ids.begin(), ids.end()) - ids.begin());
}

}  // namespace bench
