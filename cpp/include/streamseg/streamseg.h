/* streamseg: stateful video segmentation from C. Takes frames, returns labels, keeps the state.
 *
 * Every function that can fail returns a status; streamseg_message() then returns the reason in the
 * same thread. Use a stream from one thread at a time. Streams of one bundle share the loaded
 * network.
 */
#ifndef STREAMSEG_STREAMSEG_H
#define STREAMSEG_STREAMSEG_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define STREAMSEG_PUBLIC __attribute__((visibility("default")))
#else
#define STREAMSEG_PUBLIC
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct streamseg_stream streamseg_stream;

typedef enum streamseg_status {
  STREAMSEG_OK = 0,
  STREAMSEG_INVALID_ARGUMENT = 1, /* a null pointer, an invalid size or name */
  STREAMSEG_INVALID_BUNDLE = 2,   /* missing or damaged files, an inconsistent manifest */
  STREAMSEG_BACKEND_FAILED = 3,   /* ONNX Runtime is missing or rejects a graph, or a step failed */
  STREAMSEG_MISMATCH = 4,         /* a snapshot of another bundle, a given state that is not set */
  STREAMSEG_NO_MEMORY = 5
} streamseg_status;

/* Byte order of a pixel in memory. */
typedef enum streamseg_format {
  STREAMSEG_RGB = 0,
  STREAMSEG_BGR = 1,
  STREAMSEG_RGBA = 2,
  STREAMSEG_BGRA = 3,
  STREAMSEG_GRAY = 4
} streamseg_format;

/* Set unused fields to zero. */
typedef struct streamseg_options {
  const char* onnxruntime; /* path of libonnxruntime.so; NULL: the loader's search path */
  const char* operators;   /* path of the operators of the backend, libstreamseg_ops.so,
                              libstreamseg_ort_cuda.so or libstreamseg_tensorrt.so;
                              NULL: the graph's own lowering runs */
  int threads;             /* of one step on the CPU; 0: ONNX Runtime decides */
  const char* backend;     /* "onnxruntime" (NULL: the same), "cuda" or "tensorrt" */
  const char* engines;     /* folder that `streamseg build --out` wrote; for "tensorrt" */
  const char* tensorrt;    /* path of libnvinfer.so; NULL: the loader's search path */
} streamseg_options;

typedef struct streamseg_frame {
  const uint8_t* data; /* first pixel of the top row */
  int height;
  int width;
  ptrdiff_t stride; /* bytes from one row to the next; may be negative */
  streamseg_format format;
} streamseg_frame;

/* Why the last call of this thread failed; valid until its next call. Never NULL. */
STREAMSEG_PUBLIC const char* streamseg_message(void);

/* Version of this library, "MAJOR.MINOR.PATCH". */
STREAMSEG_PUBLIC const char* streamseg_version(void);

/* Open a bundle folder and check every file against its SHA-256 in the manifest. `options` may be
 * NULL. On success, close *stream with streamseg_close. */
STREAMSEG_PUBLIC streamseg_status streamseg_open(const char* bundle,
                                                 const streamseg_options* options,
                                                 streamseg_stream** stream);

/* Open another stream of the same network, with its own empty state. */
STREAMSEG_PUBLIC streamseg_status streamseg_sibling(const streamseg_stream* stream,
                                                    streamseg_stream** sibling);

/* Segment the next frame, of any size, and advance the state.
 *
 * labels: frame->height rows of frame->width class ids; 255 means no class.
 * labels_stride: bytes from one row to the next, at least frame->width.
 * After STREAMSEG_BACKEND_FAILED the state is undefined: reset it before the next step. */
STREAMSEG_PUBLIC streamseg_status streamseg_step(streamseg_stream* stream,
                                                 const streamseg_frame* frame, uint8_t* labels,
                                                 size_t labels_stride);

/* Reset the state: the next frame is the first of a new video. Given states are kept. */
STREAMSEG_PUBLIC streamseg_status streamseg_reset(streamseg_stream* stream);

/* Frames since the last reset. */
STREAMSEG_PUBLIC uint64_t streamseg_steps(const streamseg_stream* stream);

/* Size of a snapshot of this stream in bytes; the same for all streams of a bundle. */
STREAMSEG_PUBLIC size_t streamseg_snapshot_size(const streamseg_stream* stream);

/* Copy the state to `snapshot`, a buffer of streamseg_snapshot_size bytes. */
STREAMSEG_PUBLIC streamseg_status streamseg_snapshot(const streamseg_stream* stream, void* snapshot,
                                                     size_t size);

/* Continue from a snapshot of the same bundle. */
STREAMSEG_PUBLIC streamseg_status streamseg_restore(streamseg_stream* stream, const void* snapshot,
                                                    size_t size);

/* Set a state of kind "given" from `size` bytes, row-major in its shape. */
STREAMSEG_PUBLIC streamseg_status streamseg_give(streamseg_stream* stream, const char* name,
                                                 const void* values, size_t size);

/* Size of the model's input; frames of this size are not resized. */
STREAMSEG_PUBLIC void streamseg_model_size(const streamseg_stream* stream, int* height, int* width);

STREAMSEG_PUBLIC int streamseg_class_count(const streamseg_stream* stream);

/* Name and RGB colour of a class; NULL and black for an id that does not exist. */
STREAMSEG_PUBLIC const char* streamseg_class_name(const streamseg_stream* stream, int id);
STREAMSEG_PUBLIC void streamseg_class_color(const streamseg_stream* stream, int id, uint8_t rgb[3]);

/* Release a stream; NULL is ignored. The network is released with its last stream. */
STREAMSEG_PUBLIC void streamseg_close(streamseg_stream* stream);

#ifdef __cplusplus
}
#endif

#endif /* STREAMSEG_STREAMSEG_H */
