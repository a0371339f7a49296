// SPDX-License-Identifier: MIT
#pragma once
// Benchmarks of what stands around the products: norms, sums over slots, embedding, cross-entropy, the update.

#include "runner.hpp"

namespace bench {

template <class B>
void norms_and_sums(Runner<B>& run) {
  using S = typename B::Scalar;
  for (Index const n : {run.size(16384, 24), run.size(65536, 48)}) {
    Index const d = run.size(1024, 40), k = 2;
    if (!run.table("Norms and sums, " + text("N", n))) continue;
    std::string const shape = text("D", d);
    double const x = cost::scalar * cost::real(n * d), rows = cost::sum * cost::real(n);
    run.line("layer norm", shape, cost::moved(2 * x + 2 * rows), [=](Arrays<B>& a, Cost&) {
      auto const in = a.random(n, d), out = a.template allocate<S>(n, d);
      auto const weight = a.random(d), bias = a.random(d);
      auto const mean = a.template allocate<float>(n), inverse = a.template allocate<float>(n);
      return [=, &a] { layer_norm(a.backend(), in, weight, bias, 1e-5, out, mean, inverse); };
    });
    run.line("layer norm, backward", shape, cost::moved(4 * x + 2 * rows), [=](Arrays<B>& a, Cost&) {
      auto const in = a.random(n, d), out = a.template allocate<S>(n, d), dy = a.random(n, d),
                 dx = a.template zeros<S>(n, d);
      auto const weight = a.random(d), bias = a.random(d);
      auto const mean = a.template allocate<float>(n), inverse = a.template allocate<float>(n);
      auto const dweight = a.template zeros<float>(d), dbias = a.template zeros<float>(d);
      layer_norm(a.backend(), in, weight, bias, 1e-5, out, mean, inverse);
      return [=, &a] { layer_norm_backward(a.backend(), dy, in, weight, mean, inverse, dx, dweight, dbias); };
    });
    run.line("combine with residual", shape + ", K 2", cost::moved((2 + k) * x), [=](Arrays<B>& a, Cost&) {
      auto const y = a.random(n * k, d), residual = a.random(n, d), out = a.template allocate<S>(n, d);
      return [=, &a] { combine(a.backend(), k, y, mf::Dropout{}, residual, out); };
    });
    run.line("combine and layer norm", shape + ", K 2", cost::moved((3 + k) * x + 2 * rows), [=](Arrays<B>& a, Cost&) {
      auto const y = a.random(n * k, d), residual = a.random(n, d);
      auto const h = a.template allocate<S>(n, d), out = a.template allocate<S>(n, d);
      auto const weight = a.random(d), bias = a.random(d);
      auto const mean = a.template allocate<float>(n), inverse = a.template allocate<float>(n);
      return [=, &a] {
        combine_layer_norm(a.backend(), k, y, mf::Dropout{}, residual, weight, bias, 1e-5, h, out, mean, inverse);
      };
    });
    run.line("combine and layer norm, backward", shape + ", K 2", cost::moved((4 + k) * x + 2 * rows),
             [=](Arrays<B>& a, Cost&) {
               auto const y = a.random(n * k, d), residual = a.random(n, d), in = a.random(n, d);
               auto const out = a.template allocate<S>(n, d), dx = a.template zeros<S>(n, d);
               auto const weight = a.random(d), bias = a.random(d);
               auto const mean = a.template allocate<float>(n), inverse = a.template allocate<float>(n);
               auto const dweight = a.template zeros<float>(d), dbias = a.template zeros<float>(d);
               layer_norm(a.backend(), in, weight, bias, 1e-5, out, mean, inverse);
               return [=, &a] {
                 combine_layer_norm_backward(a.backend(), k, y, residual, in, weight, mean, inverse, dx, dweight,
                                             dbias);
               };
             });
    run.line("fill", shape, cost::moved(x), [=](Arrays<B>& a, Cost&) {
      auto const out = a.template allocate<S>(n * d);
      return [=, &a] { fill(a.backend(), out, S(0)); };
    });
  }
}

template <class B>
void tokens(Runner<B>& run) {
  using S = typename B::Scalar;
  Index const n = run.size(16384, 24), d = run.size(1024, 40), v = run.size(50295, 301);
  double const x = cost::scalar * cost::real(n * d), ids = cost::sum * cost::real(n);
  std::string const shape = text("N", n) + ", " + text("D", d) + ", " + text("V", v);
  if (run.table("Embedding and cross-entropy")) {
    for (bool const zipf : {false, true}) {
      auto const host = random_ids(n, v, zipf);
      std::string const each = shape + (zipf ? ", ids as of text" : ", even ids");
      run.line("embedding", each, cost::moved(ids + x + cost::scalar * distinct(host) * cost::real(d)),
               [=](Arrays<B>& a, Cost&) {
                 auto const table = a.random(v, d), out = a.template allocate<S>(n, d);
                 auto const tokens = a.upload(host);
                 return [=, &a] { embedding(a.backend(), table, tokens, out); };
               });
      run.line("embedding, backward", each, cost::moved(ids + x + 2 * cost::sum * distinct(host) * cost::real(d)),
               [=](Arrays<B>& a, Cost&) {
                 auto const dout = a.random(n, d);
                 auto const tokens = a.upload(host);
                 auto const dtable = a.template zeros<float>(v, d);
                 return [=, &a] { embedding_backward(a.backend(), tokens, dout, dtable); };
               });
    }
    for (bool const gradients : {false, true})
      run.line(gradients ? "cross-entropy with gradients" : "cross-entropy", shape,
               cost::cross_entropy(n, d, v, gradients),
               [=](Arrays<B>& a, Cost&) {
                 auto const h = a.random(n, d), w = a.random(v, d);
                 a.randomise(w.reshape(v * d), 0.02f);
                 auto const labels = a.upload(random_ids(n, v, true));
                 auto const scale = a.upload(std::vector<double>{1.0 / static_cast<double>(n)});
                 auto const loss = a.template allocate<double>(1);
                 auto const dh = gradients ? a.template allocate<S>(n, d) : mf::Matrix<S>{};
                 auto const dw = gradients ? a.template zeros<float>(v, d) : mf::Matrix<float>{};
                 return [=, &a] { cross_entropy(a.backend(), h, w, labels, scale, dh, dw, loss); };
               },
               {n, d, v});
  }
}

/// AdamW and the gradient's norm over half a milliard parameters, fewer where memory is short.
template <class B>
void update(Runner<B>& run) {
  using S = typename B::Scalar;
  if (!run.table("Update")) return;
  Index size = run.size(500'000'000, 1000);
  if (run.measures()) size = std::min(size, static_cast<Index>(Traits<typename B::Platform>::free_bytes() / 2 / 18));
  std::string const shape = Facts::number(static_cast<double>(size) * 1e-6, 4) + " M parameters";
  run.line("AdamW", shape, cost::adamw(cost::real(size)), [=](Arrays<B>& a, Cost&) {
    auto const g = a.template random<float>(size), w = a.template random<float>(size),
               m = a.template zeros<float>(size), v = a.template zeros<float>(size);
    auto const rounded = a.template allocate<S>(size);
    auto const step = a.upload(std::vector<mf::AdamWStep>{{1e-4, 0.1, 0.05, 1}});
    mf::AdamWConstants const constants{0.9, 0.95, 1e-8, 0.1};
    return [=, &a] { adamw(a.backend(), constants, step, g, w, rounded, m, v); };
  });
  run.line("squared norm", shape, cost::moved(cost::sum * cost::real(size)), [=](Arrays<B>& a, Cost&) {
    auto const g = a.template random<float>(size);
    auto const sum = a.template zeros<double>(1);
    return [=, &a] { squared_norm(a.backend(), g, sum); };
  });
  run.line("copy", shape, cost::moved(2 * cost::sum * cost::real(size)), [=](Arrays<B>& a, Cost&) {
    auto const from = a.template random<float>(size), to = a.template allocate<float>(size);
    return [=, &a] { copy(a.backend(), from, to); };
  });
}

}  // namespace bench
