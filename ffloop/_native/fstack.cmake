# The F-Stack stack, in the instance executable and in a module that the client loads. FF_PATH names a
# built F-Stack (lib/libfstack.a and lib/ff_api.h); without it, an installed one is used when there is one. Asked for and not there is
# an error that says what is missing; not asked for, it is simply left out.

set(FF_PATH "" CACHE STRING "A built F-Stack; empty: an installed one, if any")
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

if(FF_PATH AND NOT (FFL_FF_INCLUDE AND FFL_FF_LIBRARY))
  message(FATAL_ERROR "FF_PATH=${FF_PATH} has no lib/libfstack.a and lib/ff_api.h: build F-Stack's "
                      "lib/ first (docs/fstack.md), or unset FF_PATH to install without F-Stack")
endif()

if(FFL_FF_INCLUDE AND FFL_FF_LIBRARY)
  find_package(PkgConfig)
  if(PkgConfig_FOUND)
    pkg_check_modules(FFL_DPDK libdpdk)
  endif()
  if(FFL_DPDK_FOUND)
    # Static: F-Stack is linked so, and --wrap must see the EAL's entry.
    execute_process(COMMAND ${PKG_CONFIG_EXECUTABLE} --static --libs libdpdk
                    OUTPUT_VARIABLE dpdk_libs OUTPUT_STRIP_TRAILING_WHITESPACE)
    separate_arguments(dpdk_libs UNIX_COMMAND "-Wl,--as-needed ${dpdk_libs}")
    dpdk_drivers(dpdk_libs)
    set(fstack_libs
      -Wl,--wrap=rte_eal_init,--wrap=rte_eal_mp_remote_launch,--wrap=rte_delay_us_sleep,--wrap=exit
      -Wl,--whole-archive ${FFL_FF_LIBRARY} -Wl,--no-whole-archive
      ${dpdk_libs} -lrt -lm -ldl -lcrypto -pthread -lnuma)
    add_library(ffl_fstack OBJECT stack/fstack.c stack/fstack_data.c stack/fstack_option.c stack/fstack_life.c stack/fstack_conf.c stack/fstack_ports.c)
    target_include_directories(ffl_fstack SYSTEM PRIVATE ${FFL_FF_INCLUDE})
    target_link_libraries(ffl_fstack PUBLIC ffl_stack)

    target_compile_definitions(ffloop-instance PRIVATE FFL_FSTACK)
    target_link_libraries(ffloop-instance PRIVATE ffl_fstack ${fstack_libs})

    # The same for a process of Python's. Only a library that was compiled with -fPIC can be in a module.
    execute_process(
      COMMAND ${CMAKE_C_COMPILER} -shared -o ${CMAKE_BINARY_DIR}/position.so
              -Wl,--unresolved-symbols=ignore-all -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/stack/module.map
              -Wl,--whole-archive ${FFL_FF_LIBRARY} -Wl,--no-whole-archive
      RESULT_VARIABLE not_pic OUTPUT_QUIET ERROR_QUIET)
    if(not_pic)
      message(WARNING "${FFL_FF_LIBRARY} was compiled without -fPIC: F-Stack will run in instances, and not in "
                      "Python's own process (instance=\"direct\"). `make CC='gcc -fPIC'` in F-Stack's lib/ "
                      "compiles it so (docs/fstack.md)")
    else()
      add_library(ffloop_fstack MODULE stack/fstack_module.c)
      target_link_libraries(ffloop_fstack PRIVATE ffl_fstack ffl_instance ${fstack_libs})
      target_link_options(ffloop_fstack PRIVATE
        -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/stack/module.map)
      set_target_properties(ffloop_fstack PROPERTIES
        LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/stack/module.map)
    endif()

    # Its own headers say no version: a source tree has a file, an installed library a name.
    get_filename_component(library ${FFL_FF_LIBRARY} REALPATH)
    get_filename_component(tree ${library}/../.. ABSOLUTE)
    set(version "of unknown version")
    if(EXISTS ${tree}/VERSION)
      file(STRINGS ${tree}/VERSION version LIMIT_COUNT 1)
    elseif(library MATCHES "libfstack\\.a\\.(.+)$")
      set(version ${CMAKE_MATCH_1})
    endif()
    string(APPEND FFL_STACKS ", fstack (F-Stack ${version}, DPDK ${FFL_DPDK_VERSION})")
    message(STATUS "stacks: ${FFL_STACKS}; ${FFL_FF_LIBRARY}")
  elseif(FF_PATH)
    message(FATAL_ERROR "FF_PATH is set but pkg-config does not find libdpdk: install DPDK's "
                        "development files (Debian: libdpdk-dev pkg-config), or unset FF_PATH")
  endif()
endif()
