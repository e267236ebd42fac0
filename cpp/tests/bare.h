/* Runs one graph with carried states through ONNX Runtime's C API, and nothing else: the baseline
 * for measuring the library. Errors end the process. */
#ifndef STREAMSEG_TESTS_BARE_H
#define STREAMSEG_TESTS_BARE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bare bare;

/* `operators` may be NULL. The graph's states are its inputs NAME.in and outputs NAME.out. */
bare* bare_open(const char* onnxruntime, const char* operators, const char* graph, int threads);

/* The frame's and the labels' bytes are copied in and out. */
void bare_step(bare* self, const uint8_t* frame, uint8_t* labels);

/* Like bare_step, without the copies. */
void bare_run(bare* self);

#ifdef __cplusplus
}
#endif

#endif
