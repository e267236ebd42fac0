// A stand-in for Triton's ONNX Runtime backend, for tests against the real server: everything around
// the model is Triton's own (scheduling, sequences, states, warm-up, gRPC); the model itself is run by
// the test, at the other end of a Unix socket named by STREAMSEG_STAND_IN.
//
// Triton's C ABI as its tritonbackend.h and tritonserver.h document it (backend API 1.19); no registry
// package carries the headers.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
struct Error;
struct Request;
struct Input;
struct Response;
struct Output;
struct State;
struct Instance;
Error* TRITONSERVER_ErrorNew(int code, const char* message);
Error* TRITONBACKEND_RequestInputCount(Request*, uint32_t* count);
Error* TRITONBACKEND_RequestInputByIndex(Request*, uint32_t index, Input**);
Error* TRITONBACKEND_RequestRelease(Request*, uint32_t flags);
Error* TRITONBACKEND_InputProperties(
    Input*, const char** name, int* type, const int64_t** shape, uint32_t* dims, uint64_t* bytes,
    uint32_t* buffers);
Error* TRITONBACKEND_InputBuffer(
    Input*, uint32_t index, const void** buffer, uint64_t* bytes, int* memory, int64_t* device);
Error* TRITONBACKEND_ResponseNew(Response**, Request*);
Error* TRITONBACKEND_ResponseOutput(
    Response*, Output**, const char* name, int type, const int64_t* shape, uint32_t dims);
Error* TRITONBACKEND_ResponseSend(Response*, uint32_t flags, Error*);
Error* TRITONBACKEND_OutputBuffer(
    Output*, void** buffer, uint64_t bytes, int* memory, int64_t* device);
Error* TRITONBACKEND_StateNew(
    State**, Request*, const char* name, int type, const int64_t* shape, uint32_t dims);
Error* TRITONBACKEND_StateBuffer(State*, void** buffer, uint64_t bytes, int* memory, int64_t* device);
Error* TRITONBACKEND_StateUpdate(State*);
Error* TRITONBACKEND_ModelInstanceExecute(Instance*, Request**, uint32_t count);
}

namespace {

constexpr int kInternal = 1;
constexpr uint32_t kFinal = 1;
constexpr uint32_t kReleaseAll = 1;

class Socket {
 public:
  Socket() : file_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const char* path = std::getenv("STREAMSEG_STAND_IN");
    std::strncpy(address.sun_path, path ? path : "", sizeof(address.sun_path) - 1);
    open_ = connect(file_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Socket() { close(file_); }

  void send(const void* content, uint64_t bytes) {
    auto* place = static_cast<const char*>(content);
    while (open_ && bytes > 0) {
      ssize_t sent = write(file_, place, bytes);
      open_ = sent > 0;
      place += sent;
      bytes -= open_ ? sent : 0;
    }
  }

  void receive(void* content, uint64_t bytes) {
    auto* place = static_cast<char*>(content);
    while (open_ && bytes > 0) {
      ssize_t found = read(file_, place, bytes);
      open_ = found > 0;
      place += found;
      bytes -= open_ ? found : 0;
    }
  }

  template <typename T>
  void send(T value) {
    send(&value, sizeof(value));
  }

  template <typename T>
  T receive() {
    T value{};
    receive(&value, sizeof(value));
    return value;
  }

  bool open() const { return open_; }

 private:
  int file_;
  bool open_;
};

Error* send_inputs(Request* request, Socket& socket) {
  uint32_t count = 0;
  if (Error* error = TRITONBACKEND_RequestInputCount(request, &count)) return error;
  socket.send(count);
  for (uint32_t i = 0; i < count; ++i) {
    Input* input = nullptr;
    if (Error* error = TRITONBACKEND_RequestInputByIndex(request, i, &input)) return error;
    const char* name = nullptr;
    int type = 0;
    const int64_t* shape = nullptr;
    uint32_t dims = 0, buffers = 0;
    uint64_t bytes = 0;
    if (Error* error =
            TRITONBACKEND_InputProperties(input, &name, &type, &shape, &dims, &bytes, &buffers)) {
      return error;
    }
    socket.send(static_cast<uint32_t>(std::strlen(name)));
    socket.send(name, std::strlen(name));
    socket.send(dims);
    socket.send(shape, dims * sizeof(int64_t));
    socket.send(bytes);
    for (uint32_t b = 0; b < buffers; ++b) {
      const void* buffer = nullptr;
      uint64_t size = 0;
      int memory = 0;
      int64_t device = 0;
      if (Error* error =
              TRITONBACKEND_InputBuffer(input, b, &buffer, &size, &memory, &device)) {
        return error;
      }
      socket.send(buffer, size);
    }
  }
  return nullptr;
}

Error* receive_outputs(Request* request, Response* response, Socket& socket) {
  auto count = socket.receive<uint32_t>();
  if (!socket.open()) return TRITONSERVER_ErrorNew(kInternal, "the stand-in has gone");
  for (uint32_t i = 0; i < count; ++i) {
    std::string name(socket.receive<uint32_t>(), '\0');
    socket.receive(name.data(), name.size());
    auto is_state = socket.receive<uint32_t>();
    auto type = socket.receive<int32_t>();
    std::vector<int64_t> shape(socket.receive<uint32_t>());
    socket.receive(shape.data(), shape.size() * sizeof(int64_t));
    std::vector<char> content(socket.receive<uint64_t>());
    socket.receive(content.data(), content.size());
    void* buffer = nullptr;
    int memory = 0;
    int64_t device = 0;
    uint32_t dims = shape.size();
    if (is_state) {
      State* state = nullptr;
      if (Error* error = TRITONBACKEND_StateNew(
              &state, request, name.c_str(), type, shape.data(), dims)) {
        return error;
      }
      if (Error* error =
              TRITONBACKEND_StateBuffer(state, &buffer, content.size(), &memory, &device)) {
        return error;
      }
      std::memcpy(buffer, content.data(), content.size());
      if (Error* error = TRITONBACKEND_StateUpdate(state)) return error;
    } else {
      Output* output = nullptr;
      if (Error* error = TRITONBACKEND_ResponseOutput(
              response, &output, name.c_str(), type, shape.data(), dims)) {
        return error;
      }
      if (Error* error =
              TRITONBACKEND_OutputBuffer(output, &buffer, content.size(), &memory, &device)) {
        return error;
      }
      std::memcpy(buffer, content.data(), content.size());
    }
  }
  return nullptr;
}

}  // namespace

Error* TRITONBACKEND_ModelInstanceExecute(Instance*, Request** requests, uint32_t count) {
  // All requests of a batch go out before the first answer comes in.
  Socket socket;
  socket.send(count);
  std::vector<Error*> errors(count, nullptr);
  for (uint32_t i = 0; i < count; ++i) errors[i] = send_inputs(requests[i], socket);
  for (uint32_t i = 0; i < count; ++i) {
    Response* response = nullptr;
    if (TRITONBACKEND_ResponseNew(&response, requests[i]) == nullptr) {
      if (errors[i] == nullptr) errors[i] = receive_outputs(requests[i], response, socket);
      TRITONBACKEND_ResponseSend(response, kFinal, errors[i]);
    }
    TRITONBACKEND_RequestRelease(requests[i], kReleaseAll);
  }
  return nullptr;
}
