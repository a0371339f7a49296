# SPDX-License-Identifier: MIT
# cmake -DMODE=... -DSOURCE=... -DBINARY=... -DWORK=... -DGENERATOR=... -DCOMPILER=... -DLAUNCHER=... -DNVCC=... -P run.cmake
# Builds and runs the consumer project from nothing in WORK, for one way of getting the library; modes *_cuda have a
# project with .cu files.

function(run)
  list(JOIN ARGN " " line)
  message(STATUS "${line}")
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK})
set(how find_package)
set(options)
if(MODE MATCHES "^build_tree")
  set(options -Dmoduleformer_DIR=${BINARY})
elseif(MODE MATCHES "^install")
  run(${CMAKE_COMMAND} --install ${BINARY} --prefix ${WORK}/prefix)
  # The installed files stand by themselves.
  file(GLOB_RECURSE installed ${WORK}/prefix/*.cmake)
  foreach(file IN LISTS installed)
    file(READ ${file} text)
    foreach(folder ${SOURCE} ${BINARY})
      string(FIND "${text}" ${folder} place)
      if(NOT place EQUAL -1)
        message(FATAL_ERROR "${file} names ${folder}")
      endif()
    endforeach()
  endforeach()
  set(options -DCMAKE_PREFIX_PATH=${WORK}/prefix)
  if(MODE STREQUAL "install_blas")
    set(how find_package_blas)
  endif()
else()
  set(how ${MODE})
  set(options -DMODULEFORMER_SOURCE=${SOURCE})
endif()

set(consumer ${CMAKE_CURRENT_LIST_DIR})
if(MODE MATCHES "_cuda$")
  set(consumer ${CMAKE_CURRENT_LIST_DIR}/cuda)
  list(APPEND options -DCMAKE_CUDA_COMPILER=${NVCC} -DCMAKE_CUDA_ARCHITECTURES=90)
endif()

run(${CMAKE_COMMAND} -S ${consumer} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}
  "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Wconversion -Werror" -DHOW=${how} ${options})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
file(REMOVE_RECURSE ${WORK})
