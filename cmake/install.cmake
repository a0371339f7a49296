# SPDX-License-Identifier: MIT
# Installation, and the package files for find_package(moduleformer CONFIG) from a prefix or from the build tree.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_folder ${CMAKE_INSTALL_DATADIR}/cmake/moduleformer)  # headers only: the same for every architecture
install(TARGETS moduleformer moduleformer_headers moduleformer_native EXPORT moduleformer-targets FILE_SET HEADERS)
install(EXPORT moduleformer-targets NAMESPACE moduleformer:: DESTINATION ${package_folder})
export(EXPORT moduleformer-targets NAMESPACE moduleformer:: FILE ${PROJECT_BINARY_DIR}/moduleformer-targets.cmake)

configure_package_config_file(cmake/moduleformer-config.cmake.in ${PROJECT_BINARY_DIR}/moduleformer-config.cmake
  INSTALL_DESTINATION ${package_folder} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moduleformer-config-version.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
foreach(module moduleformer-blas.cmake moduleformer-cuda.cmake)
  configure_file(cmake/${module} ${PROJECT_BINARY_DIR}/${module} COPYONLY)
endforeach()
install(FILES
  ${PROJECT_BINARY_DIR}/moduleformer-config.cmake
  ${PROJECT_BINARY_DIR}/moduleformer-config-version.cmake
  ${PROJECT_BINARY_DIR}/moduleformer-blas.cmake
  ${PROJECT_BINARY_DIR}/moduleformer-cuda.cmake
  DESTINATION ${package_folder}
)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/moduleformer)
