// SPDX-License-Identifier: MIT
// expect: moduleformer: the shared experts of attention must be fewer than attention.top_k
#include <moduleformer/routing/shared_experts.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .attention = {.experts = 4, .top_k = 1}
#else
    .attention = {.experts = 4, .top_k = 2}
#endif
};

int main() { moduleformer::check_shared_experts<shape, moduleformer::SharedExperts<1, 0>>(); }
