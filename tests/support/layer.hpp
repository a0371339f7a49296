// SPDX-License-Identifier: MIT
#pragma once
// A layer with parameters, gradients and a pass of its own, in double, for tests of single layers.

#include "support/gradient_check.hpp"

#include <moduleformer/backend/cpu.hpp>
#include <moduleformer/nn/combination.hpp>
#include <moduleformer/nn/parameter_storage.hpp>
#include <moduleformer/nn/pass.hpp>

#include <functional>
#include <vector>

namespace moduleformer::test {

using Double = Cpu<double>;

/// Numbers in (-1, 1), a pure function of the seed.
inline std::vector<double> random_values(Index count, std::uint64_t seed) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = 2 * static_cast<double>(to_unit(random_words({seed, 0, 0}, i)[0])) - 1;
  return values;
}

template <class Layer>
class LayerUnderTest {
 public:
  template <class Access>
  using Parameters = typename Layer::template Parameters<Access>;

  /// `scale` multiplies the random parameters.
  LayerUnderTest(Layer l, double scale, std::uint64_t seed, int threads = 2) : layer(l), backend(threads) {
    DeclareParameters declare(table);
    layer.visit_parameters(values, declare);
    storage = ParameterStorage<Double>(table);
    BindValues<double, std::function<double const*(std::size_t)>> bind([this](std::size_t i) { return storage.place(i); });
    layer.visit_parameters(values, bind);
    gradient.resize(static_cast<std::size_t>(table.training_size()));
    BindGradients<double> bind_gradients(table, gradient.data());
    layer.visit_parameters(gradients, bind_gradients);
    for (std::size_t i = 0; i < table.count(); ++i) {
      auto const start = random_values(table[i].size(), seed + i);
      for (std::size_t j = 0; j < start.size(); ++j) parameter(i)[j] = scale * start[j];
    }
  }
  LayerUnderTest(LayerUnderTest const&) = delete;

  /// A pass on an empty workspace.
  Pass<Double> pass(bool training = false) {
    backend.workspace().release({});
    return {.backend = backend, .settings = settings, .keep = true, .training = training, .numbers = &numbers};
  }
  std::span<double> parameter(std::size_t i) {
    return {storage.writable(table, i), static_cast<std::size_t>(table[i].size())};
  }
  std::span<double const> parameter_gradient(std::size_t i) const {
    return {gradient.data() + table[i].gradient_offset, static_cast<std::size_t>(table[i].size())};
  }
  /// Every trainable parameter's gradient against differences of f.
  void check_parameters(std::function<double()> const& f, double tolerance = 2e-7) {
    for (std::size_t i = 0; i < table.count(); ++i)
      if (table[i].trainable_size() > 0)
        check_gradient(table[i].name, parameter(i), parameter_gradient(i), f, tolerance);
  }

  Layer layer;
  Double backend;
  static constexpr double routing_weight = 0.3;
  Settings settings;
  PassNumbers numbers{.random = {7, 3, 0}, .routing_weight = routing_weight};
  ParameterTable table;
  ParameterStorage<Double> storage;
  Parameters<Values<double>> values{};
  Parameters<Gradients<double>> gradients{};
  std::vector<double> gradient;
};

/// out = the sum.
inline void combine(Pass<Double>& pass, Combination<double> const& sum, Matrix<double> out) {
  combine(pass.backend, sum.slots, sum.y, sum.dropout, sum.residual, out);
}

inline double dot(std::vector<double> const& a, Matrix<double const> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b.data()[i];
  return sum;
}

}  // namespace moduleformer::test
