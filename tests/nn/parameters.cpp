// SPDX-License-Identifier: MIT
// The parameter table, its storage, and layer norm's gradients.

#include "support/layer.hpp"

#include <moduleformer/nn/layer_norm.hpp>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

struct NormAlone {
  template <class Access>
  using Parameters = mf::LayerNorm::Parameters<Access>;
  template <class Views, class Visitor>
  void visit_parameters(Views& p, Visitor& visit) const {
    mf::LayerNorm::visit_parameters(size, p, visit);
  }
  Index size;
};

}  // namespace

BOOST_AUTO_TEST_CASE(offsets_cover_trainable_rows_only) {
  mf::ParameterTable table;
  table.add({.name = "a", .shape = {5, 3}});
  table.add({.name = "b", .shape = {4}});
  table.add({.name = "c", .shape = {2, 3, 4}});
  BOOST_TEST(table.size() == 15 + 4 + 24);
  BOOST_TEST(table[2].gradient_offset == 32);  // 15 and 4, each padded to 16
  table.set_trainable(0, 2, 2);
  table.set_trainable(2, 1, 2);
  BOOST_TEST(table[0].trainable_size() == 0);
  BOOST_TEST(table[2].gradient_offset == 16);
  BOOST_TEST(table[2].trainable_size() == 12);
  BOOST_TEST(table.training_size() == 32);
  BOOST_CHECK_THROW(table.set_trainable(0, 3, 6), mf::Error);
  BOOST_TEST(table.find("c") == 2u);
  BOOST_TEST(table.find("d") == 3u);
}

BOOST_AUTO_TEST_CASE(mapped_values_cannot_be_written) {
  mf::ParameterTable table;
  table.add({.name = "a", .shape = {3}});
  table.add({.name = "b", .shape = {2}});
  auto const file = std::make_shared<std::vector<double>>(3, 7.0);
  mf::ParameterStorage<Double> storage(table, {file->data(), nullptr}, file);
  BOOST_TEST(storage.place(0) == file->data());
  BOOST_TEST(!storage.owns(0));
  BOOST_CHECK_THROW((void)storage.writable(table, 0), mf::Error);
  BOOST_TEST(storage.writable(table, 1) == storage.place(1));
  BOOST_CHECK_THROW((mf::ParameterStorage<Double>(table, {nullptr}, nullptr)), mf::Error);
}

BOOST_AUTO_TEST_CASE(impossible_sizes_are_refused) {
  mf::ParameterTable table;
  mf::DeclareParameters declare(table);
  mf::TensorView<double const, 2> view;
  BOOST_CHECK_THROW(declare("w", view, mf::Initial::zero, Index{1} << 40, Index{1} << 40), mf::Error);
  BOOST_CHECK_THROW(declare("w", view, mf::Initial::zero, Index{0}, Index{4}), mf::Error);
  BOOST_TEST(table.count() == 0u);
}

BOOST_AUTO_TEST_CASE(layer_norm_gradients) {
  for (auto const& [n, d] : {std::pair<Index, Index>{1, 2}, {3, 7}, {65, 33}}) {
    LayerUnderTest<NormAlone> test({d}, 0.9, 3);
    auto x = random_values(n * d, 1);
    auto const weights = random_values(n * d, 2);
    mf::Matrix<double const> const input{x.data(), {n, d}};
    auto forward = [&, n = n, d = d] {
      auto pass = test.pass();
      auto const y = pass.allocate<double>(n, d);
      mf::LayerNorm::forward(pass, test.values, input, y);
      return dot(weights, y);
    };
    std::vector<double> dx(x.size(), 0.0);
    auto pass = test.pass();
    auto const y = pass.allocate<double>(n, d);
    auto const context = mf::LayerNorm::forward(pass, test.values, input, y);
    mf::LayerNorm::backward(pass, test.values, test.gradients, context, input,
                            mf::Matrix<double const>{weights.data(), {n, d}}, mf::Matrix<double>{dx.data(), {n, d}});
    check_gradient("dx", x, dx, forward, 1e-6);
    test.check_parameters(forward, 1e-6);
  }
}
