// SPDX-License-Identifier: MIT
#pragma once
// Declares what other.cpp computes with the library; main.cpp includes the same headers.
#include <moduleformer/backend/cpu/routing.hpp>
#include <moduleformer/backend/cpu/top_k.hpp>
#include <moduleformer/core/shape.hpp>

struct Chosen {
  moduleformer::ExpertId expert;
  double probability;
};

/// Routes one token with logits 0, 1, 2.
Chosen choose();
