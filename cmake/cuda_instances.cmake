# SPDX-License-Identifier: MIT
# What our own .cu programs share: warnings, and moduleformer_cuda_instances, a library with the explicit instantiations
# of the CUDA backend's primitives. Beside each of its objects lies what ptxas said of its kernels (*.registers).
find_package(Python3 REQUIRED COMPONENTS Interpreter)

add_library(moduleformer_cuda_developer INTERFACE)
target_link_libraries(moduleformer_cuda_developer INTERFACE moduleformer::cuda)
# nvcc hands its own generated files to the host's compiler, so what is asked of .cpp files is not asked of those.
target_compile_options(moduleformer_cuda_developer INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${MODULEFORMER_WERROR}>>:-Werror=all-warnings>)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)  # a ninth of the size
  target_compile_options(moduleformer_cuda_developer INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
endif()
set(library_type STATIC)
if(MODULEFORMER_SELF_CONTAINED)  # the kernels once, not in every program
  set(library_type SHARED)
  target_link_options(moduleformer_cuda_developer INTERFACE -s)
endif()
add_custom_target(device_programs)  # all that need a device: tests, examples, benchmarks

set(groups PRODUCTS ELEMENTWISE ROUTING ATTENTION ATTENTION_BACKWARD)
foreach(activation Identity GeluTanh Gelu Relu Silu Tanh)
  list(APPEND groups "ACTIVATION ${activation}")
endforeach()
add_library(moduleformer_cuda_instances ${library_type})
foreach(scalar float bfloat16)
  foreach(group IN LISTS groups)
    string(REPLACE " " "_" file "${group}_${scalar}.cu")
    string(TOLOWER "${file}" file)
    string(REPLACE " " ";" arguments "${group}")
    list(POP_FRONT arguments macro)
    list(PREPEND arguments ${scalar} Gpu)
    list(JOIN arguments ", " arguments)
    set(lists "MODULEFORMER_CUDA_${macro}(, ${arguments})")
    if(group STREQUAL PRODUCTS AND scalar STREQUAL bfloat16)
      string(APPEND lists "\nMODULEFORMER_CUDA_FLOAT_RESULTS(, bfloat16, Gpu)")
    endif()
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/cuda_instances/${file} @ONLY CONTENT
"#include <moduleformer/backend/cuda.cuh>
namespace moduleformer {
@lists@
}
")
    target_sources(moduleformer_cuda_instances PRIVATE ${PROJECT_BINARY_DIR}/cuda_instances/${file})
  endforeach()
endforeach()
target_link_libraries(moduleformer_cuda_instances PUBLIC moduleformer_cuda_developer)
target_compile_definitions(moduleformer_cuda_instances PUBLIC MODULEFORMER_EXTERN_TEMPLATES)
target_compile_options(moduleformer_cuda_instances PRIVATE -Xptxas=-v)
set_target_properties(moduleformer_cuda_instances PROPERTIES
  CUDA_COMPILER_LAUNCHER "$<TARGET_FILE:Python3::Interpreter>;${CMAKE_CURRENT_LIST_DIR}/cuda_registers.py;compile")
