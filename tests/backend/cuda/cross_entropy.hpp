// SPDX-License-Identifier: MIT
#pragma once
// Suite: the fused cross-entropy: sum and gradients against double, chunks, ignored labels, rows that saturate,
// vocabularies whose rows begin anywhere.

#include "support.hpp"

#include <moduleformer/backend/cuda/cross_entropy.cuh>
#include <moduleformer/core/error.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moduleformer::test {

struct LossSize {
  Index rows, vocabulary, width;
};

struct LossReference {
  double sum = 0;
  std::vector<double> dx, dweight;

  LossReference(std::vector<double> const& x, std::vector<double> const& weight, std::vector<TokenId> const& labels,
                LossSize const& size, double scale)
      : dx(x.size()), dweight(weight.size()) {
    std::vector<double> logits(static_cast<std::size_t>(size.vocabulary));
    for (Index t = 0; t < size.rows; ++t) {
      TokenId const label = labels[static_cast<std::size_t>(t)];
      if (label == ignore_label) continue;
      auto const at = [&](Index row, Index i) { return static_cast<std::size_t>(row * size.width + i); };
      for (Index v = 0; v < size.vocabulary; ++v) {
        double& logit = logits[static_cast<std::size_t>(v)] = 0;
        for (Index i = 0; i < size.width; ++i) logit += x[at(t, i)] * weight[at(v, i)];
      }
      double const largest = *std::max_element(logits.begin(), logits.end());
      double exponentials = 0;
      for (double const logit : logits) exponentials += std::exp(logit - largest);
      sum += std::log(exponentials) + largest - logits[static_cast<std::size_t>(label)];
      for (Index v = 0; v < size.vocabulary; ++v) {
        double const softmax = std::exp(logits[static_cast<std::size_t>(v)] - largest) / exponentials;
        double const d = scale * (softmax - (v == label ? 1 : 0));
        for (Index i = 0; i < size.width; ++i) {
          dx[at(t, i)] += d * weight[at(v, i)];
          dweight[at(v, i)] += d * x[at(t, i)];
        }
      }
    }
  }
};

inline std::vector<TokenId> random_labels(Index count, Index vocabulary) {
  std::vector<TokenId> labels;
  for (Index t = 0; t < count; ++t)
    labels.push_back(t % 3 == 1 ? ignore_label
                                : static_cast<TokenId>(random_words({3}, static_cast<std::uint64_t>(t))[0] %
                                                       static_cast<std::uint32_t>(vocabulary)));
  return labels;
}

BOOST_AUTO_TEST_CASE_TEMPLATE(cross_entropy_and_its_gradients, B, Backends) {
  using S = typename B::Scalar;
  // A chunk holds 4096 rows of a small vocabulary; beyond a vocabulary of 2048 blocks are large, and keep a row in
  // shared memory up to one of 58000.
  for (LossSize const& size :
       {LossSize{0, 3, 4}, LossSize{1, 1, 1}, LossSize{1, 257, 5}, LossSize{7, 2, 33}, LossSize{35, 13, 8},
        LossSize{5, 2049, 16}, LossSize{1, 50295, 2}, LossSize{1, 60001, 2}, LossSize{6, 4104, 8}, LossSize{4097, 3, 4},
        LossSize{130, 64, 16}, LossSize{200, 300, 16}}) {
    Index const rows = size.rows, vocabulary = size.vocabulary, width = size.width;
    auto x = normal_numbers<S>(rows * width, 1);
    auto const weight = normal_numbers<S>(vocabulary * width, 2);
    auto const old = normal_numbers<float>(vocabulary * width, 3, 0.01);
    for (Index i = 0; i < std::min(width, rows * width); ++i)  // a row whose softmax saturates
      x[static_cast<std::size_t>(i)] = number<double>(number<S>(50 * x[static_cast<std::size_t>(i)]));
    auto const labels = random_labels(rows, vocabulary);
    double const scale = 0.37;
    LossReference const expected(x, weight, labels, size, scale);
    std::vector<double> sums;
    auto const found = in_all_orders<B>([&](Device<B>& device) {
      auto const dx = device.template allocate<S>(rows, width);
      auto const dweight = device.template upload<float>(old, vocabulary, width);
      auto const loss = device.template allocate<double>(3);
      auto const data = device.template upload<S>(x, rows, width),
                 table = device.template upload<S>(weight, vocabulary, width);
      auto const targets = device.upload(labels);
      auto const factor = device.upload(std::vector<double>{scale});
      cross_entropy(device.backend(), data, table, targets, factor, dx, dweight, loss.rows(0, 1));
      auto values = device.template download<float>(dx);
      for (float const d : device.download(dweight)) values.push_back(d);
      if (rows < 1000) {  // the sum alone, and one gradient alone
        cross_entropy(device.backend(), data, table, targets, {}, {}, {}, loss.rows(1, 1));
        fill(device.backend(), dx.reshape(dx.size()), S{});
        cross_entropy(device.backend(), data, table, targets, factor, dx, {}, loss.rows(2, 1));
        BOOST_TEST(same_bits(device.template download<float>(dx),
                             std::vector<float>(values.begin(), values.begin() + rows * width)));
        sums = device.download(loss);
        BOOST_TEST(sums[1] == sums[0]);
        BOOST_TEST(sums[2] == sums[0]);
      } else {
        sums = device.download(loss);
      }
      values.push_back(static_cast<float>(sums[0]));
      return values;
    });
    BOOST_TEST(std::abs(sums[0] - expected.sum) <= 2e-6 * (1 + std::abs(expected.sum)),
               rows << " rows, vocabulary " << vocabulary << ": " << sums[0] << " for " << expected.sum);
    auto const split = found.begin() + rows * width;
    double const bound = std::is_same_v<S, float> ? 2e-5 : 1e-2;
    BOOST_TEST(relative_error(std::vector<float>(found.begin(), split), expected.dx) < bound,
               rows << " rows, vocabulary " << vocabulary);
    auto dweight = expected.dweight;
    for (std::size_t i = 0; i < old.size(); ++i) dweight[i] += old[i];
    BOOST_TEST(relative_error(std::vector<float>(split, found.end() - 1), dweight) < bound,
               rows << " rows, vocabulary " << vocabulary);
  }
}

/// The kernel alone, on logits that no product makes.
template <class B>
std::pair<std::vector<double>, std::vector<float>> losses_of(std::vector<float> const& logits,
                                                             std::vector<TokenId> const& labels) {
  using S = typename B::Scalar;
  Device<B> device;
  Index const rows = static_cast<Index>(labels.size()), vocabulary = static_cast<Index>(logits.size()) / rows;
  Index const stride = detail::logits_stride(vocabulary);
  std::vector<float> padded(static_cast<std::size_t>(rows * stride), 1e30f);  // what lies beyond a row counts nothing
  for (Index row = 0; row < rows; ++row)
    std::copy_n(logits.begin() + row * vocabulary, vocabulary, padded.begin() + row * stride);
  auto const d = device.template allocate<S>(rows, stride);
  auto const losses = device.template allocate<double>(rows);
  detail::cross_entropy_of_logits(device.backend(), device.upload(padded, rows, stride), vocabulary,
                                  device.upload(labels), device.upload(std::vector<double>{1}).data(), d, losses);
  auto const slopes = device.template download<float>(d);
  std::vector<float> found;
  for (Index row = 0; row < rows; ++row)
    found.insert(found.end(), slopes.begin() + row * stride, slopes.begin() + row * stride + vocabulary);
  return {device.download(losses), found};
}

BOOST_AUTO_TEST_CASE_TEMPLATE(logits_of_any_size, B, Backends) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
  for (Index const more : {0, 3000}) {                             // impossible classes, that change nothing
    std::vector<float> const rows[] = {{largest, -largest, 0.0f},  // as far apart as can be
                                       {-infinity, 1.0f, 1.0f},
                                       {-3e38f, -3e38f, -3e38f},  // all small
                                       {NAN, 0.0f, 1.0f}};
    std::vector<float> logits;
    for (auto row : rows) {
      row.resize(static_cast<std::size_t>(3 + more), -infinity);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    auto const found = losses_of<B>(logits, {0, 1, 2, 1});
    std::vector<double> const& losses = found.first;
    std::vector<float> const& d = found.second;
    BOOST_TEST(losses[0] == 0);
    BOOST_TEST(std::abs(losses[1] - std::log(2.0)) < 1e-7);
    BOOST_TEST(std::abs(losses[2] - std::log(3.0)) < 1e-7);
    BOOST_TEST(std::isnan(losses[3]));  // never hidden
    std::vector<double> const expected{0, 0, 0, 0, -0.5, 0.5, 1.0 / 3, 1.0 / 3, -2.0 / 3};
    for (std::size_t i = 0; i < d.size() * 3 / 4; ++i) {
      std::size_t const width = static_cast<std::size_t>(3 + more), row = i / width, column = i % width;
      BOOST_TEST(std::abs(static_cast<double>(d[i]) - (column < 3 ? expected[3 * row + column] : 0)) < 2e-3);
    }
  }
}

BOOST_AUTO_TEST_CASE_TEMPLATE(cross_entropy_refuses, B, Backends) {
  using S = typename B::Scalar;
  Device<B> device;
  auto const x = device.template allocate<S>(3, 4), weight = device.template allocate<S>(6, 4);
  auto const labels = device.upload(std::vector<TokenId>{0, 1, 2});
  auto const sum = device.template allocate<double>(1);
  BOOST_CHECK_EXCEPTION(
      cross_entropy(device.backend(), x, weight, labels.rows(0, 2), {}, {}, {}, sum), Error,
      [](Error const& error) { return std::string(error.what()) == "cross_entropy: expected labels of 3, found 2"; });
  BOOST_CHECK_THROW(cross_entropy(device.backend(), x, weight, labels, {}, weight, {}, sum), Error);
  BOOST_CHECK_THROW(cross_entropy(device.backend(), x, device.template allocate<S>(6, 5), labels, {}, {}, {}, sum),
                    Error);
}

}  // namespace moduleformer::test
