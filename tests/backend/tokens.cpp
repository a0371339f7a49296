// SPDX-License-Identifier: MIT
// Embedding, chosen rows, and the fused cross-entropy: definitions, gradients, ignored labels, bad ids.

#include "primitives.hpp"

#include <moduleformer/backend/cpu/cross_entropy.hpp>
#include <moduleformer/backend/cpu/embedding.hpp>

#include <boost/test/unit_test.hpp>

#include <tuple>

namespace mf = moduleformer;
using mf::Index;
using mf::test::Array;
using mf::test::random_array;
using mf::test::relative_error;
using mf::test::tolerance;

namespace {

using Scalars = std::tuple<float, double>;

struct Size {
  Index rows, vocabulary, width;
};

Array<mf::TokenId, 1> random_ids(Index count, Index limit) {
  Array<mf::TokenId, 1> ids(count);
  for (Index t = 0; t < count; ++t)
    ids(t) = static_cast<mf::TokenId>(mf::random_words({3}, static_cast<std::uint64_t>(t))[0] %
                                      static_cast<std::uint32_t>(limit));
  return ids;
}

auto says(std::string const& text) {
  return [text](mf::Error const& error) { return std::string(error.what()) == text; };
}

struct Loss {
  double sum = 0;
  std::vector<double> dx, dweight;
};

template <class A>
Loss reference_loss(A const& x, A const& weight, Array<mf::TokenId, 1> const& labels, double scale) {
  Index const rows = x.view().extent(0), width = x.view().extent(1), vocabulary = weight.view().extent(0);
  Loss loss{0, std::vector<double>(x.values().size()), std::vector<double>(weight.values().size())};
  auto const logits = mf::test::product(x, false, weight, true);
  for (Index t = 0; t < rows; ++t) {
    if (labels(t) == mf::ignore_label) continue;
    double const* const row = logits.data() + t * vocabulary;
    double const largest = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (Index v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - largest);
    loss.sum += std::log(sum) + largest - row[labels(t)];
    for (Index v = 0; v < vocabulary; ++v) {
      double const d = scale * (std::exp(row[v] - largest) / sum - (v == labels(t) ? 1 : 0));
      for (Index i = 0; i < width; ++i) {
        loss.dx[static_cast<std::size_t>(t * width + i)] += d * static_cast<double>(weight(v, i));
        loss.dweight[static_cast<std::size_t>(v * width + i)] += d * static_cast<double>(x(t, i));
      }
    }
  }
  return loss;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(backend_tokens)

BOOST_AUTO_TEST_CASE_TEMPLATE(embedding_and_its_gradient, S, Scalars) {
  for (Size const& size : {Size{1, 1, 1}, Size{37, 5, 65}, Size{130, 257, 33}}) {
    Index const count = size.rows, vocabulary = size.vocabulary, width = size.width;
    auto const table = random_array<S>(1, vocabulary, width), dout = random_array<S>(2, count, width);
    auto const ids = random_ids(count, vocabulary);
    auto const out = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      Array<S, 2> rows(count, width);
      embedding(backend, table.view(), ids.view(), rows.view());
      return rows.values();
    });
    auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto dtable = table;
      embedding_backward(backend, ids.view(), dout.view(), dtable.view());
      return dtable.values();
    });
    auto expected = table;  // repeated ids add in ascending order: equal bits
    for (Index t = 0; t < count; ++t)
      for (Index i = 0; i < width; ++i) {
        BOOST_TEST(out[static_cast<std::size_t>(t * width + i)] == table(ids(t), i));
        expected(ids(t), i) += dout(t, i);
      }
    BOOST_TEST(found == expected.values());
  }
}

BOOST_AUTO_TEST_CASE(ids_outside_the_table) {
  mf::Cpu<float> backend{2};
  auto table = random_array<float>(1, 5, 4), rows = random_array<float>(2, 3, 4);
  Array<mf::TokenId, 1> ids(3);
  ids(1) = 5;
  BOOST_CHECK_EXCEPTION(embedding(backend, table.view(), ids.view(), rows.view()), mf::Error,
                        says("embedding: token id at position 1: expected 0 to 4, found 5"));
  ids(1) = -1;
  BOOST_CHECK_THROW(embedding_backward(backend, ids.view(), rows.view(), table.view()), mf::Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(chosen_rows, S, Scalars) {
  auto const x = random_array<S>(1, 40, 131);
  Array<std::int32_t, 1> chosen(13);
  for (Index i = 0; i < 13; ++i) chosen(i) = static_cast<std::int32_t>(39 - 3 * i);
  auto const gathered = mf::test::run<S>([&](mf::Cpu<S>& backend) {
    Array<S, 2> out(13, 131);
    gather_rows(backend, x.view(), chosen.view(), out.view());
    return out.values();
  });
  auto const scattered = mf::test::run<S>([&](mf::Cpu<S>& backend) {
    auto out = x;
    scatter_rows(backend, x.view().rows(0, 13), chosen.view(), out.view());
    return out.values();
  });
  auto expected = x;
  for (Index i = 0; i < 13; ++i)
    for (Index c = 0; c < 131; ++c) {
      BOOST_TEST(gathered[static_cast<std::size_t>(i * 131 + c)] == x(chosen(i), c));
      expected(chosen(i), c) += x(i, c);
    }
  BOOST_TEST(scattered == expected.values());
}

BOOST_AUTO_TEST_CASE_TEMPLATE(rows_appended_to_a_cache, S, Scalars) {
  auto const x = random_array<S>(1, 5, 7);
  auto cache = random_array<S>(2, 12, 7), expected = cache;
  // Two old keys and three new ones in rows 1 to 5; no old key and two new ones in rows 8 and 9.
  mf::Sequence const sequences[] = {{0, 3, 1, 5}, {3, 2, 8, 2}};
  mf::Cpu<S> backend{2};
  append_rows(backend, mf::Vector<mf::Sequence const>{sequences, {2}}, x.view(), cache.view());
  for (Index c = 0; c < 7; ++c) {
    for (Index i = 0; i < 3; ++i) expected(3 + i, c) = x(i, c);
    for (Index i = 0; i < 2; ++i) expected(8 + i, c) = x(3 + i, c);
  }
  BOOST_TEST(cache.values() == expected.values());
  mf::Sequence const outside[] = {{0, 3, 11, 3}};
  BOOST_CHECK_THROW(append_rows(backend, mf::Vector<mf::Sequence const>{outside, {1}}, x.view(), cache.view()),
                    mf::Error);
}

BOOST_AUTO_TEST_CASE_TEMPLATE(cross_entropy_and_its_gradients, S, Scalars) {
  // Chunks hold 512 rows of a small vocabulary.
  for (Size const& size : {Size{1, 1, 1}, Size{1, 257, 5}, Size{7, 2, 33}, Size{511, 13, 8}, Size{513, 7, 5},
                           Size{1030, 3, 4}, Size{130, 300, 16}}) {
    Index const rows = size.rows, vocabulary = size.vocabulary, width = size.width;
    auto x = random_array<S>(1, rows, width);
    auto const weight = random_array<S>(2, vocabulary, width);
    for (Index i = 0; i < width; ++i) x(0, i) *= S(100);  // a row whose softmax saturates
    auto labels = random_ids(rows, vocabulary);
    for (Index t = 1; t < rows; t += 3) labels(t) = mf::ignore_label;
    double const scale = 0.37;
    mf::Vector<double const> const scale_view{&scale, {1}};
    Loss const expected = reference_loss(x, weight, labels, scale);
    auto const found = mf::test::run<S>([&](mf::Cpu<S>& backend) {
      auto dx = random_array<S>(3, rows, width);  // overwritten
      Array<S, 2> dweight(vocabulary, width);
      Array<double, 1> loss(2);
      cross_entropy(backend, x.view(), weight.view(), labels.view(), scale_view, dx.view(), dweight.view(), loss.view().rows(0, 1));
      cross_entropy(backend, x.view(), weight.view(), labels.view(), {}, {}, {}, loss.view().rows(1, 1));
      double const sum = loss(0);
      BOOST_TEST(std::abs(sum - expected.sum) <= 10 * tolerance<S> * (1 + std::abs(expected.sum)));
      BOOST_TEST(loss(1) == sum);
      auto all = dx.values();
      all.insert(all.end(), dweight.values().begin(), dweight.values().end());
      return all;
    });
    auto const split = found.begin() + rows * width;
    BOOST_TEST(relative_error(std::vector<S>(found.begin(), split), expected.dx) < 10 * tolerance<S>,
               "rows " << rows << " vocabulary " << vocabulary);
    BOOST_TEST(relative_error(std::vector<S>(split, found.end()), expected.dweight) < 10 * tolerance<S>);
  }
}

BOOST_AUTO_TEST_CASE(cross_entropy_adds_to_the_weight_gradient) {
  auto const x = random_array<double>(1, 9, 4), weight = random_array<double>(2, 6, 4);
  auto const labels = random_ids(9, 6);
  mf::Cpu<double> backend{2};
  auto before = random_array<double>(3, 6, 4);
  auto expected = reference_loss(x, weight, labels, 1.0).dweight;
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before.values()[i];
  Array<double, 1> loss(1);
  double const one = 1;
  cross_entropy(backend, x.view(), weight.view(), labels.view(), {&one, {1}}, {}, before.view(), loss.view());
  BOOST_TEST(relative_error(before.values(), expected) < 1e-14);
}

BOOST_AUTO_TEST_CASE(labels_outside_the_vocabulary) {
  auto const x = random_array<float>(1, 3, 4), weight = random_array<float>(2, 6, 4);
  mf::Cpu<float> backend{2};
  Array<double, 1> loss(1);
  auto labels = random_ids(3, 6);
  labels(2) = 6;
  BOOST_CHECK_EXCEPTION(cross_entropy(backend, x.view(), weight.view(), labels.view(), {}, {}, {}, loss.view()), mf::Error,
                        says("cross_entropy: label at position 2: expected 0 to 5 or -100, found 6"));
  labels(2) = -1;
  BOOST_CHECK_THROW(cross_entropy(backend, x.view(), weight.view(), labels.view(), {}, {}, {}, loss.view()), mf::Error);
}

BOOST_AUTO_TEST_SUITE_END()
