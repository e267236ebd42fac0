// The part of rclcpp that the node uses, for a test without ROS 2; the messages are ROS 2's own.
//
// It is stricter than rclcpp: a parameter is declared once and has the type of its default, a
// read-only parameter cannot be set, a message is published as a unique_ptr of exactly the topic's
// type, and a name that is subscribed or offered twice is rejected.
#pragma once

#include <any>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <typeindex>
#include <utility>
#include <vector>

#include "rcl_interfaces/msg/parameter_descriptor.hpp"

namespace rclcpp {

class QoS {
 public:
  explicit QoS(size_t depth, bool reliable = true) : depth(depth), reliable(reliable) {}
  QoS& keep_last(size_t count) {
    depth = count;
    return *this;
  }
  size_t depth;
  bool reliable;
};

struct SensorDataQoS : QoS {
  SensorDataQoS() : QoS(5, false) {}
};

struct SystemDefaultsQoS : QoS {
  SystemDefaultsQoS() : QoS(10) {}
};

class NodeOptions {
 public:
  std::map<std::string, std::any> overrides;
};

struct Logger {
  std::vector<std::string>* lines;
};

template <class Message>
class Publisher {
 public:
  using SharedPtr = std::shared_ptr<Publisher>;
  void publish(std::unique_ptr<Message> message) {
    if (message == nullptr) throw std::invalid_argument("published nothing");
    published.push_back(std::move(message));
  }
  std::vector<std::unique_ptr<Message>> published;
};

template <class Message>
class Subscription {
 public:
  using SharedPtr = std::shared_ptr<Subscription>;
  std::function<void(const std::shared_ptr<const Message>&)> callback;
  QoS qos{0};
};

template <class Type>
class Service {
 public:
  using SharedPtr = std::shared_ptr<Service>;
  std::function<void(std::shared_ptr<typename Type::Request>, std::shared_ptr<typename Type::Response>)> callback;
};

class Node {
 public:
  Node(const std::string& name, const NodeOptions& options) : name_(name), options_(options) {}
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  Logger get_logger() { return {&lines}; }

  template <class Value>
  Value declare_parameter(const std::string& name, const Value& value,
                          const rcl_interfaces::msg::ParameterDescriptor& descriptor) {
    if (parameters_.count(name) != 0) throw std::logic_error("parameter '" + name + "' is declared twice");
    const auto found = options_.overrides.find(name);
    std::any chosen = found == options_.overrides.end() ? std::any(value) : found->second;
    if (std::type_index(chosen.type()) != std::type_index(typeid(Value))) {
      throw std::invalid_argument("parameter '" + name + "' has another type");
    }
    parameters_[name] = {chosen, descriptor.read_only};
    return std::any_cast<Value>(chosen);
  }

  template <class Message>
  std::shared_ptr<Publisher<Message>> create_publisher(const std::string& topic, const QoS&) {
    return offer(resolve(topic), std::make_shared<Publisher<Message>>());
  }
  template <class Message, class Callback>
  std::shared_ptr<Subscription<Message>> create_subscription(const std::string& topic, const QoS& qos,
                                                             Callback&& callback) {
    auto made = std::make_shared<Subscription<Message>>();
    made->callback = std::forward<Callback>(callback);
    made->qos = qos;
    return offer(resolve(topic), made);
  }
  template <class Type, class Callback>
  std::shared_ptr<Service<Type>> create_service(const std::string& name, Callback&& callback) {
    auto made = std::make_shared<Service<Type>>();
    made->callback = std::forward<Callback>(callback);
    return offer(resolve(name), made);
  }

  // For tests: what the node offers, by its full name.
  template <class Thing>
  Thing& thing(const std::string& name) {
    return *std::any_cast<std::shared_ptr<Thing>>(things_.at(name));
  }
  template <class Value>
  Value parameter(const std::string& name) const {
    return std::any_cast<Value>(parameters_.at(name).first);
  }
  std::vector<std::string> lines;

 private:
  template <class Thing>
  std::shared_ptr<Thing> offer(const std::string& name, std::shared_ptr<Thing> thing) {
    if (!things_.emplace(name, thing).second) throw std::logic_error(name + " is offered twice");
    return thing;
  }
  std::string resolve(const std::string& name) const {
    if (name.rfind("~/", 0) == 0) return "/" + name_ + name.substr(1);
    return name.rfind("/", 0) == 0 ? name : "/" + name;
  }

  std::string name_;
  NodeOptions options_;
  std::map<std::string, std::pair<std::any, bool>> parameters_;
  std::map<std::string, std::any> things_;
};

template <class... Values>
void log(const Logger& logger, const char* format, Values... values) {
  char line[1024];
  std::snprintf(line, sizeof line, format, values...);
  logger.lines->push_back(line);
}

}  // namespace rclcpp

#define RCLCPP_INFO(logger, ...) rclcpp::log(logger, __VA_ARGS__)
#define RCLCPP_ERROR(logger, ...) rclcpp::log(logger, __VA_ARGS__)
