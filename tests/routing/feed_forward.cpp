// SPDX-License-Identifier: MIT
// Feed-forward experts: numeric gradients over ragged sizes, empty experts, one expert for all, E = K,
// every activation, dropout; a direct evaluation of the formula.

#include "routing/empty_slots.hpp"
#include "support/layer.hpp"

#include <moduleformer/routing/policies.hpp>

#include <boost/mpl/list.hpp>

namespace mf = moduleformer;
using mf::Index;
using namespace mf::test;

namespace {

struct Case {
  Index n, d, f, e, k;
  double dropout = 0;
  bool all_on_first = false;  // given routes: experts 0..k-1 for every token
};

template <class Policies>
struct Fixture {
  using Layer = mf::FeedForward<Policies, Double>;

  explicit Fixture(Case c)
      : size(c), test(Layer({c.d, 3, c.e}, c.k, c.f, policies), 0.8, 5), x(random_values(c.n * c.d, 1)),
        residual(random_values(c.n * c.d, 2)), weights(random_values(c.n * c.d, 3)) {
    test.settings.residual_dropout = c.dropout;
    if (c.all_on_first)
      for (Index i = 0; i < c.n * c.k; ++i) routes.push_back(static_cast<mf::ExpertId>(i % c.k));
  }
  mf::Matrix<double const> view(std::vector<double> const& v) const { return {v.data(), {size.n, size.d}}; }
  mf::Matrix<mf::ExpertId const> given() const {
    return routes.empty() ? mf::Matrix<mf::ExpertId const>{} : mf::Matrix<mf::ExpertId const>{routes.data(), {size.n, size.k}};
  }
  auto forward(mf::Pass<Double>& pass, mf::Matrix<double> out) {
    auto const y = pass.template allocate<double>(size.n * size.k, size.d);
    auto const context = test.layer.forward(pass, test.values, view(x), given(), y);
    combine(pass, test.layer.output(pass, view(residual), y), out);
    return context;
  }
  /// dx (N,D) = the gradient of x.
  void backward(mf::Pass<Double>& pass, typename Layer::Context const& context, std::vector<double>& dx) {
    auto const direct = pass.template allocate<double>(size.n, size.d);
    auto const slots = pass.template allocate<double>(size.n * size.k, size.d);
    combine(pass,
            test.layer.backward(pass, test.values, test.gradients, context, view(x), view(weights), direct, slots),
            {dx.data(), {size.n, size.d}});
  }
  /// <weights, out> + loss_weight * routing loss.
  double value() {
    auto pass = test.pass(size.dropout > 0);
    auto const out = pass.template allocate<double>(size.n, size.d);
    auto const context = forward(pass, out);
    return dot(weights, out) + loss_weight * *context.router.loss;
  }
  void check() {
    std::vector<double> dx(x.size(), 0.0);
    {
      auto pass = test.pass(size.dropout > 0);
      auto const out = pass.template allocate<double>(size.n, size.d);
      auto const context = forward(pass, out);
      backward(pass, context, dx);
    }
    check_gradient("dx", x, dx, [&] { return value(); });
    test.check_parameters([&] { return value(); });
  }

  static constexpr double loss_weight = LayerUnderTest<Layer>::routing_weight;
  Case size;
  Policies policies;
  LayerUnderTest<Layer> test;
  std::vector<double> x, residual, weights;
  std::vector<mf::ExpertId> routes;
};

using Activations = boost::mpl::list<mf::GeluTanh, mf::Gelu, mf::Relu, mf::Silu, mf::Tanh>;

}  // namespace

BOOST_AUTO_TEST_CASE(gradients_over_sizes) {
  for (Case const c : {Case{1, 1, 1, 1, 1}, Case{1, 5, 3, 4, 2}, Case{2, 3, 7, 31, 2}, Case{17, 7, 5, 3, 3},
                       Case{65, 4, 9, 5, 2}, Case{129, 3, 2, 2, 1}})
    Fixture<mf::Policies<>>(c).check();
}

BOOST_AUTO_TEST_CASE(gradients_with_empty_slots) {
  for (Case const c : {Case{4, 5, 3, 4, 1}, Case{17, 7, 5, 3, 3}, Case{129, 4, 9, 5, 2}, Case{33, 4, 5, 6, 3, 0.3}}) {
    Fixture<mf::Policies<SomeEmpty>>(c).check();
    Fixture<mf::Policies<SomeEmpty, mf::TopKSoftmaxGates>>(c).check();
  }
}

BOOST_AUTO_TEST_CASE(gradients_with_shared_experts) {
  for (Case const c : {Case{1, 5, 3, 2, 2}, Case{17, 7, 5, 3, 3}, Case{129, 4, 9, 5, 2}, Case{33, 4, 5, 6, 3, 0.3}}) {
    Fixture<mf::Policies<mf::SharedExperts<1>>>(c).check();
    Fixture<mf::Policies<mf::SharedExperts<0, 1>, mf::NormalisedSigmoidGates, mf::ImportanceLoss>>(c).check();
    Fixture<mf::Policies<mf::SharedExperts<1>, SomeEmpty, mf::TopKSoftmaxGates>>(c).check();
  }
  Fixture<mf::Policies<mf::SharedExperts<3>, mf::BiasedTopK, mf::SigmoidGates>>({20, 4, 5, 7, 5}).check();
}

BOOST_AUTO_TEST_CASE(gradients_with_all_tokens_on_one_expert) {
  Fixture<mf::Policies<>>({67, 5, 6, 4, 1, 0, true}).check();
  Fixture<mf::Policies<>>({33, 5, 6, 7, 2, 0, true}).check();
}

BOOST_AUTO_TEST_CASE_TEMPLATE(gradients_of_every_activation, A, Activations) {
  Fixture<mf::Policies<A, mf::LinearRouter>>({19, 6, 8, 5, 2}).check();
}

BOOST_AUTO_TEST_CASE(gradients_under_dropout) { Fixture<mf::Policies<>>({21, 6, 5, 4, 2, 0.3}).check(); }

BOOST_AUTO_TEST_CASE(forward_is_the_formula) {
  Fixture<mf::Policies<mf::Silu>> f({11, 5, 6, 4, 2});
  auto pass = f.test.pass();
  auto const out = pass.allocate<double>(Index{11}, Index{5});
  auto const context = f.forward(pass, out);
  for (Index t = 0; t < 11; ++t)
    for (Index j = 0; j < 5; ++j) {
      double y = f.residual[static_cast<std::size_t>(t * 5 + j)];
      for (Index s = 0; s < 2; ++s) {
        Index const e = context.router.choice.experts(t, s);
        for (Index h = 0; h < 6; ++h) {
          double z = 0;
          for (Index i = 0; i < 5; ++i) z += f.x[static_cast<std::size_t>(t * 5 + i)] * f.test.values.in(e, i, h);
          y += context.router.choice.gates(t, s) * z / (1 + std::exp(-z)) * f.test.values.out(e, h, j);
        }
      }
      BOOST_TEST(std::abs(out(t, j) - y) < 1e-13);
    }
}

BOOST_AUTO_TEST_CASE(without_an_output_backward_is_the_same) {
  Fixture<mf::Policies<>> f({17, 5, 6, 4, 2});
  std::vector<double> with(f.x.size()), without(f.x.size());
  auto pass = f.test.pass();
  auto const out = pass.allocate<double>(Index{17}, Index{5});
  f.backward(pass, f.forward(pass, out), with);
  f.backward(pass, f.test.layer.forward(pass, f.test.values, f.view(f.x), f.given(), {}), without);
  BOOST_TEST(with == without, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(frozen_rows_get_no_gradient) {
  // Experts 1..3 and router rows 2.. train; the rest is frozen. What remains equals the full gradient.
  Fixture<mf::Policies<>> whole({23, 5, 6, 4, 2}), part({23, 5, 6, 4, 2});
  auto& table = part.test.table;
  table.set_trainable(table.find("experts.weight"), 1, 4);
  table.set_trainable(table.find("output_experts.weight"), 0, 0);
  table.set_trainable(table.find("gate.w_gate.3.weight"), 2, 4);
  part.test.gradient.assign(static_cast<std::size_t>(table.training_size()), 0.0);
  mf::BindGradients<double> bind(table, part.test.gradient.data());
  part.test.layer.visit_parameters(part.test.gradients, bind);
  for (auto* f : {&whole, &part}) {
    std::vector<double> dx(f->x.size(), 0.0);
    auto pass = f->test.pass();
    auto const out = pass.allocate<double>(Index{23}, Index{5});
    auto const context = f->forward(pass, out);
    f->backward(pass, context, dx);
  }
  for (std::size_t i = 0; i < table.count(); ++i) {
    auto const& s = table[i];
    double const* const expected =
        whole.test.gradient.data() + whole.test.table[i].gradient_offset + s.trainable_begin * s.row_size();
    for (Index j = 0; j < s.trainable_size(); ++j)
      BOOST_TEST(std::abs(part.test.gradient[static_cast<std::size_t>(s.gradient_offset + j)] - expected[j]) < 1e-14, s.name);
  }
}
