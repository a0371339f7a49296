# SPDX-License-Identifier: MIT
# tests/<layer>/<name>_device.cu becomes the program test_<layer>_<name>_device and the ctest entry <layer>.<name>_device,
# skipped (77) where there is no device. With MODULEFORMER_SELF_CONTAINED they find libraries beside them, and golden files
# in the folder that they are run in: see build_device.sh. <name>_device_cpu.cpp beside it is what the CPU computes to
# compare with.

add_library(test_support_device OBJECT backend/cuda/device_main.cpp support/golden_index.cpp)
target_link_libraries(test_support_device PUBLIC moduleformer::cuda Boost::unit_test_framework
  PRIVATE moduleformer_warnings)
target_compile_definitions(test_support_device PUBLIC BOOST_TEST_DYN_LINK
  MODULEFORMER_TEST_DATA="$<IF:$<BOOL:${MODULEFORMER_SELF_CONTAINED}>,.,${CMAKE_CURRENT_SOURCE_DIR}>")

file(GLOB device_files CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} */*_device.cu backend/cuda/*_device.cu)
list(REMOVE_ITEM device_files backend/cuda/no_device.cu)  # it is about their absence
foreach(file IN LISTS device_files)
  string(REGEX REPLACE "\\.cu$" "" name ${file})
  string(REPLACE "/" "." entry ${name})
  string(REPLACE "/" "_" target test_${name})
  add_executable(${target} ${file})
  target_link_libraries(${target} PRIVATE test_support_device moduleformer_cuda_instances)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${name}_cpu.cpp)
    add_library(${target}_cpu OBJECT ${name}_cpu.cpp)
    target_link_libraries(${target}_cpu PRIVATE test_support_device Eigen3::Eigen)
    target_include_directories(${target}_cpu PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_link_libraries(${target} PRIVATE ${target}_cpu)
  endif()
  target_compile_options(${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CUDA>>:-Xcompiler=-O1>)
  add_dependencies(device_programs ${target})
  add_test(NAME ${entry} COMMAND ${target})
  set_tests_properties(${entry} PROPERTIES LABELS device SKIP_RETURN_CODE 77 TIMEOUT 600 RUN_SERIAL ON)
endforeach()

# No kernel spills registers.
add_test(NAME cuda.registers COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/cmake/cuda_registers.py report
  ${PROJECT_BINARY_DIR})
set_tests_properties(cuda.registers PROPERTIES LABELS cuda)

# Where no device is visible, every way to begin says so.
add_executable(test_backend_cuda_no_device backend/cuda/no_device.cu)
target_link_libraries(test_backend_cuda_no_device PRIVATE moduleformer_cuda_developer)
add_test(NAME cuda.no_device COMMAND test_backend_cuda_no_device)
set_tests_properties(cuda.no_device PROPERTIES LABELS cuda ENVIRONMENT CUDA_VISIBLE_DEVICES=-1)

# Code for a device that is too old, as CMake and nvcc make it where no architecture is named, stops at a sentence.
add_test(NAME cuda.old_architecture COMMAND ${CMAKE_CUDA_COMPILER} -std=c++20 -arch=sm_75 -ptx -I${PROJECT_SOURCE_DIR}/include
  --expt-relaxed-constexpr -o ${CMAKE_CURRENT_BINARY_DIR}/old_architecture.ptx ${CMAKE_CURRENT_SOURCE_DIR}/package/cuda/other.cu)
set_tests_properties(cuda.old_architecture PROPERTIES LABELS cuda
  PASS_REGULAR_EXPRESSION "moduleformer: expected code for compute capability 8.0 or more")

# Without a device the example says so, with one it succeeds.
if(MODULEFORMER_BUILD_EXAMPLES)
  add_test(NAME cuda.quickstart COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/needs_device.py
    $<TARGET_FILE:quickstart_cuda> WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(cuda.quickstart PROPERTIES LABELS cuda TIMEOUT 600)
endif()

# The package's component without the language.
add_test(NAME package.cuda_not_enabled COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_SOURCE_DIR}/package/cuda
  -B ${CMAKE_CURRENT_BINARY_DIR}/package_cuda_not_enabled -G ${CMAKE_GENERATOR} -DLANGUAGES=CXX
  -Dmoduleformer_DIR=${PROJECT_BINARY_DIR})
set_tests_properties(package.cuda_not_enabled PROPERTIES LABELS "package;cuda"
  PASS_REGULAR_EXPRESSION "component cuda:[ \n]+the[ \n]+language[ \n]+CUDA[ \n]+is[ \n]+not[ \n]+enabled")
