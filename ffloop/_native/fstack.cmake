# F-Stack's module, libffloop_fstack.so (shm/module.h). FF_PATH names a built F-Stack (lib/libfstack.a and
# lib/ff_api.h); without it, an installed one is used.

set(FF_PATH "" CACHE STRING "A built F-Stack; empty: an installed one")
set(FF_DPDK_DRIVERS "" CACHE STRING "DPDK's drivers to link, as net_ixgbe,net_virtio; empty: all that F-Stack may use")

# dpdk_drivers(WORDS): of pkg-config's words, the drivers that are asked for stay whole, since nothing refers to a
# driver; of the others comes what those refer to.
function(dpdk_drivers words)
  set(kinds "baseband|bus|common|compress|crypto|dma|event|mempool|net|raw|regex|vdpa")
  set(asked "(bus|common|mempool|net)_.*")
  if(FF_DPDK_DRIVERS)
    string(REGEX REPLACE "[ ,;]+" "|" asked "${FF_DPDK_DRIVERS}")
    set(asked "bus_pci|bus_vdev|mempool_ring|${asked}")
  endif()
  foreach(word ${${words}})
    if(word MATCHES "^-l:librte_(${kinds})_.*\\.a$" AND NOT word MATCHES "^-l:librte_(${asked})\\.a$")
      list(APPEND others ${word})
    elseif(word STREQUAL "-Wl,--no-whole-archive")
      list(APPEND chosen ${word} -Wl,--start-group ${others} -Wl,--end-group)
    else()
      list(APPEND chosen ${word})
    endif()
  endforeach()
  string(REPLACE "|" ";" asked "${asked}")
  foreach(driver ${asked})
    if(FF_DPDK_DRIVERS AND NOT "-l:librte_${driver}.a" IN_LIST chosen)
      message(FATAL_ERROR "FF_DPDK_DRIVERS=${FF_DPDK_DRIVERS}: this DPDK has no librte_${driver}.a")
    endif()
  endforeach()
  set(${words} ${chosen} PARENT_SCOPE)
endfunction()

find_path(FFL_FF_INCLUDE ff_api.h HINTS ${FF_PATH}/lib ${FF_PATH}/include)
find_library(FFL_FF_LIBRARY libfstack.a HINTS ${FF_PATH}/lib)
if(NOT (FFL_FF_INCLUDE AND FFL_FF_LIBRARY))
  message(FATAL_ERROR "FF_PATH='${FF_PATH}' has no lib/libfstack.a and lib/ff_api.h: build F-Stack's lib/ "
                      "first, and name the folder above it in FF_PATH (docs/fstack.md)")
endif()
find_package(PkgConfig)
if(PkgConfig_FOUND)
  pkg_check_modules(FFL_DPDK libdpdk)
endif()
if(NOT FFL_DPDK_FOUND)
  message(FATAL_ERROR "pkg-config does not find libdpdk: install DPDK's development files (Debian: "
                      "libdpdk-dev pkg-config)")
endif()
separate_arguments(first UNIX_COMMAND "${CMAKE_C_COMPILER_ARG1}") # CC="ccache gcc"
execute_process(
  COMMAND ${CMAKE_C_COMPILER} ${first} -shared -o ${CMAKE_BINARY_DIR}/position.so
          -Wl,--unresolved-symbols=ignore-all -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/stack/module.map
          -Wl,--whole-archive ${FFL_FF_LIBRARY} -Wl,--no-whole-archive
  RESULT_VARIABLE not_pic OUTPUT_QUIET ERROR_QUIET)
if(not_pic)
  message(FATAL_ERROR "${FFL_FF_LIBRARY} was compiled without -fPIC, and cannot be in a shared object: compile "
                      "F-Stack's lib/ again with `make clean && make CC='gcc -fPIC'` (docs/fstack.md)")
endif()

# F-Stack's headers say no version: a source tree has a file, an installed library a name.
get_filename_component(library ${FFL_FF_LIBRARY} REALPATH)
get_filename_component(tree ${library}/../.. ABSOLUTE)
set(version "of unknown version")
if(EXISTS ${tree}/VERSION)
  file(STRINGS ${tree}/VERSION version LIMIT_COUNT 1)
elseif(library MATCHES "libfstack\\.a\\.(.+)$")
  set(version ${CMAKE_MATCH_1})
endif()

# Static: F-Stack is linked so, and --wrap must see the EAL's entry.
execute_process(COMMAND ${PKG_CONFIG_EXECUTABLE} --static --libs libdpdk
                OUTPUT_VARIABLE dpdk_libs OUTPUT_STRIP_TRAILING_WHITESPACE)
separate_arguments(dpdk_libs UNIX_COMMAND "-Wl,--as-needed ${dpdk_libs}")
dpdk_drivers(dpdk_libs)
add_library(ffloop_fstack MODULE stack/fstack_module.c stack/fstack.c stack/fstack_data.c stack/fstack_option.c
  stack/fstack_life.c stack/fstack_conf.c stack/fstack_ports.c)
target_compile_definitions(ffloop_fstack PRIVATE FFL_FSTACK_BUILT="F-Stack ${version}, DPDK ${FFL_DPDK_VERSION}")
target_include_directories(ffloop_fstack SYSTEM PRIVATE ${FFL_FF_INCLUDE})
target_link_libraries(ffloop_fstack PRIVATE ffl_instance
  -Wl,--wrap=rte_eal_init,--wrap=rte_eal_mp_remote_launch,--wrap=rte_delay_us_sleep,--wrap=exit
  -Wl,--whole-archive ${FFL_FF_LIBRARY} -Wl,--no-whole-archive
  ${dpdk_libs} -lrt -lm -ldl -lcrypto -pthread -lnuma
  -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/stack/module.map)
message(STATUS "F-Stack ${version}, DPDK ${FFL_DPDK_VERSION}; ${FFL_FF_LIBRARY}")
install(TARGETS ffloop_fstack LIBRARY DESTINATION ffloop_fstack)
