# ROS 2 wheels carry, in their CMake targets, include folders of the machine that
# built them, and CMake refuses a target whose include folder does not exist.
# Given as CMAKE_PROJECT_INCLUDE, so that no CMakeLists.txt has to know of it; the
# deferred call runs when all targets are known and before CMake uses them.

macro(_parallel_city_cure_targets)
  get_property(_pc_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(_pc_target IN LISTS _pc_targets)
    get_target_property(_pc_folders ${_pc_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(_pc_folders)
      set(_pc_kept "")
      foreach(_pc_folder IN LISTS _pc_folders)
        if(_pc_folder MATCHES "^\\$<" OR EXISTS "${_pc_folder}")
          list(APPEND _pc_kept "${_pc_folder}")
        endif()
      endforeach()
      set_target_properties(${_pc_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_pc_kept}")
    endif()
  endforeach()
endmacro()

cmake_language(DEFER CALL _parallel_city_cure_targets)
