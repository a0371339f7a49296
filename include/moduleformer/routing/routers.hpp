// SPDX-License-Identifier: MIT
#pragma once
// Routers: policies that map tokens x (N,D) to logits (N,E). Formulas: arXiv 2306.04640 section 2.1
// and its released code.
//   linear  logits = W x
//   mlp     logits = W2 dropout(act(W1 x + b1))      act: exact GELU as released, ReLU in the paper
//   gmm     logits = cos(W x, centroid_e) exp(temperature)
// A router has Parameters, a Context for backward, visit_parameters, forward, backward; backward
// accumulates into dx and the gradients. docs/policies.md builds one from scratch.

#include <moduleformer/core/functors.hpp>
#include <moduleformer/nn/parameters.hpp>
#include <moduleformer/nn/pass.hpp>

#include <cmath>

namespace moduleformer {

/// Sizes that a router sees.
struct RouterExtents {
  Index hidden_size = 0;         // D
  Index router_hidden_size = 0;  // R
  Index experts = 0;             // E
};

struct LinearRouter {
  using Role = role::Router;
  static constexpr std::string_view name = "linear";

  template <class Access>
  struct Parameters {
    typename Access::template View<2> weight;  // (E,D)
  };
  template <class S>
  struct Context {};

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.0.weight", p.weight, Initial::normal, extents.experts, extents.hidden_size);
  }

  template <Backend B, class S = typename B::Scalar>
  Context<S> forward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Matrix<S const> x,
                     Matrix<S> logits) const {
    linear(pass.backend, x, p.weight, {}, logits);
    return {};
  }

  template <Backend B, class S = typename B::Scalar>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<S>> const& gradients,
                Context<S> const&, Matrix<S const> x, Matrix<S const> dlogits, Matrix<S> dx) const {
    linear_input_gradient(pass.backend, dlogits, p.weight, dx, true);
    if (gradients.weight) linear_weight_gradient(pass.backend, dlogits, x, gradients.weight.first, gradients.weight);
  }
};

template <class Activation>
struct BasicMlpRouter {
  using Role = role::Router;
  static constexpr std::string_view name = std::same_as<Activation, Gelu> ? "mlp" : "mlp_relu";
  static_assert(std::same_as<Activation, Gelu> || std::same_as<Activation, Relu>,
                "moduleformer: the mlp router has the exact GELU or the ReLU");

  template <class Access>
  struct Parameters {
    typename Access::template View<2> hidden_weight;  // W1 (R,D)
    typename Access::template View<1> hidden_bias;    // b1 (R)
    typename Access::template View<2> weight;         // W2 (E,R)
  };
  template <class S>
  struct Context {
    Matrix<S> z;  // W1 x + b1  (N,R)
    Matrix<S> h;  // dropout(act(z))  (N,R)
  };

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.0.weight", p.hidden_weight, Initial::normal, extents.router_hidden_size, extents.hidden_size);
    visit("w_gate.0.bias", p.hidden_bias, Initial::zero, extents.router_hidden_size);
    visit("w_gate.3.weight", p.weight, Initial::normal, extents.experts, extents.router_hidden_size);
  }

  template <Backend B, class S = typename B::Scalar>
  Context<S> forward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p, Matrix<S const> x,
                     Matrix<S> logits) const {
    Index const n = x.extent(0), r = extents.router_hidden_size;
    Context<S> context{pass.template allocate<S>(n, r), pass.template allocate<S>(n, r)};
    linear(pass.backend, x, p.hidden_weight, p.hidden_bias, context.z);
    activation_forward(pass.backend, Activation{}, context.z, context.h);
    if (auto const drop = dropout(pass); drop.probability > 0) apply_dropout(pass.backend, drop, context.h, context.h);
    linear(pass.backend, context.h, p.weight, {}, logits);
    return context;
  }

  template <Backend B, class S = typename B::Scalar>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<S>> const& gradients,
                Context<S> const& context, Matrix<S const> x, Matrix<S const> dlogits, Matrix<S> dx) const {
    auto const scratch = pass.scope();
    Matrix<S> const dz = pass.template allocate<S>(context.z.extent(0), context.z.extent(1));  // dh, then dz in place
    linear_input_gradient(pass.backend, dlogits, p.weight, dz, false);
    if (gradients.weight)
      linear_weight_gradient(pass.backend, dlogits, context.h, gradients.weight.first, gradients.weight);
    if (auto const drop = dropout(pass); drop.probability > 0) apply_dropout(pass.backend, drop, dz, dz);
    activation_backward(pass.backend, Activation{}, dz, context.z, dz);
    linear_input_gradient(pass.backend, dz, p.hidden_weight, dx, true);
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

struct GmmRouter {
  using Role = role::Router;
  static constexpr std::string_view name = "gmm";

  template <class Access>
  struct Parameters {
    typename Access::template View<2> weight;       // W (R,D)
    typename Access::template View<2> centroids;    // (E,R)
    typename Access::template View<1> temperature;  // (1), a logarithm
  };
  template <class S>
  struct Context {
    Matrix<S> direction;    // W x / |W x|  (N,R)
    Vector<S> norm;         // |W x|  (N)
    Matrix<S> centroid;     // centroid_e / |centroid_e|  (E,R)
    Vector<S> centroid_norm;  // (E)
    Matrix<S> cosine;       // (N,E)
    Vector<S> scale;        // exp(temperature)  (1)
  };

  template <class Views, class Visitor>
  constexpr void visit_parameters(RouterExtents extents, Views& p, Visitor& visit) const {
    visit("w_gate.weight", p.weight, Initial::normal, extents.router_hidden_size, extents.hidden_size);
    visit("expert_centroids", p.centroids, Initial::standard_normal, extents.experts, extents.router_hidden_size);
    visit("temperature", p.temperature, Initial::zero, Index{1});
  }

  template <Backend B, class S = typename B::Scalar>
  Context<S> forward(Pass<B>& pass, RouterExtents extents, Parameters<Values<S>> const& p, Matrix<S const> x,
                     Matrix<S> logits) const {
    Index const n = x.extent(0), r = extents.router_hidden_size, e = extents.experts;
    Context<S> context{pass.template allocate<S>(n, r), pass.template allocate<S>(n), pass.template allocate<S>(e, r),
                       pass.template allocate<S>(e),    pass.template allocate<S>(n, e), pass.template allocate<S>(1)};
    linear(pass.backend, x, p.weight, {}, context.direction);
    normalise_rows(pass.backend, context.direction, context.direction, context.norm);
    normalise_rows(pass.backend, p.centroids, context.centroid, context.centroid_norm);
    linear(pass.backend, context.direction, context.centroid, {}, context.cosine);
    invoke(pass.backend, [scale = context.scale, t = p.temperature] { scale[0] = std::exp(t[0]); });
    scale_by(pass.backend, context.scale, context.cosine, logits);
    return context;
  }

  template <Backend B, class S = typename B::Scalar>
  void backward(Pass<B>& pass, RouterExtents, Parameters<Values<S>> const& p, Parameters<Gradients<S>> const& gradients,
                Context<S> const& context, Matrix<S const> x, Matrix<S const> dlogits, Matrix<S> dx) const {
    auto const scratch = pass.scope();
    Index const n = x.extent(0), r = context.direction.extent(1), e = context.cosine.extent(1);
    // logits = cosine * scale, scale = exp(temperature): d temperature = <dlogits, cosine> scale
    if (gradients.temperature) {
      Vector<S> const product = pass.template allocate<S>(1);
      dot(pass.backend, dlogits, context.cosine, product);
      invoke(pass.backend, [product, scale = context.scale, d = gradients.temperature] { d[0] += product[0] * scale[0]; });
    }
    Matrix<S> const dcosine = pass.template allocate<S>(n, e);
    scale_by(pass.backend, context.scale, dlogits, dcosine);
    Matrix<S> const dz = pass.template allocate<S>(n, r);
    linear_input_gradient(pass.backend, dcosine, context.centroid, dz, false);
    normalise_rows_backward(pass.backend, dz, context.direction, context.norm, dz);
    linear_input_gradient(pass.backend, dz, p.weight, dx, true);
    if (gradients.weight) linear_weight_gradient(pass.backend, dz, x, gradients.weight.first, gradients.weight);
    if (gradients.centroids) {
      Matrix<S> const dcentroid = pass.template allocate<S>(e, r);
      fill(pass.backend, dcentroid.reshape(e * r), S(0));
      linear_weight_gradient(pass.backend, dcosine, context.direction, 0, dcentroid);
      normalise_rows_backward(pass.backend, dcentroid, context.centroid, context.centroid_norm, dcentroid);
      add(pass.backend, dcentroid.rows(gradients.centroids.first, gradients.centroids.extent(0)), gradients.centroids);
    }
  }
};

}  // namespace moduleformer
