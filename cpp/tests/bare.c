#include "bare.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMaxTensors = 64 };

typedef void (*entry)(void);
typedef struct {
  const entry* (*get_api)(uint32_t version);
  const char* (*version)(void);
} api_base;

struct bare {
  const entry* api;
  void *session, *memory;
  size_t inputs, outputs, places[kMaxTensors]; /* of the outputs in the graph */
  const char *input_names[kMaxTensors], *output_names[kMaxTensors];
  void* sets[2][2 * kMaxTensors]; /* inputs, then outputs, of even and of odd steps */
  uint8_t *frame, *labels;
  size_t frame_bytes, label_bytes;
  unsigned step;
};

static void fail(const char* text) {
  fprintf(stderr, "bare: %s\n", text);
  exit(2);
}

static void check(const bare* self, void* status) {
  if (status != NULL) fail(((const char* (*)(const void*))self->api[2])(status));
}

static size_t element_size(int type) {
  switch (type) {
    case 2: return 1;          /* uint8 */
    case 10: return 2;         /* float16 */
    case 7: return 8;          /* int64 */
    case 1: case 6: return 4;  /* float32, int32 */
    default: fail("a tensor's type is unknown"); return 0;
  }
}

static void* tensor(bare* self, int output, size_t index, uint8_t* data, uint8_t** made, size_t* bytes) {
  void *info = NULL, *value = NULL;
  const void* shape = NULL;
  int64_t extents[8];
  size_t rank = 0;
  int type = 0;
  check(self, ((void* (*)(void*, size_t, void**))self->api[output ? 34 : 33])(self->session, index, &info));
  check(self, ((void* (*)(void*, const void**))self->api[55])(info, &shape));
  check(self, ((void* (*)(const void*, int*))self->api[60])(shape, &type));
  check(self, ((void* (*)(const void*, size_t*))self->api[61])(shape, &rank));
  check(self, ((void* (*)(const void*, int64_t*, size_t))self->api[62])(shape, extents, rank));
  *bytes = element_size(type);
  for (size_t i = 0; i < rank; ++i) *bytes *= (size_t)extents[i];
  if (data == NULL) data = calloc(*bytes, 1);
  *made = data;
  check(self, ((void* (*)(void*, void*, size_t, const int64_t*, size_t, int, void**))self->api[49])(
                  self->memory, data, *bytes, extents, rank, type, &value));
  ((void (*)(void*))self->api[98])(info);
  return value;
}

static size_t output_of(const bare* self, const char* input) {
  const size_t length = strlen(input) - 3; /* without ".in" */
  for (size_t i = 0; i < self->outputs; ++i) {
    const char* name = self->output_names[i];
    if (strncmp(name, input, length) == 0 && strcmp(name + length, ".out") == 0) return i;
  }
  fail("a state is read and never written");
  return 0;
}

static void bind(bare* self) {
  size_t bytes;
  uint8_t* data;
  for (size_t i = 0; i < self->outputs; ++i) {
    if (strcmp(self->output_names[i], "labels") != 0) continue;
    self->sets[0][kMaxTensors + i] = self->sets[1][kMaxTensors + i] =
        tensor(self, 1, self->places[i], NULL, &self->labels, &self->label_bytes);
  }
  for (size_t i = 0; i < self->inputs; ++i) {
    if (strcmp(self->input_names[i], "frame") == 0) {
      self->sets[0][i] = self->sets[1][i] = tensor(self, 0, i, NULL, &self->frame, &self->frame_bytes);
      continue;
    }
    const size_t out = kMaxTensors + output_of(self, self->input_names[i]);
    self->sets[0][i] = self->sets[1][out] = tensor(self, 0, i, NULL, &data, &bytes);
    self->sets[1][i] = self->sets[0][out] = tensor(self, 0, i, NULL, &data, &bytes);
  }
}

static void name_tensors(bare* self) {
  void* allocator = NULL;
  check(self, ((void* (*)(void**))self->api[78])(&allocator));
  check(self, ((void* (*)(void*, size_t*))self->api[30])(self->session, &self->inputs));
  check(self, ((void* (*)(void*, size_t*))self->api[31])(self->session, &self->outputs));
  if (self->inputs > kMaxTensors || self->outputs > kMaxTensors) fail("the graph has too many tensors");
  for (size_t i = 0; i < self->inputs; ++i) {
    check(self, ((void* (*)(void*, size_t, void*, const char**))self->api[36])(self->session, i, allocator,
                                                                              &self->input_names[i]));
  }
  size_t kept = 0; /* logits are not requested; nor does the library request them */
  for (size_t i = 0; i < self->outputs; ++i) {
    const char** name = &self->output_names[kept];
    check(self, ((void* (*)(void*, size_t, void*, const char**))self->api[37])(self->session, i, allocator, name));
    self->places[kept] = i;
    kept += strcmp(*name, "logits") != 0;
  }
  self->outputs = kept;
}

bare* bare_open(const char* onnxruntime, const char* operators, const char* graph, int threads) {
  bare* self = calloc(1, sizeof *self);
  void *handle = dlopen(onnxruntime, RTLD_NOW | RTLD_LOCAL), *env = NULL, *options = NULL;
  if (handle == NULL) fail(dlerror());
  const api_base* base = ((const api_base* (*)(void))dlsym(handle, "OrtGetApiBase"))();
  self->api = base->get_api(17);
  if (self->api == NULL) fail("ONNX Runtime is too old");
  check(self, ((void* (*)(int, const char*, void**))self->api[3])(2, "bare", &env));
  check(self, ((void* (*)(void**))self->api[10])(&options));
  check(self, ((void* (*)(void*, int))self->api[24])(options, threads));
  check(self, ((void* (*)(int, int, void**))self->api[69])(1, 0, &self->memory));
  if (operators != NULL) {
    void* library = dlopen(operators, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fail(dlerror());
    check(self, ((void* (*)(void*, const api_base*))dlsym(library, "RegisterCustomOps"))(options, base));
  }
  check(self, ((void* (*)(void*, const char*, void*, void**))self->api[7])(env, graph, options, &self->session));
  name_tensors(self);
  bind(self);
  return self;
}

void bare_run(bare* self) {
  void** set = self->sets[self->step++ % 2];
  check(self, ((void* (*)(void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t,
                         void**))self->api[9])(self->session, NULL, self->input_names, set, self->inputs,
                                               self->output_names, self->outputs, set + kMaxTensors));
}

void bare_step(bare* self, const uint8_t* frame, uint8_t* labels) {
  memcpy(self->frame, frame, self->frame_bytes);
  bare_run(self);
  memcpy(labels, self->labels, self->label_bytes);
}
