// SPDX-License-Identifier: MIT
#include "models.hpp"

namespace moduleformer {

template class Model<LanguageModelHead, dynamic_shape, dynamic_policies, Cpu<double>>;
template class Model<ClassificationHead, dynamic_shape, dynamic_policies, Cpu<double>>;

}  // namespace moduleformer
