// SPDX-License-Identifier: MIT
#pragma once
// For tests of training: a tiny model, its values as plain arrays, and visited state kept in memory.

#include <moduleformer/model/causal_lm.hpp>
#include <moduleformer/training/data.hpp>
#include <moduleformer/training/trainer.hpp>

#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace moduleformer::test {

inline constexpr Shape tiny_shape{.vocab_size = 256, .hidden_size = 12, .layers = 2, .router_hidden_size = 5,
                                  .attention = {.experts = 3, .top_k = 2, .heads = 2, .hidden_size = 8},
                                  .feed_forward = {.experts = 4, .top_k = 2, .hidden_size = 7}};

/// With everything random that training knows.
inline constexpr Settings random_settings{.aux_loss_weight = 0.01, .embedding_dropout = 0.1, .residual_dropout = 0.2,
                                          .router_dropout = 0.1, .router_jitter = 0.1, .sampled_slots = 1,
                                          .initializer_range = 0.3};

inline std::string const repetitive_text = [] {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "the cat sat on the mat, the dog sat on the log; ";
  return text;
}();

inline ByteBatches tiny_batches(Index steps, Index begin_step = 0) {
  return ByteBatches::of_texts({repetitive_text}, {.rows = 3, .tokens = 17, .steps = steps, .seed = 2, .held_out = 0.1,
                                                   .begin_step = begin_step});
}

/// One tensor of a model, or all one after the other, wherever they lie.
template <class Model>
std::vector<typename Model::Accumulator> weights(Model const& model, std::size_t segment) {
  typename Model::BackendType backend(1);
  std::vector<typename Model::Accumulator> values(static_cast<std::size_t>(model.table()[segment].size()));
  to_host(backend, model.values(segment), values.data());
  return values;
}
template <class Model>
std::vector<typename Model::Accumulator> weights(Model const& model) {
  std::vector<typename Model::Accumulator> all;
  for (std::size_t i = 0; i < model.table().count(); ++i) {
    auto const values = weights(model, i);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

template <class Model>
void set_weights(Model& model, std::size_t segment, typename Model::Accumulator const* from) {
  typename Model::BackendType backend(1);
  from_host(backend, from, model.writable(segment));
  model.refresh(backend);
}
template <class Model>
void set_weights(Model& model, std::vector<typename Model::Accumulator> const& all) {
  auto const* from = all.data();
  for (std::size_t i = 0; i < model.table().count(); from += model.table()[i++].size()) set_weights(model, i, from);
}

/// Bits, not values: NaN is itself and -0 is not 0.
template <class S>
bool same_bits(std::vector<S> const& a, std::vector<S> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0;
}

/// Whatever a visitor is shown.
struct StoredState {
  using Value = std::variant<bool, Index, std::uint64_t, double, std::string, std::vector<float>, std::vector<double>>;
  std::map<std::string, Value, std::less<>> values;

  template <class T>
  static constexpr bool is_tensor = !std::is_arithmetic_v<T> && !std::is_same_v<T, std::string>;
  template <class T>
  static constexpr bool is_remote = requires(T& x, std::span<typename T::Element> host) { x.read(Index{}, host); };

  template <class Visitable>
  static StoredState of(Visitable const& visitable) {
    StoredState state;
    Visitable::visit(visitable, [&state]<class T>(std::string_view key, T& x) {
      if constexpr (is_remote<T>) {
        std::vector<typename T::Element> host(static_cast<std::size_t>(x.size()));
        x.read(0, host);
        state.values[std::string(key)] = host;
      } else if constexpr (is_tensor<T>) {
        state.values[std::string(key)] = std::vector(x.begin(), x.end());
      } else {
        state.values[std::string(key)] = x;
      }
    });
    return state;
  }

  template <class Visitable>
  void into(Visitable& visitable) const {
    Visitable::visit(visitable, [this]<class T>(std::string_view key, T& x) {
      auto const found = values.find(key);
      if (found == values.end()) throw std::runtime_error("no state " + std::string(key));
      if constexpr (is_tensor<T>) {
        auto const& from = std::get<std::vector<std::remove_const_t<typename T::Element>>>(found->second);
        if (static_cast<Index>(from.size()) != x.size()) throw std::runtime_error("size of " + std::string(key));
        if constexpr (is_remote<T>) x.write(0, from);
        else std::copy(from.begin(), from.end(), x.data());
      } else {
        x = std::get<T>(found->second);
      }
    });
  }
};

/// The message of the Error that f throws, or "none".
template <class F>
std::string complaint(F const& f) {
  try {
    f();
  } catch (Error const& error) {
    return error.what();
  }
  return "none";
}

}  // namespace moduleformer::test
