// SPDX-License-Identifier: MIT
#include <moduleformer/backend/cpu.hpp>

#include "devices.hpp"
#include "logits_on.hpp"

namespace cli {

namespace mf = moduleformer;

void write_logits_in_double(LogitsOptions const& options, bool classifies) {
  using B = mf::Cpu<double>;
  classifies ? run_batch<mf::Model<mf::ClassificationHead, mf::dynamic_shape, mf::dynamic_policies, B>>(options)
             : run_batch<mf::Model<mf::LanguageModelHead, mf::dynamic_shape, mf::dynamic_policies, B>>(options);
}

}  // namespace cli
