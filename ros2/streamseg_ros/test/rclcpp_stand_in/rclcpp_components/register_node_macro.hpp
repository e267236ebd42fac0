// Replaces the one of rclcpp_components: the class must be a node that is constructed from options.
#pragma once

#include <type_traits>

#define RCLCPP_COMPONENTS_REGISTER_NODE(Class)                                           \
  static_assert(std::is_base_of_v<rclcpp::Node, Class>, "a component is a node");        \
  static_assert(std::is_constructible_v<Class, const rclcpp::NodeOptions&>, "from options");
