// SPDX-License-Identifier: MIT
// expect: moduleformer: attention.heads must divide attention.hidden_size
#include <moduleformer/core/shape.hpp>

constexpr moduleformer::Shape shape{
#ifdef MISUSE
    .attention = {.heads = 5, .hidden_size = 64}
#else
    .attention = {.heads = 4, .hidden_size = 64}
#endif
};

int main() { moduleformer::check_shape<shape>(); }
