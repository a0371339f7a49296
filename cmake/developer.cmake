# SPDX-License-Identifier: MIT
# What our own programs and tests share: warnings, the machine's instruction set, a BLAS if there is one,
# and one object library with the explicit instantiations of the backend's primitives.

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(CCACHE ccache)
  mark_as_advanced(CCACHE)
  if(CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
  endif()
endif()
set(CMAKE_CXX_EXTENSIONS OFF)

add_library(moduleformer_warnings INTERFACE)
# Compilers newer than those of the tests may warn about things that nobody has looked at yet.
set(known_compiler $<OR:$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>,$<AND:$<CXX_COMPILER_ID:Clang>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,17>>>)
target_compile_options(moduleformer_warnings INTERFACE -Wall -Wextra -Wpedantic -Wconversion
  $<$<AND:$<BOOL:${MODULEFORMER_WERROR}>,${known_compiler}>:-Werror>)

add_library(moduleformer_developer INTERFACE)
target_link_libraries(moduleformer_developer INTERFACE moduleformer moduleformer_warnings)
if(MODULEFORMER_NATIVE)
  target_link_libraries(moduleformer_developer INTERFACE moduleformer_native)
endif()
if(TARGET moduleformer::blas)
  target_link_libraries(moduleformer_developer INTERFACE moduleformer::blas)
endif()

# moduleformer_instances: link it to get the primitives' object code and `extern template` declarations.
if(EXISTS ${PROJECT_SOURCE_DIR}/include/moduleformer/backend/cpu/instantiate.hpp)
  add_library(moduleformer_instances OBJECT ${PROJECT_SOURCE_DIR}/cmake/instances.cpp)
  target_link_libraries(moduleformer_instances PUBLIC moduleformer_developer)
  target_compile_definitions(moduleformer_instances INTERFACE MODULEFORMER_EXTERN_TEMPLATES)
else()
  add_library(moduleformer_instances INTERFACE)
  target_link_libraries(moduleformer_instances INTERFACE moduleformer_developer)
endif()

if(MODULEFORMER_CUDA)
  include(${CMAKE_CURRENT_LIST_DIR}/cuda_instances.cmake)
endif()
