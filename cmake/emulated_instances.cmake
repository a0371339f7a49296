# SPDX-License-Identifier: MIT
# moduleformer_emulated_instances: the CUDA backend's primitives on the emulated device, compiled once for all programs
# that include backend/cuda_emulated.cuh and link it.
set(activations)
foreach(activation Identity GeluTanh Gelu Relu Silu Tanh)
  list(APPEND activations "ACTIVATION:${activation}")
endforeach()
add_library(moduleformer_emulated_instances STATIC)
foreach(scalar float bfloat16)
  foreach(file products activations elements attention attention_backward)
    set(products PRODUCTS)
    if(scalar STREQUAL bfloat16)
      list(APPEND products FLOAT_RESULTS)
    endif()
    set(elements ELEMENTWISE ROUTING)
    set(attention ATTENTION)
    set(attention_backward ATTENTION_BACKWARD)
    set(lists)
    foreach(group IN LISTS ${file})
      string(REGEX REPLACE ":.*" "" macro ${group})
      string(REGEX MATCH ":.*" activation ${group})
      string(REPLACE ":" ", " activation "${activation}")
      string(APPEND lists "MODULEFORMER_CUDA_${macro}(, ${scalar}, Emulated${activation})\n")
    endforeach()
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/emulated_instances/${file}_${scalar}.cpp @ONLY CONTENT
"#include <moduleformer/backend/cuda_emulated.cuh>
namespace moduleformer {
@lists@}
")
    target_sources(moduleformer_emulated_instances PRIVATE ${PROJECT_BINARY_DIR}/emulated_instances/${file}_${scalar}.cpp)
  endforeach()
endforeach()
target_link_libraries(moduleformer_emulated_instances PUBLIC moduleformer_developer)
target_compile_definitions(moduleformer_emulated_instances INTERFACE MODULEFORMER_EXTERN_EMULATED)
target_compile_options(moduleformer_emulated_instances PRIVATE $<$<CONFIG:Release>:-O1>)
