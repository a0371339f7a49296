// SPDX-License-Identifier: MIT
#pragma once
// Routers: policies that map tokens x (N,D) to logits (N,E). Formulas: arXiv 2306.04640 section 2.1
// and its released code.
//   linear  logits = W x
//   mlp     logits = W2 dropout(act(W1 x + b1))      act: exact GELU as released, ReLU in the paper
//   gmm     logits = cos(W x, centroid_e) exp(temperature)
// A router has Parameters, a Context<B> for backward, visit_parameters, forward, backward; backward
// sets dx and accumulates into the gradients. B is the backend, S and A its two scalars (backend/backend.hpp):
// logits and gradients of parameters are in A. docs/policies.md builds one from scratch.

#include <moduleformer/core/functors.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

#include <cmath>

namespace moduleformer {

/// Sizes that a router sees.
struct RouterExtents {
  Index hidden_size = 0;         // D
  Index router_hidden_size = 0;  // R
  Index experts = 0;             // E: rows of the logits
  Index dormant = 0;             // rows after these that have parameters, and nothing else
  Index removed = 0;             // of the E: rows without an expert (routing/removed_rows.hpp)

  /// As a visitor of parameters is to see them.
  template <class Visitor>
  [[nodiscard]] constexpr RouterExtents listed(Visitor const&) const {
    return {hidden_size, router_hidden_size, experts + (lists_dormant<Visitor> ? dormant : 0), 0, removed};
  }
};

namespace detail {

/// Whether a router has a layer of R units.
template <class Router>
inline constexpr bool has_hidden_layer = requires { requires Router::has_hidden_layer; };

}  // namespace detail

struct LinearRouter {
  using Role = role::Router;
  static constexpr std::string_view name = "linear";

  template <class Access>
  struct Parameters {
    typename Access::template View<2> weight;  // (E,D)
  };
  template <class B>
  struct Context {};

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.0.weight", p.weight, Initial::normal, extents.experts, extents.hidden_size);
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  Context<B> forward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Matrix<S const> x,
                        Matrix<A> logits) const {
    linear(pass.backend, x, p.weight, {}, logits);
    return {};
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context<B> const&, Matrix<S const> x, Matrix<A const> dlogits, Matrix<S> dx) const {
    auto const scratch = pass.scope();
    Matrix<S const> const d = pass.as_scalar(dlogits);
    linear_input_gradient(pass.backend, d, p.weight, dx, false);
    if (gradients.weight) linear_weight_gradient(pass.backend, d, x, gradients.weight.first, gradients.weight);
  }
};

template <class Activation>
struct BasicMlpRouter {
  using Role = role::Router;
  static constexpr std::string_view name = std::same_as<Activation, Gelu> ? "mlp" : "mlp_relu";
  static constexpr bool has_hidden_layer = true;
  static_assert(std::same_as<Activation, Gelu> || std::same_as<Activation, Relu>,
                "moduleformer: the mlp router has the exact GELU or the ReLU");

  template <class Access>
  struct Parameters {
    typename Access::template View<2> hidden_weight;  // W1 (R,D)
    typename Access::template View<1> hidden_bias;    // b1 (R)
    typename Access::template View<2> weight;         // W2 (E,R)
  };
  template <class B>
  struct Context {
    using S = typename B::Scalar;
    Matrix<S> z;  // W1 x + b1  (N,R)
    Matrix<S> h;  // dropout(act(z))  (N,R)
  };

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.0.weight", p.hidden_weight, Initial::normal, extents.router_hidden_size, extents.hidden_size);
    visit("w_gate.0.bias", p.hidden_bias, Initial::zero, extents.router_hidden_size);
    visit("w_gate.3.weight", p.weight, Initial::normal, extents.experts, extents.router_hidden_size);
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  Context<B> forward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p, Matrix<S const> x,
                        Matrix<A> logits) const {
    Index const n = x.extent(0), r = extents.router_hidden_size;
    Context<B> context{pass.template allocate<S>(n, r), pass.template allocate<S>(n, r)};
    linear(pass.backend, x, p.hidden_weight, p.hidden_bias, context.z);
    activation_forward(pass.backend, Activation{}, context.z, context.h);
    if (auto const drop = dropout(pass); drop.probability > 0) apply_dropout(pass.backend, drop, context.h, context.h);
    linear(pass.backend, context.h, p.weight, {}, logits);
    return context;
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context<B> const& context, Matrix<S const> x, Matrix<A const> dlogits, Matrix<S> dx) const {
    auto const scratch = pass.scope();
    Matrix<S> const dz = pass.template allocate<S>(context.z.extent(0), context.z.extent(1));  // dh, then dz in place
    Matrix<S const> const d = pass.as_scalar(dlogits);
    linear_input_gradient(pass.backend, d, p.weight, dz, false);
    if (gradients.weight)
      linear_weight_gradient(pass.backend, d, context.h, gradients.weight.first, gradients.weight);
    if (auto const drop = dropout(pass); drop.probability > 0) apply_dropout(pass.backend, drop, dz, dz);
    activation_backward(pass.backend, Activation{}, dz, context.z, dz);
    linear_input_gradient(pass.backend, dz, p.hidden_weight, dx, false);
    if (gradients.hidden_weight)
      linear_weight_gradient(pass.backend, dz, x, gradients.hidden_weight.first, gradients.hidden_weight);
    if (gradients.hidden_bias) bias_gradient(pass.backend, dz, gradients.hidden_bias.first, gradients.hidden_bias);
  }

 private:
  /// Two routers a layer: the pass tells which one by its site.
  template <Backend B>
  static Dropout dropout(Pass<B> const& pass) {
    return pass.dropout(pass.router_site, pass.settings.router_dropout);
  }
};

/// As released: exact (erf) GELU.
using MlpRouter = BasicMlpRouter<Gelu>;
/// As in the paper: ReLU.
using MlpReluRouter = BasicMlpRouter<Relu>;

namespace detail {

/// to[0] = e^x[0].
template <class S, class A>
struct Exponential {
  Vector<S const> x;
  Vector<A> to;
  MODULEFORMER_HOST_DEVICE void operator()() const { to[0] = std::exp(static_cast<A>(x[0])); }
};

/// to[0] += x[0] y[0].
template <class A>
struct AddProduct {
  Vector<A> x, y, to;
  MODULEFORMER_HOST_DEVICE void operator()() const { to[0] += x[0] * y[0]; }
};

}  // namespace detail

struct GmmRouter {
  using Role = role::Router;
  static constexpr std::string_view name = "gmm";
  static constexpr bool has_hidden_layer = true;

  template <class Access>
  struct Parameters {
    typename Access::template View<2> weight;       // W (R,D)
    typename Access::template View<2> centroids;    // (E,R)
    typename Access::template View<1> temperature;  // (1), a logarithm
  };
  template <class B>
  struct Context {
    using S = typename B::Scalar;
    using A = typename B::Accumulator;
    Matrix<S> direction;    // W x / |W x|  (N,R)
    Vector<A> norm;         // |W x|  (N)
    Matrix<S> centroid;     // centroid_e / |centroid_e|  (E,R)
    Vector<A> centroid_norm;  // (E)
    Matrix<A> cosine;       // (N,E)
    Vector<A> scale;        // exp(temperature)  (1)
  };

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.weight", p.weight, Initial::normal, extents.router_hidden_size, extents.hidden_size);
    visit("expert_centroids", p.centroids, Initial::standard_normal, extents.experts, extents.router_hidden_size);
    visit("temperature", p.temperature, Initial::zero, Index{1});
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  Context<B> forward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p, Matrix<S const> x,
                        Matrix<A> logits) const {
    Index const n = x.extent(0), r = extents.router_hidden_size, e = extents.experts;
    Context<B> context{pass.template allocate<S>(n, r), pass.template allocate<A>(n),    pass.template allocate<S>(e, r),
                          pass.template allocate<A>(e),    pass.template allocate<A>(n, e), pass.template allocate<A>(1)};
    linear(pass.backend, x, p.weight, {}, context.direction);
    normalise_rows(pass.backend, context.direction, context.direction, context.norm);
    normalise_rows(pass.backend, p.centroids, context.centroid, context.centroid_norm);
    linear(pass.backend, context.direction, context.centroid, {}, context.cosine);
    invoke(pass.backend, detail::Exponential<S, A>{p.temperature, context.scale});
    scale_by(pass.backend, context.scale, context.cosine, logits);
    return context;
  }

  template <Backend B, class S = typename B::Scalar, class A = typename B::Accumulator>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<A>> const& gradients,
                Context<B> const& context, Matrix<S const> x, Matrix<A const> dlogits, Matrix<S> dx) const {
    auto const scratch = pass.scope();
    Index const n = x.extent(0), r = context.direction.extent(1), e = context.cosine.extent(1);
    // logits = cosine * scale, scale = exp(temperature): d temperature = <dlogits, cosine> scale
    if (gradients.temperature) {
      Vector<A> const product = pass.template allocate<A>(1);
      dot(pass.backend, dlogits, context.cosine, product);
      invoke(pass.backend, detail::AddProduct<A>{product, context.scale, gradients.temperature});
    }
    Matrix<A> const scaled = pass.template allocate<A>(n, e);
    scale_by(pass.backend, context.scale, dlogits, scaled);
    Matrix<S const> const dcosine = pass.as_scalar(scaled);
    Matrix<S> const dz = pass.template allocate<S>(n, r);
    linear_input_gradient(pass.backend, dcosine, context.centroid, dz, false);
    normalise_rows_backward(pass.backend, dz, context.direction, context.norm, dz);
    linear_input_gradient(pass.backend, dz, p.weight, dx, false);
    if (gradients.weight) linear_weight_gradient(pass.backend, dz, x, gradients.weight.first, gradients.weight);
    if (gradients.centroids) {
      Matrix<A> const dunit = pass.template allocate<A>(e, r);  // of the centroids' directions
      fill(pass.backend, dunit.reshape(e * r), A(0));
      linear_weight_gradient(pass.backend, dcosine, context.direction, 0, dunit);
      Matrix<S> const dcentroid = pass.template allocate<S>(e, r);
      normalise_rows_backward(pass.backend, pass.as_scalar(dunit), context.centroid, context.centroid_norm, dcentroid);
      add(pass.backend, pass.as_accumulator(dcentroid.rows(gradients.centroids.first, gradients.centroids.extent(0))),
          gradients.centroids);
    }
  }
};

}  // namespace moduleformer
